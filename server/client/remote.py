"""An upload on the server, by the requests of tus that tuspy does not know.

Knows: deferred lengths, partial and final uploads, a digest on the last PATCH.
Must not know: when to try again, where the bytes come from.

Spec: tus 1.0.0, Creation (deferred length), Concatenation, Termination.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, Self
from urllib.parse import urlsplit

from server.client.connection import Connection
from server.client.errors import Refused, TryAgain, UploadLost
from server.protocols.headers import (
    CONTENT_TYPE,
    LOCATION,
    OFFSET_OCTET_STREAM,
    REPR_DIGEST,
    TUS_1_0_0,
    TUS_RESUMABLE,
    UPLOAD_CONCAT,
    UPLOAD_DEFER_LENGTH,
    UPLOAD_LENGTH,
    UPLOAD_METADATA,
    UPLOAD_OFFSET,
)

# What the images of an archive are called, as a check wants it: `tags`, `id`.
Names = Sequence[Mapping[str, Any]]

_UPLOAD_ID: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")
_VERSION: Final = {TUS_RESUMABLE: TUS_1_0_0}


class RemoteUpload:
    """One upload, asked and filled by whoever knows its id."""

    def __init__(self, connection: Connection, upload_id: str) -> None:
        """Speak of an upload that exists."""
        self.id = upload_id
        self._connection = connection
        self._url = connection.upload_url(upload_id)

    @classmethod
    def deferred(cls, connection: Connection, metadata: Mapping[str, str]) -> Self:
        """Create one whose length is told later.

        Raises:
            Refused, TryAgain: as the server says.
        """
        return cls._created(connection, metadata, {UPLOAD_DEFER_LENGTH: "1"})

    @classmethod
    def partial(cls, connection: Connection, metadata: Mapping[str, str], length: int) -> Self:
        """Create one that is to become a part of another.

        Raises:
            Refused, TryAgain: as the server says.
        """
        asked = {UPLOAD_LENGTH: str(length), UPLOAD_CONCAT: "partial"}
        return cls._created(connection, metadata, asked)

    @classmethod
    def final(
        cls,
        connection: Connection,
        metadata: Mapping[str, str],
        parts: Sequence[str],
        md5: str | None,
    ) -> Self:
        """Make one of whole parts (their ids); the same again is the same upload.

        Raises:
            UploadLost: a part has expired, or the upload was canceled.
            Refused, TryAgain: as the server says.
        """
        paths = " ".join(urlsplit(connection.upload_url(part)).path for part in parts)
        asked = {UPLOAD_CONCAT: f"final;{paths}", **_promise(md5)}
        return cls._created(connection, metadata, asked)

    @classmethod
    def _created(
        cls, connection: Connection, metadata: Mapping[str, str], asked: Mapping[str, str]
    ) -> Self:
        pairs = (f"{name} {_encoded(value)}" for name, value in metadata.items())
        headers = {**_VERSION, **asked, UPLOAD_METADATA: ",".join(pairs)}
        response = connection.ask("POST", connection.files_url, headers=headers)
        return cls(connection, upload_id_of(connection, response.headers))

    def offset(self) -> int:
        """How far it is.

        Raises:
            UploadLost, Refused, TryAgain: as the server says.
        """
        return offset_of(self._connection.ask("HEAD", self._url, headers=_VERSION).headers)

    def append(
        self,
        offset: int,
        body: Iterable[bytes] | bytes,
        *,
        length: int | None = None,
        md5: str | None = None,
    ) -> int:
        """Add a body that has a length; where the upload is then.

        The last one may tell the length of the whole, and the MD5 (Base64) of it.

        Raises:
            UploadLost, Refused, TryAgain: as the server says; what the body raises.
        """
        headers = {
            **_VERSION,
            CONTENT_TYPE: OFFSET_OCTET_STREAM,
            UPLOAD_OFFSET: str(offset),
            **({} if length is None else {UPLOAD_LENGTH: str(length)}),
            **_promise(md5),
        }
        answer = self._connection.ask("PATCH", self._url, headers=headers, body=body)
        return offset_of(answer.headers)

    def remove(self) -> None:
        """Terminate it, whatever state it is in.

        Raises:
            UploadLost, Refused, TryAgain: as the server says.
        """
        self._connection.ask("DELETE", self._url, headers=_VERSION)


def check_beforehand(
    connection: Connection, metadata: Mapping[str, str], length: int, names: Names = ()
) -> Mapping[str, Any]:
    """What the server says of an upload before its first byte: `allowed`, `code`, `reason`, `hint`.

    With the names of the images that are meant, it says it of each place where one would go. Empty
    from a server that has no such question.

    Raises:
        Refused, TryAgain: as the server says.
    """
    question: dict[str, Any] = {**metadata, "length": length}
    if names:
        # Only what is meant was named.
        question = {**question, "images": names, "ref": None}
    try:
        return connection.document("POST", "/api/check", question=question)
    except UploadLost:
        return {}


def upload_id_of(connection: Connection, headers: Mapping[str, str]) -> str:
    """Whose Location it is.

    Raises:
        Refused: there is none; this is no tus server.
    """
    upload_id = headers.get(LOCATION, "").rstrip("/").rpartition("/")[2]
    if not _UPLOAD_ID.fullmatch(upload_id):
        raise Refused(
            f"{connection.files_url} made no upload",
            "is this the address of a Tusboat server?",
            code="not_a_tusboat_server",
        )
    return upload_id


def offset_of(headers: Mapping[str, str]) -> int:
    """Upload-Offset of an answer.

    Raises:
        TryAgain: it is not there; something in between answered.
    """
    text = headers.get(UPLOAD_OFFSET, "")
    if not text.isdecimal():
        raise TryAgain("the answer says no Upload-Offset: something in between answered")
    return int(text)


def _promise(md5: str | None) -> dict[str, str]:
    return {} if md5 is None else {REPR_DIGEST: f"md5=:{md5}:"}


def _encoded(value: str) -> str:
    return base64.b64encode(value.encode()).decode()
