"""Takes a directory away whatever is in it: mounts, read-only directories, very deep ones.

Knows: mounts, directories, and whose files an image's are when buildah is not run by root.
Must not know: what they were for.
"""

from __future__ import annotations

import ctypes
import errno
import itertools
import os
import re
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from buildah.command import start_guarded
from buildah.environment import PATH
from buildah.errors import ToolMissing

_MNT_DETACH = 2
# A process that was killed a moment ago may still put something there.
_PATIENCE_SECONDS = 10.0
_PAUSE_SECONDS = 0.05
_BATCH = 10_000

_libc = ctypes.CDLL(None, use_errno=True)


class Mount(NamedTuple):
    """One mount: where, the type of its file system, and what is mounted (`/dev/sda`, a name)."""

    path: Path
    filesystem: str
    source: str = ""


def mounts() -> list[Mount]:
    """All mounts that this process sees, in the order in which they were made."""
    return parse_mounts(Path("/proc/self/mountinfo").read_bytes().decode(errors="surrogateescape"))


def parse_mounts(mountinfo: str) -> list[Mount]:
    """Read /proc/self/mountinfo. Source: proc(5)."""
    found = []
    for line in mountinfo.splitlines():
        before, _, after = line.partition(" - ")
        path = re.sub(r"\\([0-7]{3})", lambda code: chr(int(code[1], 8)), before.split(" ")[4])
        filesystem, source = after.split(" ")[:2]
        found.append(Mount(Path(path), filesystem, source))
    return found


def remove_tree(top: Path) -> None:
    """Unmount everything below a directory and remove it; nothing happens if it is not there.

    Blocking.

    Raises:
        OSError: it cannot be done, also not after ten seconds.
    """
    deadline = time.monotonic() + _PATIENCE_SECONDS
    taken_over = False
    # What the name itself links to is somewhere else, and stays.
    top = top.parent.resolve() / top.name
    if top.is_symlink():
        top.unlink()
    while top.exists():
        try:
            _unmount_below(top)
            _open_up(str(top), top.stat().st_mode)
            _empty(top)
            top.rmdir()
        except FileNotFoundError:
            pass
        except PermissionError:
            if taken_over or not _take_over(top):
                raise
            taken_over = True
        except OSError as error:
            passing = error.errno in (errno.EBUSY, errno.ENOTEMPTY)
            if not passing or time.monotonic() > deadline:
                raise
            time.sleep(_PAUSE_SECONDS)
        else:
            return


def _unmount_below(top: Path) -> None:
    """Detach the mounts below, the latest first; who still uses one does not keep it there."""
    for mount in reversed(mounts()):
        if mount.path.is_relative_to(top) and _libc.umount2(os.fsencode(mount.path), _MNT_DETACH):
            code = ctypes.get_errno()
            # It may have gone along with the one above it.
            if code != errno.EINVAL:
                raise OSError(code, os.strerror(code), str(mount.path))


def _take_over(top: Path) -> bool:
    """Make everything below a directory our own; whether that was done.

    For whoever is not root: buildah works in a user namespace then, in which we are root, and the
    files of an image belong to the subordinate ids of its other users. So does what is done here.
    """
    if os.geteuid() == 0:
        return False
    # What buildah itself wants to write is in what will be removed.
    home = {"HOME": str(top), "TMPDIR": str(top), "XDG_RUNTIME_DIR": str(top)}
    chown = ["buildah", "unshare", "--", "chown", "-hR", "0:0", "--", str(top)]
    try:
        process = start_guarded(chown, env={"PATH": PATH, **home})
    except ToolMissing:
        return False
    try:
        return process.wait() == 0
    finally:
        process.stop()


def _empty(top: Path) -> None:
    """Remove what is in a directory.

    Layers come from strangers: a tree of a thousand levels is as easy to make as one of three, and
    its paths are longer than the kernel takes. So nothing here recurses or makes long paths:
    whatever directory is met is moved up to the top, and the top is emptied until nothing is left.
    """
    # From a number that no earlier run has used: one that was killed may have left its own.
    numbers = itertools.count(time.monotonic_ns())
    descriptor = os.open(top, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        while names := os.listdir(descriptor):  # noqa: PTH208 - a Path has no open directory
            for name in names:
                _take_away(descriptor, name, numbers)
    finally:
        os.close(descriptor)


def _take_away(top: int, name: str, numbers: Iterator[int]) -> None:
    mode = os.stat(name, dir_fd=top, follow_symlinks=False).st_mode
    if not stat.S_ISDIR(mode):
        os.unlink(name, dir_fd=top)
        return
    _open_up(name, mode, top)
    directory = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=top)
    try:
        while entries := _some_entries(directory):
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    _open_up(entry.name, entry.stat(follow_symlinks=False).st_mode, directory)
                    # No child of a directory that is emptied here is called so.
                    upper = f"~{next(numbers)}"
                    os.rename(entry.name, upper, src_dir_fd=directory, dst_dir_fd=top)
                else:
                    os.unlink(entry.name, dir_fd=directory)
    finally:
        os.close(directory)
    os.rmdir(name, dir_fd=top)


def _some_entries(directory: int) -> list[os.DirEntry[str]]:
    with os.scandir(directory) as entries:
        return list(itertools.islice(entries, _BATCH))


def _open_up(name: str, mode: int, parent: int | None = None) -> None:
    """Make a directory of an image ours to read and change (root needs no leave)."""
    if mode & stat.S_IRWXU != stat.S_IRWXU:
        os.chmod(name, stat.S_IRWXU, dir_fd=parent)
