"""How a file is compressed as a whole, and its bytes without that.

Knows: gzip, bzip2, xz and zstd: their first bytes, their readers, and what they may cost at most.
Must not know: what the bytes mean, or who wants them.
"""

from __future__ import annotations

import bz2
import lzma
import re
import sys
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import IO, Protocol

from buildah.errors import ArchiveCorrupt, ArchiveInvalid, ArchiveTruncated
from buildah.sizes import GIB, KIB, MIB

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

_READ_BYTES = 64 * KIB
# An archive of a hundred megabytes of zeros is honest, one of a hundred gigabytes is an attack: a
# megabyte of gzip can grow to a gigabyte, one of zstd to thirty.
_FREE_BYTES = GIB
_HIGHEST_RATIO = 200
_HIGHEST_BYTES = 1024 * GIB
# xz's strongest preset needs 65 MiB, zstd's 128; a file can ask for gigabytes.
_XZ_BYTES = 128 * MIB
# A frame without bytes moves nothing: of gigabytes of them, one read would take hours.
_EMPTY_FRAMES = 1000
_ZSTD_WINDOW_LOG = 27


class Compression(StrEnum):
    """How an archive is compressed as a whole."""

    NONE = "none"
    GZIP = "gzip"
    BZIP2 = "bzip2"
    XZ = "xz"
    ZSTD = "zstd"


_MAGIC = (
    (b"\x1f\x8b", Compression.GZIP),
    (b"BZh", Compression.BZIP2),
    (b"\xfd7zXZ\x00", Compression.XZ),
    (b"\x28\xb5\x2f\xfd", Compression.ZSTD),
)


# A frame that decoders pass over; pzstd writes one before each of its own.
_SKIPPABLE = re.compile(rb"[\x50-\x5f]\x2a\x4d\x18")


def compression(path: Path) -> Compression:
    """How the file is compressed as a whole, by its first bytes. Blocking."""
    with path.open("rb") as file:
        return compression_of(file.read(8))


def compression_of(start: bytes) -> Compression:
    """What a file is compressed with that starts like this."""
    if _SKIPPABLE.match(start):
        return Compression.ZSTD
    for magic, kind in _MAGIC:
        if start.startswith(magic):
            return kind
    return Compression.NONE


def allowed_bytes(packed_bytes: int) -> int:
    """What so many compressed bytes may grow to."""
    return min(max(_FREE_BYTES, packed_bytes * _HIGHEST_RATIO), _HIGHEST_BYTES)


class Unpacked:
    """The bytes of a compressed file, from its beginning to its end, as far as reason goes."""

    def __init__(self, packed: IO[bytes], kind: Compression, packed_bytes: int) -> None:
        """Read from `packed`, which has `packed_bytes` and is compressed with `kind`."""
        self._stream = _READERS[kind](packed)
        self._packed_bytes = packed_bytes
        self._limit_bytes = allowed_bytes(packed_bytes)
        self._read_bytes = 0

    def read(self, size: int) -> bytes:
        """The next bytes, at most `size` of them; none at the end.

        Raises:
            ArchiveTruncated: it ends too early.
            ArchiveCorrupt: it is damaged.
            ArchiveInvalid: it grows beyond reason.
        """
        with _damage_worded():
            chunk = self._stream.read(size)
        self._read_bytes += len(chunk)
        if self._read_bytes > self._limit_bytes:
            raise ArchiveInvalid(
                f"Unpacking the archive: its {self._packed_bytes} bytes grow to more than "
                f"{self._limit_bytes}.",
                hint="Send it uncompressed.",
            )
        return chunk


class _Stream(Protocol):
    def read(self, size: int, /) -> bytes: ...


class _Decompressor(Protocol):
    @property
    def eof(self) -> bool: ...
    @property
    def needs_input(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, max_length: int = -1) -> bytes: ...


class _Gzip:
    """zlib's decompressor in the form that the others have."""

    def __init__(self) -> None:
        self._inner = zlib.decompressobj(zlib.MAX_WBITS | 16)

    @property
    def eof(self) -> bool:
        return self._inner.eof

    @property
    def needs_input(self) -> bool:
        return not self._inner.eof and not self._inner.unconsumed_tail

    @property
    def unused_data(self) -> bytes:
        return self._inner.unused_data

    def decompress(self, data: bytes, max_length: int = -1) -> bytes:
        return self._inner.decompress(self._inner.unconsumed_tail + data, max_length)


class _Frames:
    """Streams one after the other, with a cap on memory that the libraries' own files lack."""

    def __init__(self, packed: IO[bytes], fresh: Callable[[], _Decompressor]) -> None:
        self._packed = packed
        self._fresh = fresh
        self._frame = fresh()
        self._left = b""
        self._between = False
        self._gave = False
        self._empty = 0

    def read(self, size: int, /) -> bytes:
        while True:
            if self._frame.eof:
                self._count_empty()
                self._left = self._frame.unused_data or self._packed.read(_READ_BYTES)
                # Between streams there may be zeros.
                self._left = self._left.lstrip(b"\0")
                self._frame, self._between = self._fresh(), True
            elif self._frame.needs_input and not self._left:
                self._left = self._packed.read(_READ_BYTES)
                if self._between:
                    self._left = self._left.lstrip(b"\0")
            ended = not self._left and self._frame.needs_input
            if ended and self._between:
                return b""
            # At the end too: it may have kept something back.
            chunk = self._frame.decompress(self._left, size)
            self._left, self._between = b"", False
            if chunk:
                self._gave = True
                return chunk
            if ended and not self._frame.eof:
                raise EOFError

    def _count_empty(self) -> None:
        # One before each of a gigabyte of others is how pzstd writes.
        self._empty = 0 if self._gave else self._empty + 1
        self._gave = False
        if self._empty > _EMPTY_FRAMES:
            raise ArchiveInvalid(
                f"Unpacking the archive: it has more than {_EMPTY_FRAMES} empty frames in a row.",
                hint="Send it uncompressed.",
            )


def _xz() -> _Decompressor:
    return lzma.LZMADecompressor(format=lzma.FORMAT_XZ, memlimit=_XZ_BYTES)


def _zstd() -> _Decompressor:
    options = {int(zstd.DecompressionParameter.window_log_max): _ZSTD_WINDOW_LOG}
    return zstd.ZstdDecompressor(options=options)


_READERS: dict[Compression, Callable[[IO[bytes]], _Stream]] = {
    Compression.GZIP: lambda packed: _Frames(packed, _Gzip),
    Compression.BZIP2: lambda packed: _Frames(packed, bz2.BZ2Decompressor),
    Compression.XZ: lambda packed: _Frames(packed, _xz),
    Compression.ZSTD: lambda packed: _Frames(packed, _zstd),
}


@contextmanager
def _damage_worded() -> Iterator[None]:
    try:
        yield
    except EOFError as error:
        raise ArchiveTruncated("Unpacking the archive: it ends too early.") from error
    except (zlib.error, lzma.LZMAError, zstd.ZstdError) as error:
        raise ArchiveCorrupt(f"Unpacking the archive: it is damaged ({error}).") from error
    except OSError as error:
        if error.errno is not None:
            raise
        # This is how bz2 says it.
        raise ArchiveCorrupt(f"Unpacking the archive: it is damaged ({error}).") from error
