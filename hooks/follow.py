"""Followers: read a file behind its writer and feed what must see every byte.

Knows: a file, how far it may be read (`Growth`), and sinks that take blocks.
Must not know: Redis, who writes the file, what a digest is compared with.
"""

from __future__ import annotations

import hashlib
import os
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from enum import StrEnum
from io import FileIO
from pathlib import Path
from typing import Protocol

import anyio
import anyio.lowlevel
import anyio.to_thread

from hooks.ports import Digests, Growth

MIB = 1024**2
BLOCK_BYTES = 1 * MIB
GROWING_POLL_SECONDS = 0.02
IDLE_POLL_SECONDS = 0.25
# A writer that paused for less than this is still watched at the growing rate.
RECENT_SECONDS = 1.0

Measure = Callable[[], Growth | None]
Progress = Callable[[int, int], None]


class Sink(Protocol):
    """Takes every byte in order. A `hashlib` hash is one."""

    def update(self, block: memoryview, /) -> None:
        """Take the next block; it must not be kept, its memory is used again."""


class Ending(StrEnum):
    """How a follower's run ended."""

    COMPLETE = "complete"
    GONE = "gone"
    CUT = "cut"
    IDLE = "idle"
    STOPPED = "stopped"


class _Buffer:
    """A block of memory, and the sinks that still read it."""

    def __init__(self) -> None:
        """Allocate the block once; it is used for the whole run."""
        self.view = memoryview(bytearray(BLOCK_BYTES))
        self._filled_bytes = 0
        self._readers: list[Future[None]] = []

    def feed(self, filled_bytes: int, lanes: Sequence[tuple[ThreadPoolExecutor, Sink]]) -> None:
        """Give the first `filled_bytes` to every sink, each in its own thread."""
        block = self.view[:filled_bytes]
        self._filled_bytes = filled_bytes
        self._readers = [lane.submit(sink.update, block) for lane, sink in lanes]

    def settle(self) -> int:
        """Wait until no sink reads the block; return the bytes that were in it."""
        for reader in self._readers:
            reader.result()
        settled, self._filled_bytes, self._readers = self._filled_bytes, 0, []
        return settled


class Follower:
    """Tails a file up to its proven length; one thread reads, one thread works for each sink.

    Two buffers alternate, so reading the next block overlaps with the sinks' work on the last, and
    memory stays at two blocks whatever the size of the file. A follower is used for one run.
    """

    def __init__(
        self,
        path: Path,
        measure: Measure,
        sinks: Sequence[Sink],
        *,
        progress: Progress | None = None,
        idle_seconds: float | None = None,
    ) -> None:
        """Follow `path`, which `measure` (called from the follower's thread) says the growth of.

        `progress` is called from the follower's thread with bytes that every sink has taken, and
        the total (0 while unknown). `idle_seconds` without growth end the run.
        """
        self._path = path
        self._measure = measure
        self._sinks = tuple(sinks)
        self._progress = progress
        self._idle_seconds = idle_seconds
        self._position = 0
        self._taken_bytes = 0
        self._proven_bytes = 0
        self._grew_at = time.monotonic()
        self._poll_seconds = GROWING_POLL_SECONDS
        self._poke = threading.Event()
        self._stopped = False

    @property
    def position(self) -> int:
        """Bytes read so far; all of the file once the run ended as `COMPLETE`."""
        return self._position

    @property
    def lag_bytes(self) -> int:
        """Bytes that were there at the last look, and are not read yet."""
        return self._proven_bytes - self._position

    def wake(self) -> None:
        """Look at once: the file is said to have grown. From any thread."""
        self._grew_at = time.monotonic()
        self._poke.set()

    def stop(self) -> None:
        """End the run within a block's time. From any thread."""
        self._stopped = True
        self._poke.set()

    def follow(self) -> Ending:
        """Read until the file is complete or the run has to end. Blocking.

        Raises:
            OSError: the file or its growth cannot be read.
        """
        try:
            with self._path.open("rb", buffering=0) as file, ExitStack() as threads:
                lanes = [
                    (threads.enter_context(ThreadPoolExecutor(1, "follow-sink")), sink)
                    for sink in self._sinks
                ]
                return self._tail(file, lanes)
        except FileNotFoundError:
            return Ending.GONE

    async def run(self, limiter: anyio.CapacityLimiter) -> Ending:
        """Follow in a thread of `limiter`; a cancellation ends the thread before it is raised.

        Raises:
            OSError: the file or its growth cannot be read.
        """
        # The thread is never abandoned, so that its buffers and its descriptor end with the call;
        # a cancellation therefore reaches it by the flag, from a task that can be cancelled.
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._stop_when_cancelled)
            ending = await anyio.to_thread.run_sync(self._follow_or_error, limiter=limiter)
            tasks.cancel_scope.cancel()
        await anyio.lowlevel.checkpoint_if_cancelled()
        if isinstance(ending, OSError):
            raise ending
        return ending

    async def _stop_when_cancelled(self) -> None:
        try:
            await anyio.sleep_forever()
        finally:
            self.stop()

    def _follow_or_error(self) -> Ending | OSError:
        """Keep an error out of the task group, which would wrap it."""
        try:
            return self.follow()
        except OSError as error:
            return error

    def _tail(self, file: FileIO, lanes: Sequence[tuple[ThreadPoolExecutor, Sink]]) -> Ending:
        buffers = (_Buffer(), _Buffer())
        while True:
            growth = self._measured(file)
            if isinstance(growth, Ending):
                return growth
            while self._position < growth.proven:
                if self._stopped:
                    return Ending.STOPPED
                buffers = buffers[::-1]
                self._settle(buffers[0], growth)
                wanted_bytes = min(BLOCK_BYTES, growth.proven - self._position)
                read_bytes = file.readinto(buffers[0].view[:wanted_bytes])
                if not read_bytes:
                    return Ending.CUT
                self._position += read_bytes
                buffers[0].feed(read_bytes, lanes)
            for buffer in buffers[::-1]:
                self._settle(buffer, growth)
            if growth.complete:
                return Ending.COMPLETE
            self._pause()

    def _measured(self, file: FileIO) -> Growth | Ending:
        """How far to read now, or why to end."""
        if self._stopped:
            return Ending.STOPPED
        growth = self._measure()
        if growth is None or os.fstat(file.fileno()).st_nlink == 0:
            return Ending.GONE
        if growth.proven < self._position:
            return Ending.CUT
        self._proven_bytes = growth.proven
        now = time.monotonic()
        if growth.proven > self._position:
            self._grew_at = now
        elif self._idle_seconds is not None and now - self._grew_at > self._idle_seconds:
            return Ending.IDLE
        return growth

    def _settle(self, buffer: _Buffer, growth: Growth) -> None:
        settled_bytes = buffer.settle()
        if settled_bytes:
            self._taken_bytes += settled_bytes
            if self._progress is not None:
                self._progress(self._taken_bytes, growth.length or 0)

    def _pause(self) -> None:
        """Wait for more: briefly while the file grows, longer the longer it did not."""
        if time.monotonic() - self._grew_at < RECENT_SECONDS:
            self._poll_seconds = GROWING_POLL_SECONDS
        else:
            self._poll_seconds = min(2 * self._poll_seconds, IDLE_POLL_SECONDS)
        self._poke.wait(self._poll_seconds)
        self._poke.clear()


class DigestFollower(Follower):
    """A follower that leaves the md5 and the sha256 of the whole file."""

    def __init__(
        self,
        path: Path,
        measure: Measure,
        *,
        progress: Progress | None = None,
        idle_seconds: float | None = None,
    ) -> None:
        """Follow as `Follower` does, with the two digests as sinks."""
        self._md5 = hashlib.md5(usedforsecurity=False)
        self._sha256 = hashlib.sha256()
        super().__init__(
            path,
            measure,
            (self._md5, self._sha256),
            progress=progress,
            idle_seconds=idle_seconds,
        )

    async def digests(self, limiter: anyio.CapacityLimiter) -> Digests | Ending:
        """Run to the end; the digests when the file was complete, else why there are none.

        Raises:
            OSError: the file or its growth cannot be read.
        """
        ending = await self.run(limiter)
        if ending is not Ending.COMPLETE:
            return ending
        return Digests(self.position, self._md5.hexdigest(), self._sha256.hexdigest())
