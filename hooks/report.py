"""Report: the status document of a running job, and what is still to be told of it.

Knows: the document, how often it may be written, and that Redis may be away for a while.
Must not know: what the steps do, or how the job ends on disk and in the queue.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace

import anyio

from hooks.errors import CoordinationLost
from hooks.ports import Digests
from hooks.record import Failure, ImageResult, Record, Status, StepRecord, StepState, utc_now
from hooks.status import StatusStore

logger = logging.getLogger(__name__)

# Four progress events a second are smooth to look at and cheap to carry.
PROGRESS_SECONDS = 0.25
# What a chatty program may say while Redis is away.
UNSENT_LINES_LIMIT = 1000
FLUSH_SECONDS = 2.0


@dataclass(frozen=True)
class _Transition:
    """A document to write; with a step, only that step is news."""

    record: Record
    step: str | None


@dataclass(frozen=True)
class _Line:
    """Something that a program said."""

    step: str
    text: str


class Report:
    """Holds the document and writes it: each transition once and in order, progress when it moved.

    `progress` and `log` may be called from any thread, the rest from the event loop. Nothing here
    waits for Redis: `run` writes behind, and what Redis did not take is kept for the next try.
    """

    def __init__(self, status: StatusStore, record: Record) -> None:
        """Begin with `record`, whose steps are all waiting."""
        self._status = status
        self._record = replace(record, status=Status.RUNNING, error=None, updated_at=utc_now())
        self._current = ""
        self._changing = threading.Lock()
        self._unsent: deque[_Transition | _Line] = deque([_Transition(self._record, None)])
        self._moved = False
        self._woken = anyio.Event()
        self._sending = anyio.Lock()

    @property
    def record(self) -> Record:
        """The document as it is now."""
        return self._record

    @property
    def step(self) -> str:
        """The step that runs, or ran last."""
        return self._current

    def insert(self, name: str) -> None:
        """After the step that ran last there is one more, which not every job has."""
        with self._changing:
            self._record = self._record.with_step_after(self._current, name)

    def begin(self, name: str) -> None:
        """A step starts."""
        self._current = name
        self._change(StepRecord(name, StepState.RUNNING, started_at=utc_now()))

    def end(self, state: StepState, message: str | None = None) -> None:
        """The running step ends in `state`; without a message it keeps the one it has."""
        with self._changing:
            step = self._record.step(self._current)
            message = step.message if message is None else message
        self._change(replace(step, state=state, message=message, finished_at=utc_now()))

    def cancel(self) -> None:
        """The job is canceled: the running step and all that wait for it."""
        if self._current and self._record.step(self._current).state is StepState.RUNNING:
            self.end(StepState.CANCELED)
        self.leave_waiting([step.name for step in self._record.steps], StepState.CANCELED, "")

    def leave_waiting(self, names: list[str], state: StepState, message: str) -> None:
        """Steps that were waiting will not run: mark them as `state`."""
        for name in names:
            if self._record.step(name).state is StepState.WAITING:
                self._change(StepRecord(name, state, finished_at=utc_now(), message=message))

    def progress(self, bytes_done: int, bytes_total: int, message: str | None = None) -> None:
        """The running step moved on; without a message it keeps the one it has."""
        with self._changing:
            step = self._record.step(self._current)
            message = step.message if message is None else message
            self._record = self._record.with_step(
                replace(step, bytes_done=bytes_done, bytes_total=bytes_total, message=message)
            )
            self._moved = True

    def note(self, message: str) -> None:
        """What a person should know of the running step now; the empty text takes it back."""
        with self._changing:
            step = replace(self._record.step(self._current), message=message)
            self._record = self._record.with_step(step)
            self._moved = True

    def log(self, line: str) -> None:
        """One line that a program of the running step said (scrubbed already)."""
        if len(self._unsent) < UNSENT_LINES_LIMIT:
            self._unsent.append(_Line(self._current, line))

    def add(self, *, digests: Digests | None = None, result: ImageResult | None = None) -> None:
        """Facts that the running step found out."""
        with self._changing:
            if digests is not None:
                found = {"md5": digests.md5, "sha256": digests.sha256}
                self._record = replace(self._record, digests=found)
            if result is not None:
                self._record = replace(self._record, results=(*self._record.results, result))
            self._unsent.append(_Transition(self._record, None))

    def keep_results(self, results: Sequence[ImageResult]) -> None:
        """Of what an earlier run of the job had pushed, only this is still there."""
        with self._changing:
            self._record = replace(self._record, results=tuple(results))

    def closed(self, status: Status, error: Failure | None = None) -> Record:
        """The document of a job that ended so."""
        return replace(self._record, status=status, error=error, updated_at=utc_now())

    async def run(self) -> None:
        """Write behind, for ever."""
        while True:
            with anyio.move_on_after(PROGRESS_SECONDS):
                await self._woken.wait()
            self._woken = anyio.Event()
            await self._send()

    async def flush(self) -> None:
        """Write what is unsent, unless Redis stays away."""
        with anyio.move_on_after(FLUSH_SECONDS):
            await self._send()

    def _change(self, step: StepRecord) -> None:
        with self._changing:
            self._record = self._record.with_step(step)
            self._moved = False
            self._unsent.append(_Transition(self._record, step.name))
        self._woken.set()

    async def _send(self) -> None:
        async with self._sending:
            try:
                while self._unsent:
                    await self._send_one(self._unsent[0])
                    self._unsent.popleft()
                if self._moved:
                    self._moved = False
                    await self._status.put(self._record, step=self._current)
            except CoordinationLost as error:
                logger.warning("status_unsent upload_id=%s cause=%s", self._record.id, error)

    async def _send_one(self, news: _Transition | _Line) -> None:
        if isinstance(news, _Transition):
            await self._status.put(news.record, step=news.step)
        else:
            record = self._record
            await self._status.log(record.id, record.owner, news.step, news.text)
