"""Pump: the rest of a body from a socket into a file, no byte of it through Python.

Knows: splice, pipes, silence.
Must not know: HTTP, locks, what becomes of the bytes.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import time
from typing import Final

from server.appender import Appender
from server.interruption import Ending, Interruption
from server.space import MIB

_PIPE_BYTES: Final = MIB


class Pump:
    """Moves the rest of a body from a socket into the file. Lives in one thread."""

    def __init__(
        self,
        descriptor: int,
        remaining: int,
        appender: Appender,
        interruption: Interruption,
        idle_seconds: float,
    ) -> None:
        """Move `remaining` bytes; end after so long a silence."""
        self._socket = descriptor
        self._remaining = remaining
        self._appender = appender
        self._interruption = interruption
        self._idle_seconds = idle_seconds
        self._poll = select.poll()
        self._poll.register(descriptor, select.POLLIN)
        self._poll.register(interruption.descriptor, select.POLLIN)

    def run(self, buffered: bytes) -> Ending:
        """Move everything; bytes of a body that breaks off are kept up to there."""
        self._appender.write(buffered)
        reader, writer = os.pipe2(os.O_CLOEXEC)
        try:
            # An unprivileged user's pipes are limited in sum; a smaller pipe is slower, not wrong.
            with contextlib.suppress(OSError):
                fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
            return self._splice(reader, writer)
        finally:
            os.close(reader)
            os.close(writer)

    def _splice(self, reader: int, writer: int) -> Ending:
        move = self._appender.splice
        last_byte_at = time.monotonic()
        while self._remaining:
            if self._interruption.ending is not None:
                return self._interruption.ending
            try:
                count = os.splice(self._socket, writer, min(self._remaining, _PIPE_BYTES))
            except BlockingIOError:
                silent = time.monotonic() - last_byte_at
                if silent >= self._idle_seconds:
                    return Ending.IDLE
                self._poll.poll((self._idle_seconds - silent) * 1000)
                continue
            except (ConnectionError, TimeoutError):
                return Ending.DISCONNECTED
            if count == 0:
                return Ending.DISCONNECTED
            move(reader, count)
            self._remaining -= count
            last_byte_at = time.monotonic()
        return Ending.COMPLETE
