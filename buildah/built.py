"""An image that was built here: for one platform, or a list of images for several.

Knows: `buildah manifest push`.
Must not know: how it was built.
"""

from __future__ import annotations

from dataclasses import dataclass

import anyio.to_thread

from buildah.command import run
from buildah.diagnosis import REACHING
from buildah.progress import FileActivity, Meter
from buildah.push import LAYER_FILES, StoredImage
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
        if len(self.images) > 1:
            return await self._push_list(destination, registry, workspace, progress, log)
        return await self.images[0].push(
            destination,
            registry,
            workspace,
            progress=progress,
            log=log,
            compression=compression,
        )

    async def _push_list(
        self,
        destination: ImageReference,
        registry: Registry,
        workspace: Workspace,
        progress: Progress,
        log: Log,
    ) -> PushedImage:
        total_bytes = 0
        for image in self.images:
            total_bytes += await anyio.to_thread.run_sync(layers_bytes, workspace, image.image_id)
        meter = Meter(progress, total_bytes)
        activity = FileActivity(workspace.tmp, LAYER_FILES)

        def watch(pgid: int) -> None:
            activity.scan(pgid)
            if total_bytes:
                meter.report((activity.written_bytes + activity.read_bytes) / 2 / total_bytes)

        async with let_in(destination, registry, workspace) as access:
            completed = await run(
                [
                    *("buildah", *workspace.storage_arguments, "manifest", "push", "--all"),
                    *("--format=oci", f"--digestfile={digest_file(workspace)}", *access.arguments),
                    *("--", self.list_name, f"docker://{destination}"),
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
        return PushedImage(digest, self.platforms)
