"""What a sender asks to be done with an archive, and a look whether it can be.

Knows: the metadata for it, and what the archive itself says against it.
Must not know: how an archive is read or sent, command lines.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from buildah.archive import inspect
from buildah.compression import Compression, compression
from buildah.contents import Format
from buildah.errors import ArchiveError, InvalidReference
from buildah.reference import ImageReference
from buildah.selection import Order, choose
from server.client.errors import ArchiveUnusable


@dataclass(frozen=True)
class Wishes:
    """Where the image goes (None: its own name, or nowhere), and how."""

    image: str | None = None
    ref: str | None = None
    compression: str | None = None
    allow_partial: bool = False
    platforms: tuple[str, ...] = ()

    @property
    def metadata(self) -> Mapping[str, str]:
        """What is said of it when the upload is created."""
        said = {
            "image": self.image,
            "ref": self.ref,
            "compression": self.compression,
            "allow_partial": "true" if self.allow_partial else None,
            "platforms": ",".join(self.platforms) or None,
        }
        return {name: value for name, value in said.items() if value is not None}

    @property
    def identity(self) -> tuple[str | None, ...]:
        """What tells this errand from another one with the same archive."""
        others = sorted(f"{name}={value}" for name, value in self.metadata.items())
        return (self.image, *(other for other in others if not other.startswith("image=")))

    def check(self, archive: Path) -> None:
        """Look into the archive for what would end in a failure after all of it was sent.

        Only where that costs nothing: not into one that is compressed as a whole, nor where the
        server decides (without `image`; a build context).

        Raises:
            ArchiveUnusable: it could not become this image.
        """
        if self.image is None or compression(archive) is not Compression.NONE:
            return
        try:
            destination = ImageReference.parse(self.image)
            contents = inspect(archive)
            if contents.format is not Format.BUILD_CONTEXT:
                choose(contents.images, Order(destination, "", self.ref, self.allow_partial))
        except InvalidReference:
            # The server refuses it at once, in its own words.
            return
        except ArchiveError as error:
            raise ArchiveUnusable(
                error.message,
                f"{error.hint}\nnothing was sent; --no-check sends it all the same",
                code=error.code,
            ) from error
