"""Journals: which bytes of an indexed upload are proven, in a file beside it that only grows.

Knows: lines, byte ranges, durability; how several processes add to one file.
Must not know: the bytes themselves, who may write them, HTTP.

    ID.chunks
        journal NONCE               begins the file; another journal of the same upload has another
        chunk OFFSET SIZE MD5 SHA256  these bytes are on the disk (`-`: that digest is not known)
        tail OFFSET                 from here on the file's size is the offset: a sequential sender
                                    goes on; the next `chunk` line ends that

Each line ends with its CRC and a newline. What is torn or damaged does not count.
"""

from __future__ import annotations

import errno
import os
import threading
import zlib
from bisect import bisect_left, bisect_right
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from server.kernel_locks import wait_for_lock
from server.sidecar import Kind, sync_directory

_HEAD: Final = "journal"
_CHUNK: Final = "chunk"
_TAIL: Final = "tail"
_UNKNOWN: Final = "-"
_NONCE_BYTES: Final = 16
# The first line: its words, and the CRC behind them.
_HEAD_BYTES: Final = len(f"{_HEAD}  ") + 2 * _NONCE_BYTES + 8 + 1
# Journals of uploads that are written now; another one is read anew.
_KNOWN_LIMIT: Final = 64


@dataclass(frozen=True)
class Chunk:
    """A range of proven bytes; digests in lower-case hex, empty where they are not known."""

    offset: int
    size: int
    md5: str = ""
    sha256: str = ""

    @property
    def end(self) -> int:
        """The first byte behind it."""
        return self.offset + self.size


@dataclass(frozen=True)
class Proven:
    """What is proven: disjoint ranges `(start, end)` in order, and the chunks that they came in.

    `tail` is where a sequential sender goes on (None: chunks may come). `version` grows. `log` is a
    list that only grows, of which the first `counted` belong here.
    """

    spans: tuple[tuple[int, int], ...] = ()
    tail: int | None = None
    version: int = 0
    log: Sequence[Chunk] = field(default=(), compare=False, repr=False)
    counted: int = field(default=0, compare=False, repr=False)

    @property
    def chunks(self) -> list[Chunk]:
        """The chunks in order; of each range once."""
        known = {(chunk.offset, chunk.size): chunk for chunk in self.log[: self.counted]}
        return [known[place] for place in sorted(known)]

    @property
    def prefix(self) -> int:
        """The end of what is contiguous from the start."""
        return self.spans[0][1] if self.spans and self.spans[0][0] == 0 else 0

    @property
    def end(self) -> int:
        """The end of the last range."""
        return self.spans[-1][1] if self.spans else 0

    def covers(self, start: int, end: int) -> bool:
        """Whether every byte of the range is proven."""
        return next(self.gaps(start, end), None) is None

    def gaps(self, start: int, end: int) -> Iterator[tuple[int, int]]:
        """The parts of the range that are not proven, in order."""
        at = max(0, bisect_right(self.spans, (start, end)) - 1)
        for span_start, span_end in self.spans[at:]:
            if start >= end or span_start >= end:
                break
            if span_start > start:
                yield start, span_start
            start = max(start, span_end)
        if start < end:
            yield start, end

    def with_span(self, start: int, end: int) -> Proven:
        """The same, and this range too."""
        spans = list(self.spans)
        _merge(spans, start, end)
        return replace(self, spans=tuple(spans))


def _merge(spans: list[tuple[int, int]], start: int, end: int) -> None:
    """Add a range; what it touches becomes one with it."""
    if start >= end:
        return
    first = bisect_left(spans, (start, start))
    if first and spans[first - 1][1] >= start:
        first -= 1
    last = first
    while last < len(spans) and spans[last][0] <= end:
        start, end = min(start, spans[last][0]), max(end, spans[last][1])
        last += 1
    spans[first:last] = [(start, end)]


@dataclass
class _Reader:
    """One journal as far as it was read."""

    head: bytes
    position: int = 0
    spans: list[tuple[int, int]] = field(default_factory=list)
    log: list[Chunk] = field(default_factory=list)
    tail: int | None = None
    proven: Proven = field(default_factory=Proven)

    def take(self, data: bytes) -> None:
        """The next bytes of the file; a line without an end is left for the next time."""
        whole = data[: data.rfind(b"\n") + 1]
        for line in whole.split(b"\n"):
            self._apply(line)
        if whole:
            self.position += len(whole)
            self.proven = Proven(
                tuple(self.spans), self.tail, self.position, self.log, len(self.log)
            )

    def _apply(self, line: bytes) -> None:
        body, _, crc = line.rpartition(b" ")
        if crc != _crc(body):
            return
        match body.decode("ascii").split(" "):
            case ["chunk", offset, size, md5, sha256]:
                chunk = Chunk(int(offset), int(size), _hex(md5), _hex(sha256))
                _merge(self.spans, chunk.offset, chunk.end)
                if chunk.size:
                    self.log.append(chunk)
                self.tail = None
            case ["tail", offset]:
                self.tail = int(offset)


def _hex(word: str) -> str:
    return "" if word == _UNKNOWN else word


def _crc(body: bytes) -> bytes:
    return b"%08x" % zlib.crc32(body)


def _line(*words: object) -> bytes:
    body = " ".join(str(word) for word in words).encode("ascii")
    return body + b" " + _crc(body) + b"\n"


class Journals:
    """The journals of all uploads in one directory. Blocking: call it from a thread."""

    def __init__(self, directory: Path, *, durable: bool) -> None:
        """Keep the directory; without `durable`, flushing is left to the kernel."""
        self._directory = directory
        self._durable = durable
        self._guard = threading.Lock()
        self._known: OrderedDict[str, _Reader] = OrderedDict()

    def _path(self, upload_id: str) -> Path:
        return self._directory / f"{upload_id}{Kind.CHUNKS}"

    def read(self, upload_id: str) -> Proven | None:
        """What is proven now; None: the upload is not indexed, its file's size tells."""
        try:
            descriptor = os.open(self._path(upload_id), os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        try:
            with self._guard:
                return self._read(upload_id, descriptor)
        finally:
            os.close(descriptor)

    def _read(self, upload_id: str, descriptor: int) -> Proven:
        """Read on from where it was left; a journal that was begun anew from its start."""
        head = os.pread(descriptor, _HEAD_BYTES, 0)
        known = self._known.pop(upload_id, None)
        if known is None or known.head != head:
            known = _Reader(head)
        missing = os.fstat(descriptor).st_size - known.position
        if missing > 0:
            known.take(os.pread(descriptor, missing, known.position))
        self._known[upload_id] = known
        if len(self._known) > _KNOWN_LIMIT:
            self._known.popitem(last=False)
        return known.proven

    def begin(self, upload_id: str, proven_bytes: int = 0) -> None:
        """Make an upload indexed, whose first `proven_bytes` are on the disk already.

        Raises:
            OSError: it could not be made durable; the upload is what it was.
        """
        path = self._path(upload_id)
        draft = path.with_name(f"{path.name}.{os.getpid()}.{os.urandom(4).hex()}.tmp")
        try:
            with draft.open("xb") as file:
                file.write(_line(_HEAD, os.urandom(_NONCE_BYTES).hex()))
                if proven_bytes:
                    file.write(_line(_CHUNK, 0, proven_bytes, _UNKNOWN, _UNKNOWN))
                file.flush()
                os.fsync(file.fileno())
            draft.rename(path)
        finally:
            draft.unlink(missing_ok=True)
        sync_directory(self._directory)

    def add(self, upload_id: str, chunk: Chunk) -> None:
        """Count a chunk, whose bytes must be durable by now.

        Raises:
            OSError: the disk is full or broken, or the upload is gone; it does not count.
        """
        digests = (chunk.md5 or _UNKNOWN, chunk.sha256 or _UNKNOWN)
        self._append(upload_id, _line(_CHUNK, chunk.offset, chunk.size, *digests))

    def open_tail(self, upload_id: str, offset: int) -> None:
        """From here on the file's size counts; the upload's lock must be held.

        Raises:
            OSError: as `add`.
        """
        self._append(upload_id, _line(_TAIL, offset))

    def _append(self, upload_id: str, line: bytes) -> None:
        with self._opened(upload_id) as descriptor:
            size = os.fstat(descriptor).st_size
            # A line that a kill or a full disk tore must not tear this one, too.
            torn = size > 0 and os.pread(descriptor, 1, size - 1) != b"\n"
            data = b"\n" + line if torn else line
            if os.pwrite(descriptor, data, size) != len(data):
                raise OSError(
                    errno.ENOSPC, "no space left for the journal", str(self._path(upload_id))
                )
            if self._durable:
                os.fsync(descriptor)

    @contextmanager
    def _opened(self, upload_id: str) -> Iterator[int]:
        """The journal, for one writer at a time over all processes and machines."""
        descriptor = os.open(self._path(upload_id), os.O_RDWR | os.O_CLOEXEC)
        try:
            wait_for_lock(descriptor)
            yield descriptor
        finally:
            os.close(descriptor)
