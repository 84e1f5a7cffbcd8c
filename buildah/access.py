"""What a program needs to be let into one registry: TLS options and that registry's credentials.

Knows: authfiles (containers-auth.json), certificate directories, the options that name them.
Must not know: which registries are allowed, what is done there.

Secrets are in files that only we can read, for as long as they are needed; never on a command line.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import json
import shutil
import tempfile
import urllib.parse
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from buildah.errors import RegistryUnauthorized, RegistryUntrusted

_SECRET_KEYS = ("auth", "password", "identitytoken", "registrytoken")


@dataclass(frozen=True)
class Login:
    """One entry of an authfile: what basic authentication sends, or a token; the user's name."""

    user: str
    basic: str | None = field(repr=False)
    identity_token: str | None = field(repr=False)


@dataclass(frozen=True)
class Credentials:
    """The entries of an authfile that are for one registry, by their keys."""

    entries: Mapping[str, Mapping[str, Any]] = field(default_factory=dict, repr=False)

    @classmethod
    def read(cls, authfile: Path | None, host: str) -> Credentials:
        """Take the entries of that host; those for parts of it (`host/team`) too. Blocking.

        Raises:
            RegistryUnauthorized: the file cannot be read.
        """
        if authfile is None:
            return cls()
        operation = f"Reading the authfile of {host}"
        try:
            document = json.loads(authfile.read_text())
        except OSError as error:
            raise RegistryUnauthorized(f"{operation}: {authfile}: {error.strerror}.") from error
        except ValueError as error:
            # What json says of it quotes it.
            raise RegistryUnauthorized(f"{operation}: {authfile} is not JSON.") from error
        auths = document.get("auths") if isinstance(document, dict) else None
        if not isinstance(auths, dict):
            raise RegistryUnauthorized(f"{operation}: {authfile} has no object `auths`.")
        return cls(
            {
                # Destinations have their hosts in lower case.
                key.lower(): entry
                for key, entry in auths.items()
                if isinstance(entry, dict) and _host_of(key) == host
            }
        )

    @property
    def secrets(self) -> tuple[str, ...]:
        """Every text that must be seen nowhere."""
        found: set[str] = set()
        for entry in self.entries.values():
            found.update(str(entry[key]) for key in _SECRET_KEYS if entry.get(key))
            user_and_password = _decoded(str(entry.get("auth", "")))
            password = user_and_password.partition(":")[2]
            found.update((user_and_password, password, urllib.parse.quote(password, safe="")))
        return tuple(found - {""})

    def login(self, host: str, repository: str) -> Login | None:
        """The entry for a repository: that of its own name, else of the nearest part above it.

        Source: containers-auth.json(5).
        """
        parts = repository.split("/")
        keys = [f"{host}/{'/'.join(parts[:count])}" for count in range(len(parts), 0, -1)]
        by_key = dict(self.entries)
        # Old ones were written as addresses.
        old = (entry for key, entry in self.entries.items() if "://" in key)
        for entry in (*(by_key.get(key) for key in (*keys, host)), *old):
            if entry and (entry.get("auth") or entry.get("identitytoken")):
                return _login(entry)
        return None


@dataclass(frozen=True)
class Access:
    """The options for buildah and skopeo, and the secrets to be scrubbed from what they say."""

    arguments: tuple[str, ...]
    secrets: tuple[str, ...] = field(repr=False)

    @property
    def as_source(self) -> tuple[str, ...]:
        """The same options for a copy that comes from the registry."""
        return self._at("src")

    @property
    def as_destination(self) -> tuple[str, ...]:
        """The same options for a copy that goes there."""
        return self._at("dest")

    def _at(self, end: str) -> tuple[str, ...]:
        return tuple(f"--{end}-{option.removeprefix('--')}" for option in self.arguments)


@contextlib.contextmanager
def granting(
    directory: Path, credentials: Credentials, *, ca_file: Path | None, verify: bool
) -> Iterator[Access]:
    """Files below `directory` with which a program is let in; they go at the end. Blocking.

    Raises:
        RegistryUntrusted: the file of the certificate authority cannot be read.
    """
    with tempfile.TemporaryDirectory(prefix="access-", dir=directory) as made:
        authfile = Path(made, "auth.json")
        authfile.touch(mode=0o600)
        # An empty one keeps the programs from looking for others.
        authfile.write_text(json.dumps({"auths": credentials.entries}))
        arguments = [f"--authfile={authfile}"]
        if not verify:
            arguments.append("--tls-verify=false")
        if ca_file:
            certificates = Path(made, "certs")
            certificates.mkdir(mode=0o700)
            try:
                shutil.copyfile(ca_file, certificates / "ca.crt")
            except OSError as error:
                raise RegistryUntrusted(
                    f"Reading the certificate authority {ca_file}: {error.strerror}."
                ) from error
            arguments.append(f"--cert-dir={certificates}")
        yield Access(tuple(arguments), credentials.secrets)


def _host_of(key: str) -> str:
    """The host of an authfile's key: `host`, `host/team`, or an old `https://host/v1/`."""
    return key.rpartition("://")[2].partition("/")[0].lower()


def _login(entry: Mapping[str, Any]) -> Login:
    auth = str(entry.get("auth") or "")
    token = entry.get("identitytoken")
    user = _decoded(auth).partition(":")[0]
    return Login(user, f"Basic {auth}" if auth else None, str(token) if token else None)


def _decoded(auth: str) -> str:
    try:
        return base64.b64decode(auth, validate=True).decode()
    except (binascii.Error, UnicodeDecodeError):
        return ""
