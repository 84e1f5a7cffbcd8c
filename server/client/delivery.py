"""One archive of a command, from its first byte to the images in the registry.

Knows: which sender fits an archive, and when what is remembered of it may be forgotten.
Must not know: options by name, HTTP, the other archives of the command.
"""

from __future__ import annotations

import contextlib
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Protocol

from server.client.archive import Archive
from server.client.cargo import Consignment
from server.client.connection import Connection
from server.client.display import Display
from server.client.document import Document
from server.client.errors import ArchiveUnusable, ClientError, UploadEnded
from server.client.memory import Memory
from server.client.options import Place, Sending
from server.client.parts import PartsSender, shares
from server.client.pipe import Pipe
from server.client.pipe_sender import PipeErrand, PipeSender
from server.client.remote import Names
from server.client.sender import Errand, Sender
from server.client.wishes import Wishes


class AnySender(Protocol):
    """What carries an archive to the server."""

    def send(self) -> str:
        """Send it all; the upload's id."""

    def forget(self) -> None:
        """The upload came to an end: the same command again is a new upload."""


class Delivery:
    """Carries one consignment, and sees it to its end.

    `upload_id` is empty until all of it was sent; `answer` is what stdout gets to hear of it in the
    end, and None until then. `failed` says that nothing more will come of it.
    """

    def __init__(
        self,
        consignment: Consignment,
        display: Display,
        sending: Sending,
        place: Place,
        memory: Memory,
    ) -> None:
        """Prepare; nothing is sent yet."""
        self.upload_id = ""
        self.answer: tuple[str, ...] | None = None
        self.failed = False
        self._consignment = consignment
        self._display = display
        self._sending = sending
        self._place = place
        self._memory = memory
        self._archive: Archive | None = None
        self._sender: AnySender | None = None

    def send(self, connection: Connection) -> None:
        """Send all of it.

        Raises:
            ClientError: it cannot be sent.
        """
        path, name = self._consignment.path, self._consignment.name
        if path is None:
            with _terminated_as_interrupted():
                self._sender = self._piped(connection)
                upload_id = self._sender.send()
        else:
            with Archive(path, name) as self._archive:
                names = self._looked_into(path, self._consignment.wishes)
                self._sender = self._sender_of(self._archive, names, connection)
                upload_id = self._sender.send()
        if not self._sending.wait:
            self._sender.forget()
            self._display.uploaded(upload_id)
            self.answer = (upload_id,)
        self.upload_id = upload_id

    def abandon(self) -> None:
        """Stop sending, from another thread; what the server has can be gone on with."""
        if self._archive:
            self._archive.abandon()

    def fail(self, error: ClientError) -> None:
        """Say why nothing comes of it."""
        self.failed = True
        self._display.error(error)
        if isinstance(error, UploadEnded):
            # What ended badly is not gone on with.
            self.forget()

    def leave(self, words: str) -> None:
        """Say that nobody looks after it any more."""
        self.failed = True
        self._display.notice(words)

    def show(self, document: Document) -> bool:
        """Show what the server says of the upload now; whether that is the end.

        Raises:
            UploadEnded: a bad one.
        """
        self._display.document(document)
        if not document.record.status.terminal:
            return False
        self._display.finished(document)
        document.check_done()
        self.answer = tuple(result.digest for result in document.record.results)
        return True

    def forget(self) -> None:
        """The same command again is a new upload."""
        if self._sender:
            self._sender.forget()

    def _looked_into(self, path: Path, wishes: Wishes) -> Names:
        if not self._sending.check:
            return ()
        from server.client.precheck import precheck  # noqa: PLC0415 - others start faster

        return precheck(path, wishes)

    def _sender_of(self, archive: Archive, names: Names, connection: Connection) -> AnySender:
        sending = self._sending
        errand = Errand(
            archive,
            self._consignment.wishes,
            names,
            sending.chunk_size,
            sending.md5,
            self._place.give_up_after,
        )
        count = shares(archive.length, sending.parallel)
        if count == 1:
            return Sender(connection, self._memory, self._display, errand)
        return PartsSender(connection, self._memory, self._display, errand, count)

    def _piped(self, connection: Connection) -> PipeSender:
        sending, consignment = self._sending, self._consignment
        if sys.stdin is None:
            # Its number may belong to something else by now.
            raise ArchiveUnusable("standard input is closed", "send it through a pipe")
        errand = PipeErrand(
            Pipe(sys.stdin.fileno(), sending.chunk_size),
            {"filename": consignment.name or "", **consignment.wishes.metadata},
            sending.chunk_size,
            sending.md5,
            sending.check,
        )
        patience = self._place.patience(self._display)
        return PipeSender(connection, self._display, patience, errand)


@contextlib.contextmanager
def _terminated_as_interrupted() -> Iterator[None]:
    """SIGTERM and SIGHUP as Ctrl-C: nobody else removes what a pipe left on the server."""

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    ours = [
        one
        for one in (signal.SIGTERM, signal.SIGHUP)
        if signal.getsignal(one) is not signal.SIG_IGN
    ]
    before = {one: signal.signal(one, interrupt) for one in ours}
    try:
        yield
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)
