"""Sending standard input: nothing of it can be had twice, so nothing is remembered.

Knows: that the length is told at the end, and that what cannot be finished is removed.
Must not know: command lines, exit codes.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass

from server.client.connection import Connection
from server.client.display import Display
from server.client.errors import ClientError, Refused, TryAgain, UploadEnded, UploadLost
from server.client.leg import Ending, Leg
from server.client.patience import Patience
from server.client.pipe import Pipe
from server.client.remote import RemoteUpload, check_beforehand


@dataclass(frozen=True)
class PipeErrand:
    """What to send, what for, and how."""

    pipe: Pipe
    metadata: Mapping[str, str]
    chunk_size: int
    with_digest: bool
    check_whole: bool


class PipeSender:
    """Carries a pipe to the server, a chunk at a time; a lost connection costs one chunk again."""

    def __init__(
        self, connection: Connection, display: Display, patience: Patience, errand: PipeErrand
    ) -> None:
        """Prepare; nothing is read or sent yet."""
        self._connection = connection
        self._display = display
        self._patience = patience
        self._errand = errand

    def send(self) -> str:
        """Send it all; the upload's id.

        Whatever ends it earlier, an interruption too, removes from the server what it has.

        Raises:
            ArchiveUnusable: the pipe is empty, cannot be read, or broke off.
            UploadEnded: the server has lost the upload, or somebody canceled it.
            Refused, GaveUp: the server's or the line's last word.
        """
        pipe = self._errand.pipe
        pipe.fill()
        pipe.check_any()
        upload = self._created()
        with contextlib.ExitStack() as undo:
            undo.callback(self._remove, upload)
            self._display.begun(upload.id, 0, None, resumed=False)
            try:
                self._carry(upload)
            except UploadLost as lost:
                raise UploadEnded(
                    f"upload {upload.id} is gone, canceled or lost: {lost.message}",
                    "standard input cannot be had twice: run the whole pipe again",
                    code="upload_lost",
                ) from lost
            undo.pop_all()
        return upload.id

    def forget(self) -> None:
        """Nothing was remembered."""

    def _carry(self, upload: RemoteUpload) -> None:
        errand, pipe = self._errand, self._errand.pipe

        def on_read(position: int) -> None:
            self._display.uploading(upload.id, position, pipe.end if pipe.ended else None)

        def on_resumed(offset: int) -> None:
            length = pipe.end if pipe.ended else None
            self._display.begun(upload.id, offset, length, resumed=True)

        leg = Leg(
            upload,
            pipe,
            self._patience,
            chunk_size=errand.chunk_size,
            on_read=on_read,
            on_resumed=on_resumed,
        )
        leg.offset = 0
        while not pipe.ended:
            leg.carry(pipe.start, pipe.end)
            pipe.fill()
        if errand.check_whole:
            pipe.check_whole()
        leg.carry(
            pipe.start, pipe.end, Ending(pipe.end, pipe.md5() if errand.with_digest else None)
        )
        self._display.uploading(upload.id, pipe.end, pipe.end)

    def _created(self) -> RemoteUpload:
        metadata = self._errand.metadata
        while True:
            try:
                answer = check_beforehand(self._connection, metadata, self._errand.pipe.end)
                if answer.get("allowed") is False:
                    raise Refused(
                        str(answer.get("reason")),
                        str(answer.get("hint")),
                        code=str(answer.get("code")),
                    )
                upload = RemoteUpload.deferred(self._connection, metadata)
            except TryAgain as error:
                self._patience.wait(error)
            else:
                self._patience.progressed()
                return upload

    def _remove(self, upload: RemoteUpload) -> None:
        # Nobody can go on with it; if this fails, too, the server lets it expire.
        with contextlib.suppress(ClientError):
            upload.remove()
