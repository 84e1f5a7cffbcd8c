"""What `tusboat inspect` says of an archive.

Knows: the words and their order, the form for programs.
Must not know: how an archive is read, exit codes.
"""

from __future__ import annotations

import json
import shlex
import stat
from collections.abc import Iterator
from pathlib import Path

from buildah.archive import inspect
from buildah.catalog import shown
from buildah.contents import Contents, Image, PlatformImage, Writer
from buildah.errors import ArchiveError
from server.client.errors import ArchiveUnusable
from server.client.sizes import format_size

_SHOWN_LAYERS = 100


def report(name: str, *, as_json: bool) -> str:
    """Everything that a look into the archive tells, for a person or as one JSON document.

    Raises:
        ArchiveUnusable: there is nothing to tell: operation, subject, cause and hint.
    """
    if name == "-":
        raise ArchiveUnusable(
            "inspect -: standard input cannot be looked into, it has no way back",
            "Write it to a file first: cat > image.tar; tusboat inspect image.tar",
            code="archive_unusable",
        )
    path = Path(name)
    subject = f"inspect {shown(name)}"
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise ArchiveUnusable(
                f"{subject}: it is not a regular file",
                f"An image in a directory goes into a tar first: tar -C {_word(name)} "
                "-cf image.tar .",
            )
        contents = inspect(path)
    except ArchiveError as error:
        raise ArchiveUnusable(f"{subject}: {error.message}", error.hint, code=error.code) from error
    except (OSError, ValueError) as error:
        cause = getattr(error, "strerror", None) or str(error)
        raise ArchiveUnusable(
            f"{subject}: {cause}", "Check the path, and that you may read the file."
        ) from error
    if as_json:
        return json.dumps({"archive": name, **contents.as_json()})
    return "\n".join(_lines(name, contents))


def _lines(name: str, contents: Contents) -> Iterator[str]:
    yield f"archive      {shown(name)}"
    yield f"size         {format_size(contents.size_bytes)}"
    writer = "" if contents.writer is Writer.UNKNOWN else f", laid out as by {contents.writer}"
    yield f"format       {contents.format}{writer}"
    yield f"compression  {contents.compression}"
    yield f"images       {len(contents.images)}"
    for image in contents.images:
        yield ""
        yield from _image_lines(image)
    yield ""
    for note in contents.notes:
        yield f"note: {note}"
    for refusal in contents.refusals:
        yield f"would be refused: {shown(refusal.message, 2000)} ({refusal.code})"
        yield f"  hint: {refusal.hint}"
    if not contents.refusals:
        yield f"next: tusboat upload {_word(name)} --image {_destination(contents)}"


def _image_lines(image: Image) -> Iterator[str]:
    yield f"image        {', '.join(shown(tag) for tag in image.tags) or '(no tags)'}"
    if image.digest:
        yield f"  digest     {image.digest}"
    for one in image.platforms:
        yield from _platform_lines(one)


def _platform_lines(one: PlatformImage) -> Iterator[str]:
    layers = f"{len(one.layers)} layers, {format_size(one.size_bytes)}"
    yield f"  platform   {shown(one.platform or 'unknown')}: {layers}"
    if one.image_id:
        yield f"    id       {one.image_id}"
    for layer in one.layers[:_SHOWN_LAYERS]:
        size = "missing" if layer.size_bytes is None else format_size(layer.size_bytes)
        packed = layer.compression.value if layer.compression else "?"
        yield f"    layer    {size:>9}  {packed:<5}  {shown(layer.name)}"
    if len(one.layers) > _SHOWN_LAYERS:
        yield f"    layer    ... {len(one.layers) - _SHOWN_LAYERS} more"
    for name in one.missing:
        yield f"    missing  {shown(name)}"


def _destination(contents: Contents) -> str:
    """The image's own name behind a registry to fill in."""
    tags = [tag for image in contents.images for tag in image.tags]
    own = tags[0] if tags else ""
    host, slash, path = own.partition("/")
    repository = path if slash and (host == "localhost" or set(".:") & set(host)) else own
    if not repository or ":" not in repository:
        return "REGISTRY/TEAM/NAME:TAG"
    return _word(f"REGISTRY/{repository}")


def _word(name: str) -> str:
    """A word of a command line that can be typed again, if it can be shown at all."""
    return shlex.quote(name) if name.isprintable() else f"'{shown(name)}'"
