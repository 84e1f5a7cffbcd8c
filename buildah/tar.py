"""Reads the table of a tar by its headers, seeking over what they describe.

Knows: the ustar, GNU and pax forms of a header.
Must not know: what the entries mean.

The standard library's reader believes a header that announces gigabytes of names; here everything
that is read into memory has a cap, and nothing is kept but the entry at hand.

Source: POSIX.1-2017, pax; GNU tar manual, "Basic Tar Format".
"""

from __future__ import annotations

import os
import posixpath
from collections.abc import Iterator
from typing import NamedTuple

BLOCK_BYTES = 512

_NAME_BYTES = 64 * 1024
_ENTRIES = 200_000
_REGULAR = frozenset(b"\x0007")
# Links, devices, directories: whatever size their header gives, no bytes follow.
_HEADER_ONLY = frozenset(b"123456")
_PAX, _LONG_NAME, _SPARSE = b"xLS"
# They describe the next entry; of the global one (g) and the link's long name (K) nothing is used.
_EXTENDED = frozenset(b"xgLK")


class TarError(Exception):
    """It is no tar, or one that no writer of image archives makes."""


class TarTruncated(TarError):
    """The tar ends before its last entry does."""


class Entry(NamedTuple):
    """One entry: its name without `./` at the front, and where its bytes are (regular files)."""

    name: str
    offset: int
    size: int
    regular: bool


def entries(descriptor: int) -> Iterator[Entry]:
    """The entries of an uncompressed tar, in order. Blocking; keeps the descriptor's position.

    Raises:
        TarTruncated: the file ends within an entry, or before the first one.
        TarError: a header is none, or asks for more than the caps.
    """
    end = os.fstat(descriptor).st_size
    position, overrides = 0, _Overrides()
    for _ in range(_ENTRIES):
        header = os.pread(descriptor, BLOCK_BYTES, position)
        if not header or header == bytes(BLOCK_BYTES):
            # A writer that leaves out the two empty blocks at the end is forgiven, as everywhere.
            return
        if len(header) < BLOCK_BYTES:
            raise TarTruncated(f"it ends within a header, at byte {end}")
        _verify(header)
        kind = header[156]
        extended = kind in _EXTENDED
        size = 0 if kind in _HEADER_ONLY else _number(header[124:136])
        if overrides.size is not None and not extended and kind not in _HEADER_ONLY:
            size = overrides.size
        start = position + BLOCK_BYTES
        position = start + -(-size // BLOCK_BYTES) * BLOCK_BYTES
        if start + size > end:
            raise TarTruncated(f"an entry reaches to byte {start + size}, it ends at byte {end}")
        if extended:
            if size > _NAME_BYTES:
                raise TarError(f"an extended header has {size} bytes")
            overrides.read(kind, os.pread(descriptor, size, start))
            continue
        if kind == _SPARSE:
            raise TarError("it has sparse entries")
        name = overrides.name or _name(header)
        yield Entry(posixpath.normpath(name), start, size, kind in _REGULAR)
        overrides = _Overrides()
    raise TarError(f"it has more than {_ENTRIES} entries")


class _Overrides:
    """What extended headers say about the next entry."""

    def __init__(self) -> None:
        self.name: str | None = None
        self.size: int | None = None

    def read(self, kind: int, data: bytes) -> None:
        if kind == _LONG_NAME:
            self.name = _text(data.split(b"\0")[0])
        elif kind == _PAX:
            for key, value in _pax_records(data):
                if key == b"path":
                    self.name = _text(value)
                elif key == b"size":
                    self.size = _decimal(value)
                elif key.startswith(b"GNU.sparse."):
                    raise TarError("it has sparse entries")


def _pax_records(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    r"""Records are `LENGTH KEY=VALUE\n`, and the length counts all of it."""
    while data:
        length = _decimal(data.partition(b" ")[0])
        record, data = data[:length], data[length:]
        key, equals, value = record.partition(b" ")[2].partition(b"=")
        if not equals or not value.endswith(b"\n"):
            raise TarError("an extended header is broken")
        yield key, value[:-1]


def _verify(header: bytes) -> None:
    blanked = header[:148] + b" " * 8 + header[156:]
    if _number(header[148:156]) != sum(blanked):
        raise TarError("a header's checksum is wrong")


def _name(header: bytes) -> str:
    name = header[:100].split(b"\0")[0]
    prefix = header[345:500].split(b"\0")[0] if header[257:263] == b"ustar\0" else b""
    return _text(prefix + b"/" + name if prefix else name)


def _number(field: bytes) -> int:
    """A number of a header: octal digits, or base 256 if its first bit is set."""
    if field[0] & 0x80:
        number = int.from_bytes(bytes([field[0] & 0x7F]) + field[1:], "big")
        if field[0] & 0x40:
            raise TarError("a header has a negative number")
        return number
    digits = field.strip(b" \0")
    try:
        return int(digits or b"0", 8)
    except ValueError:
        raise TarError("a header has a field that is no number") from None


def _decimal(digits: bytes) -> int:
    # Longer ones are no size of anything, and costly to read.
    if not digits.isdigit() or len(digits) > 19:  # noqa: PLR2004
        raise TarError("an extended header is broken")
    return int(digits)


def _text(name: bytes) -> str:
    return name.decode(errors="surrogateescape")
