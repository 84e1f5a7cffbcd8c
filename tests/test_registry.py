from __future__ import annotations

import base64
import hashlib
import json
import socket
import stat
import subprocess
from dataclasses import replace
from pathlib import Path

import anyio
import pytest

from buildah import registry as registry_module
from buildah.access import Access, Credentials
from buildah.errors import (
    BuildahError,
    RegistryNotAllowed,
    RegistryUnauthorized,
    RegistryUnknownHost,
    RegistryUnreachable,
    RegistryUntrusted,
    RepositoryNotAllowed,
)
from buildah.reference import ImageReference
from buildah.registry import Registries, Registry, resolve
from tests.archives import write_docker_archive
from tests.registries import (
    PASSWORD,
    RunningRegistry,
    free_port,
    needs_containers,
    plain_registry,
    secure_registry,
    write_authfile,
)

__all__ = ["plain_registry", "secure_registry"]

parse = ImageReference.parse


def names(directory: Path) -> list[str]:
    return [entry.name for entry in directory.iterdir()]


@pytest.mark.parametrize(
    ("host", "destination"),
    [
        ("registry.example", "registry.example/a"),
        ("Registry.Example", "registry.example/a"),
        ("registry.example", "REGISTRY.example/a"),
        ("registry.example:5000", "registry.example:5000/a"),
        ("[::1]:5000", "[::1]:5000/a"),
        ("xn--bcher-kva.example", "xn--bcher-kva.example/a"),
    ],
)
def test_a_registry_is_found_by_its_host(host: str, destination: str) -> None:
    row = Registry(host)
    found = Registries([Registry("other.example"), row]).find(parse(destination))
    assert found == replace(row, trusted_hosts=("other.example",))


@pytest.mark.parametrize(
    ("host", "destination"),
    [
        ("registry.example", "registry.example.evil.com/a"),
        ("registry.example", "evil.com/registry.example/a"),
        ("registry.example", "xregistry.example/a"),
        ("registry.example", "sub.registry.example/a"),
        ("registry.example", "registry.example:5000/a"),
        ("registry.example", "registry.example:443/a"),
        ("registry.example:5000", "registry.example/a"),
        ("registry.example:5000", "registry.example:50000/a"),
        ("bucher.example", "xn--bcher-kva.example/a"),
        ("127.0.0.1:5000", "localhost:5000/a"),
        ("127.0.0.1:5000", "127.0.0.1:5001/a"),
        ("[::1]:5000", "[0:0:0:0:0:0:0:1]:5000/a"),
        ("example.com", "169.254.169.254/latest"),
    ],
)
def test_another_host_is_another_registry(host: str, destination: str) -> None:
    with pytest.raises(RegistryNotAllowed) as refused:
        Registries([Registry(host)]).find(parse(destination))
    assert refused.value.code == "registry_not_allowed"
    assert f"(allowed: {host})" in refused.value.message
    assert refused.value.hint


def test_without_registries_nothing_is_allowed() -> None:
    with pytest.raises(RegistryNotAllowed, match="allowed: none"):
        Registries([]).find(parse("registry.example/a"))


@pytest.mark.parametrize(
    ("patterns", "repository", "allowed"),
    [
        (("*",), "a/b/c", True),
        (("team/*",), "team/a", True),
        (("team/*",), "team/a/b", True),
        (("team/*",), "team", False),
        (("team/*",), "team-evil/a", False),
        (("team/*",), "x/team/a", False),
        (("team*",), "team-evil/a", True),
        (("*/public",), "team/public", True),
        (("*/public",), "team/public/x", False),
        (("a", "b/*"), "b/c", True),
        (("a", "b/*"), "a", True),
        (("a",), "ab", False),
        ((), "a", False),
    ],
)
def test_repositories_are_allowed_by_pattern(
    patterns: tuple[str, ...], repository: str, allowed: bool
) -> None:
    registries = Registries([Registry("r.example", repositories=patterns)])
    reference = parse(f"r.example/{repository}:1")
    if allowed:
        assert registries.find(reference).repositories == patterns
        return
    with pytest.raises(RepositoryNotAllowed) as refused:
        registries.find(reference)
    assert refused.value.code == "repository_not_allowed"
    assert repository in refused.value.message


@pytest.mark.parametrize(
    "host", ["", "https://r.example", "r.example/", "r.example/team", "r.example.", "registry"]
)
def test_a_host_that_can_never_match_is_refused_at_once(host: str) -> None:
    with pytest.raises(ValueError, match="registry"):
        Registries([Registry(host)])


def test_a_registry_is_configured_once() -> None:
    with pytest.raises(ValueError, match="twice"):
        Registries([Registry("r.example"), Registry("R.example")])


def write_auths(path: Path, auths: object) -> Path:
    path.write_text(json.dumps({"auths": auths}))
    return path


def auth(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def test_only_the_entries_of_the_host_leave_the_authfile(tmp_path: Path) -> None:
    mine = {
        "r.example": {"auth": auth("a:pass/word")},
        "r.example/team": {"auth": auth("b:second-one")},
        "https://R.example/v1/": {"identitytoken": "id-token"},
    }
    others = {
        "r.example:5000": {"auth": auth("c:third")},
        "r.example.evil.com": {"auth": auth("d:fourth")},
        "x": "not an object",
    }
    credentials = Credentials.read(write_auths(tmp_path / "auth.json", mine | others), "r.example")
    assert credentials.entries == {key.lower(): entry for key, entry in mine.items()}
    assert set(credentials.secrets) == {
        *(auth("a:pass/word"), "a:pass/word", "pass/word", "pass%2Fword"),
        *(auth("b:second-one"), "b:second-one", "second-one"),
        "id-token",
    }
    login = credentials.login("r.example", "other/app")
    assert login
    assert login.basic == f"Basic {auth('a:pass/word')}"
    assert "pass" not in repr(login)
    assert "pass" not in repr(credentials)


@pytest.mark.parametrize("text", ["{s3cret", "[]", '{"auths": ["s3cret"]}', '{"auth": "s3cret"}'])
def test_an_authfile_that_is_none_is_said_without_its_text(tmp_path: Path, text: str) -> None:
    path = tmp_path / "auth.json"
    path.write_text(text)
    with pytest.raises(RegistryUnauthorized) as refused:
        Credentials.read(path, "r.example")
    assert str(path) in refused.value.message
    assert "s3cret" not in refused.value.message


def test_an_authfile_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(RegistryUnauthorized, match="No such file"):
        Credentials.read(tmp_path / "auth.json", "r.example")


@pytest.mark.anyio
async def test_access_is_files_of_ours_for_a_while(tmp_path: Path) -> None:
    authfile = write_authfile(tmp_path / "auth.json", "r.example")
    ca_file = tmp_path / "some-ca.pem"
    ca_file.write_text("a certificate")
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    row = Registry("r.example", authfile=authfile, ca_file=ca_file)
    async with row.access(scratch) as access:
        check_files(access, scratch)
        assert PASSWORD in access.secrets
        assert PASSWORD not in " ".join(access.arguments) + repr(access)
    assert names(scratch) == []


def check_files(access: Access, scratch: Path) -> None:
    options = dict(argument.split("=", 1) for argument in access.arguments)
    assert set(options) == {"--authfile", "--cert-dir"}
    copy = Path(options["--authfile"])
    assert copy.is_relative_to(scratch)
    assert stat.S_IMODE(copy.stat().st_mode) == 0o600
    assert stat.S_IMODE(copy.parent.stat().st_mode) == 0o700
    assert json.loads(copy.read_text())["auths"]["r.example"]
    assert Path(options["--cert-dir"], "ca.crt").read_text() == "a certificate"


@pytest.mark.anyio
async def test_a_certificate_authority_that_is_not_there(tmp_path: Path) -> None:
    row = Registry("r.example", ca_file=tmp_path / "none")
    with pytest.raises(RegistryUntrusted, match="No such file"):
        async with row.access(tmp_path):
            pass
    assert names(tmp_path) == []


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("row", "verifies"),
    [
        (Registry("r.example"), True),
        (Registry("r.example", tls_verify=False), False),
        (Registry("r.example", plain_http=True), False),
    ],
)
async def test_tls_is_verified_unless_told_otherwise(
    tmp_path: Path, row: Registry, verifies: bool
) -> None:
    async with row.access(tmp_path) as access:
        assert ("--tls-verify=false" in access.arguments) is not verifies


def copy_there(server: RunningRegistry, name: str, tmp_path: Path) -> str:
    """Put an image there by skopeo, and return its digest."""
    archive = write_docker_archive(tmp_path / "there")
    arguments = [row.replace("--", "--dest-") for row in server.skopeo_arguments()]
    subprocess.run(
        ["skopeo", "copy", *arguments, f"docker-archive:{archive.path}", f"docker://{name}"],
        check=True,
        capture_output=True,
    )
    raw = subprocess.run(
        ["skopeo", "inspect", "--raw", *server.skopeo_arguments(), f"docker://{name}"],
        check=True,
        capture_output=True,
    )
    return f"sha256:{hashlib.sha256(raw.stdout).hexdigest()}"


@needs_containers
@pytest.mark.anyio
@pytest.mark.parametrize("fixture", ["plain_registry", "secure_registry"])
async def test_a_tag_is_resolved(
    fixture: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    server: RunningRegistry = request.getfixturevalue(fixture)
    row = server.registry()
    digest = copy_there(server, f"{server.host}/team/app:1", tmp_path)
    for name, expected in (("team/app:1", digest), ("team/app:2", None), ("other/app:1", None)):
        assert await resolve(parse(f"{server.host}/{name}"), row) == expected


async def refusal(row: Registry) -> BuildahError:
    with pytest.raises(BuildahError) as refused:
        await resolve(parse(f"{row.host}/team/app:1"), row)
    assert f"{row.host}/team/app:1" in refused.value.message
    assert PASSWORD not in refused.value.message
    return refused.value


@needs_containers
@pytest.mark.anyio
async def test_a_registry_that_cannot_be_asked_says_why(
    secure_registry: RunningRegistry, plain_registry: RunningRegistry, tmp_path: Path
) -> None:
    wrong = write_authfile(tmp_path / "wrong.json", secure_registry.host, password="wrong-one")
    row = secure_registry.registry
    for asked, kind in (
        (row(authfile=wrong), RegistryUnauthorized),
        (row(authfile=None), RegistryUnauthorized),
        (row(ca_file=None), RegistryUntrusted),
        (plain_registry.registry(plain_http=False), RegistryUntrusted),
        (Registry("no-such-host.invalid"), RegistryUnknownHost),
        (Registry(f"127.0.0.1:{free_port()}"), RegistryUnreachable),
    ):
        assert type(await refusal(asked)) is kind
    # Nobody is trusted by name only: without verification the same registry is asked.
    untold = row(ca_file=None, tls_verify=False)
    assert await resolve(parse(f"{untold.host}/a:1"), untold) is None


@needs_containers
@pytest.mark.anyio
async def test_a_registry_that_never_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry_module, "RESOLVE_SECONDS", 1.0)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        row = Registry(f"127.0.0.1:{silent.getsockname()[1]}", plain_http=True)
        with anyio.fail_after(10):
            error = await refusal(row)
    assert type(error) is RegistryUnreachable
    assert error.retryable
    assert "no answer within 1 s" in error.message
