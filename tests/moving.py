"""An archive's one image on its way through the lowest room, as the steps of a job move it.

Knows: opening, an engine, a push.
Must not know: which of them a test is about.
"""

from __future__ import annotations

from pathlib import Path

import anyio.to_thread

from buildah.engine import ENGINES, ready_images
from buildah.opening import open_archive
from buildah.progress import Meter
from buildah.push import StoredImage
from buildah.pushed import (
    LayerCompression,
    Log,
    Progress,
    PushedImage,
    ReadyImage,
    confirm,
)
from buildah.reference import ImageReference
from buildah.registry import Registry
from buildah.workspace import Workspace


async def make_ready(
    archive: Path, workspace: Workspace, *, engine: str, progress: Progress, log: Log
) -> ReadyImage:
    """The first image of an archive, made ready by an engine."""
    size_bytes = (await anyio.to_thread.run_sync(archive.stat)).st_size
    meter = Meter(progress, size_bytes)
    opened = await open_archive(archive, workspace, meter.report)
    (image,) = await ready_images(
        ENGINES[engine], opened, [0], workspace, share=meter.report, log=log
    )
    meter.finish()
    return image


async def load(archive: Path, workspace: Workspace, *, progress: Progress, log: Log) -> StoredImage:
    """The first image of an archive in the workspace's storage."""
    image = await make_ready(archive, workspace, engine="buildah", progress=progress, log=log)
    assert isinstance(image, StoredImage)
    return image


async def push(
    image: ReadyImage,
    destination: ImageReference,
    registry: Registry,
    workspace: Workspace,
    *,
    progress: Progress,
    log: Log,
) -> PushedImage:
    """Push it, with gzip, and see that it is there."""
    pushed = await image.push(
        destination,
        registry,
        workspace,
        progress=progress,
        log=log,
        compression=LayerCompression(),
    )
    await confirm(destination, registry, pushed.digest, log)
    return pushed
