"""The list of uploads and one upload, shown once or kept up to date, on stdout.

Knows: the API's pages; what to print for a person, a pipe and a program.
Must not know: exit codes, how a table is drawn.
"""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Iterable, Mapping
from typing import Final

import typer
from rich.live import Live

from server.client.connection import Connection
from server.client.display import printable
from server.client.document import Document
from server.client.errors import Refused, TryAgain
from server.client.pace import Pace
from server.client.patience import Patience
from server.client.table import detail_of, joined, list_of, moved_bytes, show, where

_WATCH_SECONDS: Final = 1.0
_PAGE: Final = 100


def show_one(document: Document, *, as_json: bool) -> None:
    """Everything about one upload."""
    if as_json:
        typer.echo(json.dumps(document.raw))
    else:
        show(detail_of(document.record))


def show_log(lines: Iterable[Mapping[str, str]], *, as_json: bool) -> None:
    """The lines, each with the step that said it."""
    for line in lines:
        text = f"{line.get('step')}: {line.get('line')}"
        typer.echo(json.dumps(line) if as_json else printable(text))


def show_all(connection: Connection, limit: int, *, as_json: bool) -> None:
    """The newest `limit` uploads.

    Raises:
        Refused, UploadLost, TryAgain: as the server says.
    """
    documents = newest(connection, limit)
    if as_json:
        for document in documents:
            typer.echo(json.dumps(document.raw))
    elif documents:
        show(list_of([document.record for document in documents]))
    else:
        typer.echo("no uploads", err=True)


def watch_all(connection: Connection, limit: int, patience: Patience, *, as_json: bool) -> None:
    """The same, again and again, until nothing is under way: redrawn, or a line for each change.

    Raises:
        Refused, UploadLost: as the server says.
        GaveUp: the server did not come back.
    """
    drawn = sys.stdout.isatty() and not as_json
    live = Live(auto_refresh=False) if drawn else None
    seen: dict[str, str] = {}
    paces: dict[str, Pace] = {}
    with live or contextlib.nullcontext():
        while True:
            try:
                documents = newest(connection, limit)
            except TryAgain as error:
                patience.wait(error)
                continue
            patience.progressed()
            if live:
                records = [document.record for document in documents]
                for record in joined(records):
                    paces.setdefault(record.id, Pace()).add(moved_bytes(record))
                live.update(list_of(records, paces) if records else "no uploads", refresh=True)
            else:
                _print_changes(documents, seen, as_json=as_json)
            if all(document.record.status.terminal for document in documents):
                return
            time.sleep(_WATCH_SECONDS)


def newest(connection: Connection, limit: int) -> list[Document]:
    """The newest uploads that the caller may see, over as many pages as it takes.

    Raises:
        Refused, UploadLost, TryAgain: as the server says.
    """
    documents: list[Document] = []
    cursor = None
    while len(documents) < limit:
        query = {"limit": str(min(limit - len(documents), _PAGE))}
        if cursor:
            query["cursor"] = cursor
        page = connection.document("GET", "/api/uploads", query)
        rows, cursor = page.get("uploads"), page.get("next")
        if not isinstance(rows, list):
            raise Refused(f"{connection.server} sent a list that is not one", code="not_understood")
        documents += map(Document.parse, rows)
        if not cursor or not rows:
            break
    return documents[:limit]


def _print_changes(documents: list[Document], seen: dict[str, str], *, as_json: bool) -> None:
    for document in documents:
        record = document.record
        now = f"{record.status.value} {where(record)}".rstrip()
        if seen.get(record.id) == now:
            continue
        seen[record.id] = now
        if as_json:
            typer.echo(json.dumps(document.raw))
        else:
            typer.echo(printable(f"{record.id} {record.filename or '-'}: {now}"))
