"""Delivery: one file that appears under its name when it is whole, or not at all.

Knows: a directory of ours beside the file, its lock, and how the finished file gets its name.
Must not know: what is in the file.

What is under way is in `.tusboat-export-XXXXXXXX` beside the target, so that a rename is enough at
the end, and that it is this disk which has to have the room. The kernel holds a lock on it as long
as we live: what a killed process left is taken away by the next delivery to that directory.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import os
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

from buildah.errors import StorageFull, TargetTaken, TargetUnusable
from buildah.removal import remove_tree

logger = logging.getLogger(__name__)

_PREFIX = ".tusboat-export-"
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT)
# A file system without hard links says one of these.
_NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EINVAL)


class Delivery:
    """An open delivery: `directory` is where the file is made, `target` where it will be."""

    def __init__(self, target: Path, directory: Path, *, overwrite: bool) -> None:
        """Use `delivering`."""
        self.target = target
        self.directory = directory
        self._overwrite = overwrite

    def finish(self, made: Path) -> None:
        """Give the finished file its name, once it is on the disk. Blocking.

        Raises:
            TargetTaken: something has that name by now.
            TargetUnusable: it cannot be given.
            StorageFull: what was written does not fit on the disk after all.
        """
        with worded(self.target):
            _sync(made)
            if self._overwrite:
                made.replace(self.target)
            else:
                _rename_to_new(made, self.target)
            _sync(self.target.parent)


@contextlib.contextmanager
def delivering(target: Path, *, overwrite: bool) -> Iterator[Delivery]:
    """A delivery, whose directory is gone at the end. Blocking.

    Raises:
        TargetTaken: something has that name, and `overwrite` is not said.
        TargetUnusable: no file can be made there.
        StorageFull: there is no room even for a directory.
    """
    with worded(target):
        target = _checked(target, overwrite=overwrite)
        _sweep(target.parent)
        directory, lock = _make(target.parent)
    try:
        yield Delivery(target, directory, overwrite=overwrite)
    finally:
        try:
            remove_tree(directory)
        finally:
            os.close(lock)


def free_bytes(directory: Path) -> int:
    """What we may still write there. Blocking."""
    found = os.statvfs(directory)
    return found.f_bavail * found.f_frsize


@contextlib.contextmanager
def worded(target: Path) -> Iterator[None]:
    """What the kernel says about a file that is to be made, as an error with cause and hint."""
    operation = f"Writing {target}"
    try:
        yield
    except FileExistsError as error:
        raise TargetTaken(f"{operation}: something is there already.") from error
    except OSError as error:
        if error.errno in _NO_ROOM:
            raise no_room(target) from error
        raise TargetUnusable(f"{operation}: {error.strerror}.") from error


def no_room(target: Path, why: str = "there is no room left") -> StorageFull:
    """The error of a full disk."""
    return StorageFull(
        f"Writing {target}: {why} in {target.parent}.",
        hint="Make room there, or write it to another disk; it takes about twice the image.",
    )


def _checked(target: Path, *, overwrite: bool) -> Path:
    """Where the file will really be; a link is followed if what it leads to may be overwritten."""
    target = target.parent.resolve(strict=True) / target.name
    try:
        mode = target.lstat().st_mode
    except FileNotFoundError:
        return target
    if stat.S_ISLNK(mode) and overwrite:
        target = target.resolve(strict=True)
        mode = target.stat().st_mode
    if stat.S_ISREG(mode) and overwrite:
        return target
    if stat.S_ISREG(mode) or stat.S_ISLNK(mode):
        raise FileExistsError(target)
    raise TargetUnusable(f"Writing {target}: it is there and not a regular file.")


def _rename_to_new(made: Path, target: Path) -> None:
    try:
        # Unlike a rename, a link is refused where something is.
        target.hardlink_to(made)
    except FileExistsError:
        raise
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        if target.is_symlink() or target.exists():
            raise FileExistsError(target) from error
        made.rename(target)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    except OSError as error:
        # Some file systems have no such thing for a directory.
        if error.errno != errno.EINVAL:
            raise
    finally:
        os.close(descriptor)


def _make(parent: Path) -> tuple[Path, int]:
    """A new directory, and a descriptor that holds its lock (where locks work)."""
    while True:
        directory = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=parent))
        # Another delivery that sweeps may be faster than our lock.
        with contextlib.suppress(FileNotFoundError):
            lock = _open(directory)
            try:
                ours = _lock(lock)
            except OSError:
                # Nobody can sweep here either.
                ours = True
            if ours and os.path.samestat(os.fstat(lock), directory.stat()):
                return directory, lock
            os.close(lock)


def _open(directory: Path) -> int:
    return os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)


def _lock(directory: int) -> bool:
    """Take the lock; whether nobody else has it.

    Raises:
        OSError: this file system knows no locks.
    """
    try:
        fcntl.flock(directory, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _sweep(parent: Path) -> None:
    """Take away what killed processes left; nothing where there are no locks."""
    for entry in parent.glob(f"{_PREFIX}*"):
        with contextlib.suppress(OSError):
            directory = _open(entry)
            try:
                if _lock(directory):
                    logger.info("removing what a killed export left: %s", entry)
                    remove_tree(entry)
            finally:
                os.close(directory)
