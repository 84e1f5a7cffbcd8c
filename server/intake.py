"""Intake: a request body into the file of a held lock, by the fast path or the portable one.

Knows: how bytes come in, when to stop waiting for them, who may interrupt.
Must not know: protocols, what happens after the bytes.

Fast path: the connection's socket is handed over (`server/wire.py`) and a thread splices it into
the file; no byte passes through Python. Portable path: whatever comes through ASGI's `receive()`
(chunked coding, TLS in the process, HTTP/1.0), written in batches from a thread. Both end the same
ways and keep the same promises.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

import anyio
from anyio import CapacityLimiter, to_thread
from starlette.requests import Request

from hooks.metrics import ACTIVE_UPLOADS, BYTES_RECEIVED
from server.appender import Appender
from server.locker import Lock
from server.space import MIB
from server.wire import EXTENSION, BodySocket

_BATCH_BYTES: Final = MIB
# Bytes of a slow sender do not wait for a whole batch.
_BATCH_SECONDS: Final = 0.1
_PIPE_BYTES: Final = MIB
# Each body on the fast path occupies a thread; beyond this many, bodies take the portable path.
_FAST_BODIES: Final = 64
_WRITE_THREADS: Final = 8


class Ending(StrEnum):
    """How a body came to its end."""

    COMPLETE = "complete"
    DISCONNECTED = "disconnected"
    EVICTED = "evicted"
    IDLE = "idle"
    STOPPING = "stopping"
    OVERLONG = "overlong"
    FAILED = "failed"


@dataclass(frozen=True)
class Received:
    """What came: the durable offset afterwards, how it ended, the error of `FAILED`."""

    position: int
    ending: Ending
    error: OSError | None = None


class Interruption:
    """Ends one body early, from the event loop; wakes its thread or its `receive()`."""

    def __init__(self) -> None:
        """Nothing has happened yet."""
        self.ending: Ending | None = None
        self.descriptor = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self.on_fire: Callable[[], None] = _nothing

    def fire(self, ending: Ending) -> None:
        """End the body; the first reason counts."""
        if self.ending is None:
            self.ending = ending
            os.eventfd_write(self.descriptor, 1)
            self.on_fire()

    def close(self) -> None:
        """Give the descriptor back."""
        os.close(self.descriptor)


def _nothing() -> None:
    """No receiver waits at the moment."""


class Intake:
    """All bodies that this process receives."""

    def __init__(self, *, body_idle_seconds: float, durable: bool) -> None:
        """Cut a body silent for `body_idle_seconds`; flush each one unless `durable` is off."""
        self._idle_seconds = body_idle_seconds
        self._durable = durable
        self._active: set[Interruption] = set()
        self._stopping = False
        self._fast = CapacityLimiter(_FAST_BODIES)
        self._writing = CapacityLimiter(_WRITE_THREADS)

    def stop(self) -> None:
        """The server is going: end every body, keep every byte. Called on the event loop."""
        self._stopping = True
        for interruption in self._active:
            interruption.fire(Ending.STOPPING)

    async def is_empty(self, request: Request) -> bool:
        """Whether a body of undeclared size brings no byte at all."""
        with anyio.move_on_after(self._idle_seconds):
            while True:
                message = await request.receive()
                if not message.get("more_body", False):
                    return not message.get("body", b"")
                if message.get("body", b""):
                    return False
        return False

    async def receive(
        self, request: Request, lock: Lock, *, length: int | None, limit: int | None
    ) -> Received:
        """Append the request's body at `lock.position`; never past `limit`.

        `length` is the upload's (None: not known yet), for which space was reserved; `limit` is
        that, or the largest one taken (None: any).

        The bytes are durable when this returns, whatever the ending.
        """
        appender = Appender(
            lock.descriptor,
            lock.position,
            durable=self._durable,
            length=length,
            on_bytes=lock.touch,
        )
        interruption = Interruption()
        self._active.add(interruption)
        ACTIVE_UPLOADS.add(1)
        begun_at = appender.position
        lock.on_release = lambda: interruption.fire(Ending.EVICTED)
        if self._stopping:
            interruption.fire(Ending.STOPPING)
        try:
            ending, error = await self._move(request, appender, interruption, limit)
            with anyio.CancelScope(shield=True):
                error = await to_thread.run_sync(_flush, appender, limiter=self._writing) or error
        finally:
            lock.on_release = None
            self._active.discard(interruption)
            ACTIVE_UPLOADS.add(-1)
            BYTES_RECEIVED.add(appender.position - begun_at)
            interruption.close()
        return Received(appender.position, Ending.FAILED if error else ending, error)

    async def _move(
        self, request: Request, appender: Appender, interruption: Interruption, limit: int | None
    ) -> tuple[Ending, OSError | None]:
        body = (request.scope.get("extensions") or {}).get(EXTENSION)
        try:
            if isinstance(body, BodySocket) and body.available and self._fast.available_tokens >= 1:
                return await self._receive_fast(body, appender, interruption), None
            return await self._receive_portably(request, appender, interruption, limit), None
        except OSError as error:
            return Ending.FAILED, error

    async def _receive_fast(
        self, body: BodySocket, appender: Appender, interruption: Interruption
    ) -> Ending:
        try:
            descriptor, buffered, remaining = body.take()
        except OSError:
            return Ending.DISCONNECTED
        pump = _Pump(descriptor, remaining, appender, interruption, self._idle_seconds)
        try:
            ending = await to_thread.run_sync(pump.run, buffered, limiter=self._fast)
        finally:
            os.close(descriptor)
        if ending is Ending.COMPLETE:
            body.complete()
        return ending

    async def _receive_portably(
        self, request: Request, appender: Appender, interruption: Interruption, limit: int | None
    ) -> Ending:
        batch = bytearray()
        begun_at = time.monotonic()
        while True:
            message = await self._next_message(request, interruption)
            if isinstance(message, Ending):
                await self._write(appender, batch)
                return message
            if not batch:
                begun_at = time.monotonic()
            batch += message[0]
            # A slow sender is not an idle one.
            appender.arrived()
            # A body without a declared size may be longer than the upload. Its last bytes are
            # written when its end was seen, so that an overlong one never completes the upload.
            if limit is not None and appender.position + len(batch) > limit:
                return Ending.OVERLONG
            if not message[1]:
                await self._write(appender, batch)
                return Ending.COMPLETE
            whole = limit is not None and appender.position + len(batch) == limit
            due = len(batch) >= _BATCH_BYTES or time.monotonic() - begun_at >= _BATCH_SECONDS
            if due and not whole:
                await self._write(appender, batch)

    async def _write(self, appender: Appender, batch: bytearray) -> None:
        with anyio.CancelScope(shield=True):
            await to_thread.run_sync(appender.write, bytes(batch), limiter=self._writing)
        batch.clear()

    async def _next_message(
        self, request: Request, interruption: Interruption
    ) -> tuple[bytes, bool] | Ending:
        """The next piece of the body and whether more follows, or why there is none."""
        with anyio.move_on_after(self._idle_seconds) as scope:
            interruption.on_fire = scope.cancel
            if interruption.ending is None:
                message = await request.receive()
        interruption.on_fire = _nothing
        if interruption.ending is not None:
            return interruption.ending
        if scope.cancelled_caught:
            return Ending.IDLE
        if message["type"] == "http.disconnect":
            return Ending.DISCONNECTED
        return message.get("body", b""), message.get("more_body", False)


def _flush(appender: Appender) -> OSError | None:
    try:
        appender.finish()
    except OSError as error:
        return error
    return None


class _Pump:
    """Moves the rest of a body from a socket into the file. Lives in one thread."""

    def __init__(
        self,
        descriptor: int,
        remaining: int,
        appender: Appender,
        interruption: Interruption,
        idle_seconds: float,
    ) -> None:
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
