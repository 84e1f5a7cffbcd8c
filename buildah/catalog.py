"""The table of an archive: where each entry is, and its small JSON.

Knows: reading by seeks from a plain tar, in one pass from a compressed one; every cap on both.
Must not know: what an entry means.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from buildah.compression import Compression, Unpacked, compression_of
from buildah.errors import ArchiveInvalid, ArchiveTruncated
from buildah.sizes import KIB, MIB
from buildah.tar import Entry, FileSource, Source, TarError, TarTruncated, entries_of

# What the programs take at most; they refuse more too.
MANIFEST_BYTES = MIB
CONFIG_BYTES = 4 * MIB
INDEX_BYTES = 4 * MIB

_ENTRIES = 100_000
_NAME_BYTES = 16 * MIB
# Of all JSON together, so that one that is named a thousand times is not read a thousand times.
_JSON_BYTES = 64 * MIB
_KEPT_BYTES = 32 * MIB
_START_BYTES = 8
_LINK_HOPS = 8
_CHUNK_BYTES = 256 * KIB

Report = Callable[[float], None]


class _StreamSource:
    """A compressed tar, read once from its beginning to its end."""

    def __init__(self, packed: IO[bytes], kind: Compression, report: Report) -> None:
        self._packed = packed
        self._packed_bytes = os.fstat(packed.fileno()).st_size
        self._unpacked = Unpacked(packed, kind, self._packed_bytes)
        self._report = report
        self._position = 0
        self._ahead = b""
        self._ended = False

    def pread(self, size: int, offset: int) -> bytes:
        while self._position < offset:
            if not self._take(min(offset - self._position, _CHUNK_BYTES)):
                return b""
        parts = []
        while size and (chunk := self._take(min(size, _CHUNK_BYTES))):
            parts.append(chunk)
            size -= len(chunk)
        data = b"".join(parts)
        if len(data) <= _START_BYTES:
            # What an entry begins with is looked at before it is kept.
            self._ahead, self._position = data + self._ahead, self._position - len(data)
        return data

    def end_before(self, offset: int) -> int | None:
        return self._position if self._ended and self._position < offset else None

    def drain(self) -> None:
        """Read what is behind the tar's end: the checksum of all of it comes last."""
        while self._take(_CHUNK_BYTES):
            pass

    def _take(self, size: int) -> bytes:
        if self._ahead:
            chunk, self._ahead = self._ahead[:size], self._ahead[size:]
        else:
            chunk = self._unpacked.read(size)
            self._ended = self._ended or not chunk
            self._report(self._packed.tell() / self._packed_bytes)
        self._position += len(chunk)
        return chunk


@dataclass
class Catalog:
    """The entries of an archive by name, in order, and what was kept or can be read of them."""

    entries: dict[str, Entry] = field(default_factory=dict)
    _descriptor: int | None = None
    _starts: dict[str, bytes] = field(default_factory=dict)
    _kept: dict[str, bytes] = field(default_factory=dict)
    _json_left: int = _JSON_BYTES
    _keep_left: int = _KEPT_BYTES

    def find(self, name: str) -> Entry | None:
        """The regular file of that name, by way of links."""
        entry = self.entries.get(name)
        for _ in range(_LINK_HOPS):
            if entry is None or entry.target is None:
                break
            entry = self.entries.get(entry.target)
        return entry if entry is not None and entry.regular else None

    def compression(self, entry: Entry) -> Compression:
        """How an entry's bytes are compressed."""
        return compression_of(self._read(entry, _START_BYTES))

    def bytes_of(self, entry: Entry, limit_bytes: int) -> bytes:
        """All of a small entry.

        Raises:
            ArchiveInvalid: it is larger than `limit_bytes`, or there is too much in all.
        """
        if entry.size > limit_bytes:
            raise ArchiveInvalid(
                f"Reading the archive: its {shown(entry.name)} has {entry.size} bytes, at most "
                f"{limit_bytes} make sense."
            )
        self._json_left -= entry.size
        if self._json_left < 0:
            raise ArchiveInvalid(
                f"Reading the archive: its manifests and configs have more than {_JSON_BYTES} "
                "bytes."
            )
        data = self._read(entry, entry.size)
        if len(data) < entry.size:
            raise _not_json(entry.name)
        return data

    @staticmethod
    def parse(data: bytes, name: str) -> Any:
        """What JSON says.

        Raises:
            ArchiveInvalid: it is none, or says a thing twice: which of the two is meant, the
                programs that read it after us need not agree on.
        """
        try:
            return json.loads(data, object_pairs_hook=_each_once)
        except (ValueError, RecursionError) as error:
            raise _not_json(name) from error

    def _read(self, entry: Entry, size: int) -> bytes:
        if self._descriptor is not None:
            return os.pread(self._descriptor, min(size, entry.size), entry.offset)
        kept = self._kept.get(entry.name)
        return (self._starts.get(entry.name, b"") if kept is None else kept)[:size]

    def keep(self, source: Source, entry: Entry) -> None:
        """Take from a stream, while it is there, what may be asked for later."""
        start = source.pread(min(_START_BYTES, entry.size), entry.offset)
        self._starts[entry.name] = start
        if start.lstrip()[:1] not in (b"{", b"[") or entry.size > CONFIG_BYTES:
            return
        self._keep_left -= entry.size
        if self._keep_left < 0:
            raise ArchiveInvalid(
                f"Looking into the archive: its small JSON files have more than {_KEPT_BYTES} "
                "bytes.",
                hint="Send it uncompressed.",
            )
        self._kept[entry.name] = source.pread(entry.size, entry.offset)


@contextmanager
def catalog(path: Path, kind: Compression, report: Report = lambda _: None) -> Iterator[Catalog]:
    """The table of an archive, which can be read from while the context lasts. Blocking.

    Plain archives by seeks: 20 GB cost milliseconds. Compressed ones are read once, whole, and
    `report` gets the share that is done.

    Raises:
        ArchiveError: it is not a tar, cut, damaged, or beyond the caps.
    """
    with path.open("rb") as file, tar_worded():
        if kind is Compression.NONE:
            table = Catalog(_descriptor=file.fileno())
            _fill(table, FileSource(file.fileno()), keep=False)
        else:
            table = Catalog()
            source = _StreamSource(file, kind, report)
            _fill(table, source, keep=True)
            source.drain()
        yield table


@contextmanager
def tar_worded() -> Iterator[None]:
    """What is wrong with a tar, as an ArchiveError."""
    try:
        yield
    except TarTruncated as error:
        raise ArchiveTruncated(f"Reading the archive: it ends too early ({error}).") from error
    except TarError as error:
        raise ArchiveInvalid(f"Reading the archive: it is not a tar ({error}).") from error


def _fill(table: Catalog, source: Source, *, keep: bool) -> None:
    names_bytes = 0
    for number, entry in enumerate(entries_of(source)):
        names_bytes += len(entry.name) + len(entry.target or "")
        if number >= _ENTRIES or names_bytes > _NAME_BYTES:
            raise ArchiveInvalid(
                f"Reading the archive: it has more than {_ENTRIES} entries, or names of more than "
                f"{_NAME_BYTES} bytes."
            )
        # A second one of the same name is ignored by the programs too.
        if table.entries.setdefault(entry.name, entry) is entry and keep and entry.regular:
            table.keep(source, entry)


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key is there twice")
    return found


def _not_json(name: str) -> ArchiveInvalid:
    return ArchiveInvalid(f"Reading the archive: its {shown(name)} is not JSON.")


def shown(text: str, most: int = 200) -> str:
    """A stranger's text, made harmless for a terminal or a log."""
    cut = text if len(text) <= most else text[:most] + "..."
    return "".join(
        one if one.isprintable() else one.encode("unicode_escape", "surrogatepass").decode()
        for one in cut
    )
