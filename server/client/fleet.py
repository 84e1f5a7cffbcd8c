"""The archives of one command, several at once, each to its end.

A few are sent at a time, in threads; the others wait for their turn, in order. What was sent is
followed meanwhile, by the thread of the command itself. Stdout hears of them in their order,
whichever is done first.

Knows: threads; that one failure is no reason to leave the others, and who is asked no more.
Must not know: how one archive is sent, options by name, HTTP.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from typing import Final

from server.client.cargo import Cargo
from server.client.connection import Connection
from server.client.delivery import Delivery
from server.client.display import Display
from server.client.errors import ClientError, GaveUp, TryAgain
from server.client.followed import interrupted
from server.client.memory import Memory
from server.client.options import Place, Sending
from server.client.patience import Patience
from server.client.watch import POLL_SECONDS, fetch

# How long an interrupted command waits for its threads to hear of it; they are daemons.
_LEAVE_SECONDS: Final = 1.0


def fleet(
    cargo: Cargo, connection: Connection, display: Display, sending: Sending, place: Place
) -> Fleet:
    """One for all of the cargo."""
    memory = Memory(sending.state_home.expanduser())
    deliveries = [
        Delivery(one, display.of(one.label) if one.label else display, sending, place, memory)
        for one in cargo.consignments
    ]
    return Fleet(deliveries, connection, display, place.patience(display))


class Fleet:
    """Brings the deliveries to their ends."""

    def __init__(
        self,
        deliveries: Sequence[Delivery],
        connection: Connection,
        display: Display,
        patience: Patience,
    ) -> None:
        """Prepare; nothing is sent yet."""
        self._deliveries = deliveries
        self._connection = connection
        self._display = display
        self._patience = patience
        self._waiting = list(deliveries)
        self._turn = threading.Lock()
        self._stopped = threading.Event()
        self._answered = 0

    def deliver(self, at_once: int) -> bool:
        """Send everything and, if that is wanted, wait for the images; whether all went well.

        Raises:
            typer.Exit: interrupted when all of it was sent, and the server goes on.
        """
        threads = [
            threading.Thread(target=self._send_in_turn, daemon=True)
            for _ in range(min(at_once, len(self._deliveries)))
        ]
        if len(self._deliveries) == 1:
            # Here, where signals arrive: an interrupted pipe has something to clear up.
            self._send(self._deliveries[0], self._connection)
            threads = []
        try:
            for thread in threads:
                thread.start()
            self._follow(threads)
        except KeyboardInterrupt as error:
            if all(one.upload_id or one.failed for one in self._deliveries):
                raise interrupted(self._display, *self._open()) from error
            raise
        finally:
            self._stopped.set()
            for one in self._deliveries:
                one.abandon()
            for thread in threads:
                if thread.ident:
                    thread.join(_LEAVE_SECONDS / len(threads))
        for one in self._deliveries:
            # Only now: interrupted before, the same command finds what is in the registry already.
            if not one.failed:
                one.forget()
        return not any(one.failed for one in self._deliveries)

    def _send_in_turn(self) -> None:
        with self._connection.another() as connection:
            while not self._stopped.is_set():
                with self._turn:
                    if not self._waiting:
                        return
                    one = self._waiting.pop(0)
                self._send(one, connection)

    def _send(self, one: Delivery, connection: Connection) -> None:
        try:
            one.send(connection)
        except ClientError as error:
            if self._stopped.is_set():
                return
            one.fail(error)
            if isinstance(error, GaveUp):
                # Nobody is there for the others, either.
                with self._turn:
                    left, self._waiting = self._waiting, []
                for other in left:
                    other.leave("not sent")

    def _follow(self, threads: Sequence[threading.Thread]) -> None:
        """Look after what was sent, until nothing more can come of any."""
        while True:
            sending = any(thread.is_alive() for thread in threads)
            self._look()
            self._answer()
            if not sending:
                if not all(one.upload_id or one.failed for one in self._deliveries):
                    raise AssertionError("the thread of an archive died")
                if not self._open():
                    return
            time.sleep(POLL_SECONDS)

    def _open(self) -> list[str]:
        """The uploads of which more may come."""
        return [
            one.upload_id
            for one in self._deliveries
            if one.upload_id and one.answer is None and not one.failed
        ]

    def _look(self) -> None:
        for one in self._deliveries:
            if one.upload_id not in self._open():
                continue
            try:
                one.show(fetch(self._connection, one.upload_id))
                self._patience.progressed()
            except TryAgain as error:
                if not self._waited(error):
                    return
            except ClientError as error:
                one.fail(error)

    def _waited(self, error: TryAgain) -> bool:
        """Wait for the server; False when it was long enough, and nothing is followed any more."""
        try:
            self._patience.wait(error)
        except GaveUp as end:
            self._display.error(end)
            for one in self._deliveries:
                if one.upload_id in self._open():
                    one.leave(f"the server may go on: tusboat status {one.upload_id} --watch")
            return False
        return True

    def _answer(self) -> None:
        """What is there of the answers, as far as all before them are."""
        for one in self._deliveries[self._answered :]:
            if one.answer is None and not one.failed:
                return
            self._answered += 1
            for line in one.answer or ():
                self._display.result(line)
