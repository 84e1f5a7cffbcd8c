"""Worker: claims jobs, recovers those of the dead, and keeps disk and queue agreeing.

Knows: the queue, the uploads' locks, the signals, and how to end in order.
Must not know: what the steps of a job do, or how an attempt writes its end.

Redis only says who may try next. That a job runs once is the kernel's lock on its upload, which is
free the moment its holder dies; that no job is lost is the disk, which is asked again and again.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from pathlib import Path

import anyio
import anyio.to_thread
from anyio.abc import TaskGroup

from buildah.workspace import sweep_workspaces
from hooks.attempt import Attempt, Desk
from hooks.errors import CoordinationLost
from hooks.following import Following
from hooks.loops import again
from hooks.ports import UploadBusy
from hooks.queue import Delivery, Pending
from hooks.redis import Signal

logger = logging.getLogger(__name__)

CLAIM_SECONDS = 2.0
RECOVER_SECONDS = 2.0
RECONCILE_SECONDS = 10.0
SWEEP_SECONDS = 3600.0
# A claim and its lock are milliseconds apart; a holder silent for longer has its lock, or is dead.
SILENT_SECONDS = 1.0


class Worker:
    """Runs up to `concurrency` jobs at once, and follows uploads while they arrive."""

    def __init__(
        self,
        desk: Desk,
        following: Following,
        *,
        jobs_dir: Path,
        concurrency: int = 2,
        grace_seconds: float = 5.0,
    ) -> None:
        """Work from `desk`; workspaces of the dead below `jobs_dir` are removed.

        `grace_seconds` is what running jobs have to end by themselves once the worker has to.
        """
        self._desk = desk
        self._following = following
        self._jobs_dir = jobs_dir
        self._grace_seconds = grace_seconds
        self._slots = anyio.Semaphore(concurrency)
        self._attempts: set[Attempt] = set()
        self._recover_at = 0.0

    async def run(self, stop: anyio.Event) -> None:
        """Work until `stop` is set; then let running jobs end, or give them back."""
        handlers = {Signal.CANCEL: self._look, Signal.GREW: self._following.grew}
        loops: tuple[tuple[str, Callable[[], Awaitable[object]], float], ...] = (
            ("signals", lambda: self._desk.signals.run(handlers), 0),
            ("following", self._following.run, 0),
            ("sweep", self._sweep, SWEEP_SECONDS),
            ("reconcile", self._reconcile, RECONCILE_SECONDS),
        )
        async with anyio.create_task_group() as tasks:
            for name, action, pause_seconds in loops:
                tasks.start_soon(again, name, action, pause_seconds)
            async with anyio.create_task_group() as jobs:
                with anyio.CancelScope() as claiming:
                    tasks.start_soon(_cancel_when, stop, claiming)
                    await again("claim", lambda: self._claim(jobs), 0)
                await self._wind_down()
            tasks.cancel_scope.cancel()

    async def _claim(self, jobs: TaskGroup) -> None:
        """Wait for a free slot, then for a job, and start it."""
        await self._slots.acquire()
        started = False
        try:
            delivery = await self._recovered() or await self._desk.queue.claim(CLAIM_SECONDS)
            if delivery is not None:
                attempt = Attempt(self._desk, delivery)
                self._attempts.add(attempt)
                jobs.start_soon(self._run, attempt)
                started = True
        finally:
            if not started:
                self._slots.release()

    async def _run(self, attempt: Attempt) -> None:
        try:
            await attempt.run()
            if attempt.lost:
                # The queue may have forgotten everything, this job too.
                await self._reconcile()
        except CoordinationLost as error:
            logger.warning("job_unsettled upload_id=%s cause=%s", attempt.upload_id, error)
        except Exception:
            # The entry stays in the queue, so the job comes again, here or elsewhere.
            logger.exception("job_crashed upload_id=%s", attempt.upload_id)
        finally:
            self._attempts.discard(attempt)
            self._slots.release()

    async def _recovered(self) -> Delivery | None:
        """A job whose worker is gone, looked for now and then."""
        if anyio.current_time() < self._recover_at:
            return None
        for pending in await self._desk.queue.pending():
            if await self._abandoned(pending):
                delivery = await self._desk.queue.take_over(pending)
                if delivery is not None:
                    logger.info(
                        "job_recovered upload_id=%s from=%s", pending.upload_id, pending.consumer
                    )
                    return delivery
        self._recover_at = anyio.current_time() + RECOVER_SECONDS
        return None

    async def _abandoned(self, pending: Pending) -> bool:
        """Whether nobody works on it: a silent holder that has the lock is cut off, not dead."""
        if pending.idle_seconds < SILENT_SECONDS:
            return False
        upload = await self._desk.uploads.get(pending.upload_id)
        if upload is None:
            return True
        try:
            async with upload.lock():
                return True
        except UploadBusy:
            return False

    async def _reconcile(self) -> None:
        """Queue what the disk says has to run, whatever Redis remembers."""
        for upload_id in await self._desk.uploads.finished():
            if await self._desk.queue.enqueue(upload_id):
                logger.info("job_requeued upload_id=%s", upload_id)

    async def _sweep(self) -> None:
        """Remove the workspaces of dead jobs."""
        for job_id in await anyio.to_thread.run_sync(sweep_workspaces, self._jobs_dir):
            logger.info("workspace_swept upload_id=%s", job_id)

    def _look(self, upload_id: str) -> None:
        for attempt in self._attempts:
            if attempt.upload_id == upload_id:
                attempt.look()

    async def _wind_down(self) -> None:
        """Give running jobs a grace to end by themselves, then give them back."""
        running = tuple(self._attempts)
        with anyio.move_on_after(self._grace_seconds):
            for attempt in running:
                await attempt.ended.wait()
        for attempt in running:
            attempt.stop()


async def _cancel_when(event: anyio.Event, scope: anyio.CancelScope) -> None:
    await event.wait()
    scope.cancel()
