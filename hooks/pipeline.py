"""Steps and their order: what runs, what is tried again, what a failure looks like.

Knows: that steps report, fail with a code, are skipped, and that some failures pass by themselves.
Must not know: what a step does, Redis, who runs the pipeline and what becomes of the upload.
"""

from __future__ import annotations

import logging
import math
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import anyio
import anyio.to_thread

from buildah.context import Context
from buildah.errors import BuildahError
from buildah.pushed import ReadyImage
from buildah.reference import ImageReference
from buildah.workspace import Workspace
from hooks.errors import StepFailed
from hooks.job import Job
from hooks.metrics import STEP_SECONDS
from hooks.ports import FinishedUpload
from hooks.record import Failure, StepState
from hooks.report import Report

logger = logging.getLogger(__name__)


class StepSkipped(Exception):
    """A step found that it has nothing to do; `str()` says why, for a person."""


@dataclass(frozen=True)
class Shipment:
    """An image that is ready to be pushed, and a tag it is to get."""

    image: ReadyImage
    destination: ImageReference


@dataclass(frozen=True)
class Unbuilt:
    """A build context that is unpacked in a workspace, and where its image is to go."""

    context: Context
    workspace: Workspace
    destination: ImageReference


@dataclass
class StepContext:
    """What the steps of one run of a job share. The document says what happens.

    `workspace`, `unbuilt` and `shipments` are set by the step that made them, for the steps
    after it.
    """

    job: Job
    upload: FinishedUpload
    document: Report
    workspace: Workspace | None = None
    unbuilt: Unbuilt | None = None
    shipments: list[Shipment] = field(default_factory=list)

    def report(self, bytes_done: int, bytes_total: int, message: str | None = None) -> None:
        """Progress of the running step, in bytes. From any thread."""
        self.document.progress(bytes_done, bytes_total, message)

    def log(self, line: str) -> None:
        """One scrubbed line of the running step. From any thread."""
        self.document.log(line)

    async def close_workspace(self) -> None:
        """Remove the workspace, if there is one.

        Raises:
            OSError: something of it could not be removed; a sweep finds it later.
            buildah.errors.BuildahError: the same.
        """
        workspace, self.workspace = self.workspace, None
        if workspace is not None:
            await anyio.to_thread.run_sync(workspace.close)


class Step(Protocol):
    """One thing to do. It looks before it acts: a job may run twice."""

    @property
    def name(self) -> str:
        """The name that the status document shows."""

    @property
    def after_failure(self) -> bool:
        """Whether it runs also when a step before it failed."""

    async def run(self, context: StepContext) -> None:
        """Do it.

        Raises:
            StepSkipped: there is nothing to do.
            StepFailed: it failed.
            buildah.errors.BuildahError: it failed.
        """


@runtime_checkable
class OccasionalStep(Step, Protocol):
    """A step of which the document says nothing unless it is needed."""

    def is_needed(self, context: StepContext) -> bool:
        """Whether it has to run, after what the steps before it found."""


@dataclass(frozen=True)
class Retry:
    """How often a step is tried when its failure may pass, and how long the waits are.

    The wait doubles from `base_seconds` up to `cap_seconds`, and half of it is random, so that many
    jobs do not come back to a registry in one moment.
    """

    attempts: int = 6
    base_seconds: float = 1.0
    cap_seconds: float = 60.0

    def wait_seconds(self, failed_attempts: int) -> float:
        """How long to wait after so many failed attempts."""
        doublings = min(failed_attempts - 1, 64)
        longest_seconds = min(self.cap_seconds, self.base_seconds * 2.0**doublings)
        return longest_seconds * random.uniform(0.5, 1.0)  # noqa: S311 (spreads load, guards nothing)


class Pipeline:
    """Steps in their order. It holds no state of a job, so one serves all."""

    def __init__(self, steps: Sequence[Step], *, retry: Retry | None = None) -> None:
        """Run these steps; `retry` holds for each of them."""
        self._steps = tuple(steps)
        self._retry = retry or Retry()

    def without(self, name: str) -> Pipeline:
        """The same without the step of that name."""
        return Pipeline([step for step in self._steps if step.name != name], retry=self._retry)

    @property
    def names(self) -> list[str]:
        """The names of the steps that every job has, in order."""
        return [step.name for step in self._steps if not isinstance(step, OccasionalStep)]

    async def run(self, context: StepContext) -> Failure | None:
        """Run every step; the failure that ended it, or None when all went well."""
        for step in self._steps:
            if isinstance(step, OccasionalStep):
                if not step.is_needed(context):
                    continue
                context.document.insert(step.name)
            try:
                await self._run_step(step, context)
            except (StepFailed, BuildahError) as error:
                failure = Failure(error.code, step.name, error.message, error.hint, error.retryable)
                await self.fail(context, failure)
                return failure
        return None

    async def fail(self, context: StepContext, failure: Failure) -> None:
        """Mark the running step as failed, and run those that run after a failure."""
        context.document.end(StepState.FAILED, failure.message)
        context.document.leave_waiting(
            [
                step.name
                for step in self._steps
                if not step.after_failure and step.name in self.names
            ],
            StepState.SKIPPED,
            f"not reached: {failure.step} failed",
        )
        after = [step.name for step in self._steps].index(failure.step) + 1
        for step in self._steps[after:]:
            if step.after_failure:
                await self._run_step(step, context)

    async def _run_step(self, step: Step, context: StepContext) -> None:
        context.document.begin(step.name)
        began_at, outcome = time.monotonic(), "interrupted"
        try:
            await self._try(step, context)
        except StepSkipped as reason:
            outcome = "skipped"
            context.document.end(StepState.SKIPPED, str(reason))
        except (StepFailed, BuildahError):
            outcome = "failed"
            raise
        else:
            outcome = "done"
            context.document.end(StepState.DONE)
        finally:
            STEP_SECONDS.observe(time.monotonic() - began_at, step.name, outcome)

    async def _try(self, step: Step, context: StepContext) -> None:
        for attempt in range(1, self._retry.attempts):
            try:
                return await step.run(context)
            except (StepFailed, BuildahError) as error:
                if not error.retryable:
                    raise
                await self._wait(context, attempt, error)
        return await step.run(context)

    async def _wait(
        self, context: StepContext, failed_attempts: int, error: StepFailed | BuildahError
    ) -> None:
        """Tell what went wrong and when it goes on, and wait for that moment."""
        seconds = self._retry.wait_seconds(failed_attempts)
        logger.warning(
            "step_retried upload_id=%s step=%s code=%s attempt=%d wait_seconds=%.1f",
            context.job.id,
            context.document.step,
            error.code,
            failed_attempts + 1,
            seconds,
        )
        again = f"attempt {failed_attempts + 1} of {self._retry.attempts}"
        context.document.note(f"{error.message}; trying again in {math.ceil(seconds)} s ({again})")
        await anyio.sleep(seconds)
        context.document.note("")
