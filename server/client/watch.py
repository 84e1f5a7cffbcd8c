"""Following an upload until it ends, over restarts of the server.

Knows: how often to ask, and which status is the last.
Must not know: command lines, exit codes.
"""

from __future__ import annotations

import re
import time
from typing import Final

from hooks.record import Status
from server.client.connection import Connection
from server.client.display import Display
from server.client.document import Document
from server.client.errors import ClientError, Refused, TryAgain, UploadEnded
from server.client.patience import Patience

POLL_SECONDS: Final = 0.5
_UPLOAD_ID: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")
_BEGINNING: Final = re.compile(r"[0-9a-f]{4,31}")


def follow(
    connection: Connection, upload_id: str, display: Display, patience: Patience
) -> Document:
    """Show an upload's status until it is terminal; the last document.

    Raises:
        UploadLost, Refused: the server does not show it (any more).
        GaveUp: the server did not come back.
    """
    while True:
        try:
            document = fetch(connection, upload_id)
        except TryAgain as error:
            patience.wait(error)
            continue
        patience.progressed()
        display.document(document)
        if document.record.status.terminal:
            return document
        time.sleep(POLL_SECONDS)


def resolve(connection: Connection, text: str) -> str:
    """The id of the upload that a person means, who may write only the beginning of it.

    Raises:
        Refused: there is no such upload, or more than one; or as the server says.
        UploadLost, TryAgain: as the server says.
    """
    if not _BEGINNING.fullmatch(text):
        return text
    found: list[str] = []
    query = {"q": text, "limit": "500"}
    while True:
        page = connection.document("GET", "/api/uploads", query)
        ids = [str(row["id"]) for row in page.get("uploads", ())]
        found += [one for one in ids if one.startswith(text)]
        if not page.get("next"):
            break
        query["cursor"] = str(page["next"])
    match found:
        case [upload_id]:
            return upload_id
        case []:
            raise Refused(f"no upload's id begins with {text}", "`tusboat status` lists them")
        case _:
            raise Refused(f"several uploads' ids begin with {text}", ", ".join(found))


def fetch(connection: Connection, upload_id: str) -> Document:
    """The status document now.

    Raises:
        UploadLost, Refused, TryAgain: as the server says.
    """
    return Document.parse(connection.document("GET", _path(upload_id)))


def fetch_log(connection: Connection, upload_id: str) -> list[dict[str, str]]:
    """What the steps of an upload said: rows of `event`, `step` and `line`.

    Raises:
        UploadLost, Refused, TryAgain: as the server says.
    """
    path = f"{_path(upload_id)}/log"
    lines = connection.document("GET", path).get("lines")
    if not isinstance(lines, list):
        raise Refused(f"{connection.server} sent a log that is none", code="not_understood")
    return lines


def act(connection: Connection, upload_id: str, action: str) -> Document:
    """Do something with an upload (`cancel`, `retry`); the status document afterwards.

    Raises:
        UploadLost, Refused, TryAgain: as the server says.
    """
    return Document.parse(connection.document("POST", f"{_path(upload_id)}/{action}"))


def is_canceled(connection: Connection, upload_id: str) -> bool:
    """Whether somebody canceled it, as far as the server says."""
    try:
        return fetch(connection, upload_id).record.status is Status.CANCELED
    except ClientError:
        return False


def canceled_meanwhile(upload_id: str) -> UploadEnded:
    """What is said of an upload that was canceled before all of it was sent."""
    return UploadEnded(f"upload {upload_id} was canceled while it was sent", code="canceled")


def _path(upload_id: str) -> str:
    """Where the API has an upload; what could mean another path is refused here."""
    if not _UPLOAD_ID.fullmatch(upload_id):
        raise Refused(f"{upload_id!r} is not an upload's id", "`tusboat status` lists them")
    return f"/api/uploads/{upload_id}"
