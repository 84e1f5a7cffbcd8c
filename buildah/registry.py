"""Which registries and repositories one may push to, and what is there already.

Knows: hosts, TLS options, the allow-list; asks a registry with skopeo.
Must not know: who is asking, or what for.
"""

from __future__ import annotations

import contextlib
import fnmatch
import hashlib
import logging
import tempfile
from collections.abc import AsyncIterator, Iterable, Iterator
from dataclasses import astuple, dataclass
from pathlib import Path

import anyio
import anyio.to_thread

from buildah.access import Access, Credentials, granting
from buildah.command import run
from buildah.diagnosis import ABSENT, REACHING, explain
from buildah.environment import tool_environment
from buildah.errors import (
    InvalidReference,
    RegistryNotAllowed,
    RegistryUnreachable,
    RepositoryNotAllowed,
)
from buildah.reference import ImageReference
from buildah.removal import remove_tree

logger = logging.getLogger(__name__)

RESOLVE_SECONDS = 15.0


@dataclass(frozen=True)
class Registry:
    """A registry as it is configured.

    `host` has the port if it is not TLS's own; `ca_file` is PEM; `authfile` is a
    containers-auth.json, of which only this host's entries are used; in `repositories` a `*` stands
    for anything, slashes too.
    """

    host: str
    plain_http: bool = False
    tls_verify: bool = True
    ca_file: Path | None = None
    authfile: Path | None = None
    repositories: tuple[str, ...] = ("*",)

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
        """Take the configured registries.

        Raises:
            ValueError: a host is none, or is there twice.
        """
        self._rows: dict[str, Registry] = {}
        for row in rows:
            try:
                host, repository, _ = astuple(ImageReference.parse(f"{row.host}/any"))
            except InvalidReference as error:
                raise ValueError(f"registry {row.host!r}: {error.message}") from error
            if repository != "any":
                raise ValueError(f"registry {row.host!r}: it is a host, and its port")
            if host in self._rows:
                raise ValueError(f"registry {host!r} is configured twice")
            self._rows[host] = row

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


async def resolve(reference: ImageReference, registry: Registry, *, scratch: Path) -> str | None:
    """The digest (`sha256:...`) of a tag that exists, None when it does not.

    `scratch` is an existing directory for files that are removed again.

    Raises:
        RegistryError: the registry cannot be asked; the subclass says why.
        ToolError: skopeo is missing, or failed in a way that is not known here.
    """
    operation = f"Asking for {reference}"
    home = Path(await anyio.to_thread.run_sync(tempfile.mkdtemp, None, "resolve-", scratch))
    completed = None
    try:
        env = await anyio.to_thread.run_sync(tool_environment, home, home)
        async with registry.access(home) as access:
            with anyio.move_on_after(RESOLVE_SECONDS):
                completed = await run(
                    # Not `--format {{.Digest}}`: that also wants an image for this machine.
                    [
                        "skopeo",
                        "inspect",
                        "--raw",
                        *access.arguments,
                        "--",
                        f"docker://{reference}",
                    ],
                    env=env,
                    on_line=lambda line: logger.debug("skopeo: %s", line),
                    secrets=access.secrets,
                )
    finally:
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(remove_tree, home)
    if completed is None:
        raise RegistryUnreachable(f"{operation}: no answer within {RESOLVE_SECONDS:g} s.")
    if completed.returncode == 0:
        return f"sha256:{hashlib.sha256(completed.stdout).hexdigest()}"
    if ABSENT.search(completed.stderr_tail):
        return None
    raise explain(operation, completed, REACHING)
