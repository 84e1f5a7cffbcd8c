"""ChunkReception: what any protocol does with an upload that comes in chunks of any order.

Knows: the order of lock, check, bytes, durable, journal, event; that the whole is only whole when
somebody says so.
Must not know: which file is which upload, how a request says these things, what it hears.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Final

from anyio import to_thread

from hooks.events import UploadEvent, UploadFinished, UploadGrew
from hooks.metrics import UPLOADS_FINISHED
from server.auth import Action, Caller
from server.chunk_writer import ChunkDiscard, ChunkWriter
from server.errors import BadRequest, Conflict, NotFound, UploadLocked
from server.finder import Found
from server.journal import Proven
from server.kernel_locks import Bounds
from server.locker import Lock
from server.reception import INCONSISTENT_LENGTH, Reception
from server.space import insufficient, is_disk_full, reserve
from server.upload import Upload

_POLL_SECONDS: Final = 0.02
# Another request ends it just now, or sends a chunk of it once more.
_PATIENCE_SECONDS: Final = 5.0


@dataclass(frozen=True)
class Place:
    """Where a chunk's bytes go, as long as its range is held (no lock: nowhere)."""

    lock: Lock | None
    writer: ChunkWriter | ChunkDiscard


class ChunkReception:
    """Fills and ends uploads in chunks."""

    def __init__(self, reception: Reception, emit: Callable[[UploadEvent], None]) -> None:
        """Wire the parts."""
        self._reception = reception
        self._emit = emit
        self._store = reception.store
        self._locker = reception.locker

    @asynccontextmanager
    async def writing(self, found: Found, start: int, room: int) -> AsyncIterator[Place]:
        """Hold a chunk's range (of at most `room` bytes) while its bytes come.

        Raises:
            UploadLocked: another request sends the same chunk, or something else works on it.
            Gone: the upload was canceled or has expired.
            InsufficientStorage: the disk would not hold it.
        """
        async with AsyncExitStack() as held:
            place = None
            if not found.finished and found.outcome is None:
                place = await self._take(held, found, start, room)
            yield place or Place(None, ChunkDiscard(start))

    async def _take(
        self, held: AsyncExitStack, found: Found, start: int, room: int
    ) -> Place | None:
        upload_id = found.upload.id
        try:
            lock, proven = await self._lock_range(held, found, Bounds(start, max(1, room)))
            current = await self._reception.current(upload_id)
        except (UploadLocked, NotFound):
            current = await self._reception.current(upload_id)
            if not current.finished and current.outcome is None:
                raise
        if current.finished or current.outcome is not None:
            # Whoever works on it now must not wait for bytes that nobody needs.
            await held.aclose()
            return None
        if current.upload.length is None:
            await to_thread.run_sync(self._reserve, lock.descriptor, start, room)
        durable = self._store.durable
        writer = ChunkWriter(
            lock.descriptor, start, room, proven, durable=durable, on_bytes=lock.touch
        )
        return Place(lock, writer)

    async def _lock_range(
        self, held: AsyncExitStack, found: Found, bounds: Bounds
    ) -> tuple[Lock, Proven]:
        """Hold the range of an upload that takes chunks: a sequential sender may have had it."""
        upload_id = found.upload.id
        while True:
            lock = await held.enter_async_context(self._locker.hold_range(upload_id, bounds))
            proven = await to_thread.run_sync(self._store.journals.read, upload_id)
            if proven is not None and proven.tail is None:
                return lock, proven
            await held.aclose()
            async with self._locker.hold(upload_id) as whole:
                current = await self._reception.current(upload_id)
                await to_thread.run_sync(self._store.index, current.upload, whole.descriptor)

    def _reserve(self, descriptor: int, start: int, room: int) -> None:
        try:
            reserve(descriptor, start, room)
        except OSError as error:
            if not is_disk_full(error):
                raise
            raise insufficient("take the chunk", room, self._store.directory) from error

    async def count(
        self, found: Found, place: Place, size: int | None, promised: Mapping[str, str]
    ) -> Found:
        """Count a chunk whose bytes are durable, if it has this size and these digests.

        Its range must still be held.

        Raises:
            BadRequest, WrongChunk: it is not what was said; nothing of it counts.
            OSError: the disk is full or broken; nothing of it counts.
        """

        def prove() -> bool:
            chunk = place.writer.proven(size, promised.get("md5"), promised.get("sha256"))
            if chunk is None:
                return False
            self._store.journals.add(found.upload.id, chunk)
            return True

        if await to_thread.run_sync(prove):
            found = await to_thread.run_sync(self._reception.finder.look, found.upload)
            self._emit(UploadGrew(found.record()))
        return found

    async def merge(self, found: Found, caller: Caller, amend: Callable[[Upload], Upload]) -> Found:
        """Say that all chunks are there: from now on it is an upload like any other.

        `amend` adds what this request tells of it (a destination, a digest, its length). Nothing is
        copied. Again, it is the same.

        Raises:
            Conflict: bytes are missing, or what is told contradicts what was told before.
            AdmissionRefused, InsufficientStorage: of a destination said only now.
        """
        upload_id = found.upload.id
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while True:
            if found.finished or found.outcome is not None:
                amend(found.upload)
                return found
            upload = await self._amended(found, caller, amend)
            try:
                # Whoever still sends a chunk of it sends one that is there.
                async with self._locker.hold(
                    upload_id, wait_seconds=_POLL_SECONDS, force=True
                ) as lock:
                    current = await self._reception.current(upload_id)
                    if current.upload == found.upload and not current.finished:
                        return await self._seal(upload.merged(), lock)
            except UploadLocked:
                if time.monotonic() > deadline:
                    raise
            found = await self._reception.receivable(upload_id, caller, Action.WRITE)

    async def _seal(self, upload: Upload, lock: Lock) -> Found:
        await to_thread.run_sync(self._store.seal, upload, lock.descriptor)
        found = await to_thread.run_sync(self._reception.finder.look, upload)
        self._emit(UploadFinished(found.record()))
        UPLOADS_FINISHED.add()
        return found

    async def _amended(
        self, found: Found, caller: Caller, amend: Callable[[Upload], Upload]
    ) -> Upload:
        """The upload with what is told now, of which nothing is missing."""
        upload = amend(found.upload)
        proven = await to_thread.run_sync(self._store.proven, upload.id)
        if upload.length is None:
            raise BadRequest(
                "merge: how long the file is was never said",
                "say `totalSize`, or `totalChunks` and `chunkSize`",
                code=INCONSISTENT_LENGTH,
            )
        if proven.end > upload.length:
            raise BadRequest(
                f"length {upload.length}: chunks up to {proven.end} are already here",
                "say the length of the whole file",
                code=INCONSISTENT_LENGTH,
            )
        if not proven.covers(0, upload.length):
            raise ChunksMissing(upload, proven)
        self._reception.check_size(upload.length)
        if upload.image != found.upload.image:
            await self._reception.admit(upload.metadata, caller)
            check = self._reception.check_space
            await to_thread.run_sync(check, 0, upload.metadata, upload.length)
        return upload


class ChunksMissing(Conflict):
    """Not every byte of the upload is there."""

    code = "chunks_missing"

    def __init__(self, upload: Upload, proven: Proven) -> None:
        """Tell how much; which chunks that are is for a protocol to say."""
        length = upload.length or 0
        gaps = list(proven.gaps(0, length))
        missing = sum(end - start for start, end in gaps)
        super().__init__(
            f"merge: {missing} of {length} bytes are missing, the first at {gaps[0][0]}",
            "send the missing chunks, then merge again",
        )
        self.upload = upload
        self.proven = proven
