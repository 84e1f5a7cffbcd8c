"""Reception: what every protocol does with an upload, in the one right order.

Knows: the order of lock, check, bytes, durable, event; expiry; who may see what.
Must not know: header names, which protocol asks.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

from anyio import to_thread
from starlette.requests import Request

from hooks.events import UploadEvent, UploadFinished, UploadGrew
from hooks.metrics import UPLOADS_FINISHED
from hooks.record import Status
from server.admittance import Admission, Admittance, Limits
from server.errors import (
    BadRequest,
    Conflict,
    Forbidden,
    NotFound,
    OffsetMismatch,
    TooLarge,
)
from server.finder import Finder, Found
from server.intake import Intake, Received
from server.interruption import Ending
from server.locker import Lock, Locker
from server.proof import Proof
from server.receiving import Receiving
from server.space import insufficient, is_disk_full
from server.store import UploadStore
from server.upload import Upload

logger = logging.getLogger(__name__)

# The code of a length that does not fit what was said, or came, before.
INCONSISTENT_LENGTH: Final = "inconsistent_length"


@dataclass(frozen=True)
class Appended:
    """What an append left: the upload, its offset, when it expires, and how the body ended."""

    found: Found
    received: Received


class Reception(Admittance):
    """Appends to uploads, and opens them again."""

    def __init__(
        self,
        store: UploadStore,
        finder: Finder,
        locker: Locker,
        intake: Intake,
        admission: Admission,
        emit: Callable[[UploadEvent], None],
        *,
        limits: Limits,
    ) -> None:
        """Wire the parts."""
        super().__init__(store, finder, locker, admission, emit, limits=limits)
        self._intake = intake
        self._receiving = Receiving(store, finder, intake, emit, max_size=limits.max_size)

    async def append(
        self,
        request: Request,
        found: Found,
        offset: int,
        *,
        amend: Callable[[Upload], Upload],
        declared: int | None,
        finish_at_end: bool = False,
        proof: Proof | None = None,
    ) -> Appended:
        """Append the request's body at `offset`.

        `amend` adds what this request tells of the upload (its length, promised digests) under the
        lock; `declared` is the body's size where it is known beforehand. With `finish_at_end` an
        upload whose length nobody said ends where the body ends. With `proof` the bytes count only
        when their checksum is right.

        Raises:
            Forbidden: it is a final upload, made of other uploads' bytes.
            ChecksumMismatch: the bytes are others than promised; none was kept.
            OffsetMismatch: the upload is elsewhere.
            TooLarge: the body would pass the upload's length.
            UploadLocked: an active writer holds the upload.
            InsufficientStorage: the disk is full; what fitted is kept.
        """
        if found.upload.parts:
            raise Forbidden(
                "append: a final upload is made of its partials only",
                "send what is missing to the partials",
            )
        if found.finished or found.outcome is not None:
            return await self._append_nothing(request, found, amend, offset, declared)
        try:
            async with self.locker.hold(found.upload.id) as lock:
                current = await self.current(found.upload.id)
                if current.finished or current.outcome is not None:
                    return await self._append_nothing(request, current, amend, offset, declared)
                lock.position = await to_thread.run_sync(
                    self.store.recover, current.upload, lock.descriptor
                )
                current = replace(current, offset=lock.position)
                amended = await self._amend(current, lock, offset, amend, declared)
                received = await self._receiving.receive(request, lock, amended, proof)
                upload = amended.upload
                if finish_at_end and upload.length is None and received.ending is Ending.COMPLETE:
                    # Only now: the bytes are durable and proven, so the length is true.
                    await to_thread.run_sync(self.store.end_here, upload, lock.descriptor)
                    upload = upload.with_length(received.position)
                if upload.unmerged and received.position == upload.length:
                    # A sender that sends in order ends the upload with the last byte.
                    await to_thread.run_sync(self.store.keep, upload.merged())
                found = await self._look(upload)
        except NotFound:
            # Its bytes went while we waited for them; how it ended says what to answer.
            ended = await self.current(found.upload.id)
            return await self._append_nothing(request, ended, amend, offset, declared)
        await self.conclude(found)
        self.check_disk(received)
        return Appended(found, received)

    async def _amend(
        self,
        found: Found,
        lock: Lock,
        offset: int,
        amend: Callable[[Upload], Upload],
        declared: int | None,
    ) -> Found:
        """Judge the request against the upload as it is now, and keep what it tells of it."""
        # First of all: what the request tells of the length may follow from its offset.
        _check_offset(found, offset)
        upload = amend(found.upload)
        self.check_size(upload.length)
        amended = replace(found, upload=upload)
        self._check_place(amended, offset, declared)
        if upload.length != found.upload.length:
            missing = (upload.length or 0) - amended.offset
            metadata = None if upload.partial else upload.metadata
            await to_thread.run_sync(self.check_space, missing, metadata, upload.length)
        if upload != found.upload:
            await to_thread.run_sync(self.store.save, upload, lock.descriptor)
        return amended

    async def _append_nothing(
        self,
        request: Request,
        found: Found,
        amend: Callable[[Upload], Upload],
        offset: int,
        declared: int | None,
    ) -> Appended:
        """A request for an upload that takes no more bytes; right if it brings nothing new."""
        self._check_place(found, offset, declared)
        if declared is None and not await self._intake.is_empty(request):
            raise TooLarge(
                "append: the upload has all its bytes",
                "send no more",
                headers={"Upload-Offset": str(found.offset)},
            )
        if amend(found.upload) != found.upload:
            raise Conflict(
                "the upload is whole: nothing can be promised of it any more",
                "send the digest with the last byte at the latest",
            )
        return Appended(found, Received(found.offset, Ending.COMPLETE))

    async def current(self, upload_id: str) -> Found:
        """The upload as the lock's holder sees it: it may have changed while we waited."""
        upload = await to_thread.run_sync(self.store.find, upload_id)
        if upload is None:
            raise NotFound("the upload was removed meanwhile", "create a new one")
        found = await self._look(upload)
        self._check_alive(found)
        return found

    def _check_place(self, found: Found, offset: int, declared: int | None) -> None:
        _check_offset(found, offset)
        length = found.upload.length
        if length is None and declared is not None:
            self.check_size(offset + declared)
        if length is not None and length < found.offset:
            raise BadRequest(
                f"length {length}: {found.offset} bytes are already here",
                "say the length of the whole file",
                code=INCONSISTENT_LENGTH,
            )
        if length is not None and declared is not None and offset + declared > length:
            raise TooLarge(
                f"append of {declared} bytes at {offset}: the upload has {length} bytes",
                "send no more than Upload-Length says",
                headers={"Upload-Offset": str(found.offset)},
            )

    async def conclude(self, found: Found) -> None:
        """Tell how far the upload came, or the final upload that it is a part of."""
        told = await self._receiving.told(found)
        if told.finished and not told.upload.partial:
            self._emit(UploadFinished(told.record(), in_parts=bool(told.upload.parts)))
        else:
            self._emit(UploadGrew(told.record()))
        if found.finished:
            UPLOADS_FINISHED.add()
            logger.info(
                "upload finished", extra={"upload_id": found.upload.id, "length": found.offset}
            )

    def check_disk(self, received: Received) -> None:
        """Say in words what the disk said.

        Raises:
            InsufficientStorage: it is full.
            OSError: it is broken.
        """
        if received.error is None:
            return
        if is_disk_full(received.error):
            refusal = insufficient("append", 1, self.store.directory, " at least")
            refusal.headers["Upload-Offset"] = str(received.position)
            raise refusal from received.error
        raise received.error

    async def reopen(self, found: Found) -> Found:
        """Open a failed upload again, for another run of what follows it.

        Raises:
            Conflict: it did not fail, or its archive is gone.
            UploadLocked: somebody works on it.
        """
        if found.part_of is not None:
            raise Conflict(
                f"retry: the upload is a part of {found.part_of}",
                "retry that one",
                code="part_of_final",
            )
        _check_failed(found)
        try:
            async with self.locker.hold(found.upload.id):
                # Only now: a sweep, or another retry, may have come first.
                current = await self.current(found.upload.id)
                _check_failed(current)
                await to_thread.run_sync(self.store.forget_outcome, found.upload.id)
        except NotFound as error:
            raise Conflict("retry: the archive is gone", "send it again") from error
        reopened = replace(current, outcome=None)
        # What was pushed before it failed is not pushed again, if its registry still has it.
        results = current.outcome.results if current.outcome else ()
        record = replace(reopened.record(), results=results)
        self._emit(UploadFinished(record, in_parts=bool(found.upload.parts)))
        return reopened


def _check_offset(found: Found, offset: int) -> None:
    if offset != found.offset:
        raise OffsetMismatch(
            f"append at {offset}: the upload is at {found.offset}",
            "go on from the offset in this answer",
            headers={"Upload-Offset": str(found.offset)},
        )


def _check_failed(found: Found) -> None:
    if found.outcome is None or found.outcome.status is not Status.FAILED:
        raise Conflict(
            f"retry: the upload is {found.record().status}",
            "only a failed upload can be tried again",
        )
