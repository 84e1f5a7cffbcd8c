"""Which registries and repositories one may push to, and what is there already.

Knows: hosts, TLS options, the allow-list; where a tag's manifest is read.
Must not know: who is asking, or what for.
"""

from __future__ import annotations

import contextlib
import fnmatch
import hashlib
from collections.abc import AsyncIterator, Iterable, Iterator
from dataclasses import astuple, dataclass, replace
from http import HTTPStatus
from pathlib import Path

import anyio
import anyio.to_thread

from buildah.access import Access, Credentials, granting
from buildah.conversation import Conversation, converse
from buildah.errors import InvalidReference, RegistryNotAllowed, RepositoryNotAllowed
from buildah.reference import ImageReference

RESOLVE_SECONDS = 15.0

# Without these a registry may answer with a translation, whose digest is another.
_MANIFESTS = ", ".join(
    (
        "application/vnd.oci.image.manifest.v1+json",
        "application/vnd.oci.image.index.v1+json",
        "application/vnd.docker.distribution.manifest.v2+json",
        "application/vnd.docker.distribution.manifest.list.v2+json",
        "application/vnd.docker.distribution.manifest.v1+prettyjws",
        "application/vnd.docker.distribution.manifest.v1+json",
    )
)


@dataclass(frozen=True)
class Registry:
    """A registry as it is configured.

    `host` has the port if it is not TLS's own; `ca_file` is PEM; `authfile` is a
    containers-auth.json, of which only this host's entries are used; in `repositories` a `*` stands
    for anything, slashes too. `trusted_hosts` are where the registry may send us beside itself: a
    token server, a storage behind it; they get its credentials if it says so.
    """

    host: str
    plain_http: bool = False
    tls_verify: bool = True
    ca_file: Path | None = None
    authfile: Path | None = None
    repositories: tuple[str, ...] = ("*",)
    trusted_hosts: tuple[str, ...] = ()

    def credentials(self) -> Credentials:
        """What its authfile has for it. Blocking.

        Raises:
            RegistryUnauthorized: the authfile cannot be read.
        """
        return Credentials.read(self.authfile, self.host.lower())

    @contextlib.contextmanager
    def _access(self, scratch: Path) -> Iterator[Access]:
        # The programs know one switch for both: it makes them try TLS, trusting anybody, and fall
        # back to plain HTTP.
        verify = self.tls_verify and not self.plain_http
        with granting(scratch, self.credentials(), ca_file=self.ca_file, verify=verify) as access:
            yield access

    @contextlib.asynccontextmanager
    async def access(self, scratch: Path) -> AsyncIterator[Access]:
        """What a program needs to be let in, as files below `scratch` that go at the end.

        Raises:
            RegistryUnauthorized: the authfile cannot be read.
            RegistryUntrusted: the `ca_file` cannot be read.
        """
        files = self._access(scratch)
        access = await anyio.to_thread.run_sync(files.__enter__)
        try:
            yield access
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.to_thread.run_sync(files.__exit__, None, None, None)


class Registries:
    """The allow-list."""

    def __init__(self, rows: Iterable[Registry]) -> None:
        """Take the configured registries. Each may send us to the others, too.

        Raises:
            ValueError: a host is none, or is there twice.
        """
        self._rows: dict[str, Registry] = {}
        for row in rows:
            host = _host(row.host)
            if host in self._rows:
                raise ValueError(f"registry {host!r} is configured twice")
            self._rows[host] = row
        for host, row in self._rows.items():
            trusted = [_host(one) for one in row.trusted_hosts]
            others = (*trusted, *(one for one in self._rows if one != host))
            self._rows[host] = replace(row, trusted_hosts=tuple(dict.fromkeys(others)))

    def __iter__(self) -> Iterator[Registry]:
        """Each of them, with everything that it may send us to."""
        return iter(self._rows.values())

    @property
    def hosts(self) -> tuple[str, ...]:
        """The hosts of all of them, in lower case."""
        return tuple(self._rows)

    def at(self, host: str) -> Registry | None:
        """The registry of that host, whatever may be pushed there."""
        return self._rows.get(host)

    def find(self, reference: ImageReference) -> Registry:
        """The registry of a destination; its host must be the configured one, port and all.

        Raises:
            RegistryNotAllowed: there is none of that host.
            RepositoryNotAllowed: there is, but not for this repository.
        """
        row = self._rows.get(reference.host)
        if row is None:
            raise RegistryNotAllowed(
                f"Choosing where {reference} goes: the registry {reference.host} is not allowed "
                f"(allowed: {', '.join(self._rows) or 'none'})."
            )
        patterns = row.repositories
        if not any(fnmatch.fnmatchcase(reference.repository, pattern) for pattern in patterns):
            raise RepositoryNotAllowed(
                f"Choosing where {reference} goes: the repository {reference.repository} is not "
                f"allowed at {reference.host} (allowed: {', '.join(patterns) or 'none'})."
            )
        return row


async def resolve(reference: ImageReference, registry: Registry) -> str | None:
    """The digest (`sha256:...`) of a tag that exists, None when it does not.

    Raises:
        RegistryElsewhere: the registry sends us where nobody allowed us to go.
        RegistryError: the registry cannot be asked; the subclass says why.
    """
    return await converse(
        f"Asking for {reference}",
        reference.repository,
        registry,
        lambda conversation: _digest(conversation, reference),
        actions="pull",
        seconds=RESOLVE_SECONDS,
    )


def _digest(conversation: Conversation, reference: ImageReference) -> str | None:
    manifest = conversation.place(f"/v2/{reference.repository}/manifests/{reference.tag}")
    answer = conversation.ask("GET", manifest, accept=_MANIFESTS)
    if answer.status == HTTPStatus.OK:
        return f"sha256:{hashlib.sha256(answer.body).hexdigest()}"
    if answer.status == HTTPStatus.NOT_FOUND:
        return None
    raise conversation.refusal(answer)


def _host(text: str) -> str:
    """A host as destinations have it.

    Raises:
        ValueError: it is none.
    """
    try:
        host, repository, _ = astuple(ImageReference.parse(f"{text}/any"))
    except InvalidReference as error:
        raise ValueError(f"registry {text!r}: {error.message}") from error
    if repository != "any":
        raise ValueError(f"registry {text!r}: it is a host, and its port")
    return str(host)
