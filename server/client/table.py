"""Uploads as a table, and one upload in detail, on stdout.

Knows: rich, and the status document.
Must not know: HTTP, exit codes.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Final

import typer
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from hooks.record import Record, Status, StepRecord, StepState
from server.client.display import printable, step_words
from server.client.sizes import format_size

# Wide enough for any row: a log or a pipe gets each upload in one line, and nothing cut off.
_UNBOUNDED: Final = 10_000
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


def list_of(records: Sequence[Record]) -> Table:
    """One row for each upload."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for name in ("ID", "STATUS", "FILE", "SIZE", "DONE", "IMAGE", "UPDATED"):
        table.add_column(name, overflow="fold", no_wrap=name in {"STATUS", "SIZE", "UPDATED"})
    for record in records:
        size = format_size(record.length) if record.length is not None else "?"
        table.add_row(
            _text(record.id),
            Text(record.status.value, style=_STYLES.get(record.status, "")),
            _text(record.filename or "-"),
            _text(size),
            _text(where(record)),
            _text(record.image or "-"),
            _text(record.updated_at),
        )
    return table


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
