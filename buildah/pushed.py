"""What every way into a registry has in common: one program that pushes, its proof, its failures.

Knows: running it, the proof that a tag is what was pushed, the words of a registry that refuses.
Must not know: which program it is, or from where it pushes.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import anyio.to_thread

from buildah.access import Access
from buildah.command import Completed, run
from buildah.diagnosis import Symptom, explain
from buildah.errors import (
    BuildahError,
    RegistryConflict,
    RegistryError,
    RegistryForbidden,
    RegistryFull,
    RegistryTokenExpired,
    RegistryUnauthorized,
    ToolFailed,
)
from buildah.preflight import confine, preflight
from buildah.progress import Meter
from buildah.reference import ImageReference
from buildah.registry import Registry, resolve
from buildah.room import says_full
from buildah.workspace import Workspace

Progress = Callable[[int, int], None]
Log = Callable[[str], None]

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


@dataclass(frozen=True)
class LayerCompression:
    """How layers travel: `gzip` or `zstd`, and how hard they are pressed (None: its default)."""

    format: str = "gzip"
    level: int | None = None

    def arguments(self, prefix: str) -> tuple[str, ...]:
        """The options, which begin with `--compression` for buildah."""
        level = () if self.level is None else (f"{prefix}-level={self.level}",)
        return (f"{prefix}-format={self.format}", *level)


@dataclass(frozen=True)
class PushedImage:
    """An image in a registry: the manifest's digest (`sha256:...`) and its platforms."""

    digest: str
    platforms: tuple[str, ...]


class ReadyImage(Protocol):
    """An image that a program can push from where it is: a storage, an archive, a layout."""

    async def push(
        self,
        destination: ImageReference,
        registry: Registry,
        workspace: Workspace,
        *,
        progress: Progress,
        log: Log,
        compression: LayerCompression,
    ) -> PushedImage:
        """Push it; `confirm` tells whether the tag then is what was pushed.

        `progress` counts bytes of layers; one that the registry has already counts at the end.

        Raises:
            RegistryError: the registry did not take it; the subclass says why.
            ArchiveError: what was read is not what its digest says.
            StorageFull: there is no room in the workspace.
            ToolError: a program is missing, or failed in a way that is not known here.
        """


@dataclass(frozen=True)
class Sending:
    """A program that pushes: what it is told, and how far it is.

    `command` makes of the access to a registry the command and its options; `source` is what the
    program calls the image, seen from `cwd`. `moved_bytes` says how many of `total_bytes` (0: not
    known) a process group has moved; it blocks for a moment.
    """

    command: Callable[[Access], Sequence[str]]
    source: str
    total_bytes: int
    moved_bytes: Callable[[int], int]
    symptoms: Sequence[Symptom]
    cwd: Path | None = None


async def send(
    sending: Sending,
    destination: ImageReference,
    registry: Registry,
    workspace: Workspace,
    *,
    progress: Progress,
    log: Log,
) -> str:
    """Push, and return the digest that the program says it pushed.

    Raises:
        RegistryError: the registry did not take it, or would send us elsewhere.
        ArchiveError, StorageFull, ToolError: as `ReadyImage.push`.
    """
    meter = Meter(progress, sending.total_bytes)
    digest_file = workspace.home / "digest"

    def watch(pgid: int) -> None:
        moved_bytes = sending.moved_bytes(pgid)
        if sending.total_bytes:
            meter.report(moved_bytes / sending.total_bytes)

    async with let_in(destination, registry, workspace) as access:
        command = [*sending.command(access), f"--digestfile={digest_file}"]
        completed = await run(
            [*command, "--", sending.source, f"docker://{destination}"],
            env=workspace.env,
            cwd=sending.cwd,
            on_line=log,
            watch=watch,
            secrets=access.secrets,
            talks_on_stdout=True,
        )
    if completed.returncode:
        raise await failure(completed, destination, registry, sending.symptoms)
    digest = (await anyio.to_thread.run_sync(digest_file.read_text)).strip()
    if not _DIGEST.fullmatch(digest):
        raise ToolFailed(f"Pushing {destination}: {command[0]} named the digest {digest[:80]!r}.")
    meter.finish()
    return digest


@contextlib.asynccontextmanager
async def let_in(
    destination: ImageReference, registry: Registry, workspace: Workspace
) -> AsyncIterator[Access]:
    """What a program needs to push there; it would be sent nowhere else.

    Raises:
        RegistryElsewhere: it would.
        RegistryError: the registry cannot be reached; the subclass says why.
    """
    await confine(f"Pushing {destination}", destination.repository, registry)
    async with registry.access(workspace.home) as access:
        yield access


async def confirm(destination: ImageReference, registry: Registry, digest: str, log: Log) -> None:
    """See that the tag in the registry is what was pushed. It can be asked again and again.

    Raises:
        RegistryConflict: it is something else.
        RegistryError: the registry does not know the tag, or cannot be asked.
    """
    operation = f"Pushing {destination}"
    try:
        found = await resolve(destination, registry)
    except RegistryForbidden as error:
        # Harbor may let nobody pull what it has not scanned yet, or give a robot account no right
        # to pull. It took the image all the same.
        log(f"not read back: {error.message}")
        return
    if found is None:
        raise RegistryError(f"{operation}: the registry took {digest} and does not know the tag.")
    if found != digest:
        raise RegistryConflict(f"{operation}: {digest} was pushed, and the tag is {found} now.")


async def failure(
    completed: Completed,
    destination: ImageReference,
    registry: Registry,
    symptoms: Sequence[Symptom],
) -> BuildahError:
    """Why a push failed; a registry that only says 5xx is asked whether it is full."""
    operation = f"Pushing {destination}"
    error = explain(operation, completed, symptoms)
    # Only of a failure that says nothing else: the more exact ones are right as they are.
    if type(error) is RegistryError and await says_full(destination, registry):
        return RegistryFull(f"{operation}: the registry has no room for it.")
    if type(error) is RegistryUnauthorized:
        return await _why_unauthorized(error, destination, registry)
    return error


async def _why_unauthorized(
    error: RegistryUnauthorized, destination: ImageReference, registry: Registry
) -> BuildahError:
    """Who was let in with a password, and then was not, has been too long at it.

    The programs ask for another token when the one they have is over by its own account, which
    begins at 60 s, whatever the token server says.
    """
    operation = f"Pushing {destination}"
    try:
        await preflight(destination, registry, operation=operation)
    except RegistryError as reason:
        return error if reason.retryable else reason
    return RegistryTokenExpired(f"{operation}: the token ran out in the middle of the push.")
