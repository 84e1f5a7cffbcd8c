"""Listing: which chunks of an upload are there, as a sender that counts chunks sees it.

Knows: how a file was cut, which ranges are proven.
Must not know: field names, HTTP.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

from server.errors import BadRequest
from server.finder import Found
from server.journal import Proven

# More than any client cuts a file into; each is looked at.
CHUNKS_LIMIT: Final = 1_000_000


@dataclass(frozen=True)
class Entry:
    """A chunk that is there. `index` None: it is none of those that the file was cut into."""

    index: int | None
    offset: int
    size: int
    md5: str

    def to_json(self) -> dict[str, Any]:
        """As the old pages read it."""
        return {"index": self.index, "offset": self.offset, "size": self.size, "md5": self.md5}


@dataclass(frozen=True)
class Layout:
    """How a file is cut: sizes in bytes, None where nobody said it; `first` is the first index.

    The last chunk may be larger than the others (simple-uploader), where `count` says so.
    """

    chunk_size: int | None
    count: int | None
    length: int | None
    first: int

    def __post_init__(self) -> None:
        """Refuse what nobody cuts."""
        if self.number is not None and self.number > CHUNKS_LIMIT:
            raise BadRequest(
                f"{self.number} chunks: at most {CHUNKS_LIMIT} are taken", "cut larger chunks"
            )

    @property
    def number(self) -> int | None:
        """How many chunks there are; None: nobody can tell."""
        if self.count is not None:
            return self.count
        if not self.chunk_size or self.length is None:
            return None
        return max(1, -(-self.length // self.chunk_size))

    def ranges(self) -> Iterator[tuple[int, int, int | None]]:
        """Index, start and end of each chunk; the end of the last may not be known."""
        for position in range(self.number or 0):
            if self.chunk_size is not None:
                yield self.first + position, *self.range_of(position)

    def range_of(self, position: int) -> tuple[int, int | None]:
        """Start and end of a chunk, counted from 0."""
        chunk_size = self.chunk_size or 0
        start = position * chunk_size
        last = self.number is not None and position >= self.number - 1
        return start, self.length if last else start + chunk_size


@dataclass(frozen=True)
class Listing:
    """How an upload stands (None: there is none yet); a `brief` one does not tell the chunks."""

    found: Found | None
    proven: Proven
    layout: Layout
    brief: bool = False

    @property
    def finished(self) -> bool:
        """Whether nothing has to be sent any more, not even the word that these are all."""
        return self.found is not None and self.found.finished

    @property
    def complete(self) -> bool:
        """Whether every byte is there."""
        length = self.layout.length
        return length is not None and self.proven.covers(0, length) and self.found is not None

    @cached_property
    def entries(self) -> list[Entry]:
        """The chunks that are there, in order."""
        known = {(chunk.offset, chunk.size): chunk.md5 for chunk in self.proven.chunks}
        if self.layout.number is None or self.layout.chunk_size is None:
            return [Entry(None, offset, size, md5) for (offset, size), md5 in known.items()]
        entries = []
        for index, start, planned in self.layout.ranges():
            end = self._end(start, planned)
            if end is not None and self.proven.covers(start, end):
                md5 = known.get((start, end - start), "")
                entries.append(Entry(index, start, end - start, md5))
        return entries

    def has(self, position: int) -> bool:
        """Whether the chunk is there, counted from 0."""
        start, planned = self.layout.range_of(position)
        end = self._end(start, planned)
        return end is not None and self.proven.covers(start, end)

    def _end(self, start: int, planned: int | None) -> int | None:
        """The end of a chunk; that of a last one which nobody announced is what came."""
        return self._ends.get(start) if planned is None else planned

    @cached_property
    def _ends(self) -> dict[int, int]:
        return {chunk.offset: chunk.end for chunk in self.proven.chunks}

    @cached_property
    def missing(self) -> list[int]:
        """The indexes of the chunks that are not there."""
        there = {entry.index for entry in self.entries}
        return [index for index, _, _ in self.layout.ranges() if index not in there]

    def to_json(self) -> dict[str, Any]:
        """The answer to the question what is there."""
        found = self.found
        entries = {} if self.brief else {"uploaded": [entry.to_json() for entry in self.entries]}
        return {
            "uploadId": found.upload.id if found else None,
            **entries,
            "offset": found.offset if found else 0,
            "finished": self.finished,
        }
