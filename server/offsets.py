"""Offsets: where each upload is, and how its file is made what that says.

Knows: sizes, marks and journals; what is proven, what is durable.
Must not know: HTTP, callers, how uploads begin and end.

The data file's size is the offset; nothing else is trusted for it, with two exceptions: bytes that
wait for their checksum (`ID.pending`), and indexed uploads, whose chunks come in any order
(`ID.chunks`, see `server/journal.py`).
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from server.documents import Documents
from server.errors import BadRequest, Conflict
from server.journal import Chunk, Journals, Proven
from server.sidecar import Kind
from server.space import reserve
from server.upload import Chunking, Upload, parse_upload_id


class Offsets(Documents):
    """The files of all uploads in one directory. Blocking: call it from a thread."""

    def __init__(self, directory: Path, *, durable: bool = True) -> None:
        """Use (and make) the directory; `durable=False` leaves flushing to the kernel."""
        directory.mkdir(parents=True, exist_ok=True)
        super().__init__(directory)
        self.durable = durable
        self.journals = Journals(directory, durable=durable)

    def path(self, upload_id: str) -> Path:
        """The data file.

        Raises:
            BadRequest: not an id that we could have made.
        """
        if parse_upload_id(upload_id) is None:
            raise BadRequest(f"upload id {upload_id!r} is not 32 lower-case hex digits")
        return self.directory / upload_id

    def keep(self, upload: Upload) -> None:
        """Rewrite the sidecar of an upload whose lock is held."""
        self._sidecars.write(upload.id, Kind.INFO, upload.to_sidecar())

    def measure(self, upload_id: str) -> int | None:
        """The offset: bytes that are in the file and proven; None when there is no file or id."""
        if parse_upload_id(upload_id) is None:
            return None
        path = self.path(upload_id)
        try:
            return self._offset(upload_id, lambda: path.stat().st_size)
        except FileNotFoundError:
            return None

    def proven(self, upload_id: str) -> Proven:
        """Which bytes count, also of an upload that came in their order."""
        while True:
            journal = self.journals.read(upload_id)
            offset = self.measure(upload_id) or 0
            if self.journals.read(upload_id) != journal:
                continue
            if journal is None:
                return Proven().with_span(0, offset)
            return journal if journal.tail is None else journal.with_span(journal.tail, offset)

    def _offset(self, upload_id: str, size: Callable[[], int]) -> int:
        """Where the upload is: by its journal, if it has one, else by its size.

        What a journal says is looked at again afterwards: a chunk far behind may have made the file
        larger after its size began to count no more.
        """
        # Of an upload whose bytes are gone, no journal is read.
        size()
        while True:
            journal = self.journals.read(upload_id)
            offset = self._sequential_offset(upload_id, size)
            if journal is not None and journal.tail is None:
                return journal.prefix
            if self.journals.read(upload_id) == journal:
                return offset

    def _sequential_offset(self, upload_id: str, size: Callable[[], int]) -> int:
        """The file's size, or where the bytes begin that are not proven yet.

        Asked twice, with the mark in between: a mark that comes or goes meanwhile, with its bytes,
        can make the answer smaller than it could be, never larger.
        """
        marks = [self._pending(upload_id)]
        sizes = [size()]
        marks.append(self._pending(upload_id))
        sizes.append(size())
        return min(sizes + [start for start in marks if start is not None])

    def _pending(self, upload_id: str) -> int | None:
        document = self._sidecars.read(upload_id, Kind.PENDING)
        return None if document is None else int(document["start"])

    def mark_pending(self, upload_id: str, start: int) -> None:
        """From here on nothing counts until it is proven: durable before the first byte comes."""
        self._sidecars.write(upload_id, Kind.PENDING, {"start": start})

    def prove(self, upload_id: str) -> None:
        """The pending bytes (durable by now) are the promised ones, and count."""
        self._sidecars.remove(upload_id, Kind.PENDING)

    def recover(self, upload: Upload, descriptor: int) -> int:
        """Make the file what its offset says; returns the offset.

        Bytes that were never proven go, and so do digests: a file that takes more bytes is not the
        one they were computed of (a power cut may have taken its end).

        The upload's lock must be held, and `descriptor` be its file.

        Raises:
            Conflict: chunks lie behind the offset, which must not be written over.
        """
        if self._sidecars.exists(upload.id, Kind.DIGEST):
            self._sidecars.remove(upload.id, Kind.DIGEST)
        journal = self.journals.read(upload.id)
        if journal is not None and journal.tail is None:
            self._open_tail(upload, descriptor, journal)
        return self._recover_end(upload, descriptor)

    def _open_tail(self, upload: Upload, descriptor: int, journal: Proven) -> None:
        """A sequential sender goes on with an indexed upload: from now on its size is the offset.

        Nothing of chunks that never counted may stand behind it then.
        """
        offset = journal.prefix
        if journal.end > offset:
            raise Conflict(
                f"append at {offset}: chunks that came out of order lie behind it",
                "send the missing chunks as chunks, or begin a new upload",
                code="chunks_behind",
                headers={"Upload-Offset": str(offset)},
            )
        self._cut(upload, descriptor, offset)
        self.journals.open_tail(upload.id, offset)

    def index(self, upload: Upload, descriptor: int) -> None:
        """Make an upload ready for chunks in any order: what it has now is proven.

        The upload's lock must be held, and `descriptor` be its file.
        """
        journal = self.journals.read(upload.id)
        if journal is not None and journal.tail is None:
            return
        offset = self._recover_end(upload, descriptor)
        os.fdatasync(descriptor)
        if upload.chunking is None:
            self.keep(replace(upload, chunking=Chunking()))
        if journal is None:
            self.journals.begin(upload.id, offset)
        elif journal.tail is not None:
            self.journals.add(upload.id, Chunk(journal.tail, offset - journal.tail))

    def _cut(self, upload: Upload, descriptor: int, size: int) -> None:
        """Cut the file to this size (it may be smaller), with its space still reserved."""
        if os.fstat(descriptor).st_size > size:
            os.ftruncate(descriptor, size)
            # Truncation frees the reservation behind the end.
            reserve(descriptor, size, (upload.length or size) - size)
            os.fsync(descriptor)

    def _recover_end(self, upload: Upload, descriptor: int) -> int:
        """As `recover`, of the end of a file whose size counts."""
        size = os.fstat(descriptor).st_size
        start = self._pending(upload.id)
        if start is None:
            return size
        proven = min(start, size)
        self._cut(upload, descriptor, proven)
        self._sidecars.remove(upload.id, Kind.PENDING)
        return proven

    def durable_offset(self, upload_id: str) -> int | None:
        """The offset after everything up to it has reached the disk.

        The size is read before the flush, so a writer that goes on meanwhile cannot make it untrue.
        """
        try:
            descriptor = os.open(self.path(upload_id), os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        try:
            offset = self._offset(upload_id, lambda: os.fstat(descriptor).st_size)
            if self.durable:
                os.fdatasync(descriptor)
        finally:
            os.close(descriptor)
        return offset
