"""Intake: a request body into the file of a held lock, by the fast path or the portable one.

Knows: how bytes come in, when to stop waiting for them, who may interrupt.
Must not know: protocols, what happens after the bytes.

Fast path: the connection's socket is handed over (`server/wire.py`) and a thread splices it into
the file; no byte passes through Python. Portable path: whatever comes through ASGI's `receive()`
(chunked coding, TLS in the process, HTTP/1.0), written in batches from a thread. Both end the same
ways and keep the same promises.
"""

from __future__ import annotations

import os
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final, Protocol

import anyio
from anyio import CapacityLimiter, to_thread
from starlette.requests import Request

from hooks.metrics import ACTIVE_UPLOADS, BYTES_RECEIVED
from server.appender import Appender
from server.interruption import Ending, Interruption, nothing
from server.locker import Lock
from server.pump import Pump
from server.space import MIB
from server.wire import EXTENSION, BodySocket

_BATCH_BYTES: Final = MIB
# Bytes of a slow sender do not wait for a whole batch.
_BATCH_SECONDS: Final = 0.1
# Each body on the fast path occupies a thread; beyond this many, bodies take the portable path.
_FAST_BODIES: Final = 64
_WRITE_THREADS: Final = 8


@dataclass(frozen=True)
class Received:
    """What came: the durable offset afterwards, how it ended, the error of `FAILED`."""

    position: int
    ending: Ending
    error: OSError | None = None


class Sink(Protocol):
    """Where a body's bytes go. Blocking: it lives in a thread."""

    @property
    def position(self) -> int:
        """How far it is."""

    def write(self, data: bytes | memoryview, /) -> None:
        """Take the next bytes."""

    def arrived(self) -> None:
        """Bytes are here that will be written soon."""

    def finish(self) -> None:
        """Make everything written durable."""


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
        async with self._interruptible(lock) as interruption, _counted(appender):
            ending, error = await self._move(request, appender, interruption, limit)
            return await self._flushed(appender, ending, error)

    async def pour(
        self, request: Request, lock: Lock | None, sink: Sink, *, more: bool = True
    ) -> Received:
        """Give (the rest of) the request's body to a sink, in pieces, in a thread.

        Without `more` nothing of it is left to come. The bytes are durable when this returns,
        whatever the ending.
        """
        async with self._interruptible(lock) as interruption, _counted(sink):
            ending, error = Ending.COMPLETE, None
            try:
                # What it got beforehand, it may write now.
                await self._write(sink, bytearray())
                if more:
                    ending = await self._receive_portably(request, sink, interruption)
            except OSError as failure:
                ending, error = Ending.FAILED, failure
            return await self._flushed(sink, ending, error)

    async def begin(self, request: Request, enough: Callable[[bytes], bool]) -> Ending | None:
        """Give the first pieces of a body out, until that is enough (None: more may follow)."""
        async with self._interruptible(None) as interruption:
            while True:
                message = await self._next_message(request, interruption)
                if isinstance(message, Ending):
                    return message
                if enough(message[0]) or not message[1]:
                    return None if message[1] else Ending.COMPLETE

    @asynccontextmanager
    async def _interruptible(self, lock: Lock | None) -> AsyncIterator[Interruption]:
        """A body that ends early when the lock is asked for, or when the server stops."""
        interruption = Interruption()
        self._active.add(interruption)
        if lock is not None:
            lock.on_release = lambda: interruption.fire(Ending.EVICTED)
        if self._stopping:
            interruption.fire(Ending.STOPPING)
        try:
            yield interruption
        finally:
            if lock is not None:
                lock.on_release = None
            self._active.discard(interruption)
            interruption.close()

    async def _flushed(self, sink: Sink, ending: Ending, error: OSError | None) -> Received:
        with anyio.CancelScope(shield=True):
            error = await to_thread.run_sync(_flush, sink, limiter=self._writing) or error
        return Received(sink.position, Ending.FAILED if error else ending, error)

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
        pump = Pump(descriptor, remaining, appender, interruption, self._idle_seconds)
        try:
            ending = await to_thread.run_sync(pump.run, buffered, limiter=self._fast)
        finally:
            os.close(descriptor)
        if ending is Ending.COMPLETE:
            body.complete()
        return ending

    async def _receive_portably(
        self,
        request: Request,
        appender: Sink,
        interruption: Interruption,
        limit: int | None = None,
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

    async def _write(self, appender: Sink, batch: bytearray) -> None:
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
        interruption.on_fire = nothing
        if interruption.ending is not None:
            return interruption.ending
        if scope.cancelled_caught:
            return Ending.IDLE
        if message["type"] == "http.disconnect":
            return Ending.DISCONNECTED
        return message.get("body", b""), message.get("more_body", False)


@asynccontextmanager
async def _counted(sink: Sink) -> AsyncIterator[None]:
    """Tell the metrics of a body, and of the bytes that it brings."""
    ACTIVE_UPLOADS.add(1)
    begun_at = sink.position
    try:
        yield
    finally:
        ACTIVE_UPLOADS.add(-1)
        BYTES_RECEIVED.add(sink.position - begun_at)


def _flush(sink: Sink) -> OSError | None:
    try:
        sink.finish()
    except OSError as error:
        return error
    return None
