"""Sends an image from a workspace to a registry.

Knows: `buildah push`.
Must not know: how the image came into the workspace, or who wants it there.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import anyio.to_thread

from buildah.command import Completed, run
from buildah.diagnosis import REACHING, explain
from buildah.errors import BuildahError, RegistryConflict, RegistryError, RegistryFull, ToolFailed
from buildah.load import LoadedImage, Log, Progress
from buildah.progress import FileActivity, Meter
from buildah.reference import ImageReference
from buildah.registry import Registry, resolve
from buildah.room import says_full
from buildah.storage import layers_bytes
from buildah.workspace import Workspace

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
# buildah writes each layer to tmp/N, and reads it back from there to compress and send it.
_LAYER_FILES = re.compile(r"\d+")


@dataclass(frozen=True)
class LayerCompression:
    """How layers travel: `gzip` or `zstd`, and how hard they are pressed (None: its default)."""

    format: str = "gzip"
    level: int | None = None

    @property
    def arguments(self) -> tuple[str, ...]:
        """The options for buildah."""
        level = () if self.level is None else (f"--compression-level={self.level}",)
        return (f"--compression-format={self.format}", *level)


@dataclass(frozen=True)
class PushedImage:
    """An image in a registry: the manifest's digest (`sha256:...`) and its platforms."""

    digest: str
    platforms: tuple[str, ...]


async def push(
    image: LoadedImage,
    destination: ImageReference,
    registry: Registry,
    workspace: Workspace,
    *,
    progress: Progress,
    log: Log,
    compression: LayerCompression | None = None,
) -> PushedImage:
    """Push, and see that the tag then is what was pushed.

    `progress` counts uncompressed bytes of layers: a byte is done by half when it is read out of
    the storage, and wholly when it is compressed and sent. A layer that the registry has already
    is neither. buildah tries again by itself, three times, when the line breaks.

    Raises:
        RegistryError: the registry did not take it; the subclass says why.
        StorageFull: there is no room in the workspace.
        ToolError: a program is missing, or failed in a way that is not known here.
    """
    total_bytes = await anyio.to_thread.run_sync(layers_bytes, workspace, image.image_id)
    meter = Meter(progress, total_bytes)
    activity = FileActivity(workspace.tmp, _LAYER_FILES)
    digest_file = workspace.home / "digest"

    def watch(pgid: int) -> None:
        activity.scan(pgid)
        if total_bytes:
            meter.report((activity.written_bytes + activity.read_bytes) / 2 / total_bytes)

    async with registry.access(workspace.home) as access:
        completed = await run(
            [
                *("buildah", *workspace.storage_arguments, "push"),
                *(f"--digestfile={digest_file}", *access.arguments),
                *(compression or LayerCompression()).arguments,
                *("--", image.image_id, f"docker://{destination}"),
            ],
            env=workspace.env,
            on_line=log,
            watch=watch,
            secrets=access.secrets,
        )
    if completed.returncode:
        raise await _failure(completed, destination, registry)
    digest = (await anyio.to_thread.run_sync(digest_file.read_text)).strip()
    await _confirm(digest, destination, registry, workspace)
    meter.finish()
    return PushedImage(digest, (image.platform,))


async def _failure(
    completed: Completed, destination: ImageReference, registry: Registry
) -> BuildahError:
    operation = f"Pushing {destination}"
    error = explain(operation, completed, REACHING)
    # Only of a failure that says nothing else: the more exact ones are right as they are.
    if type(error) is RegistryError and await anyio.to_thread.run_sync(
        says_full, destination, registry, abandon_on_cancel=True
    ):
        return RegistryFull(f"{operation}: the registry has no room for it.")
    return error


async def _confirm(
    digest: str, destination: ImageReference, registry: Registry, workspace: Workspace
) -> None:
    operation = f"Pushing {destination}"
    if not _DIGEST.fullmatch(digest):
        raise ToolFailed(f"{operation}: buildah named the digest {digest[:80]!r}.")
    found = await resolve(destination, registry, scratch=workspace.home)
    if found is None:
        raise RegistryError(f"{operation}: the registry took {digest} and does not know the tag.")
    if found != digest:
        raise RegistryConflict(f"{operation}: {digest} was pushed, and the tag is {found} now.")
