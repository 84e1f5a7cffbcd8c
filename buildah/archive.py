"""What an image archive is: its compression, its format, how many images it has.

Knows: the layouts of docker and OCI archives, by name and JSON; reads headers only.
Must not know: programs, registries, what is done with an archive.
"""

from __future__ import annotations

import json
import os
import posixpath
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from buildah.errors import ArchiveInvalid, ArchiveNoImage, ArchiveSeveralImages, ArchiveTruncated
from buildah.tar import Entry, TarError, TarTruncated, entries

KIB = 1024
MIB = 1024 * KIB
GIB = 1024 * MIB

# What the programs take at most; they refuse more too.
_MANIFEST_BYTES = MIB
_INDEX_BYTES = 4 * MIB
_SHOWN_TAGS = 10


class Compression(StrEnum):
    """How an archive is compressed as a whole."""

    NONE = "none"
    GZIP = "gzip"
    BZIP2 = "bzip2"
    XZ = "xz"
    ZSTD = "zstd"


class Transport(StrEnum):
    """How buildah has to be told to read an archive."""

    DOCKER_ARCHIVE = "docker-archive"
    OCI_ARCHIVE = "oci-archive"


_MAGIC = (
    (b"\x1f\x8b", Compression.GZIP),
    (b"BZh", Compression.BZIP2),
    (b"\xfd7zXZ\x00", Compression.XZ),
    (b"\x28\xb5\x2f\xfd", Compression.ZSTD),
)


@dataclass(frozen=True)
class ArchiveFacts:
    """What an uncompressed archive is.

    `layers_bytes` is what its layers are when they are copied out of it: exact, except that the
    size of a gzipped layer in a docker archive, which is unpacked on the way, is estimated.
    """

    transport: Transport
    layers_bytes: int


def compression(path: Path) -> Compression:
    """How the file is compressed as a whole, by its first bytes. Blocking."""
    with path.open("rb") as file:
        return compression_of(file.read(8))


def examine(path: Path) -> ArchiveFacts:
    """Tell what an uncompressed archive is. Blocking, by seeks: 20 GB cost milliseconds.

    Where both forms are there (docker 25 and later, containerd) it is a docker archive: in some
    versions only its manifest.json has the layers in the right order.

    Raises:
        ArchiveInvalid: it is no archive.
        ArchiveTruncated: it ends too early.
        ArchiveNoImage: there is no image in it.
        ArchiveSeveralImages: there are several.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        with tar_worded():
            return _examine(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def tar_worded() -> Iterator[None]:
    """What is wrong with a tar, as an ArchiveError."""
    try:
        yield
    except TarTruncated as error:
        raise ArchiveTruncated(f"Reading the archive: it ends too early ({error}).") from error
    except TarError as error:
        raise ArchiveInvalid(f"Reading the archive: it is not a tar ({error}).") from error


def _examine(descriptor: int) -> ArchiveFacts:
    found: dict[str, Entry] = {}
    empty = True
    for entry in entries(descriptor):
        empty = False
        if entry.regular and entry.name in ("manifest.json", "index.json"):
            # A second one of the same name is ignored by the programs too.
            found.setdefault(entry.name, entry)
    if "manifest.json" in found:
        return _docker(descriptor, found["manifest.json"])
    if "index.json" in found:
        return _oci(descriptor, found["index.json"])
    if empty:
        raise ArchiveInvalid("Reading the archive: it is empty.")
    raise ArchiveNoImage(
        "Reading the archive: there is no image in it (neither manifest.json nor index.json)."
    )


def _docker(descriptor: int, manifest: Entry) -> ArchiveFacts:
    images = _json_list(_read_json(descriptor, manifest, _MANIFEST_BYTES), manifest.name)
    _require_one(len(images), [tag for image in images for tag in _strings(image.get("RepoTags"))])
    layers = {posixpath.normpath(name) for name in _strings(images[0].get("Layers"))}
    size = _total(descriptor, lambda name: name in layers, _unpacked_bytes)
    return ArchiveFacts(Transport.DOCKER_ARCHIVE, size)


def _oci(descriptor: int, index: Entry) -> ArchiveFacts:
    document = _read_json(descriptor, index, _INDEX_BYTES)
    manifests = document.get("manifests") if isinstance(document, dict) else None
    images = _json_list(manifests, index.name)
    _require_one(len(images), [name for image in images for name in _oci_names(image)])
    size = _total(descriptor, lambda name: name.startswith("blobs/"), _stored_bytes)
    return ArchiveFacts(Transport.OCI_ARCHIVE, size)


def _oci_names(image: dict[str, Any]) -> list[str]:
    """The image's full name, if containerd or docker wrote it, else its tag."""
    annotations = image.get("annotations")
    if not isinstance(annotations, dict):
        return []
    keys = ("io.containerd.image.name", "org.opencontainers.image.ref.name")
    return _strings([annotations.get(key) for key in keys])[:1]


def _require_one(count: int, names: Iterable[str]) -> None:
    if not count:
        raise ArchiveNoImage("Reading the archive: its list of images is empty.")
    if count > 1:
        tags = tuple(names)
        shown = ", ".join(repr(tag) for tag in tags[:_SHOWN_TAGS]) or "no tags"
        raise ArchiveSeveralImages(
            f"Reading the archive: there are several images in it, {count} ({shown}).", tags=tags
        )


def _total(
    descriptor: int, wanted: Callable[[str], bool], measure: Callable[[int, Entry], int]
) -> int:
    return sum(
        measure(descriptor, entry)
        for entry in entries(descriptor)
        if entry.regular and wanted(entry.name)
    )


def _stored_bytes(_descriptor: int, entry: Entry) -> int:
    return entry.size


def _unpacked_bytes(descriptor: int, entry: Entry) -> int:
    """The size of a layer without compression; a gzip ends with it, modulo 4 GiB."""
    if compression_of(os.pread(descriptor, 8, entry.offset)) is not Compression.GZIP:
        return entry.size
    remainder = int.from_bytes(os.pread(descriptor, 4, entry.offset + entry.size - 4), "little")
    return remainder + -(-max(0, entry.size - remainder) // (4 * GIB)) * 4 * GIB


def compression_of(start: bytes) -> Compression:
    """What a file is compressed with that starts like this."""
    for magic, kind in _MAGIC:
        if start.startswith(magic):
            return kind
    return Compression.NONE


def _read_json(descriptor: int, entry: Entry, limit_bytes: int) -> Any:
    if entry.size > limit_bytes:
        raise ArchiveInvalid(
            f"Reading the archive: its {entry.name} has {entry.size} bytes, at most {limit_bytes} "
            "make sense."
        )
    try:
        return json.loads(os.pread(descriptor, entry.size, entry.offset))
    except (ValueError, RecursionError) as error:
        raise ArchiveInvalid(f"Reading the archive: its {entry.name} is not JSON.") from error


def _json_list(value: Any, name: str) -> list[dict[str, Any]]:
    if not isinstance(value, list) or not all(isinstance(row, dict) for row in value):
        raise ArchiveInvalid(f"Reading the archive: its {name} is not a list of images.")
    return value


def _strings(value: Any) -> list[str]:
    return [row for row in value if isinstance(row, str)] if isinstance(value, list) else []
