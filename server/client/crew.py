"""The threads that send the parts of an archive, one for each.

A part is remembered by itself as soon as it is there, and a known one is gone on with.

Knows: threads, what to do when a part is lost.
Must not know: how an archive is shared out, what becomes of the parts.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from server.client.archive import Archive
from server.client.connection import Connection
from server.client.display import Display
from server.client.errors import ClientError, TryAgain, UploadLost
from server.client.leg import Leg
from server.client.memory import Memory
from server.client.patience import Patience
from server.client.remote import RemoteUpload
from server.client.sender import Errand
from server.client.watch import canceled_meanwhile

# How long an interrupted command waits for its threads to hear of it; they are daemons.
_LEAVE_SECONDS: Final = 1.0
_LOOK_SECONDS: Final = 0.2


class _Stopped(Exception):
    """Another thread failed, or the command is leaving."""


@dataclass(frozen=True)
class Part:
    """A stretch of a file, and the name under which its upload is remembered.

    `file` is the same for all parts of one file: by it the server's list shows them as one.
    """

    number: int
    start: int
    length: int
    key: str
    file: str


class Crew:
    """A thread for each part; the first failure stops them all."""

    def __init__(
        self,
        connection: Connection,
        memory: Memory,
        display: Display,
        errand: Errand,
        parts: Sequence[Part],
    ) -> None:
        """Prepare, and see which parts are known; nothing is sent yet."""
        self._connection = connection
        self._memory = memory
        self._display = display
        self._errand = errand
        self._parts = parts
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._positions = [0] * len(parts)
        self._ids = [""] * len(parts)
        self._errors: list[ClientError] = []
        self._whole = 0
        self._known = {part.number: memory.find(part.key) for part in parts}
        # Until it is known where these are, nothing can be said of the whole.
        self._unheard = {number for number, known in self._known.items() if known}
        self._said = ""

    def run(self) -> list[str]:
        """Send every part; their ids in order.

        Raises:
            ArchiveUnusable, UploadEnded, UploadLost, Refused, GaveUp: the first failure.
        """
        threads = [
            threading.Thread(target=self._work, args=(part,), daemon=True) for part in self._parts
        ]
        if not self._unheard:
            self._display.begun("", 0, self._errand.archive.length, resumed=False)
        for thread in threads:
            thread.start()
        try:
            for thread in threads:
                while thread.is_alive() and not self._stop.is_set():
                    thread.join(_LOOK_SECONDS)
        finally:
            self._stop.set()
            for thread in threads:
                thread.join(_LEAVE_SECONDS / len(threads))
        if self._errors:
            raise self._errors[0]
        if self._whole < len(self._parts):
            raise AssertionError("the thread of a part died")
        return self._ids

    def _work(self, part: Part) -> None:
        try:
            with self._connection.another() as connection:
                self._send(part, connection)
            with self._lock:
                self._whole += 1
        except _Stopped:
            return
        except ClientError as error:
            with self._lock:
                self._errors.append(error)
            self._stop.set()

    def _send(self, part: Part, connection: Connection) -> None:
        patience = Patience(self._errand.give_up_after_seconds, self._notice)
        known = self._known[part.number]
        if known:
            try:
                self._carry(part, RemoteUpload(connection, known), patience, resumed=True)
            except UploadLost:
                self._memory.forget(part.key)
                self._heard(part, 0)
            else:
                return
        while True:
            self._check_stop()
            try:
                upload = RemoteUpload.partial(connection, self._named(part), part.length)
            except TryAgain as error:
                patience.wait(error)
            else:
                break
        file, server = self._errand.archive.path, connection.server
        if not self._memory.keep(part.key, upload.id, server=server, file=file):
            self._notice("cannot write the state directory: a second run will begin anew")
        try:
            self._carry(part, upload, patience, resumed=False)
        except UploadLost as lost:
            self._memory.forget(part.key)
            raise canceled_meanwhile(upload.id) from lost

    def _carry(
        self, part: Part, upload: RemoteUpload, patience: Patience, *, resumed: bool
    ) -> None:
        def on_read(position: int) -> None:
            self._moved(part, position - part.start)

        def on_resumed(offset: int) -> None:
            self._heard(part, offset)

        self._ids[part.number] = upload.id
        leg = Leg(
            upload,
            _Watched(self._errand.archive, self._stop),
            patience,
            chunk_size=self._errand.chunk_size,
            base=part.start,
            on_read=on_read,
            on_resumed=on_resumed,
        )
        leg.offset = None if resumed else 0
        leg.carry(0, part.length)
        self._moved(part, part.length)

    def _moved(self, part: Part, offset: int) -> None:
        with self._lock:
            self._positions[part.number] = offset
            if not self._unheard:
                total = sum(self._positions)
                self._display.uploading("", total, self._errand.archive.length)

    def _heard(self, part: Part, offset: int) -> None:
        with self._lock:
            self._positions[part.number] = offset
            if part.number in self._unheard:
                self._unheard.remove(part.number)
                if not self._unheard:
                    total, length = sum(self._positions), self._errand.archive.length
                    self._display.begun("", total, length, resumed=total > 0)

    def _named(self, part: Part) -> Mapping[str, str]:
        name = self._errand.archive.name
        number = f"part {part.number + 1} of {len(self._parts)}"
        return {"filename": f"{name} ({number})", "part_of": part.file}

    def _notice(self, text: str) -> None:
        # One line that breaks breaks for all parts, and is told of once.
        with self._lock:
            if text != self._said and not self._stop.is_set():
                self._said = text
                self._display.notice(text)

    def _check_stop(self) -> None:
        if self._stop.is_set():
            raise _Stopped


@dataclass(frozen=True)
class _Watched:
    """The archive, for as long as nobody writes to it and nobody stops."""

    archive: Archive
    stop: threading.Event

    def read(self, offset: int, length: int) -> bytes:
        if self.stop.is_set():
            raise _Stopped
        self.archive.check_unchanged()
        return self.archive.read(offset, length)
