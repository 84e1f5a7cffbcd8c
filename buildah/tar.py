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
from typing import NamedTuple, Protocol

BLOCK_BYTES = 512

_NAME_BYTES = 64 * 1024
_ENTRIES = 200_000
_REGULAR = frozenset(b"\x0007")
# Links, devices, directories: whatever size their header gives, no bytes follow.
_HEADER_ONLY = frozenset(b"123456")
_LINKS = frozenset(b"12")
_SYMBOLIC = ord("2")
_PERMISSIONS = 0o777
_PAX, _LONG_NAME, _LONG_TARGET, _SPARSE = b"xLKS"
# They describe the next entry; of the global one (g) nothing is used.
_EXTENDED = frozenset(b"xgLK")


class TarError(Exception):
    """It is no tar, or one that no writer of image archives makes."""


class TarTruncated(TarError):
    """The tar ends before its last entry does."""


class Entry(NamedTuple):
    """One entry: its name without `./` at the front, and where its bytes are (regular files).

    `target` is the name of the entry that a link means. `kind` is the byte of its header that says
    what it is, `link` a link's own words, `mode` its permissions, `modified` POSIX seconds.
    """

    name: str
    offset: int
    size: int
    regular: bool
    target: str | None = None
    kind: int = 0
    link: str | None = None
    mode: int = 0o644
    modified: int = 0


class Source(Protocol):
    """The bytes of a tar; asked for with offsets that only grow, unless it can seek."""

    def pread(self, size: int, offset: int) -> bytes:
        """Up to `size` bytes; fewer only at the end."""

    def end_before(self, offset: int) -> int | None:
        """Where it ends, if that is known to be before `offset`."""


class FileSource:
    """An uncompressed tar in a file: whatever is not asked for is not read."""

    def __init__(self, descriptor: int) -> None:
        """Keep the descriptor, which stays the caller's."""
        self._descriptor = descriptor
        self._end = os.fstat(descriptor).st_size

    def pread(self, size: int, offset: int) -> bytes:
        """Read there."""
        return os.pread(self._descriptor, size, offset)

    def end_before(self, offset: int) -> int | None:
        """The file's size says it."""
        return self._end if self._end < offset else None


def entries(descriptor: int) -> Iterator[Entry]:
    """The entries of an uncompressed tar in a file, as `entries_of` has them."""
    return entries_of(FileSource(descriptor))


def entries_of(source: Source) -> Iterator[Entry]:
    """The entries of a tar, in order. Blocking.

    Raises:
        TarTruncated: the file ends within an entry, or before the first one.
        TarError: a header is none, or asks for more than the caps.
    """
    position, needed, overrides = 0, 0, _Overrides()
    for _ in range(_ENTRIES):
        header = source.pread(BLOCK_BYTES, position)
        _require(source, needed)
        if not header or header == bytes(BLOCK_BYTES):
            # A writer that leaves out the two empty blocks at the end is forgiven, as everywhere.
            return
        if len(header) < BLOCK_BYTES:
            raise TarTruncated(f"it ends within a header, at byte {position + len(header)}")
        _verify(header)
        kind = header[156]
        extended = kind in _EXTENDED
        size = 0 if kind in _HEADER_ONLY else _number(header[124:136])
        if overrides.size is not None and not extended and kind not in _HEADER_ONLY:
            size = overrides.size
        start = position + BLOCK_BYTES
        position = start + -(-size // BLOCK_BYTES) * BLOCK_BYTES
        needed = start + size
        _require(source, needed)
        if extended:
            if size > _NAME_BYTES:
                raise TarError(f"an extended header has {size} bytes")
            overrides.read(kind, source.pread(size, start))
            continue
        if kind == _SPARSE:
            raise TarError("it has sparse entries")
        name = overrides.name or _name(header)
        name = posixpath.normpath(name)
        target = overrides.target or _text(header[157:257].split(b"\0")[0])
        linked, words = None, None
        if kind in _LINKS:
            linked, words = _target(kind, name, target), target
        mode = _number_or(0o644, header[100:108]) & _PERMISSIONS
        modified = _number_or(0, header[136:148])
        regular = kind in _REGULAR
        yield Entry(name, start, size, regular, linked, kind, words, mode, modified)
        overrides = _Overrides()
    raise TarError(f"it has more than {_ENTRIES} entries")


def _require(source: Source, needed: int) -> None:
    end = source.end_before(needed)
    if end is not None:
        raise TarTruncated(f"an entry reaches to byte {needed}, it ends at byte {end}")


def _target(kind: int, name: str, target: str) -> str:
    """The entry that a link means: a symbolic one says it from where it is."""
    directory = posixpath.dirname(name) if kind == _SYMBOLIC else ""
    return posixpath.normpath(posixpath.join(directory, target))


class _Overrides:
    """What extended headers say about the next entry."""

    def __init__(self) -> None:
        self.name: str | None = None
        self.target: str | None = None
        self.size: int | None = None

    def read(self, kind: int, data: bytes) -> None:
        if kind == _LONG_NAME:
            self.name = _text(data.split(b"\0")[0])
        elif kind == _LONG_TARGET:
            self.target = _text(data.split(b"\0")[0])
        elif kind == _PAX:
            for key, value in _pax_records(data):
                if key == b"path":
                    self.name = _text(value)
                elif key == b"linkpath":
                    self.target = _text(value)
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
    # `int` would take a sign and underscores as well.
    if digits.strip(b"01234567"):
        raise TarError("a header has a field that is no number")
    return int(digits or b"0", 8)


def _number_or(default: int, field: bytes) -> int:
    """What a field says that no image archive is judged by."""
    try:
        return _number(field)
    except TarError:
        return default


def _decimal(digits: bytes) -> int:
    # Longer ones are no size of anything, and costly to read.
    if not digits.isdigit() or len(digits) > 19:  # noqa: PLR2004
        raise TarError("an extended header is broken")
    return int(digits)


def _text(name: bytes) -> str:
    return name.decode(errors="surrogateescape")
