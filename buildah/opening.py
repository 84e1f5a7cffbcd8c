"""Opens an archive in a workspace: what is in it, and each image as the programs can read it.

Knows: what has to be unpacked for that, and how much room is needed.
Must not know: which images are wanted, where they go, which engine takes them.
"""

from __future__ import annotations

import os
import posixpath
from dataclasses import dataclass, replace
from pathlib import Path

import anyio.to_thread

from buildah.archive import inspect
from buildah.archived import ArchivedImage
from buildah.catalog import catalog
from buildah.compression import Compression, compression, compression_of
from buildah.contents import Contents, Image
from buildah.index import single_out
from buildah.progress import Share, Span, part
from buildah.removal import remove_tree
from buildah.reservation import reserve
from buildah.sizes import GIB
from buildah.tar import Entry
from buildah.unpacking import decompress, unpack_layout
from buildah.workspace import Workspace

# Where an archive is made ready; the programs are told relative names, since for them a colon
# anywhere in a path would end the path.
_SOURCE, _LINK, _PLAIN, _LAYOUT = "source", "archive", "plain", "layout"
_START_BYTES = 8
# Passes over the data are equal shares. Decompressing is one of three; of the rest, so is unpacking
# a layout (the others are the copy of its layers, and their application).
DECOMPRESSED = 1 / 3
_UNPACKED = 1 / 3


@dataclass(frozen=True)
class OpenedArchive:
    """An archive that can be read by seeks, in a directory of the workspace."""

    contents: Contents
    plain: Path
    plain_bytes: int
    directory: Path

    @property
    def decompressed(self) -> bool:
        """Whether it had to be decompressed."""
        return self.contents.compression is not Compression.NONE

    @property
    def is_layout(self) -> bool:
        """Whether it is read as an OCI layout, which has to be unpacked."""
        return any(image.digest is not None for image in self.contents.images)

    def unpacking_share(self, position: int) -> float:
        """How much of making an image ready is unpacking its layout."""
        unpacks = self.contents.images[position].digest is not None
        return _UNPACKED if unpacks and not (self.directory / _LAYOUT).exists() else 0.0

    async def image(self, position: int, share: Share) -> ArchivedImage:
        """An image of the list, as the programs can read it; `share` gets how far that is.

        An OCI layout is unpacked for it, once for all its images.

        Raises:
            ArchiveError: something is wrong with the archive; the subclass says what.
            StorageFull: there is no room in the workspace.
        """
        found = self.contents.images[position]
        if found.digest is None:
            return await anyio.to_thread.run_sync(self._docker, position, found)
        return await anyio.to_thread.run_sync(self._oci, position, found, found.digest, share)

    async def close(self) -> None:
        """Remove what was unpacked."""
        await anyio.to_thread.run_sync(remove_tree, self.directory)

    def _docker(self, position: int, image: Image) -> ArchivedImage:
        (one,) = image.platforms
        names = [posixpath.normpath(layer.name) for layer in one.layers]
        with catalog(self.plain, Compression.NONE) as table:
            entries = [entry for name in dict.fromkeys(names) if (entry := table.find(name))]
            linked = any(table.entries[name].target is not None for name in names)
        return ArchivedImage(
            self.directory,
            f"docker-archive:{_LINK}:@{position}",
            (one.name,),
            (one.image_id or "").removeprefix("sha256:"),
            tuple(Span(self.plain, entry.offset, entry.size) for entry in entries),
            _unpacked_bytes(self.plain, entries),
            linked,
        )

    def _oci(self, position: int, image: Image, digest: str, share: Share) -> ArchivedImage:
        shared, own = self.directory / _LAYOUT, f"{_LAYOUT}-{position}"
        if not shared.exists():
            unpack_layout(self.plain, shared, share)
            # What was decompressed is not needed twice.
            (self.directory / _PLAIN).unlink(missing_ok=True)
        remove_tree(self.directory / own)
        single_out(shared, digest, self.directory / own)
        whole = image.whole_platforms
        digests = {layer.name for one in whole for layer in one.layers if layer.size_bytes}
        blobs = [shared / "blobs" / name.replace(":", "/") for name in sorted(digests)]
        layers = tuple(Span(blob, 0, blob.stat().st_size) for blob in blobs)
        alone = len(image.platforms) == 1
        return ArchivedImage(
            self.directory,
            f"oci:{own}",
            tuple(one.name for one in whole),
            (whole[0].image_id or "").removeprefix("sha256:") if alone else None,
            layers,
            sum(layer.size for layer in layers),
        )


async def open_archive(archive: Path, workspace: Workspace, share: Share) -> OpenedArchive:
    """Look into an archive, decompressed first where it is compressed as a whole.

    `share` gets how far the loading is with it: to `DECOMPRESSED`, where there is something to do.

    Raises:
        ArchiveError: it is none, or nothing in it can be told; the subclass says why.
        StorageFull: there is no room in the workspace.
    """
    return await anyio.to_thread.run_sync(_open, archive, workspace, part(share, 0, DECOMPRESSED))


def _open(archive: Path, workspace: Workspace, share: Share) -> OpenedArchive:
    directory = workspace.directory / _SOURCE
    remove_tree(directory)
    directory.mkdir(mode=0o700)
    kind, plain = compression(archive), archive.resolve()
    if kind is not Compression.NONE:
        plain = directory / _PLAIN
        decompress(archive, plain, kind, share, lambda more_bytes: reserve(workspace, more_bytes))
    (directory / _LINK).symlink_to(plain)
    contents = inspect(plain)
    size_bytes = archive.stat().st_size
    contents = replace(contents, compression=kind, size_bytes=size_bytes)
    return OpenedArchive(contents, plain, plain.stat().st_size, directory)


def _unpacked_bytes(plain: Path, layers: list[Entry]) -> int:
    """The size of layers without compression; a gzip ends with it, modulo 4 GiB."""
    descriptor = os.open(plain, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return sum(_unpacked_size(descriptor, entry) for entry in layers)
    finally:
        os.close(descriptor)


def _unpacked_size(descriptor: int, entry: Entry) -> int:
    start = os.pread(descriptor, _START_BYTES, entry.offset)
    if compression_of(start) is not Compression.GZIP:
        return entry.size
    remainder = int.from_bytes(os.pread(descriptor, 4, entry.offset + entry.size - 4), "little")
    return remainder + -(-max(0, entry.size - remainder) // (4 * GIB)) * 4 * GIB
