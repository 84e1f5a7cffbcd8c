"""Real OCI registries (Debian's docker-registry) on loopback, plain or with TLS and a password.

`serving(...)` is a context manager for one registry; the fixtures `plain_registry` and
`secure_registry` give each test one of its own.
"""

from __future__ import annotations

import base64
import contextlib
import datetime
import http.client
import ipaddress
import json
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from buildah.command import GuardedProcess, start_guarded
from buildah.registry import Registry

USER = "ci"
PASSWORD = "s3cret-of-the-registry"
# bcrypt of PASSWORD: what `htpasswd -Bbn ci ...` prints.
HTPASSWD = "ci:$2b$04$8k8hXsX3f4.h9tT.mHfrwO5sNzzfiPP76u6iRgUjV3O/LCD9Ak4u6\n"

START_SECONDS = 20.0
PLAIN_ENVIRONMENT = {"PATH": "/usr/local/bin:/usr/bin:/bin"}


@dataclass
class RunningRegistry:
    """One registry: where it listens, what one needs to push to it, and its life."""

    directory: Path
    port: int
    ca_file: Path | None = None
    authfile: Path | None = None
    process: GuardedProcess | None = field(default=None, repr=False)

    @property
    def host(self) -> str:
        """`127.0.0.1:port`."""
        return f"127.0.0.1:{self.port}"

    @property
    def storage(self) -> Path:
        """Where it keeps its blobs."""
        return self.directory / "storage"

    @property
    def log(self) -> str:
        """What it has logged."""
        return (self.directory / "log").read_text(errors="replace")

    def registry(self, **changes: object) -> Registry:
        """This registry as the program is configured with it."""
        settings: dict[str, object] = {
            "host": self.host,
            "plain_http": self.ca_file is None,
            "tls_verify": True,
            "ca_file": self.ca_file,
            "authfile": self.authfile,
        }
        return Registry(**(settings | changes))  # type: ignore[arg-type]

    def start(self) -> None:
        """Start it, and return when it answers."""
        with (self.directory / "log").open("ab") as log:
            # Guarded: a test run that is killed leaves no registry behind.
            self.process = start_guarded(
                ["docker-registry", "serve", str(self.directory / "config.json")],
                env=PLAIN_ENVIRONMENT,
                stdout=log,
                stderr=log,
            )
        deadline = time.monotonic() + START_SECONDS
        while not _listens(self.port):
            assert self.process.poll() is None, self.log
            assert time.monotonic() < deadline, self.log
            time.sleep(0.02)

    def stop(self) -> None:
        """Stop it; what it holds stays and `start` serves it again."""
        if self.process:
            self.process.stop()
            self.process = None

    def skopeo_arguments(self) -> list[str]:
        """The options with which skopeo may read here."""
        arguments = [] if self.ca_file else ["--tls-verify=false"]
        if self.ca_file:
            arguments += ["--cert-dir", str(self.ca_file.parent)]
        if self.authfile:
            arguments += ["--authfile", str(self.authfile)]
        return arguments

    def config_digest(self, image: str) -> str:
        """The config's digest (hex: the image id) of an image that is here, by skopeo."""
        digest: str = self.manifest(image)["config"]["digest"]
        return digest.removeprefix("sha256:")

    def manifest(self, image: str) -> dict[str, Any]:
        """The manifest of an image that is here, by skopeo."""
        found = subprocess.run(
            ["skopeo", "inspect", "--raw", *self.skopeo_arguments(), f"docker://{image}"],
            capture_output=True,
            check=True,
            env=PLAIN_ENVIRONMENT | {"HOME": str(self.directory)},
        )
        document: dict[str, Any] = json.loads(found.stdout)
        return document

    def tags(self, repository: str) -> list[str]:
        """The tags of a repository of a plain registry, by its own API."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=START_SECONDS)
        with contextlib.closing(connection):
            connection.request("GET", f"/v2/{repository}/tags/list")
            tags: list[str] = json.load(connection.getresponse()).get("tags") or []
        return tags


@contextlib.contextmanager
def serving(directory: Path, *, secure: bool = False) -> Iterator[RunningRegistry]:
    """A running registry; `secure` is TLS with a certificate of its own, and a password.

    What `directory/storage` is already (a small file system, for example) is used as it is.
    """
    registry = prepare(directory, secure=secure)
    registry.start()
    try:
        yield registry
    finally:
        registry.stop()


def prepare(directory: Path, *, secure: bool = False) -> RunningRegistry:
    """Write everything a registry needs, and do not start it."""
    (directory / "storage").mkdir(parents=True, exist_ok=True)
    registry = RunningRegistry(directory, free_port())
    listen: dict[str, object] = {"addr": registry.host}
    config: dict[str, object] = {
        "version": "0.1",
        "log": {"level": "info"},
        "storage": {
            "filesystem": {"rootdirectory": str(registry.storage)},
            "delete": {"enabled": True},
        },
        "http": listen,
    }
    if secure:
        trust = directory / "trust"
        trust.mkdir()
        registry.ca_file = trust / "ca.crt"
        write_certificate(registry.ca_file, directory / "key.pem")
        listen["tls"] = {"certificate": str(registry.ca_file), "key": str(directory / "key.pem")}
        (directory / "htpasswd").write_text(HTPASSWD)
        config["auth"] = {"htpasswd": {"realm": "test", "path": str(directory / "htpasswd")}}
        registry.authfile = write_authfile(directory / "auth.json", registry.host)
    # JSON is YAML.
    (directory / "config.json").write_text(json.dumps(config))
    return registry


def write_authfile(path: Path, host: str, user: str = USER, password: str = PASSWORD) -> Path:
    """An authfile with one entry, as `skopeo login` writes it."""
    auth = base64.b64encode(f"{user}:{password}".encode()).decode()
    path.write_text(json.dumps({"auths": {host: {"auth": auth}}}))
    path.chmod(0o600)
    return path


def write_certificate(certificate: Path, key: Path) -> None:
    """A self-signed certificate for 127.0.0.1 and its key, valid for a day."""
    private = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.datetime.now(datetime.UTC)
    address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
    signed = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(private.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([address]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(private, hashes.SHA256())
    )
    certificate.write_bytes(signed.public_bytes(serialization.Encoding.PEM))
    key.write_bytes(
        private.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )


def free_port() -> int:
    """A loopback port that nobody listens on at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def missing_programs(*names: str) -> list[str]:
    """Which of these programs this machine does not have."""
    return [name for name in names if shutil.which(name) is None]


needs_containers = pytest.mark.skipif(
    os.geteuid() != 0 or bool(missing_programs("buildah", "skopeo", "docker-registry")),
    reason="needs root, buildah, skopeo and docker-registry",
)


@pytest.fixture
def plain_registry(tmp_path: Path) -> Iterator[RunningRegistry]:
    with serving(tmp_path / "plain-registry") as registry:
        yield registry


@pytest.fixture
def secure_registry(tmp_path: Path) -> Iterator[RunningRegistry]:
    with serving(tmp_path / "secure-registry", secure=True) as registry:
        yield registry
