"""Sending one archive, over lost connections, restarts and runs of the command.

Knows: what is remembered between runs, and what to do when the server lost the upload.
Must not know: command lines, exit codes.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass

from server.client.archive import Archive, TrailingDigest
from server.client.connection import Connection
from server.client.display import Display
from server.client.errors import ArchiveChanged, ClientError, UploadLost
from server.client.journey import Journey, waited_for
from server.client.memory import Memory
from server.client.patience import Patience
from server.client.remote import Names
from server.client.uploader import ArchiveUploader
from server.client.watch import canceled_meanwhile, is_canceled
from server.client.wishes import Wishes


@dataclass(frozen=True)
class Errand:
    """What to send, what for, what its images are called (if somebody looked), and how."""

    archive: Archive
    wishes: Wishes
    names: Names
    chunk_size: int
    with_digest: bool
    give_up_after_seconds: float

    @property
    def metadata(self) -> dict[str, str]:
        """What is said of it when the upload is created."""
        return {"filename": self.archive.name, **self.wishes.metadata}

    def fingerprint(self, server: str) -> str:
        """The name under which it is remembered.

        Raises:
            ArchiveUnusable: the file cannot be read.
        """
        return self.archive.fingerprint(server, *self.wishes.identity)


class Sender:
    """Carries an archive to the server."""

    def __init__(
        self, connection: Connection, memory: Memory, display: Display, errand: Errand
    ) -> None:
        """Prepare, and find out under which name this errand is remembered."""
        self._connection = connection
        self._memory = memory
        self._display = display
        self._errand = errand
        self._fingerprint = errand.fingerprint(connection.server)

    def send(self) -> str:
        """Send it all; the upload's id.

        Raises:
            ArchiveUnusable: the file cannot be read.
            ArchiveChanged: somebody wrote to it; what the server has was removed.
            UploadEnded: somebody canceled the upload meanwhile.
            Refused, UploadLost, GaveUp: the server's or the line's last word.
        """
        try:
            return self._deliver(self._memory.find(self._fingerprint))
        except UploadLost as lost:
            self.forget()
            self._display.notice(f"the upload is gone; beginning anew ({lost.message})")
        return self._deliver(None)

    def forget(self) -> None:
        """The upload came to an end: the same command again is a new upload."""
        self._memory.forget(self._fingerprint)

    def _deliver(self, known: str | None) -> str:
        """One upload from wherever it is to its last byte."""
        with contextlib.ExitStack() as stack:
            digest = None
            if self._errand.with_digest:
                digest = stack.enter_context(TrailingDigest(self._errand.archive))
            uploader = self._uploader(digest)
            if known:
                uploader.resume(known)
            journey = Journey(
                uploader,
                Patience(self._errand.give_up_after_seconds, self._display.notice),
                self._display,
                digest=digest,
                on_created=self._remember,
            )
            try:
                journey.run()
            except ArchiveChanged:
                self._remove(uploader)
                raise
            except UploadLost as lost:
                if journey.in_touch and is_canceled(self._connection, uploader.upload_id):
                    # Sending it again is not what the person who canceled it had in mind.
                    self.forget()
                    raise canceled_meanwhile(uploader.upload_id) from lost
                raise
            return uploader.upload_id

    def _uploader(self, digest: TrailingDigest | None) -> ArchiveUploader:
        errand, length = self._errand, self._errand.archive.length

        def on_read(position: int) -> None:
            if digest:
                digest.allow(position)
            self._display.uploading(uploader.upload_id, position, length)

        uploader = ArchiveUploader(
            self._connection,
            errand.archive,
            errand.metadata,
            errand.names,
            chunk_size=errand.chunk_size,
            on_read=on_read,
            digest=waited_for(digest, length, self._display) if digest else None,
        )
        return uploader

    def _remember(self, upload_id: str) -> None:
        server, file = self._connection.server, self._errand.archive.path
        if not self._memory.keep(self._fingerprint, upload_id, server=server, file=file):
            self._display.notice("cannot write the state directory: a second run will begin anew")

    def _remove(self, uploader: ArchiveUploader) -> None:
        """What the server has is of no use to anyone: the file is not what it was."""
        self.forget()
        if uploader.upload_id:
            with contextlib.suppress(ClientError):
                uploader.terminate()
