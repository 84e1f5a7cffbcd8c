"""Attempt: one delivery of one job, from the upload's lock to the end that everybody sees.

Knows: the lock, the heartbeat, what may interrupt a job, and the order in which its end is written.
Must not know: where deliveries come from, or what the steps do.

The end is written in an order that survives dying between any two lines: the workspace is gone →
the outcome is on disk → the archive is discarded → the queue and the status hear of it. Whoever
finds an entry whose upload has an outcome only does the last.
"""

from __future__ import annotations

import logging
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from enum import StrEnum

import anyio

from buildah.errors import BuildahError, InvalidReference
from hooks.assemble import AssembleParts
from hooks.errors import CoordinationLost
from hooks.job import Job
from hooks.metrics import REDELIVERIES
from hooks.pipeline import Pipeline, StepContext
from hooks.ports import FinishedUpload, UploadBusy, Uploads
from hooks.queue import Delivery, JobQueue
from hooks.record import Failure, Record, Status, StepState
from hooks.redis import Signals
from hooks.report import Report
from hooks.status import StatusStore

logger = logging.getLogger(__name__)

HEARTBEATS_PER_LEASE = 5
DELIVERIES_LIMIT = 5
# Sweeps, cancels and a holder that is just letting go have the lock for moments only.
BUSY_SECONDS = 5.0
BUSY_POLL_SECONDS = 0.1


class Interruption(StrEnum):
    """Why a running job has to stop."""

    CANCELED = "canceled"
    LOST = "lost"
    STOPPED = "stopped"


@dataclass(frozen=True)
class Desk:
    """What a worker and its attempts work with."""

    uploads: Uploads
    queue: JobQueue
    status: StatusStore
    signals: Signals
    pipeline: Pipeline


class Attempt:
    """Runs one delivery. Used once."""

    def __init__(self, desk: Desk, delivery: Delivery) -> None:
        """Prepare; `run` does everything."""
        self.upload_id = delivery.upload_id
        self.ended = anyio.Event()
        self._desk = desk
        self._pipeline = desk.pipeline
        self._delivery = delivery
        self._work = anyio.CancelScope()
        self._interruption: Interruption | None = None
        self._over = False
        self._poke = anyio.Event()

    @property
    def lost(self) -> bool:
        """Whether the queue said that the job is no longer ours."""
        return self._interruption is Interruption.LOST

    def look(self) -> None:
        """Somebody says that this job is canceled: look at the disk now, not at the next beat."""
        self._poke.set()

    def stop(self) -> None:
        """The worker ends: let go of the job, and give it back."""
        self._interrupt(Interruption.STOPPED)

    async def run(self) -> None:
        """Hold the upload, work, and write how it ended.

        Raises:
            ExceptionGroup: the disk took no outcome; the entry stays in the queue for another try.
        """
        if self._delivery.deliveries > 1:
            REDELIVERIES.add()
        try:
            async with AsyncExitStack() as held:
                if await self._lock(held):
                    await self._run_locked()
                if self._interruption is Interruption.STOPPED and not self._over:
                    await self._give_back()
        finally:
            self.ended.set()

    async def _lock(self, held: AsyncExitStack) -> bool:
        """Take the upload's lock; False when there is no work or the upload stays busy."""
        give_up_at = anyio.current_time() + BUSY_SECONDS
        while True:
            upload = await self._desk.uploads.get(self.upload_id)
            if upload is None:
                await self._settle()
                return False
            try:
                await held.enter_async_context(upload.lock())
            except UploadBusy:
                if anyio.current_time() > give_up_at or self._interruption:
                    # The entry stays ours in the queue; it is taken over once the lock is free.
                    logger.info("job_busy upload_id=%s", self.upload_id)
                    return False
                await anyio.sleep(BUSY_POLL_SECONDS)
            else:
                return True

    async def _run_locked(self) -> None:
        # Read again: before we held the lock, somebody may have ended or removed the upload.
        upload = await self._desk.uploads.get(self.upload_id)
        if upload is None:
            await self._settle()
            return
        if not upload.in_parts:
            self._pipeline = self._pipeline.without(AssembleParts.name)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._keep, upload)
            outcome = await self._outcome(upload)
            if outcome is not None:
                await self._finish(upload, outcome)
            tasks.cancel_scope.cancel()

    async def _settle(self) -> None:
        """An entry without work: its upload has ended, or is gone."""
        self._over = True
        outcome = await self._desk.uploads.outcome(self.upload_id)
        if outcome is not None:
            await self._tell(outcome)
            return
        try:
            await self._desk.queue.drop(self._delivery)
        except CoordinationLost as error:
            logger.warning("job_undropped upload_id=%s cause=%s", self.upload_id, error)

    async def _outcome(self, upload: FinishedUpload) -> Record | None:
        """Do the work; None when somebody else has to end it."""
        earlier = await self._earlier()
        fresh = upload.record.with_steps(self._pipeline.names)
        first = replace(fresh, results=earlier.results) if earlier else fresh
        document = Report(self._desk.status, first)
        if await upload.cancel_requested():
            return self._canceled(document)
        if self._delivery.deliveries > DELIVERIES_LIMIT:
            return self._unworkable(document, _crashed(fresh, earlier))
        try:
            job = Job.of(upload)
        except InvalidReference as error:
            step = self._pipeline.names[0]
            failure = Failure(error.code, step, error.message, error.hint, error.retryable)
            return self._unworkable(document, failure)
        return await self._worked(StepContext(job, upload, document))

    async def _worked(self, context: StepContext) -> Record | None:
        """Run the steps while the document is written behind them."""
        document = context.document
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(document.run)
            with self._work:
                failure = await self._run_pipeline(context)
                outcome: Record | None = document.closed(
                    Status.FAILED if failure else Status.DONE, failure
                )
            if self._work.cancelled_caught:
                canceled = self._interruption is Interruption.CANCELED
                outcome = self._canceled(document) if canceled else None
            if outcome is not None:
                await document.flush()
            tasks.cancel_scope.cancel()
        return outcome

    async def _run_pipeline(self, context: StepContext) -> Failure | None:
        pipeline, document = self._pipeline, context.document
        try:
            return await pipeline.run(context)
        except Exception as error:
            logger.exception("step_crashed upload_id=%s step=%s", self.upload_id, document.step)
            failure = Failure(
                "internal_error",
                document.step,
                f"unexpected {type(error).__name__} in the step {document.step}",
                "Try again; if it comes back, the worker's log has the details.",
                retryable=True,
            )
            await pipeline.fail(context, failure)
            return failure
        finally:
            with anyio.CancelScope(shield=True):
                await self._close_workspace(context)

    async def _close_workspace(self, context: StepContext) -> None:
        """Whatever ended the steps, nothing of theirs stays: clean-up may not have run."""
        try:
            await context.close_workspace()
        except (OSError, BuildahError) as error:
            logger.warning("workspace_left upload_id=%s cause=%s", self.upload_id, error)

    async def _earlier(self) -> Record | None:
        """What an earlier run of this job had come to, as far as Redis still knows."""
        try:
            return await self._desk.status.get(self.upload_id)
        except CoordinationLost as error:
            logger.warning("status_unread upload_id=%s cause=%s", self.upload_id, error)
            return None

    def _unworkable(self, document: Report, failure: Failure) -> Record:
        """A job that fails before its work begins."""
        document.begin(failure.step)
        document.end(StepState.FAILED, failure.message)
        document.leave_waiting(self._pipeline.names, StepState.SKIPPED, "not reached")
        return document.closed(Status.FAILED, failure)

    def _canceled(self, document: Report) -> Record:
        document.cancel()
        return document.closed(Status.CANCELED)

    async def _finish(self, upload: FinishedUpload, outcome: Record) -> None:
        """Write the end; see the module's docstring for the order."""
        await upload.record_outcome(outcome)
        self._over = True
        pushed = outcome.status is Status.DONE and bool(outcome.results)
        if pushed or outcome.status is Status.CANCELED:
            await upload.discard()
        await self._tell(outcome)
        logger.info(
            "job_ended upload_id=%s status=%s code=%s",
            upload.id,
            outcome.status,
            outcome.error.code if outcome.error else "",
        )

    async def _tell(self, outcome: Record) -> None:
        """Let the queue and the status know the end that the disk has."""
        try:
            if not await self._desk.queue.finalize(self._delivery, outcome):
                # The queue forgot us (it was emptied): everybody who watches still has to hear it.
                await self._desk.status.put(outcome)
        except CoordinationLost as error:
            # The entry stays; whoever finds it tells the same from the outcome.
            logger.warning("outcome_untold upload_id=%s cause=%s", self.upload_id, error)

    async def _give_back(self) -> None:
        """Let another worker begin at once, and the status say that the job waits again."""
        try:
            upload = await self._desk.uploads.get(self.upload_id)
            if upload is not None:
                waiting = upload.record.with_steps(self._pipeline.names)
                await self._desk.status.put(waiting)
            await self._desk.queue.give_back(self._delivery)
        except CoordinationLost as error:
            logger.warning("job_not_given_back upload_id=%s cause=%s", self.upload_id, error)

    async def _keep(self, upload: FinishedUpload) -> None:
        """Keep the delivery ours, and look whether somebody canceled, until the job has ended."""
        interval_seconds = self._desk.queue.lease_seconds / HEARTBEATS_PER_LEASE
        while True:
            if await upload.cancel_requested():
                self._interrupt(Interruption.CANCELED)
            try:
                if not await self._desk.queue.heartbeat(self._delivery):
                    self._interrupt(Interruption.LOST)
                    return
            except CoordinationLost as error:
                # Redis being away takes nothing from us: the kernel's lock is still ours.
                logger.warning("heartbeat_missed upload_id=%s cause=%s", self.upload_id, error)
            with anyio.move_on_after(interval_seconds):
                await self._poke.wait()
            self._poke = anyio.Event()

    def _interrupt(self, reason: Interruption) -> None:
        """Stop the work for this reason; the first reason counts."""
        if self._interruption is None:
            logger.info("job_interrupted upload_id=%s reason=%s", self.upload_id, reason)
            self._interruption = reason
            self._work.cancel()


def _crashed(fresh: Record, earlier: Record | None) -> Failure:
    """A job whose workers died too often, in the step that the last of them was at."""
    known = {step.name: step.state for step in earlier.steps} if earlier else {}
    names = [step.name for step in fresh.steps]
    step = next((name for name in names if known.get(name) is StepState.RUNNING), names[0])
    return Failure(
        "job_crashed",
        step,
        f"the worker died {DELIVERIES_LIMIT} times in this job, at last in the step {step}",
        "Look at the workers' memory, disk and logs; then try again.",
        retryable=True,
    )
