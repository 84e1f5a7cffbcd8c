"""Takes archives apart before buildah sees them, where its own way would not do.

Knows: whole-archive compression, the files of an OCI layout.
Must not know: what happens to the result.

- Debian 12's buildah cannot read a docker archive that is gzipped as a whole, and a compressed one
  cannot be looked into by seeks.
- buildah up to 1.28 unpacks an OCI archive twice, once of it into /var/tmp, where a kill leaves
  it for ever. An OCI layout in a directory is read where it is.

Both functions block; they are for a worker thread that the event loop waits for, and stop when the
waiting task is cancelled.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from anyio import from_thread

from buildah.catalog import catalog
from buildah.compression import Compression, Unpacked
from buildah.errors import ArchiveTruncated, StorageFull
from buildah.sizes import MIB
from buildah.tar import Entry

_CHUNK_BYTES = MIB
_STEP_BYTES = 16 * MIB
_RESERVED_BYTES = 256 * MIB

_LAYOUT_FILE = re.compile(r"oci-layout|index\.json|blobs/sha(256|384|512)/[0-9a-f]{64,128}")


def decompress(
    source: Path,
    target: Path,
    kind: Compression,
    report: Callable[[float], None],
    reserve: Callable[[int], None],
) -> None:
    """Write the uncompressed archive to `target`; `report` gets the share that is done.

    Nobody knows how large it is going to be: `reserve` is asked for the next bytes, again and
    again.

    Raises:
        ArchiveTruncated: the compressed file ends too early.
        ArchiveCorrupt: it is damaged.
        ArchiveInvalid: it grows beyond reason.
        StorageFull: there is no room for it.
    """
    packed_bytes = source.stat().st_size
    with _room_worded(), source.open("rb") as packed, target.open("xb") as out:
        unpacked = Unpacked(packed, kind, packed_bytes)
        reserved_bytes = 0
        while chunk := unpacked.read(_CHUNK_BYTES):
            from_thread.check_cancelled()
            if out.tell() + len(chunk) > reserved_bytes:
                out.flush()
                reserve(_RESERVED_BYTES)
                reserved_bytes = out.tell() + _RESERVED_BYTES
            out.write(chunk)
            report(packed.tell() / packed_bytes)


def unpack_layout(archive: Path, directory: Path, report: Callable[[float], None]) -> None:
    """Write the files of an OCI layout to a new directory; whatever else is in the tar stays out.

    A link is what it leads to, as for the look before; of many to one file, one is a copy.

    Raises:
        ArchiveInvalid: it is not a tar.
        StorageFull: there is no room for it.
    """
    directory.mkdir(mode=0o700)
    size = archive.stat().st_size
    copies: dict[Entry, Path] = {}
    with (
        _room_worded(),
        catalog(archive, Compression.NONE) as table,
        archive.open("rb") as source,
    ):
        for name in filter(_LAYOUT_FILE.fullmatch, table.entries):
            entry = table.find(name)
            if entry is None:
                continue
            target = directory / name
            target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            if entry in copies:
                target.symlink_to(copies[entry])
            else:
                with target.open("xb") as out:
                    copy_entry(source.fileno(), entry, out.fileno(), lambda at: report(at / size))
                copies[entry] = target


def copy_entry(
    source: int, entry: Entry, target: int, report: Callable[[int], None] = lambda _: None
) -> None:
    """Write an entry's bytes to an open file; `report` gets the position in the archive.

    Raises:
        ArchiveTruncated: they are not all there any more.
    """
    position, end = entry.offset, entry.offset + entry.size
    while position < end:
        from_thread.check_cancelled()
        sent = os.sendfile(target, source, position, min(_STEP_BYTES, end - position))
        if not sent:
            raise ArchiveTruncated("Unpacking the archive: it became shorter meanwhile.")
        position += sent
        report(position)


@contextmanager
def _room_worded() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StorageFull("Unpacking the archive: there is no room left for it.") from error
        raise
