"""Brings the image of an archive into a workspace's storage.

Knows: `buildah pull`.
Must not know: where the archive comes from, or where the image goes.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import anyio.to_thread

from buildah.archive import Compression, Transport, compression, examine
from buildah.command import run
from buildah.diagnosis import LOADING, explain
from buildah.errors import ToolFailed
from buildah.progress import FileActivity, Meter
from buildah.removal import remove_tree
from buildah.unpacking import can_decompress, decompress, unpack_layout
from buildah.workspace import Workspace

Progress = Callable[[int, int], None]
Log = Callable[[str], None]

_OPERATION = "Loading the archive"
_IMAGE_ID = re.compile(r"[0-9a-f]{64}")
_PLATFORM = re.compile(r"[a-z0-9_.-]{1,32}/[a-z0-9_.-]{1,32}(/[a-z0-9_.-]{1,32})?")
_PLATFORM_FORMAT = (
    "{{.OCIv1.OS}}/{{.OCIv1.Architecture}}{{if .OCIv1.Variant}}/{{.OCIv1.Variant}}{{end}}"
)
# buildah copies each layer to tmp/storageNNN/N, and reads it back from there to unpack it.
_LAYER_FILES = re.compile(r"storage\d+/\d+")
# Where an archive is made ready; buildah is told relative names, since for it a colon anywhere in
# a path would end the path.
_SOURCE, _LINK, _PLAIN, _LAYOUT = "source", "archive", "plain", "layout"


@dataclass(frozen=True)
class LoadedImage:
    """An image in a workspace: its id (sha256 of its config, hex) and `os/architecture`."""

    image_id: str
    platform: str


async def load(archive: Path, workspace: Workspace, *, progress: Progress, log: Log) -> LoadedImage:
    """Load the one image of a docker or OCI archive, compressed or not.

    `progress` counts bytes of the archive. Each pass over the data (decompressing and unpacking
    where needed, copying layers, applying layers) is an equal share of them.

    Raises:
        ArchiveError: something is wrong with the archive; the subclass says what.
        StorageFull: there is no room in the workspace.
        ToolError: buildah is missing, or failed in a way that is not known here.
    """
    size_bytes = (await anyio.to_thread.run_sync(archive.stat)).st_size
    meter = Meter(progress, size_bytes)
    source = await anyio.to_thread.run_sync(_prepare, archive, workspace, meter)
    activity = FileActivity(workspace.tmp, _LAYER_FILES)

    def watch(pgid: int) -> None:
        activity.scan(pgid)
        if source.layers_bytes:
            share = (activity.written_bytes + activity.read_bytes) / source.layers_bytes
            meter.report((source.passes + share) / (source.passes + 2))

    completed = await run(
        ["buildah", *workspace.storage_arguments, "pull", "--quiet", "--", source.name],
        env=workspace.env,
        cwd=source.directory,
        on_line=log,
        watch=watch,
    )
    if completed.returncode:
        raise explain(_OPERATION, completed, LOADING)
    image_id = completed.stdout.decode(errors="replace").strip()
    if not _IMAGE_ID.fullmatch(image_id):
        raise ToolFailed(f"{_OPERATION}: buildah named the image {image_id[:80]!r}.")
    image = LoadedImage(image_id, await _platform(image_id, workspace, log))
    await anyio.to_thread.run_sync(remove_tree, source.directory)
    meter.finish()
    return image


@dataclass(frozen=True)
class _Source:
    """What buildah is given: a name in a directory, and how many passes over the data it took.

    `layers_bytes` is 0 where it cannot be known cheaply.
    """

    directory: Path
    name: str
    layers_bytes: int
    passes: int


def _prepare(archive: Path, workspace: Workspace, meter: Meter) -> _Source:
    """Make of any archive one that buildah reads, without taking more room than that needs."""
    directory = workspace.directory / _SOURCE
    remove_tree(directory)
    directory.mkdir(mode=0o700)
    kind, passes = compression(archive), 0
    if can_decompress(kind):
        plain = directory / _PLAIN
        decompress(archive, plain, kind, lambda share: meter.report(share / 3))
        archive, passes = plain, 1
    (directory / _LINK).symlink_to(archive.resolve())
    if kind is Compression.ZSTD:
        return _Source(directory, f"{Transport.DOCKER_ARCHIVE}:{_LINK}", 0, 0)
    facts = examine(archive)
    if facts.transport is Transport.DOCKER_ARCHIVE:
        return _Source(directory, f"{facts.transport}:{_LINK}", facts.layers_bytes, passes)

    def report(share: float) -> None:
        meter.report((passes + share) / (passes + 3))

    unpack_layout(archive, directory / _LAYOUT, report)
    (directory / _PLAIN).unlink(missing_ok=True)
    return _Source(directory, f"oci:{_LAYOUT}", facts.layers_bytes, passes + 1)


async def _platform(image_id: str, workspace: Workspace, log: Log) -> str:
    """`os/architecture[/variant]` of an image's config; a stranger wrote that."""
    inspect = ["inspect", "--type=image", f"--format={_PLATFORM_FORMAT}", "--", image_id]
    completed = await run(
        ["buildah", *workspace.storage_arguments, *inspect], env=workspace.env, on_line=log
    )
    if completed.returncode:
        raise explain(_OPERATION, completed, LOADING)
    platform = completed.stdout.decode(errors="replace").strip()
    return platform if _PLATFORM.fullmatch(platform) else "unknown/unknown"
