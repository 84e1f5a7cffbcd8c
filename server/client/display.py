"""What a person or a program is told while an upload is under way: plain lines, or JSON lines.

Progress and messages go to stderr. Stdout has the result alone: the images' digests, or with
`--json` one object for each event (`created`, `resumed`, `upload`, `notice`, `status`, `step`,
`uploaded`, `finished`, `error`). Of several archives, each line or object says which one it is
about.

Knows: words, and how often to say them.
Must not know: HTTP, exit codes.
"""

from __future__ import annotations

import abc
import datetime
import json
import time
from types import TracebackType
from typing import Any, Final, Self

import typer

from hooks.record import Record, Status, StepRecord, StepState
from server.client.document import Document
from server.client.errors import ClientError
from server.client.sizes import format_size

_PLAIN_SECONDS: Final = 10.0
_JSON_SECONDS: Final = 1.0


class Display(abc.ABC):
    """Hears of everything; each kind of display shows what fits it."""

    def __init__(self, label: str = "") -> None:
        """Nothing was said yet of the archive of that label (empty: there is only one)."""
        self._label = label
        self._states: dict[str, StepState] = {}
        self._status: Status | None = None

    @abc.abstractmethod
    def of(self, label: str) -> Self:
        """Another one, in the same place, for one archive of several; for a thread of its own."""

    def __enter__(self) -> Self:
        """Begin to show."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Leave the terminal as it was."""
        return

    def begun(self, upload_id: str, offset: int, length: int | None, *, resumed: bool) -> None:
        """Sending starts at `offset`; the length is None where nobody knows it yet."""
        if resumed:
            self.notice(f"going on with {upload_words(upload_id)} at {far_words(offset, length)}")
        self.uploading(upload_id, offset, length)

    def document(self, document: Document) -> None:
        """The status as it is now, as often as it was asked for."""
        record = document.record
        if record.status is Status.RECEIVING and record.length is not None:
            self.uploading(record.id, record.offset, record.length)
        for step in record.steps:
            changed = step.state is not self._states.get(step.name, StepState.WAITING)
            self._states[step.name] = step.state
            self.step(record.id, step, changed=changed)
        if record.status is not self._status:
            self._status = record.status
            self.status(record)

    def finished(self, document: Document) -> None:
        """The upload ended."""
        record = document.record
        if record.status is not Status.DONE:
            return
        for result in record.results:
            self.notice(f"{result.image} is in the registry")
        if not record.results:
            until = f" until {record.expires_at}" if record.expires_at else ""
            unproven = self._states.get("verify") is StepState.SKIPPED
            words = "not verified, but kept" if unproven else "verified, and kept"
            self.notice(f"{words} on the server as upload {record.id}{until}")

    def uploaded(self, upload_id: str) -> None:
        """The last word of somebody who does not wait."""
        self.notice(f"the server goes on by itself: tusboat status {upload_id} --watch")

    def result(self, line: str) -> None:
        """What a script wants to have, on stdout: a digest, or an upload's id."""
        typer.echo(line)

    def status(self, record: Record) -> None:
        """The status changed."""
        if record.status is Status.QUEUED:
            self.notice("queued")

    def error(self, error: ClientError) -> None:
        """It went wrong."""
        self.notice(f"error: {error.message}")
        for line in error.hint.splitlines():
            self.notice(f"hint: {line}")

    def waypoint(self, name: str, done_bytes: int, total_bytes: int) -> None:
        """How far something is, now and then, for who sees no bar."""
        return

    @abc.abstractmethod
    def notice(self, text: str) -> None:
        """A line for a person."""

    @abc.abstractmethod
    def uploading(self, upload_id: str, offset: int, length: int | None) -> None:
        """Sending has come to `offset` (called for every block).

        The id is empty while the parts of an upload are sent, the length None until it is known.
        """

    @abc.abstractmethod
    def step(self, upload_id: str, step: StepRecord, *, changed: bool) -> None:
        """A step as it is now; `changed` when its state is not the one shown before."""


class PlainDisplay(Display):
    """One line on stderr for each transition: for logs and pipes."""

    def __init__(self, label: str = "") -> None:
        """Lines begin with the label."""
        super().__init__(label)
        self._start: tuple[float, int] | None = None
        self._said_at = 0.0
        self._step_said_at = 0.0
        self._whole = False

    def of(self, label: str) -> Self:
        """Another one for the same stream."""
        return type(self)(label)

    def notice(self, text: str) -> None:
        """A line on stderr."""
        typer.echo(printable(f"{self._label}: {text}" if self._label else text), err=True)

    def uploading(self, upload_id: str, offset: int, length: int | None) -> None:
        """A line at the start, every ten seconds, and at the end."""
        now = time.monotonic()
        name = upload_words(upload_id)
        if self._start is None:
            self._start, self._said_at = (now, offset), now
            size = "of unknown length" if length is None else format_size(length)
            self.notice(f"{name}: {size}")
        whole = length is not None and offset >= length
        if now - self._said_at < _PLAIN_SECONDS and (not whole or self._whole):
            return
        self._said_at, self._whole = now, whole
        began, base = self._start
        speed = format_size((offset - base) / max(now - began, 0.001))
        share = f" ({100 * offset // length} %)" if length else ""
        self.notice(f"{name}: {far_words(offset, length)}{share}, {speed}/s")

    def waypoint(self, name: str, done_bytes: int, total_bytes: int) -> None:
        """A line."""
        done = f"{format_size(done_bytes)} of {format_size(total_bytes)}"
        self.notice(f"{name}: {done} ({100 * done_bytes // total_bytes} %)")

    def step(self, upload_id: str, step: StepRecord, *, changed: bool) -> None:
        """A line for each change, and every ten seconds of one that has far to go."""
        now = time.monotonic()
        if changed:
            self._step_said_at = now
            self.notice(step_words(step))
        elif is_on_its_way(step) and now - self._step_said_at >= _PLAIN_SECONDS:
            self._step_said_at = now
            self.waypoint(step.name, step.bytes_done, step.bytes_total)


class QuietDisplay(PlainDisplay):
    """The result and errors, and nothing else."""

    def notice(self, text: str) -> None:
        """Not said."""

    def error(self, error: ClientError) -> None:
        """As others say it."""
        super().notice(f"error: {error.message}")
        for line in error.hint.splitlines():
            super().notice(f"hint: {line}")


class JsonDisplay(Display):
    """One JSON object a line on stdout, nothing on stderr."""

    def __init__(self, label: str = "") -> None:
        """Each object says the label."""
        super().__init__(label)
        self._said_at = 0.0
        self._step_said_at = 0.0

    def of(self, label: str) -> Self:
        """Another one for the same stream."""
        return type(self)(label)

    def begun(self, upload_id: str, offset: int, length: int | None, *, resumed: bool) -> None:
        """`created` or `resumed`; what is sent in parts has an id, and is created, at the end."""
        if resumed or upload_id:
            event = "resumed" if resumed else "created"
            self._emit(event, id=upload_id or None, offset=offset, length=length)

    def notice(self, text: str) -> None:
        """`notice`."""
        self._emit("notice", message=text)

    def uploading(self, upload_id: str, offset: int, length: int | None) -> None:
        """`upload`, at most once a second; a document's `receiving` says it, too."""
        now = time.monotonic()
        if now - self._said_at >= _JSON_SECONDS:
            self._said_at = now
            self._emit("upload", id=upload_id or None, offset=offset, length=length)

    def step(self, upload_id: str, step: StepRecord, *, changed: bool) -> None:
        """`step`, at most once a second for one that has far to go."""
        now = time.monotonic()
        moving = is_on_its_way(step) and now - self._step_said_at >= _JSON_SECONDS
        if changed or moving:
            self._step_said_at = now
            self._emit("step", id=upload_id, step=step.to_json())

    def status(self, record: Record) -> None:
        """`status`."""
        self._emit("status", id=record.id, status=record.status.value)

    def uploaded(self, upload_id: str) -> None:
        """`uploaded`."""
        self._emit("uploaded", id=upload_id)

    def result(self, line: str) -> None:
        """Said by `finished` and `uploaded`."""

    def finished(self, document: Document) -> None:
        """`finished`, with the whole document."""
        self._emit("finished", upload=dict(document.raw))

    def error(self, error: ClientError) -> None:
        """`error`."""
        self._emit("error", code=error.code, message=error.message, hint=error.hint)

    def _emit(self, event: str, **values: Any) -> None:
        about = {"archive": self._label} if self._label else {}
        typer.echo(json.dumps({"event": event, **about, **values}))


def upload_words(upload_id: str) -> str:
    """The upload as it is spoken of; while its parts are sent it has no id."""
    return f"upload {upload_id}" if upload_id else "upload"


def far_words(offset: int, length: int | None) -> str:
    """How far something has come."""
    so_far = format_size(offset)
    return f"{so_far} so far" if length is None else f"{so_far} of {format_size(length)}"


def is_on_its_way(step: StepRecord) -> bool:
    """Whether it can be said how far a step is."""
    return step.state is StepState.RUNNING and step.bytes_total > 0


def step_words(step: StepRecord) -> str:
    """A step in one line: name, state, how long it took, and its message."""
    words = f"{step.name}: {step.state.value}"
    if step.started_at and step.finished_at and step.state is not StepState.SKIPPED:
        began, ended = map(datetime.datetime.fromisoformat, (step.started_at, step.finished_at))
        words += f" in {(ended - began).total_seconds():.1f} s"
    return f"{words}: {step.message}" if step.message else words


def printable(text: str) -> str:
    """The text without anything that a terminal would obey: names come from strangers."""
    return "".join(
        one if one.isprintable() or one == "\n" else "\N{REPLACEMENT CHARACTER}" for one in text
    )
