"""Lifecycle: what the hooks do when something happens to an upload.

Knows: which event means which status, which signal and which entry in the queue.
Must not know: HTTP, files, what the jobs do.

Nothing here may stop the server from receiving: what Redis does not take is logged, and comes from
the disk later (the workers' reconcile loop, the server's own view of an upload).
"""

from __future__ import annotations

import logging
from dataclasses import replace

from hooks.errors import CoordinationLost
from hooks.events import (
    UploadCreated,
    UploadEnded,
    UploadEvent,
    UploadFinished,
    UploadGrew,
    UploadRemoved,
)
from hooks.queue import JobQueue
from hooks.record import Record, Status, utc_now
from hooks.redis import Signal, Signals
from hooks.status import StatusStore
from hooks.steps import step_names

logger = logging.getLogger(__name__)


class Lifecycle:
    """Turns what the server says into status, signals and jobs."""

    def __init__(self, status: StatusStore, queue: JobQueue, signals: Signals) -> None:
        """Speak through these three."""
        self._status = status
        self._queue = queue
        self._signals = signals

    async def handle(self, event: UploadEvent) -> None:
        """Let everybody know; never raises for a Redis that is away."""
        try:
            await self._handle(event)
        except CoordinationLost as error:
            kind = type(event).__name__
            logger.warning("event_untold event=%s upload_id=%s cause=%s", kind, _id(event), error)

    async def cancel(self, upload_id: str) -> None:
        """Stop what follows an upload; its cancel mark must be on disk already.

        A job that waits is taken out of the queue: whoever gets the upload's lock may end it. A job
        that runs is ended by its worker, which is told now and looks for the mark by itself, too.
        """
        try:
            if not await self._queue.withdraw(upload_id):
                await self._signals.send(Signal.CANCEL, upload_id)
        except CoordinationLost as error:
            logger.warning("cancel_untold upload_id=%s cause=%s", upload_id, error)

    async def _handle(self, event: UploadEvent) -> None:
        match event:
            case UploadCreated(record) | UploadEnded(record):
                await self._status.put(record)
            case UploadGrew(record):
                # Followers first: they are in more of a hurry than whoever watches.
                await self._signals.send(Signal.GREW, record.id)
                await self._status.put(record)
            case UploadFinished(record, in_parts):
                await self._start(record, step_names(in_parts=in_parts))
            case UploadRemoved(upload_id, owner):
                await self._queue.withdraw(upload_id)
                await self._status.remove(upload_id, owner)

    async def _start(self, record: Record, steps: tuple[str, ...]) -> None:
        """Say that the upload waits, then let a worker have it."""
        waiting = replace(
            record.with_steps(steps),
            status=Status.QUEUED,
            error=None,
            updated_at=utc_now(),
        )
        await self._status.put(waiting)
        await self._queue.enqueue(record.id)


def _id(event: UploadEvent) -> str:
    return event.upload_id if isinstance(event, UploadRemoved) else event.record.id
