"""Kernel locks on an upload's own data file, the whole of it or a range.

Knows: open file description locks: gone the moment their holder dies, with no lock file that could
be left or unlinked under a waiter.
Must not know: uploads, who waits for whom, and for how long.

One byte far behind is the gate: a range is taken in passing it, and whoever wants the whole file
closes it first, so that ever new ranges cannot keep it out for ever.
"""

from __future__ import annotations

import fcntl
import os
import struct
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

# struct flock of 64-bit Linux: type, whence, start, length (0: to the end), pid (0 for this kind of
# lock).
_FLOCK: Final = "hhqqi4x"
_GATE_OFFSET: Final = 2**62


@dataclass(frozen=True)
class Bounds:
    """A range of bytes, of at least one."""

    start: int
    size: int

    @property
    def end(self) -> int:
        """The first byte behind it."""
        return self.start + self.size


def try_to_pass(descriptor: int, bounds: Bounds | None) -> bool:
    """Take the range through the open gate; or close the gate and take the whole file."""
    gate = Bounds(_GATE_OFFSET, 1)
    if bounds is None:
        return try_lock(descriptor, gate) and try_lock(descriptor)
    if not try_lock(descriptor, gate, shared=True):
        return False
    try:
        return try_lock(descriptor, bounds)
    finally:
        _set_lock(descriptor, fcntl.F_UNLCK, gate)


def try_lock(descriptor: int, bounds: Bounds | None = None, *, shared: bool = False) -> bool:
    """Take the kernel's lock on an open file, if nobody else has it; closing the file frees it."""
    try:
        _set_lock(descriptor, fcntl.F_RDLCK if shared else fcntl.F_WRLCK, bounds)
    except (BlockingIOError, PermissionError):
        return False
    return True


def wait_for_lock(descriptor: int) -> None:
    """Take the kernel's lock on the whole of an open file, as soon as nobody else has it."""
    _set_lock(descriptor, fcntl.F_WRLCK, None, fcntl.F_OFD_SETLKW)


def _set_lock(
    descriptor: int, kind: int, bounds: Bounds | None, command: int = fcntl.F_OFD_SETLK
) -> None:
    start, size = (bounds.start, bounds.size) if bounds else (0, 0)
    fcntl.fcntl(descriptor, command, struct.pack(_FLOCK, kind, 0, start, size, 0))


def is_linked(descriptor: int, path: Path) -> bool:
    """Whether it is still this file: a lock on one that was removed protects nothing."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def held_and_idle(path: Path, idle_seconds: float) -> bool:
    """Whether anybody holds any of the file, to which no byte was written for so long."""
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
