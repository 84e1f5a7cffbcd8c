"""An upload that is followed to its end, and how a command ends with it.

Knows: that an interruption leaves the server at it.
Must not know: how an archive is sent.
"""

from __future__ import annotations

import typer

from server.client.connection import Connection
from server.client.display import Display
from server.client.document import Document
from server.client.exits import INTERRUPTED
from server.client.options import Place
from server.client.watch import follow


def followed(connection: Connection, upload_id: str, display: Display, place: Place) -> Document:
    """The upload's last document; an interruption leaves the server at it.

    Raises:
        typer.Exit: interrupted.
        UploadLost, Refused: the server does not show it (any more).
        GaveUp: the server did not come back.
    """
    try:
        return follow(connection, upload_id, display, place.patience(display))
    except KeyboardInterrupt as error:
        raise interrupted(display, upload_id) from error


def interrupted(display: Display, *upload_ids: str) -> typer.Exit:
    """How a command ends that only watched."""
    for upload_id in upload_ids:
        display.notice(f"interrupted; the server goes on: tusboat status {upload_id} --watch")
    return typer.Exit(INTERRUPTED)


def conclude(display: Display, document: Document) -> None:
    """Say how it ended; a good end's digests go to stdout.

    Raises:
        UploadEnded: not well.
    """
    display.finished(document)
    document.check_done()
    for result in document.record.results:
        display.result(result.digest)
