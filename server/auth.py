"""Who is calling, and what they may do; decided before a body byte is read.

Knows: tokens, callers, owners.
Must not know: what an image is (repositories are patterns that admission reads).
"""

from __future__ import annotations

import hashlib
import hmac
import re
import tomllib
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

from starlette.datastructures import Headers

from server.errors import BadRequest, Forbidden, NotFound, Unauthorized
from server.protocols.headers import AUTHORIZATION, WWW_AUTHENTICATE, single
from server.settings import SettingsError

_SHA256: Final = re.compile(r"[0-9a-f]{64}")
LOOPBACK: Final = frozenset({"127.0.0.1", "::1", "localhost"})


class Action(StrEnum):
    """What a request wants to do with an upload."""

    CREATE = "create"
    READ = "read"
    WRITE = "write"
    REMOVE = "remove"
    ACT = "act"


@dataclass(frozen=True)
class Caller:
    """Who asks: a token's name, the repositories it may write, and whether it sees everything."""

    name: str
    repositories: tuple[str, ...] = ("*",)
    admin: bool = False

    def sees(self, owner: str) -> bool:
        """Whether an upload of this owner exists, for this caller."""
        return self.admin or owner == self.name


LOCAL: Final = Caller("local", admin=True)


@dataclass(frozen=True, repr=False)
class _Token:
    sha256: bytes
    caller: Caller


class Callers:
    """The callers of the tokens file; without one, everyone is `local`."""

    def __init__(
        self, tokens: tuple[_Token, ...] | None, hosts: frozenset[str] | None = None
    ) -> None:
        """None: no authentication at all; then a request's Host must be one of `hosts` (if any)."""
        self._tokens = tokens
        self._hosts = hosts

    @classmethod
    def from_file(cls, path: Path | None, hosts: frozenset[str] | None = None) -> Callers:
        """Read the tokens file; without one, only requests to these `hosts` are taken.

        Raises:
            SettingsError: it cannot be read, a row is wrong, or it has no rows.
        """
        if path is None:
            return cls(None, hosts)
        try:
            with path.open("rb") as file:
                data = tomllib.load(file)
        except (OSError, tomllib.TOMLDecodeError) as error:
            raise SettingsError(f"tokens_file {path}: {error}") from error
        rows = data.get("token", [])
        if not isinstance(rows, list) or not rows or set(data) != {"token"}:
            raise SettingsError(
                f"tokens_file {path}: it must hold at least one [[token]], and nothing else"
            )
        return cls(tuple(_token(path, row) for row in rows))

    @property
    def required(self) -> bool:
        """Whether a request needs a token."""
        return self._tokens is not None

    def identify(self, headers: Headers) -> Caller:
        """Who is calling.

        Raises:
            Unauthorized: no token, or an unknown one.
            BadRequest: nobody has a token, and the request is for another host.

        Spec: RFC 6750, sections 2.1 and 3.
        """
        if self._tokens is None:
            if self._hosts is not None:
                check_host(headers, self._hosts)
            return LOCAL
        scheme, _, token = (single(headers, AUTHORIZATION) or "").partition(" ")
        if scheme.lower() != "bearer" or not token.strip():
            raise Unauthorized(
                "this server wants a token",
                "send `Authorization: Bearer TOKEN`",
                headers={WWW_AUTHENTICATE: "Bearer"},
            )
        offered = hashlib.sha256(token.strip().encode()).digest()
        # Every row is compared, in constant time, so that the answer's time tells nothing.
        found = [row.caller for row in self._tokens if hmac.compare_digest(row.sha256, offered)]
        if not found:
            raise Unauthorized(
                "the token is not known here",
                "ask the operator for a token",
                headers={WWW_AUTHENTICATE: 'Bearer error="invalid_token"'},
            )
        return found[0]


def _token(path: Path, row: Any) -> _Token:
    if not isinstance(row, dict):
        raise SettingsError(f"tokens_file {path}: each [[token]] is a table")
    name = row.get("name")
    digest = row.get("sha256")
    repositories = row.get("repositories", [])
    admin = row.get("admin", False)
    unknown = set(row) - {"name", "sha256", "repositories", "admin"}
    if unknown or not isinstance(name, str) or not name or not isinstance(admin, bool):
        raise SettingsError(
            f"tokens_file {path}: token {name!r}: a row takes name, sha256, repositories, admin"
        )
    if not isinstance(digest, str) or not _SHA256.fullmatch(digest):
        raise SettingsError(
            f"tokens_file {path}: token {name!r}: sha256 is not 64 lower-case hex digits "
            "(`printf %s TOKEN | sha256sum` prints them)"
        )
    if not isinstance(repositories, list) or not all(
        isinstance(item, str) for item in repositories
    ):
        raise SettingsError(
            f"tokens_file {path}: token {name!r}: repositories is a list of patterns"
        )
    return _Token(bytes.fromhex(digest), Caller(name, tuple(repositories), admin))


def authorize(caller: Caller, action: Action, owner: str | None) -> None:
    """Whether a caller may do that to an owner's upload (None: a new one); asked by every route.

    Raises:
        NotFound: another caller's upload does not exist, as far as this one can tell.
        Forbidden: the caller may not create uploads.
    """
    if owner is not None and not caller.sees(owner):
        raise NotFound("no such upload", "the id may be wrong, or it may be another caller's")
    if action is Action.CREATE and owner is not None:
        raise Forbidden("an upload cannot be created twice")


def check_host(headers: Headers, allowed: frozenset[str]) -> None:
    """Without callers, only requests that name this machine are taken.

    A page of the web can make a browser send requests to loopback under a name of its own (DNS
    rebinding), and everyone there is the caller `local`.

    Raises:
        BadRequest: the request names another host.
    """
    host = (single(headers, "Host") or "").lower()
    name = host.partition("]")[0].lstrip("[") if host.startswith("[") else host.split(":")[0]
    if name not in allowed:
        raise BadRequest(
            f"Host {host!r} is not this machine",
            "use http://127.0.0.1; for other names set `tokens_file` or `public_url`",
        )


def check_listening(host: str, callers: Callers, *, insecure: bool) -> None:
    """Refuse to listen beyond loopback without callers.

    Raises:
        SettingsError: anyone who reaches the port could upload.
    """
    if callers.required or insecure or host in LOOPBACK:
        return
    raise SettingsError(
        f"host {host}: refusing to listen beyond loopback without callers; set `tokens_file`, "
        "or say --insecure-no-auth if everyone who reaches the port may upload"
    )
