"""Uploads as a table, and one upload in detail, on stdout.

Knows: rich, and the status document.
Must not know: HTTP, exit codes.
"""

from __future__ import annotations

import datetime
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final

import typer
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from hooks.record import Record, Status, StepRecord, StepState
from server.client.display import printable, step_words
from server.client.pace import Pace
from server.client.sizes import format_size

# Wide enough for any row: a log or a pipe gets each upload in one line, and nothing cut off.
_UNBOUNDED: Final = 10_000
_SHORTEST_ID: Final = 8
_LONGEST_ID: Final = 64
# As both clients name parts.
_PART_NAME: Final = re.compile(r" \([^()]*\)$")
_STYLES: Final = {
    Status.DONE: "green",
    Status.FAILED: "red",
    Status.CANCELED: "yellow",
    Status.EXPIRED: "yellow",
    Status.RUNNING: "cyan",
}


def show(content: RenderableType) -> None:
    """Print it: as wide as the terminal, or unbounded and bare where there is none."""
    console = Console(highlight=False)
    if console.is_terminal:
        console.print(content)
        return
    bare = Console(highlight=False, width=_UNBOUNDED, file=io.StringIO())
    with bare.capture() as captured:
        bare.print(content)
    typer.echo("\n".join(line.rstrip() for line in captured.get().splitlines()))


def list_of(records: Sequence[Record], paces: Mapping[str, Pace] | None = None) -> Table:
    """One row for each upload; the parts of one file are one.

    On a terminal, ids are as long as tells them apart, and times are how long ago.
    """
    terminal = Console().is_terminal
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for name in ("ID", "STATUS", "FILE", "SIZE", "DONE", "IMAGE", "UPDATED"):
        whole = name in {"ID", "STATUS", "SIZE", "UPDATED"}
        table.add_column(name, overflow="fold", no_wrap=whole)
    shown = joined(records)
    digits = _digits([record.id for record in shown]) if terminal else None
    for record in shown:
        size = format_size(record.length) if record.length is not None else "?"
        pace = paces.get(record.id) if paces else None
        table.add_row(
            _text(record.id[:digits]),
            Text(record.status.value, style=_STYLES.get(record.status, "")),
            _text(record.filename or "-"),
            _text(size),
            _text(" ".join([where(record), *_speed(record, pace)]).strip()),
            _text(record.image or "-"),
            _text(_ago(record.updated_at) if terminal else record.updated_at),
        )
    return table


def joined(records: Sequence[Record]) -> list[Record]:
    """The same with the parts of each file as one, in the place of the first of them."""
    files: dict[tuple[str, str], list[Record]] = {}
    rows: list[Record | tuple[str, str]] = []
    for record in records:
        if record.part_of is None:
            rows.append(record)
            continue
        file = (record.owner, record.part_of)
        if file not in files:
            rows.append(file)
        files.setdefault(file, []).append(record)
    return [row if isinstance(row, Record) else _whole(files[row]) for row in rows]


def _whole(parts: Sequence[Record]) -> Record:
    lengths = [part.length for part in parts]
    name = _PART_NAME.sub("", parts[0].filename)
    return replace(
        parts[0],
        filename=f"{name} in {len(parts)} parts",
        length=None if None in lengths else sum(length or 0 for length in lengths),
        offset=sum(part.offset for part in parts),
        updated_at=max(part.updated_at for part in parts),
    )


def moved_bytes(record: Record) -> int:
    """How far it is in what it is doing now."""
    running = (step.bytes_done for step in record.steps if step.state is StepState.RUNNING)
    return record.offset if record.status is Status.RECEIVING else next(running, 0)


def _speed(record: Record, pace: Pace | None) -> list[str]:
    """Speed and time left, while something moves."""
    per_second = pace.per_second if pace and not record.status.terminal else 0
    if per_second <= 0:
        return []
    words = [f"{format_size(per_second)}/s"]
    running = (step.bytes_total for step in record.steps if step.state is StepState.RUNNING)
    total = record.length if record.status is Status.RECEIVING else next(running, 0)
    if total:
        words.append(f"{_span((total - moved_bytes(record)) / per_second)} left")
    return words


def _digits(ids: Sequence[str]) -> int:
    """How many digits of an id tell all of these apart."""
    for digits in range(_SHORTEST_ID, _LONGEST_ID):
        if len({one[:digits] for one in ids}) == len(ids):
            return digits
    return _LONGEST_ID


def _ago(moment: str) -> str:
    then = datetime.datetime.fromisoformat(moment)
    return f"{_span((datetime.datetime.now(datetime.UTC) - then).total_seconds())} ago"


def _span(seconds: float) -> str:
    """A time in the unit that fits it."""
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{max(seconds, 0):.0f} s"


def detail_of(record: Record) -> RenderableType:
    """Everything that is known about one upload."""
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    rows = [
        ("upload", record.id),
        ("status", record.status.value),
        ("file", f"{record.filename or '-'} ({_received(record)})"),
        ("image", record.image or "none: verified and kept"),
        ("owner", record.owner),
        ("created", record.created_at),
        ("updated", record.updated_at),
        ("expires", record.expires_at or "-"),
    ]
    rows += [(name, value) for name, value in record.digests.items() if value]
    rows += [("step", _step(step)) for step in record.steps]
    rows += [("result", f"{result.image}@{result.digest}") for result in record.results]
    for name, value in rows:
        table.add_row(Text(name, style="bold"), _text(value))
    if record.error is None:
        return table
    message = f"error: {record.error.message} ({record.error.code})"
    return Group(table, _text(message, "red"), _text(f"hint: {record.error.hint}"))


def where(record: Record) -> str:
    """Where it is: per cent while it is received, the running step afterwards."""
    if record.status is Status.RECEIVING and record.length:
        return f"{100 * record.offset // record.length} %"
    for step in record.steps:
        if step.state is StepState.RUNNING:
            return f"{step.name}{_share(step)}"
    return record.error.step if record.error else ""


def _share(step: StepRecord) -> str:
    return f" {100 * step.bytes_done // step.bytes_total} %" if step.bytes_total else ""


def _step(step: StepRecord) -> str:
    return step_words(step) + (_share(step) if step.state is StepState.RUNNING else "")


def _received(record: Record) -> str:
    if record.length is None:
        return f"{format_size(record.offset)} so far"
    if record.offset == record.length:
        return format_size(record.length)
    return f"{format_size(record.offset)} of {format_size(record.length)}"


def _text(words: str, style: str = "") -> Text:
    """Words of strangers: no markup, no control characters."""
    return Text(printable(words), style=style)
