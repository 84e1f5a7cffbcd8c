"""Takes archives apart before buildah sees them, where its own way would not do.

Knows: whole-archive compression, the files of an OCI layout.
Must not know: what happens to the result.

- Debian 12's buildah cannot read a docker archive that is gzipped as a whole.
- buildah up to 1.28 unpacks an OCI archive twice, once of it into /var/tmp, where a kill leaves
  it for ever. An OCI layout in a directory is read where it is.

Both functions block; they are for a worker thread that the event loop waits for, and stop when the
waiting task is cancelled.
"""

from __future__ import annotations

import bz2
import errno
import gzip
import lzma
import os
import re
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from anyio import from_thread

from buildah.archive import GIB, MIB, Compression
from buildah.errors import ArchiveCorrupt, ArchiveInvalid, ArchiveTruncated, StorageFull
from buildah.tar import Entry, TarError, entries

_CHUNK_BYTES = MIB
_STEP_BYTES = 16 * MIB

# An archive of a hundred megabytes of zeros is honest, one of a hundred gigabytes is an attack: a
# megabyte of gzip can grow to a gigabyte.
_FREE_BYTES = GIB
_HIGHEST_RATIO = 200

_OPENERS: dict[Compression, Callable[[Path], IO[bytes]]] = {
    Compression.GZIP: gzip.open,  # type: ignore[dict-item]
    Compression.BZIP2: bz2.open,
    Compression.XZ: lzma.open,
}

_LAYOUT_FILE = re.compile(r"oci-layout|index\.json|blobs/[a-z0-9]+/[0-9a-f]{32,128}")


def can_decompress(compression: Compression) -> bool:
    """Whether `decompress` knows it; zstd is left to buildah."""
    return compression in _OPENERS


def decompress(
    source: Path, target: Path, compression: Compression, report: Callable[[float], None]
) -> None:
    """Write the uncompressed archive to `target`; `report` gets the share that is done.

    Raises:
        ArchiveTruncated: the compressed file ends too early.
        ArchiveCorrupt: it is damaged.
        ArchiveInvalid: it grows beyond reason.
        StorageFull: there is no room for it.
    """
    packed_bytes = source.stat().st_size
    limit_bytes = max(_FREE_BYTES, packed_bytes * _HIGHEST_RATIO)
    with _worded(), source.open("rb") as packed, target.open("xb") as out:
        written = 0
        with _OPENERS[compression](packed) as unpacked:  # type: ignore[arg-type]
            while chunk := unpacked.read(_CHUNK_BYTES):
                from_thread.check_cancelled()
                written += len(chunk)
                if written > limit_bytes:
                    raise ArchiveInvalid(
                        f"Unpacking the archive: its {packed_bytes} bytes grow to more than "
                        f"{limit_bytes}.",
                        hint="Send it uncompressed.",
                    )
                out.write(chunk)
                report(packed.tell() / packed_bytes)


def unpack_layout(archive: Path, directory: Path, report: Callable[[float], None]) -> None:
    """Write the files of an OCI layout to a new directory; whatever else is in the tar stays out.

    Raises:
        ArchiveInvalid: it is not a tar.
        StorageFull: there is no room for it.
    """
    directory.mkdir(mode=0o700)
    size = archive.stat().st_size
    with _worded(), archive.open("rb") as source:
        for entry in entries(source.fileno()):
            if entry.regular and _LAYOUT_FILE.fullmatch(entry.name):
                target = directory / entry.name
                target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                if not target.exists():
                    _copy(source.fileno(), entry, target, lambda done: report(done / size))


def _copy(source: int, entry: Entry, target: Path, report: Callable[[int], None]) -> None:
    with target.open("xb") as out:
        position, end = entry.offset, entry.offset + entry.size
        while position < end:
            from_thread.check_cancelled()
            sent = os.sendfile(out.fileno(), source, position, min(_STEP_BYTES, end - position))
            if not sent:
                raise ArchiveTruncated("Unpacking the archive: it became shorter meanwhile.")
            position += sent
            report(position)


@contextmanager
def _worded() -> Iterator[None]:
    try:
        yield
    except EOFError as error:
        raise ArchiveTruncated("Unpacking the archive: it ends too early.") from error
    except (zlib.error, lzma.LZMAError, gzip.BadGzipFile) as error:
        raise ArchiveCorrupt(f"Unpacking the archive: it is damaged ({error}).") from error
    except TarError as error:
        raise ArchiveInvalid(f"Unpacking the archive: it is not a tar ({error}).") from error
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StorageFull("Unpacking the archive: there is no room left for it.") from error
        if error.errno is None:
            # This is how bz2 says it.
            raise ArchiveCorrupt(f"Unpacking the archive: it is damaged ({error}).") from error
        raise
