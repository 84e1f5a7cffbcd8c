"""Archives of one command, from the first byte to the images in the registry.

They are sent one after the other, for the line is what takes the time, and the server works on
what it has meanwhile; then each is followed to its end, in the same order.

Knows: which sender fits an archive, that one failure is no reason to leave the others.
Must not know: options by name, HTTP.
"""

from __future__ import annotations

import contextlib
import signal
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Protocol

from server.client.archive import Archive
from server.client.cargo import Cargo, Consignment
from server.client.connection import Connection
from server.client.display import Display
from server.client.errors import ArchiveUnusable, ClientError, GaveUp, UploadEnded
from server.client.followed import conclude, followed
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


@dataclass(frozen=True)
class _Sent:
    consignment: Consignment
    sender: AnySender
    upload_id: str


class Delivery:
    """Carries a cargo."""

    def __init__(
        self, connection: Connection, display: Display, sending: Sending, place: Place
    ) -> None:
        """Prepare; nothing is sent yet."""
        self._connection = connection
        self._display = display
        self._sending = sending
        self._place = place
        self._memory = Memory(sending.state_home.expanduser())

    def deliver(self, cargo: Cargo) -> bool:
        """Send everything and, if that is wanted, wait for the images; whether all went well."""
        sent: list[_Sent] = []
        waiting = list(cargo.consignments)
        good = True
        while waiting:
            consignment = waiting.pop(0)
            self._display.about(consignment.label)
            try:
                sent.append(self._sent(consignment))
            except ClientError as error:
                good = False
                self._display.error(error)
                if isinstance(error, GaveUp):
                    # Nobody is there for the others, either.
                    break
        for left in waiting:
            self._display.about(left.label)
            self._display.notice("not sent")
        if not self._sending.wait:
            return good
        done = [one for one in sent if self._ended(one)]
        # Only now: interrupted before, the same command finds what is in the registry already.
        for one in done:
            one.sender.forget()
        return good and len(done) == len(cargo.consignments)

    def _sent(self, consignment: Consignment) -> _Sent:
        if consignment.path is None:
            with _terminated_as_interrupted():
                sender: AnySender = self._piped(consignment)
                upload_id = sender.send()
        else:
            with Archive(consignment.path, consignment.name) as archive:
                names = self._looked_into(consignment.path, consignment.wishes)
                sender = self._sender(archive, names, consignment)
                upload_id = sender.send()
        if not self._sending.wait:
            sender.forget()
            self._display.uploaded(upload_id)
        return _Sent(consignment, sender, upload_id)

    def _looked_into(self, path: Path, wishes: Wishes) -> Names:
        if not self._sending.check:
            return ()
        from server.client.precheck import precheck  # noqa: PLC0415 - others start faster

        return precheck(path, wishes)

    def _sender(self, archive: Archive, names: Names, consignment: Consignment) -> AnySender:
        sending = self._sending
        errand = Errand(
            archive,
            consignment.wishes,
            names,
            sending.chunk_size,
            sending.md5,
            self._place.give_up_after,
        )
        count = shares(archive.length, sending.parallel)
        if count == 1:
            return Sender(self._connection, self._memory, self._display, errand)
        return PartsSender(self._connection, self._memory, self._display, errand, count)

    def _piped(self, consignment: Consignment) -> PipeSender:
        sending = self._sending
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
        return PipeSender(self._connection, self._display, patience, errand)

    def _ended(self, one: _Sent) -> bool:
        self._display.about(one.consignment.label)
        try:
            document = followed(self._connection, one.upload_id, self._display, self._place)
        except ClientError as error:
            self._display.error(error)
            return False
        try:
            conclude(self._display, document)
        except UploadEnded as error:
            # What ended badly is not gone on with.
            one.sender.forget()
            self._display.error(error)
            return False
        return True


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
