"""An image in a workspace's storage, and its way to a registry.

Knows: `buildah push`.
Must not know: how the image came into the workspace, or who wants it there.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import anyio.to_thread

from buildah.command import run
from buildah.diagnosis import REACHING
from buildah.progress import FileActivity, Meter
from buildah.pushed import (
    LayerCompression,
    Log,
    Progress,
    PushedImage,
    digest_file,
    failure,
    let_in,
    proven,
)
from buildah.reference import ImageReference
from buildah.registry import Registry
from buildah.storage import layers_bytes
from buildah.workspace import Workspace

# buildah writes each layer to tmp/N, and reads it back from there to compress and send it; newer
# versions to tmp/container_images_N, which has lost its name by then.
LAYER_FILES = re.compile(r"\d+|container_images_\d+( \(deleted\))?")


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
        total_bytes = await anyio.to_thread.run_sync(layers_bytes, workspace, self.image_id)
        meter = Meter(progress, total_bytes)
        activity = FileActivity(workspace.tmp, LAYER_FILES)

        def watch(pgid: int) -> None:
            activity.scan(pgid)
            if total_bytes:
                meter.report((activity.written_bytes + activity.read_bytes) / 2 / total_bytes)

        async with let_in(destination, registry, workspace) as access:
            completed = await run(
                [
                    *("buildah", *workspace.storage_arguments, "push"),
                    *(f"--digestfile={digest_file(workspace)}", *access.arguments),
                    *compression.arguments("--compression"),
                    *("--", self.image_id, f"docker://{destination}"),
                ],
                env=workspace.env,
                on_line=log,
                watch=watch,
                secrets=access.secrets,
            )
        if completed.returncode:
            raise await failure(completed, destination, registry, REACHING)
        digest = await proven(destination, registry, workspace, "buildah", log)
        meter.finish()
        return PushedImage(digest, (self.platform,))
