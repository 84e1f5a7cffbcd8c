"""An image in a workspace's storage, and its way to a registry.

Knows: `buildah push`.
Must not know: how the image came into the workspace, or who wants it there.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

import anyio.to_thread

from buildah.diagnosis import REACHING
from buildah.progress import FileActivity
from buildah.pushed import LayerCompression, Log, Progress, PushedImage, Sending, send
from buildah.reference import ImageReference
from buildah.registry import Registry
from buildah.storage import layers_bytes
from buildah.workspace import Workspace

# buildah writes each layer to tmp/N, and reads it back from there to compress and send it; newer
# versions to tmp/container_images_N, which has lost its name by then.
_LAYER_FILES = re.compile(r"\d+|container_images_\d+( \(deleted\))?")


@dataclass(frozen=True)
class StoredImage:
    """An image in a workspace: its id (sha256 of its config, hex) and `os/architecture`."""

    image_id: str
    platform: str

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
        """Push it, as every `ReadyImage`.

        `progress` counts uncompressed bytes of layers: a byte is done by half when it is read out
        of the storage, and wholly when it is compressed and sent. A layer that the registry has
        already is neither. buildah tries again by itself, three times, when the line breaks.
        """
        sending = Sending(
            lambda access: (
                *("buildah", *workspace.storage_arguments, "push"),
                *(*access.arguments, *compression.arguments("--compression")),
            ),
            self.image_id,
            await anyio.to_thread.run_sync(layers_bytes, workspace, self.image_id),
            pushed_bytes(workspace),
            REACHING,
        )
        digest = await send(sending, destination, registry, workspace, progress=progress, log=log)
        return PushedImage(digest, (self.platform,))


def pushed_bytes(workspace: Workspace) -> Callable[[int], int]:
    """Tells what a process group of buildah read out of a storage, and sent, by half each."""
    activity = FileActivity(workspace.tmp, _LAYER_FILES)

    def moved_bytes(pgid: int) -> int:
        activity.scan(pgid)
        return (activity.written_bytes + activity.read_bytes) // 2

    return moved_bytes
