"""Room on the disk that a job counts on, beside what other jobs count on.

Knows: what each open workspace needs, and what it has taken of that already.
Must not know: what the room is for.

A job that begins while another one grows would find room that is not going to be there: both would
end on a full disk, an hour later. So each writes into its lock's file what it needs, and whoever
comes next counts what of that is still to be taken. A workspace that nobody has open needs nothing.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import struct
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from buildah.errors import StorageFull
from buildah.workspace import LOCK_SUFFIX, Workspace

_BLOCK_BYTES = 512
_DIGITS = 20


def reserve(workspace: Workspace, needed_bytes: int) -> None:
    """Count on so much more room than was taken by now, as long as the workspace is open. Blocking.

    Raises:
        StorageFull: there is not so much, or other jobs count on it.
    """
    jobs_dir = workspace.directory.parent
    with _turn(jobs_dir):
        promised_bytes = sum(_outstanding(lock) for lock in _others(workspace))
        free_bytes = shutil.disk_usage(jobs_dir).free
        if free_bytes < needed_bytes + promised_bytes:
            others = f", {promised_bytes} of them for other jobs" if promised_bytes else ""
            raise StorageFull(
                f"Loading the archive: it needs about {needed_bytes} bytes below {jobs_dir}, "
                f"{free_bytes} bytes are free{others}.",
                hint="Free disk space (`tusboat gc` removes what is expired), then try again.",
            )
        total_bytes = _taken(workspace.directory) + needed_bytes
        os.pwrite(workspace.lock_descriptor, f"{total_bytes:<{_DIGITS}}".encode(), 0)


@contextmanager
def _turn(jobs_dir: Path) -> Iterator[None]:
    """One after the other: of two that look at once, each would see the other's room as its own."""
    descriptor = os.open(jobs_dir, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _others(workspace: Workspace) -> Iterator[Path]:
    own = workspace.directory.name + LOCK_SUFFIX
    for lock in workspace.directory.parent.glob(f"*{LOCK_SUFFIX}"):
        if lock.name != own:
            yield lock


def _outstanding(lock: Path) -> int:
    """What an open workspace has said that it needs, and has not taken yet."""
    try:
        descriptor = os.open(lock, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return 0
    try:
        request = struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
        answer = fcntl.fcntl(descriptor, fcntl.F_OFD_GETLK, request)
        digits = os.pread(descriptor, _DIGITS, 0)
    finally:
        os.close(descriptor)
    held = struct.unpack("hhqqi4x", answer)[0] != fcntl.F_UNLCK
    if not held or not digits.strip().isdigit():
        return 0
    return max(0, int(digits) - _taken(lock.with_name(lock.name.removesuffix(LOCK_SUFFIX))))


def _taken(directory: Path) -> int:
    """What is allocated below a directory, as far as it can be seen."""
    taken = 0
    for place, _, names in os.walk(directory):
        for name in names:
            with suppress(OSError):
                taken += (Path(place) / name).lstat().st_blocks * _BLOCK_BYTES
    return taken
