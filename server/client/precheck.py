"""A look into an archive before it is sent: whether what is asked for can come of it.

Knows: what the archive itself says against it.
Must not know: how an archive is read or sent, command lines.
"""

from __future__ import annotations

from pathlib import Path

from buildah.archive import inspect
from buildah.compression import Compression, compression
from buildah.contents import Format
from buildah.errors import ArchiveError, InvalidReference
from buildah.reference import ImageReference
from buildah.selection import Order, choose
from server.client.errors import ArchiveUnusable
from server.client.wishes import Wishes


def precheck(archive: Path, wishes: Wishes) -> None:
    """Look for what would end in a failure after all of it was sent.

    Only where that costs nothing: not into an archive that is compressed as a whole, nor where the
    server decides (without `image`; a build context).

    Raises:
        ArchiveUnusable: it could not become this image.
    """
    if wishes.image is None or compression(archive) is not Compression.NONE:
        return
    try:
        destination = ImageReference.parse(wishes.image)
        contents = inspect(archive)
        if contents.format is not Format.BUILD_CONTEXT:
            choose(contents.images, Order(destination, "", wishes.ref, wishes.allow_partial))
    except InvalidReference:
        # The server refuses it at once, in its own words.
        return
    except ArchiveError as error:
        raise ArchiveUnusable(
            error.message,
            f"{error.hint}\nnothing was sent; --no-check sends it all the same",
            code=error.code,
        ) from error
