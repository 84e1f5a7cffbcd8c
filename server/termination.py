"""Termination: ends an upload on somebody's word, wherever it is in its life.

Knows: marks, locks and outcomes; whom to tell.
Must not know: HTTP, what a running job does.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Final, Protocol

import anyio
from anyio import to_thread

from hooks.events import UploadEnded, UploadEvent, UploadRemoved
from hooks.metrics import UPLOADS_TERMINATED
from hooks.record import Record, Status
from server.errors import Conflict, NotFound, UploadLocked
from server.finder import Found
from server.locker import Locker
from server.store import UploadStore
from server.upload import UploadId

# A step's process group is killed within seconds; after this the sender is told to ask again.
_STOP_SECONDS: Final = 15.0
_POLL_SECONDS: Final = 0.05
_TELL_SECONDS: Final = 1.0


class Jobs(Protocol):
    """Who runs what follows an upload (the hooks do)."""

    async def cancel(self, upload_id: str) -> object:
        """Tell whoever runs the job to stop it now; the mark on disk is there already."""


class Termination:
    """DELETE and cancel, over all protocols."""

    def __init__(
        self, store: UploadStore, locker: Locker, jobs: Jobs, emit: Callable[[UploadEvent], None]
    ) -> None:
        """Wire the parts."""
        self._store = store
        self._locker = locker
        self._jobs = jobs
        self._emit = emit

    async def delete(self, found: Found) -> None:
        """Remove what is stored; the history of a job that ran or was stopped is kept.

        Raises:
            UploadLocked: a job did not stop in time; it will, ask again.
        """
        upload_id = found.upload.id
        _check_whole(found)
        if found.outcome is None and (not found.finished or found.upload.partial):
            await self._withdraw(found)
            async with self._locker.hold_all(upload_id, found.upload.parts, force=True):
                await to_thread.run_sync(self._store.erase, upload_id)
            self._emit(UploadRemoved(upload_id, found.upload.owner))
            UPLOADS_TERMINATED.add()
            return
        if found.outcome is None:
            await self._stop(found)
        if await to_thread.run_sync(self._store.measure, upload_id) is None:
            return
        try:
            async with self._locker.hold(upload_id):
                # Under the lock: a retry may have opened it again meanwhile.
                ended = await to_thread.run_sync(self._store.outcome, upload_id)
                if ended is None:
                    await self._record_canceled(found)
                await to_thread.run_sync(self._store.erase_data, upload_id)
        except NotFound:
            # Whoever held it has removed the archive: a worker does, right after the outcome.
            return
        if found.outcome is not None:
            UPLOADS_TERMINATED.add()

    async def _record_canceled(self, found: Found) -> Record:
        outcome = replace(found.record(), status=Status.CANCELED, expires_at=None, error=None)
        await to_thread.run_sync(self._store.record_outcome, outcome)
        self._emit(UploadEnded(outcome))
        return outcome

    async def cancel(self, found: Found) -> Record:
        """End an upload as `canceled`; returns how it ended (a job may win the race).

        Raises:
            Conflict: it has already ended.
            UploadLocked: a job did not stop in time; it will, ask again.
        """
        _check_whole(found)
        if found.outcome is not None:
            raise Conflict(
                f"cancel: the upload is {found.outcome.status}", "there is nothing to cancel"
            )
        await self._withdraw(found)
        return await self._stop(found)

    async def _withdraw(self, found: Found) -> None:
        """A partial that ends by itself must not become a part of anything meanwhile.

        Raises:
            Conflict: it has become one.
        """
        upload = found.upload
        if upload.partial and not await to_thread.run_sync(self._store.withdraw, upload.id):
            claimer = await to_thread.run_sync(self._store.claimer, upload.id)
            _check_whole(replace(found, part_of=UploadId(claimer or "another upload")))

    async def _stop(self, found: Found) -> Record:
        outcome = await self._stopped(found)
        if outcome.status is Status.CANCELED:
            UPLOADS_TERMINATED.add()
        return outcome

    async def _stopped(self, found: Found) -> Record:
        upload_id = found.upload.id
        await to_thread.run_sync(self._store.request_cancel, upload_id)
        # Without Redis the worker still looks for the mark, and an idle upload is ended here.
        with anyio.move_on_after(_TELL_SECONDS):
            await self._jobs.cancel(upload_id)
        with anyio.move_on_after(_STOP_SECONDS):
            while True:
                outcome = await to_thread.run_sync(self._store.outcome, upload_id)
                if outcome is not None:
                    return outcome
                ended = await self._end_unless_held(found)
                if ended is not None:
                    return ended
                await anyio.sleep(_POLL_SECONDS)
        raise UploadLocked(
            "the job is still stopping",
            "it will be canceled; ask its status",
            headers={"Retry-After": "5"},
        )

    async def _end_unless_held(self, found: Found) -> Record | None:
        """End it here when nobody works on it; while a worker does, that is the worker's."""
        upload_id = found.upload.id
        # Only a sender is evicted by `force`; a worker's lock cannot be taken from it.
        try:
            async with self._locker.hold_all(
                upload_id, found.upload.parts, wait_seconds=_POLL_SECONDS, force=True
            ):
                outcome = await to_thread.run_sync(self._store.outcome, upload_id)
                if outcome is None:
                    outcome = await self._record_canceled(found)
                await to_thread.run_sync(self._store.erase_data, upload_id)
                return outcome
        except (UploadLocked, NotFound):
            # Held by a worker, or just ended by one that has removed the archive already.
            return None


def _check_whole(found: Found) -> None:
    """A part ends with its final upload, never by itself."""
    if found.part_of is not None:
        raise Conflict(
            f"the upload is a part of {found.part_of}",
            "delete or cancel that one; its parts go with it",
            code="part_of_final",
        )
