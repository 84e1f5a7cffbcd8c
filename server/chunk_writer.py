"""ChunkWriter: one chunk to its place in the file, hashed on the way, proven bytes left alone.

Knows: write positions, hashes, which bytes are proven already.
Must not know: HTTP, who holds the lock (whoever makes a ChunkWriter holds the range), the journal.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping
from typing import Final

from server.errors import BadRequest, WrongChunk
from server.journal import Chunk, Proven
from server.space import MIB

_BLOCK_BYTES: Final = MIB


class ChunkWriter:
    """Writes in order from `start` on, at most `room` bytes. Blocking: it lives in a thread.

    What is proven is never written over: it is compared.
    """

    def __init__(
        self,
        descriptor: int,
        start: int,
        room: int,
        proven: Proven,
        *,
        durable: bool,
        on_bytes: Callable[[int], None],
    ) -> None:
        """Write to an open file; `on_bytes(position)` is told of every advance."""
        self.start = start
        self.position = start
        self._descriptor = descriptor
        self._end = start + room
        self._proven = proven
        self._durable = durable
        self._on_bytes = on_bytes
        self._md5 = hashlib.md5(usedforsecurity=False)
        self._wrote = False
        self._differs = False

    def write(self, data: bytes | memoryview) -> None:
        """Take the next bytes.

        Raises:
            BadRequest: the chunk is longer than it was said to be.
            OSError: the disk is full or broken; nothing of the chunk counts.
        """
        view = memoryview(data)
        end = self.position + len(view)
        if end > self._end:
            raise BadRequest(
                f"chunk at {self.start}: more than the {self._end - self.start} bytes it may have",
                "send as many as were said",
                code="chunk_size",
            )
        self._md5.update(view)
        at = self.position
        for gap_start, gap_end in [*self._proven.gaps(at, end), (end, end)]:
            self._compare(view[at - self.position : gap_start - self.position], at)
            self._put(view[gap_start - self.position : gap_end - self.position], gap_start)
            at = gap_end
        self.position = end
        self._on_bytes(end)

    def _put(self, view: memoryview, position: int) -> None:
        while view:
            self._wrote = True
            written = os.pwrite(self._descriptor, view, position)
            position += written
            view = view[written:]

    def _compare(self, view: memoryview, position: int) -> None:
        if view and not self._differs:
            self._differs = os.pread(self._descriptor, len(view), position) != view

    def arrived(self) -> None:
        """Bytes are here that will be written soon."""
        self._on_bytes(self.position)

    def finish(self) -> None:
        """Make everything written durable (unless the setting leaves that to the kernel)."""
        if self._durable and self._wrote:
            os.fdatasync(self._descriptor)

    def proven(self, size: int | None, md5: str | None, sha256: str | None) -> Chunk | None:
        """The chunk, if it is what was promised; None: all of it was proven before.

        Raises:
            BadRequest: it has not the size that was said.
            WrongChunk: it is not what was promised, or not what is proven there.
        """
        found_size = self.position - self.start
        if size is not None and found_size != size:
            raise BadRequest(
                f"chunk at {self.start}: {found_size} bytes, {size} were said",
                "send as many as were said",
                code="chunk_size",
            )
        found = {"md5": self._md5.hexdigest()}
        if sha256:
            found["sha256"] = self._sha256()
        _check(self.start, {"md5": md5, "sha256": sha256}, found)
        if self._differs:
            raise WrongChunk(
                f"chunk at {self.start}: other bytes are proven there",
                "is it the same file? what is proven stays; send another file under another name",
            )
        if not self._wrote and found_size:
            return None
        return Chunk(self.start, found_size, found["md5"], found.get("sha256", ""))

    def _sha256(self) -> str:
        """Asked for behind the bytes, as often as not: so they are read again, from memory."""
        digest = hashlib.sha256()
        for at in range(self.start, self.position, _BLOCK_BYTES):
            count = min(_BLOCK_BYTES, self.position - at)
            digest.update(os.pread(self._descriptor, count, at))
        return digest.hexdigest()


class ChunkDiscard:
    """As a ChunkWriter, for an upload that takes no more bytes: only hashes them."""

    def __init__(self, start: int) -> None:
        """Bytes that belong at `start`."""
        self.start = start
        self.position = start
        self._digests = {"md5": hashlib.md5(usedforsecurity=False), "sha256": hashlib.sha256()}

    def write(self, data: bytes | memoryview) -> None:
        """Take the next bytes."""
        for digest in self._digests.values():
            digest.update(data)
        self.position += len(data)

    def arrived(self) -> None:
        """Nobody waits for these bytes."""

    def finish(self) -> None:
        """There is nothing to make durable."""

    def proven(self, size: int | None, md5: str | None, sha256: str | None) -> None:
        """Nothing new is proven.

        Raises:
            WrongChunk: the bytes are not what was promised.
        """
        found = {name: digest.hexdigest() for name, digest in self._digests.items()}
        _check(self.start, {"md5": md5, "sha256": sha256}, found)


def _check(start: int, promised: Mapping[str, str | None], found: Mapping[str, str]) -> None:
    for name, digest in promised.items():
        if digest and found[name] != digest:
            raise WrongChunk(
                f"chunk at {start}: {name} expected {digest}, got {found[name]}",
                "send it again; nothing of it was counted",
            )
