"""tuspy's uploader over our connection: deadlines, streamed chunks, a digest on the last PATCH.

tuspy 1.1 asks without any time-out, reads a chunk whole into memory, and can not add a header to
one PATCH; what it does for the protocol (headers, metadata, offsets, the order of requests) stays.

Knows: tus 1.0.0 from the client's side, for one upload.
Must not know: when to try again, what is remembered between runs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from tusclient.client import TusClient
from tusclient.request import TusRequest
from tusclient.uploader.uploader import Uploader

from server.client.archive import Archive, Slice
from server.client.connection import Connection
from server.client.errors import Refused
from server.client.remote import Names, check_beforehand, offset_of, upload_id_of
from server.protocols.headers import REPR_DIGEST

# What the server knows beforehand, and would else say after the last byte only: a tag that it would
# not move, an image without a place to go, or for which its own name makes none.
_TOO_LATE: Final = frozenset(
    {"tag_exists", "archive_not_chosen", "invalid_reference", "repository_not_allowed"}
)


class ArchiveUploader(Uploader):
    """One archive on its way to one upload.

    `offset` is how far the server is known to be; `upload_id` is empty until `create`.
    """

    def __init__(
        self,
        connection: Connection,
        archive: Archive,
        metadata: dict[str, str],
        names: Names,
        *,
        chunk_size: int,
        on_read: Callable[[int], None],
        digest: Callable[[], str] | None,
    ) -> None:
        """Prepare; nothing is sent yet.

        `names` is what the images in it are called. `digest` gives the MD5 of the whole archive as
        Base64, asked for before the last PATCH.
        """
        super().__init__(
            file_stream=archive.stream,
            client=TusClient(connection.files_url),
            chunk_size=chunk_size,
            metadata=metadata,
        )
        self.connection = connection
        self.archive = archive
        self.on_read = on_read
        self.digest = digest
        self.names = names
        self.upload_id = ""

    @property
    def target(self) -> str:
        """URL of the upload."""
        return self.connection.upload_url(self.upload_id)

    def create(self) -> None:
        """Make the upload on the server, unless its image could not be pushed afterwards.

        Raises:
            Refused, TryAgain: as the server says.
        """
        self._check()
        self.resume(self.create_url())
        self.offset = 0

    def _check(self) -> None:
        """Before the first byte, hear what nobody but the job would say after the last one.

        What else stands against the upload, its creation says itself. A server that cannot tell is
        no reason not to send.
        """
        image = {name: value for name, value in self.metadata.items() if name == "image"}
        if not image and not self.names:
            return
        answer = check_beforehand(self.connection, image, self.archive.length, self.names)
        if answer.get("code") in _TOO_LATE:
            reason, hint = str(answer.get("reason")), str(answer.get("hint"))
            raise Refused(reason, hint, code=str(answer["code"]))

    def resume(self, upload_id: str) -> None:
        """Go on with an upload that exists; `refresh` says where."""
        self.upload_id = upload_id
        self.set_url(self.target)

    def refresh(self) -> None:
        """Ask the server for the offset.

        Raises:
            UploadLost, Refused, TryAgain: as the server says.
        """
        self.offset = self.get_offset()

    def send_chunk(self) -> None:
        """Send the next chunk; `offset` is the server's afterwards.

        Raises:
            ArchiveUnusable: the file cannot be read, or changed.
            UploadLost, Refused, TryAgain: as the server says.
        """
        self.archive.check_unchanged()
        self.upload_chunk()  # type: ignore[no-untyped-call]

    def terminate(self) -> None:
        """Remove the upload from the server, whatever state it is in.

        Raises:
            UploadLost, Refused, TryAgain: as the server says.
        """
        headers = self.get_headers()  # type: ignore[no-untyped-call]
        self.connection.ask("DELETE", self.target, headers=headers)

    def create_url(self) -> str:
        """Tuspy's hook for POST: the id of the new upload.

        Raises:
            Refused: the answer is no, or not a tus answer.
            TryAgain: no answer.
        """
        headers = self.get_url_creation_headers()  # type: ignore[no-untyped-call]
        response = self.connection.ask("POST", self.connection.files_url, headers=headers)
        return upload_id_of(self.connection, response.headers)

    def get_offset(self) -> int:
        """Tuspy's hook for HEAD.

        Raises:
            UploadLost, Refused, TryAgain: as the server says.
        """
        headers = self.get_headers()  # type: ignore[no-untyped-call]
        return offset_of(self.connection.ask("HEAD", self.target, headers=headers).headers)

    def _do_request(self) -> None:
        request = ChunkRequest(self)
        request.perform()
        self.request = request  # type: ignore[assignment] # declared by its first value, None


class ChunkRequest(TusRequest):
    """One PATCH."""

    def __init__(self, uploader: ArchiveUploader) -> None:
        """Take what to send from the uploader, as it stands now."""
        super().__init__(uploader)  # type: ignore[no-untyped-call]
        self._connection = uploader.connection
        start, length = uploader.offset, self._content_length
        self._body = Slice(uploader.archive, start, length, uploader.on_read)
        if uploader.digest and start + length == uploader.archive.length:
            self._request_headers[REPR_DIGEST] = f"md5=:{uploader.digest()}:"

    def perform(self) -> None:
        """Send it; `response_headers` has the new offset afterwards.

        Raises:
            ArchiveUnusable, UploadLost, Refused, TryAgain: as `ArchiveUploader.send_chunk`.
        """
        response = self._connection.ask(
            "PATCH", self._url, headers=self._request_headers, body=self._body
        )
        self.status_code = response.status_code
        self.response_headers = {"upload-offset": str(offset_of(response.headers))}
