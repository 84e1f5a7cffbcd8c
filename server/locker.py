"""Locker: one writer for each upload, over all protocols and processes; and who has to give way.

Knows: kernel locks on the data file itself, who holds what in this process, when a holder is idle.
Must not know: HTTP, Redis (the composition root hands in how another process is asked).

The lock is an open file description lock on the whole data file: gone the moment its holder dies,
and with no lock file that could be left or unlinked under a waiter.
"""

from __future__ import annotations

import fcntl
import os
import struct
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Final

import anyio
from anyio import to_thread

from hooks.metrics import LOCK_WAIT
from server.errors import NotFound, UploadLocked

# struct flock of 64-bit Linux: type, whence, start, length (0: to the end), pid (0 for this kind of
# lock).
_FLOCK: Final = "hhqqi4x"
_POLL_SECONDS: Final = 0.005
_POLL_LIMIT_SECONDS: Final = 0.05
# How long a request waits for an evicted holder to put its last bytes on the disk.
_HAND_OVER_SECONDS: Final = 1.0

Ask = Callable[[str, bool], Awaitable[None]]


class Lock:
    """A held lock. The holder tells it of every byte; contenders ask it to let go."""

    def __init__(self, upload_id: str, descriptor: int, idle_seconds: float) -> None:
        """Start the clock: a holder that just got in is not idle yet."""
        self.upload_id = upload_id
        self.descriptor = descriptor
        self.position = os.fstat(descriptor).st_size
        # Set by a holder that can be interrupted; one without it is never asked to go.
        self.on_release: Callable[[], None] | None = None
        self._idle_seconds = idle_seconds
        self._last_byte_at = time.monotonic()
        self._released = anyio.Event()

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
        self._held: dict[str, Lock] = {}

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
        began_at = time.monotonic()
        try:
            lock = await self._acquire(upload_id, patience, force=force)
        except UploadLocked:
            LOCK_WAIT.observe(time.monotonic() - began_at, "refused")
            raise
        LOCK_WAIT.observe(time.monotonic() - began_at, "taken")
        self._held[upload_id] = lock
        try:
            yield lock
        finally:
            del self._held[upload_id]
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

    async def _acquire(self, upload_id: str, patience: float, *, force: bool) -> Lock:
        descriptor = await to_thread.run_sync(_open, self._directory / upload_id)
        try:
            await self._contend(upload_id, descriptor, patience, force=force)
            _check_linked(descriptor, self._directory / upload_id)
        except BaseException:
            os.close(descriptor)
            raise
        return Lock(upload_id, descriptor, self._idle_seconds)

    async def _contend(
        self, upload_id: str, descriptor: int, patience: float, *, force: bool
    ) -> None:
        deadline = time.monotonic() + patience
        pause = _POLL_SECONDS
        while not try_lock(descriptor):
            if time.monotonic() >= deadline:
                raise UploadLocked(
                    "another request is writing this upload",
                    "ask with HEAD where it is, and try again",
                    headers={"Retry-After": "1"},
                )
            await self._request_release(upload_id, force=force)
            await anyio.sleep(pause)
            pause = min(2 * pause, _POLL_LIMIT_SECONDS)

    async def _request_release(self, upload_id: str, *, force: bool) -> None:
        held = self._held.get(upload_id)
        if held is None:
            await self._ask(upload_id, force)
        else:
            held.request_release(force=force)

    def asked(self, upload_id: str, *, force: bool) -> None:
        """Another process asked for this upload: let go if we hold it and are idle."""
        held = self._held.get(upload_id)
        if held is not None:
            held.request_release(force=force)

    async def settle(self, upload_id: str) -> None:
        """Evict an idle holder, so that an offset read next stays true; pass an active one.

        Of a holder in another process only its last byte's time is known here (the file's own), so
        an active one is recognised without asking.
        """
        held = self._held.get(upload_id)
        with anyio.move_on_after(_HAND_OVER_SECONDS):
            if held is not None:
                if held.request_release():
                    await held.wait_released()
                return
            path = self._directory / upload_id
            while await to_thread.run_sync(_held_and_idle, path, self._idle_seconds):
                await self._ask(upload_id, False)
                await anyio.sleep(_POLL_SECONDS)


def _open(path: Path) -> int:
    try:
        return os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError as error:
        raise NotFound("no such upload", "create a new one") from error


def try_lock(descriptor: int) -> bool:
    """Take the kernel's lock on an open file, if nobody else has it; closing the file frees it."""
    try:
        fcntl.fcntl(descriptor, fcntl.F_OFD_SETLK, struct.pack(_FLOCK, fcntl.F_WRLCK, 0, 0, 0, 0))
    except (BlockingIOError, PermissionError):
        return False
    return True


def _check_linked(descriptor: int, path: Path) -> None:
    """A lock on a file that was removed while we waited protects nothing."""
    try:
        same = os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        same = False
    if not same:
        raise NotFound("the upload was removed meanwhile", "create a new one")


def _held_and_idle(path: Path, idle_seconds: float) -> bool:
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        question = struct.pack(_FLOCK, fcntl.F_WRLCK, 0, 0, 0, 0)
        answer = struct.unpack(_FLOCK, fcntl.fcntl(descriptor, fcntl.F_OFD_GETLK, question))
        # Clocks of file servers differ a little: a byte from "the future" is a fresh one.
        age_seconds = time.time() - os.fstat(descriptor).st_mtime
        return bool(answer[0] != fcntl.F_UNLCK) and age_seconds >= idle_seconds
    finally:
        os.close(descriptor)


def probe_locks(directory: Path) -> bool:
    """Whether kernel locks exclude each other here (some mounts accept and ignore them)."""
    path = directory / f".lock-probe.{os.getpid()}"
    first = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    second = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        return try_lock(first) and not try_lock(second)
    except OSError:
        return False
    finally:
        os.close(first)
        os.close(second)
        path.unlink(missing_ok=True)
