"""An image that was built here: for one platform, or a list of images for several.

Knows: `buildah manifest push`.
Must not know: how it was built.
"""

from __future__ import annotations

from dataclasses import dataclass

import anyio.to_thread

from buildah.diagnosis import REACHING
from buildah.push import StoredImage, pushed_bytes
from buildah.pushed import LayerCompression, Log, Progress, PushedImage, Sending, send
from buildah.reference import ImageReference
from buildah.registry import Registry
from buildah.storage import layers_bytes
from buildah.workspace import Workspace


@dataclass(frozen=True)
class BuiltImage:
    """Images in a workspace, one for each platform; of several, `list_name` is a list there."""

    images: tuple[StoredImage, ...]
    list_name: str

    @property
    def platforms(self) -> tuple[str, ...]:
        """`os/architecture[/variant]` of each."""
        return tuple(image.platform for image in self.images)

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
        """Push, several platforms as one index, as every `ReadyImage`.

        Layers of an index go as gzip: buildah 1.28 has no option for it.
        """
        if len(self.images) == 1:
            return await self.images[0].push(
                destination,
                registry,
                workspace,
                progress=progress,
                log=log,
                compression=compression,
            )
        sizes = [
            await anyio.to_thread.run_sync(layers_bytes, workspace, image.image_id)
            for image in self.images
        ]
        sending = Sending(
            lambda access: (
                *("buildah", *workspace.storage_arguments, "manifest", "push", "--all"),
                *("--format=oci", *access.arguments),
            ),
            self.list_name,
            sum(sizes),
            pushed_bytes(workspace),
            REACHING,
        )
        digest = await send(sending, destination, registry, workspace, progress=progress, log=log)
        return PushedImage(digest, self.platforms)
