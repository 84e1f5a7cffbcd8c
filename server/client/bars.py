"""Progress bars on a terminal: one for the upload, one for each step that follows.

Of several archives, each has one bar, which goes through all of it.

Knows: rich.
Must not know: HTTP, exit codes.
"""

from __future__ import annotations

import time
from types import TracebackType
from typing import Final, Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from hooks.record import StepRecord, StepState
from server.client.display import Display, printable, step_words
from server.client.sizes import format_size

_REFRESH_SECONDS: Final = 0.1
_LABEL_WIDTH: Final = 24


class _SpeedColumn(ProgressColumn):
    """Bytes a second in the same binary units as the sizes beside it (rich's own are decimal)."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text(f"{format_size(speed)}/s" if speed else "", style="progress.data.speed")


class BarsDisplay(Display):
    """Bars on stderr, messages above them."""

    def __init__(self, label: str = "", progress: Progress | None = None) -> None:
        """Prepare; entering shows them."""
        super().__init__(label)
        self._progress = progress or Progress(
            TextColumn("{task.description:<8}", markup=False),
            BarColumn(),
            TaskProgressColumn(),
            DownloadColumn(binary_units=True),
            _SpeedColumn(),
            TimeRemainingColumn(compact=True, elapsed_when_finished=True),
            console=Console(stderr=True, highlight=False),
        )
        self._tasks: dict[str, TaskID] = {}
        self._names: dict[TaskID, str] = {}
        self._drawn_at = 0.0

    def __enter__(self) -> Self:
        """Show them."""
        self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Leave the last picture, and the terminal as it was."""
        self._progress.stop()

    def of(self, label: str) -> Self:
        """A bar among the others, in the order in which they were asked for."""
        one = type(self)(label, self._progress)
        task = self._progress.add_task(label, total=None, visible=False)
        one._tasks[label] = task
        one._names[task] = ""
        return one

    def notice(self, text: str) -> None:
        """A line above the bars."""
        words = printable(f"{self._label}: {text}" if self._label else text)
        self._progress.console.print(words, markup=False, emoji=False, soft_wrap=True)

    def uploading(self, upload_id: str, offset: int, length: int | None) -> None:
        """Move the first bar."""
        now = time.monotonic()
        if now - self._drawn_at >= _REFRESH_SECONDS or offset == length:
            self._drawn_at = now
            self._draw("upload", offset, length or 0)

    def step(self, upload_id: str, step: StepRecord, *, changed: bool) -> None:
        """Move the step's bar; one that ended without bytes or badly gets a line instead."""
        match step.state:
            case StepState.RUNNING:
                self._draw(step.name, step.bytes_done, step.bytes_total)
            case StepState.DONE if step.bytes_total and changed:
                self._draw(step.name, step.bytes_total, step.bytes_total)
            case StepState.WAITING:
                pass
            case _ if changed:
                if not self._label:
                    self._remove(step.name)
                self.notice(step_words(step))

    def _draw(self, name: str, done: int, total: int) -> None:
        # Without a total, the bar shows that something goes on, and not how far it is.
        size = total or None
        key = self._label or name
        words = f"{_short(self._label)} {name}" if self._label else name
        task = self._tasks.get(key)
        if task is None:
            task = self._tasks[key] = self._progress.add_task(words, total=size, completed=done)
        elif self._names[task] != name:
            # Another step: its speed is its own, and it may not know its size yet.
            self._progress.reset(task, completed=done, description=words, visible=True)
        self._names[task] = name
        # Not by `update`, which forgets the speed when the size becomes known.
        self._row(task).total = size
        self._progress.update(task, completed=done)

    def _row(self, task: TaskID) -> Task:
        return next(row for row in self._progress.tasks if row.id == task)

    def _remove(self, name: str) -> None:
        task = self._tasks.pop(name, None)
        if task is not None:
            self._progress.remove_task(task)


def _short(label: str) -> str:
    """A name that leaves room for the bar."""
    shown = printable(label)
    return (
        shown
        if len(shown) <= _LABEL_WIDTH
        else f"{shown[: _LABEL_WIDTH - 1]}\N{HORIZONTAL ELLIPSIS}"
    )
