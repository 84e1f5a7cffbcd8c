"""A look into an archive before it is sent: whether what is asked for can come of it.

Knows: what the archive itself says against it.
Must not know: how an archive is read or sent, command lines.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from buildah.archive import inspect
from buildah.compression import Compression, compression
from buildah.contents import Format, Image
from buildah.errors import ArchiveError, InvalidReference
from buildah.reference import ImageReference
from buildah.selection import Order, choose, meant
from server.client.errors import ArchiveUnusable
from server.client.remote import Names
from server.client.wishes import Wishes

# So many that the question stays a small one.
_MOST_IMAGES: Final = 100


def precheck(archive: Path, wishes: Wishes) -> Names:
    """Look for what would end in a failure after all of it was sent; what its images are called.

    Only where that costs nothing: not into an archive that is compressed as a whole, and a build
    context has no image yet. Without `image` the server decides what may be, too.

    Raises:
        ArchiveUnusable: it could not become this image.
    """
    if compression(archive) is not Compression.NONE:
        return ()
    try:
        contents = inspect(archive)
        if contents.format is Format.BUILD_CONTEXT:
            return ()
        if wishes.image is not None:
            destination = ImageReference.parse(wishes.image)
            choose(contents.images, Order(destination, "", wishes.ref, wishes.allow_partial))
        return _names([image for _, image in meant(contents.images, wishes.ref)])
    except InvalidReference:
        # The server refuses it at once, in its own words.
        return ()
    except ArchiveError as error:
        if wishes.image is None:
            # It may be anything, and only be kept.
            return ()
        raise ArchiveUnusable(
            error.message,
            f"{error.hint}\nnothing was sent; --no-check sends it all the same",
            code=error.code,
        ) from error


def _names(images: Sequence[Image]) -> Names:
    rows = [{"tags": list(image.tags), "id": image.known_as} for image in images]
    if len(rows) > _MOST_IMAGES or not all(row["tags"] or row["id"] for row in rows):
        return ()
    return tuple(rows)
