"""Disk space of uploads: reserved ahead, counted, and refused in words.

Knows: fallocate, statvfs and writeback pacing, through ctypes where Python lacks the call.
Must not know: uploads, HTTP headers.
"""

from __future__ import annotations

import ctypes
import errno
import os
from pathlib import Path
from typing import Final

from server.errors import InsufficientStorage

KIB: Final = 2**10
MIB: Final = 2**20
GIB: Final = 2**30

_KEEP_SIZE: Final = 0x01
_PUNCH_HOLE: Final = 0x02
_SYNC_WAIT_BEFORE: Final = 1
_SYNC_WRITE: Final = 2
_SYNC_WAIT_AFTER: Final = 4
_UNSUPPORTED: Final = frozenset({errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL})

_libc = ctypes.CDLL(None, use_errno=True)
_libc.fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)
_libc.sync_file_range.argtypes = (ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint)


def free_bytes(directory: Path) -> int:
    """What an unprivileged writer may still use on the directory's file system."""
    status = os.statvfs(directory)
    return status.f_bavail * status.f_frsize


def share_a_file_system(first: Path, second: Path) -> bool:
    """Whether what one directory takes, the other lacks."""
    return first.stat().st_dev == second.stat().st_dev


def reserve(descriptor: int, start: int, length: int) -> bool:
    """Reserve blocks for a range, keeping the file's size; False where that is impossible.

    Python's `posix_fallocate` changes the size, which would falsify the offset.

    Raises:
        OSError: ENOSPC, EDQUOT: the disk would not hold it.
    """
    if length <= 0 or _libc.fallocate(descriptor, _KEEP_SIZE, start, length) == 0:
        return True
    number = ctypes.get_errno()
    if number in _UNSUPPORTED:
        return False
    raise OSError(number, os.strerror(number))


def give_back(descriptor: int, start: int, length: int) -> None:
    """Free the blocks of a range, keeping the file's size; it reads as zeros from then on.

    Where the file system cannot do that, the space comes back when the file is removed.
    """
    _libc.fallocate(descriptor, _KEEP_SIZE | _PUNCH_HOLE, start, length)


def start_writeback(descriptor: int, start: int, length: int) -> None:
    """Ask the kernel to begin writing a range to the disk, and return at once.

    Only pace depends on it (fdatasync is what makes bytes durable), so a refusal is not an error.
    """
    _libc.sync_file_range(descriptor, start, length, _SYNC_WRITE)


def await_writeback(descriptor: int, start: int, length: int) -> None:
    """Wait until a range begun with `start_writeback` has reached the disk."""
    _libc.sync_file_range(
        descriptor, start, length, _SYNC_WAIT_BEFORE | _SYNC_WRITE | _SYNC_WAIT_AFTER
    )


def insufficient(what: str, needed: int, directory: Path, purpose: str = "") -> InsufficientStorage:
    """The refusal, with needed and free in it."""
    free = free_bytes(directory)
    return InsufficientStorage(
        f"{what}: {needed} bytes needed{purpose}, {free} bytes free",
        "try again later, or ask the operator for space; `tusboat gc` removes what has expired",
        headers={"Retry-After": "60"},
    )


def is_disk_full(error: OSError) -> bool:
    """Whether the error means that no more bytes fit."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
