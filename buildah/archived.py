"""An image as it lies in an archive or a layout, and its way to a registry without a storage.

Knows: `skopeo copy`; what a program is told to read an image where it is.
Must not know: how it was made ready, or who wants it there.

No layer is unpacked on this way: they are read, compressed where they are not, and sent.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from buildah.command import run
from buildah.diagnosis import COPYING
from buildah.progress import Meter, ReadPositions, Span
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
from buildah.workspace import Workspace


@dataclass(frozen=True)
class ArchivedImage:
    """An image by the name that a program takes in `directory`, as `docker-archive:archive:@0`.

    `image_id` is the digest of its config (hex), None for one of several platforms. `layers` are
    where its layers' bytes are, and `layers_bytes` what they are uncompressed, as far as known.
    `linked`: one of them is only a link to another in the archive.
    """

    directory: Path
    name: str
    platforms: tuple[str, ...]
    image_id: str | None
    layers: tuple[Span, ...]
    layers_bytes: int
    linked: bool = False

    @property
    def stored_bytes(self) -> int:
        """What its layers take where they are."""
        return sum(span.size for span in self.layers)

    @property
    def storable(self) -> bool:
        """Whether a storage takes it: one platform, and no link.

        For a link buildah (1.28) expects as many bytes as the link has, which are none. docker up
        to 24 writes links for what two images share.
        """
        return self.image_id is not None and not self.linked

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
        """Push it, as every `ReadyImage`; `progress` counts the layers' bytes as they are read."""
        total_bytes = self.stored_bytes
        meter = Meter(progress, total_bytes)
        positions = ReadPositions(self.layers)

        def watch(pgid: int) -> None:
            positions.scan(pgid)
            if total_bytes:
                meter.report(positions.read_bytes / total_bytes)

        async with let_in(destination, registry, workspace) as access:
            completed = await run(
                [
                    *("skopeo", f"--tmpdir={workspace.tmp}", "copy", "--all"),
                    *(f"--digestfile={digest_file(workspace)}", *access.as_destination),
                    *compression.arguments("--dest-compress"),
                    *("--", self.name, f"docker://{destination}"),
                ],
                env=workspace.env,
                cwd=self.directory,
                on_line=log,
                watch=watch,
                secrets=access.secrets,
            )
        if completed.returncode:
            raise await failure(completed, destination, registry, COPYING)
        digest = await proven(destination, registry, workspace, "skopeo", log)
        meter.finish()
        return PushedImage(digest, self.platforms)
