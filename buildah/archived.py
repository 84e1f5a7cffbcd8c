"""An image as it lies in an archive or a layout, and its way to a registry without a storage.

Knows: `skopeo copy`; what a program is told to read an image where it is.
Must not know: how it was made ready, or who wants it there.

No layer is unpacked on this way: they are read, compressed where they are not, and sent.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from buildah.diagnosis import COPYING
from buildah.progress import ReadPositions, Span
from buildah.pushed import LayerCompression, Log, Progress, PushedImage, Sending, send
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
        positions = ReadPositions(self.layers)

        def moved_bytes(pgid: int) -> int:
            positions.scan(pgid)
            return positions.read_bytes

        sending = Sending(
            lambda access: (
                *("skopeo", f"--tmpdir={workspace.tmp}", "copy", "--all"),
                *(*access.as_destination, *compression.arguments("--dest-compress")),
            ),
            self.name,
            self.stored_bytes,
            moved_bytes,
            COPYING,
            cwd=self.directory,
        )
        digest = await send(sending, destination, registry, workspace, progress=progress, log=log)
        return PushedImage(digest, self.platforms)
