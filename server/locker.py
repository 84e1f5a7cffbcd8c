"""Locker: one writer for each byte of an upload, over all protocols and processes; who gives way.

Knows: who holds what in this process, when a holder is idle.
Must not know: HTTP, Redis (the composition root hands in how another process is asked).

Whoever sends in order, ends or removes an upload locks the whole file; whoever sends a chunk, the
chunk's range only.
"""

from __future__ import annotations

import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

import anyio
from anyio import to_thread

from hooks.metrics import LOCK_WAIT
from server.errors import NotFound, UploadLocked
from server.kernel_locks import Bounds, held_and_idle, is_linked, try_to_pass

_POLL_SECONDS: Final = 0.005
_POLL_LIMIT_SECONDS: Final = 0.05
# How long a request waits for an evicted holder to put its last bytes on the disk.
_HAND_OVER_SECONDS: Final = 1.0

Ask = Callable[[str, bool], Awaitable[None]]


class Lock:
    """A held lock. The holder tells it of every byte; contenders ask it to let go."""

    def __init__(
        self, upload_id: str, descriptor: int, idle_seconds: float, bounds: Bounds | None
    ) -> None:
        """Start the clock: a holder that just got in is not idle yet. No bounds: all of it."""
        self.upload_id = upload_id
        self.descriptor = descriptor
        self.position = bounds.start if bounds else os.fstat(descriptor).st_size
        self._bounds = bounds
        # Set by a holder that can be interrupted; one without it is never asked to go.
        self.on_release: Callable[[], None] | None = None
        self._idle_seconds = idle_seconds
        self._last_byte_at = time.monotonic()
        self._released = anyio.Event()

    def excludes(self, bounds: Bounds | None) -> bool:
        """Whether nobody else can have these bytes meanwhile."""
        if self._bounds is None or bounds is None:
            return True
        return self._bounds.start < bounds.end and bounds.start < self._bounds.end

    def touch(self, position: int) -> None:
        """Bytes arrived: the holder is active. Called from the writing thread."""
        self.position = position
        self._last_byte_at = time.monotonic()

    @property
    def idle(self) -> bool:
        """Whether no byte arrived for so long that a newcomer may come in."""
        return time.monotonic() - self._last_byte_at >= self._idle_seconds

    def request_release(self, *, force: bool = False) -> bool:
        """Ask the holder to go; whether it will: it is idle (or `force`), and can be."""
        if self.on_release is None or not (force or self.idle):
            return False
        self.on_release()
        return True

    async def wait_released(self) -> None:
        """Return when the holder is gone."""
        await self._released.wait()

    def release(self) -> None:
        """Let go; closing the descriptor frees the kernel's lock."""
        if not self._released.is_set():
            os.close(self.descriptor)
            self._released.set()


class Locker:
    """All locks of one data directory, as this process sees them."""

    def __init__(
        self, directory: Path, *, idle_seconds: float, wait_seconds: float, ask: Ask
    ) -> None:
        """Keep the policy; `ask(upload_id, force)` asks the other processes to release."""
        self._directory = directory
        self._idle_seconds = idle_seconds
        self._wait_seconds = wait_seconds
        self._ask = ask
        self._held: dict[str, list[Lock]] = {}

    @asynccontextmanager
    async def hold(
        self, upload_id: str, *, wait_seconds: float | None = None, force: bool = False
    ) -> AsyncIterator[Lock]:
        """Hold the upload's lock; an idle holder is asked to go, with `force` an active one too.

        Raises:
            UploadLocked: somebody else still holds it after `wait_seconds` (None: the setting).
            NotFound: there is no such data file (any more).
        """
        patience = self._wait_seconds if wait_seconds is None else wait_seconds
        contest = _Contest(upload_id, None, patience, force)
        async with self._holding(contest) as lock:
            yield lock

    @asynccontextmanager
    async def hold_range(self, upload_id: str, bounds: Bounds) -> AsyncIterator[Lock]:
        """Hold some bytes of an upload; an idle holder of any of them is asked to go.

        Raises:
            UploadLocked: somebody else still holds some of them when the setting's time is over.
            NotFound: there is no such data file (any more).
        """
        contest = _Contest(upload_id, bounds, self._wait_seconds, force=False)
        async with self._holding(contest) as lock:
            yield lock

    @asynccontextmanager
    async def _holding(self, contest: _Contest) -> AsyncIterator[Lock]:
        began_at = time.monotonic()
        try:
            lock = await self._acquire(contest)
        except UploadLocked:
            LOCK_WAIT.observe(time.monotonic() - began_at, "refused")
            raise
        LOCK_WAIT.observe(time.monotonic() - began_at, "taken")
        held = self._held.setdefault(contest.upload_id, [])
        held.append(lock)
        try:
            yield lock
        finally:
            held.remove(lock)
            if not held:
                self._held.pop(contest.upload_id, None)
            lock.release()

    @asynccontextmanager
    async def hold_all(
        self,
        upload_id: str,
        parts: Iterable[str],
        *,
        wait_seconds: float | None = None,
        force: bool = False,
    ) -> AsyncIterator[Lock]:
        """As `hold`, of an upload and its parts; a part without a data file needs no lock."""
        async with AsyncExitStack() as held:
            hold = partial(self.hold, wait_seconds=wait_seconds, force=force)
            lock = await held.enter_async_context(hold(upload_id))
            for part in parts:
                with suppress(NotFound):
                    await held.enter_async_context(hold(part))
            yield lock

    async def _acquire(self, contest: _Contest) -> Lock:
        path = self._directory / contest.upload_id
        descriptor = await to_thread.run_sync(_open, path)
        try:
            await self._contend(contest, descriptor)
            _check_linked(descriptor, path)
        except BaseException:
            os.close(descriptor)
            raise
        return Lock(contest.upload_id, descriptor, self._idle_seconds, contest.bounds)

    async def _contend(self, contest: _Contest, descriptor: int) -> None:
        deadline = time.monotonic() + contest.patience_seconds
        pause = _POLL_SECONDS
        while not try_to_pass(descriptor, contest.bounds):
            if time.monotonic() >= deadline:
                raise UploadLocked(
                    "another request is writing this upload",
                    "ask with HEAD where it is, and try again",
                    headers={"Retry-After": "1"},
                )
            await self._request_release(contest)
            await anyio.sleep(pause)
            pause = min(2 * pause, _POLL_LIMIT_SECONDS)

    async def _request_release(self, contest: _Contest) -> None:
        held = [
            lock for lock in self._held.get(contest.upload_id, []) if lock.excludes(contest.bounds)
        ]
        if not held:
            await self._ask(contest.upload_id, contest.force)
        for lock in held:
            lock.request_release(force=contest.force)

    def asked(self, upload_id: str, *, force: bool) -> None:
        """Another process asked for this upload: let go if we hold it and are idle."""
        for held in self._held.get(upload_id, []):
            held.request_release(force=force)

    async def settle(self, upload_id: str) -> None:
        """Evict an idle holder, so that an offset read next stays true; pass an active one.

        Of a holder in another process only its last byte's time is known here (the file's own), so
        an active one is recognised without asking.
        """
        held = list(self._held.get(upload_id, []))
        with anyio.move_on_after(_HAND_OVER_SECONDS):
            for lock in held:
                if lock.request_release():
                    await lock.wait_released()
            if held:
                return
            path = self._directory / upload_id
            while await to_thread.run_sync(held_and_idle, path, self._idle_seconds):
                await self._ask(upload_id, False)
                await anyio.sleep(_POLL_SECONDS)


def _open(path: Path) -> int:
    try:
        return os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError as error:
        raise NotFound("no such upload", "create a new one") from error


@dataclass(frozen=True)
class _Contest:
    """Who wants what, for how long, and whether an active holder has to go, too."""

    upload_id: str
    bounds: Bounds | None
    patience_seconds: float
    force: bool


def _check_linked(descriptor: int, path: Path) -> None:
    if not is_linked(descriptor, path):
        raise NotFound("the upload was removed meanwhile", "create a new one")
