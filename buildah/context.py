"""A build context, and how it is unpacked.

Knows: which file a build begins with; which entries of a stranger's tar may become files.
Must not know: how it is built, or for whom.

What is unpacked stays below one directory. No entry is written through a link, links lead only to
what is below that directory too, and devices, sockets and owners of the sender's choice do not come
into being. Everything blocks; it is for a worker thread that the event loop waits for, and stops
when the waiting task is cancelled.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from anyio import from_thread

from buildah.archive import BUILD_FILES
from buildah.catalog import shown, tar_worded
from buildah.errors import ContextInvalid, StorageFull
from buildah.removal import remove_tree
from buildah.sizes import GIB, MIB
from buildah.tar import Entry, entries
from buildah.unpacking import copy_entry

_OPERATION = "Unpacking the build context"
_BUILD_FILE_BYTES = MIB
# Each step costs a few calls of the kernel, for each entry again.
_DEPTH = 100
_HARD_LINK, _SYMBOLIC_LINK, _DIRECTORY = b"125"
_OPEN_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_OWNER_MAY = 0o700


@dataclass(frozen=True)
class Limits:
    """How much a context may hold when it is unpacked."""

    entries: int = 100_000
    size_bytes: int = 20 * GIB


@dataclass(frozen=True)
class Context:
    """An unpacked build context; `build_file` is the name of its Containerfile or Dockerfile."""

    directory: Path
    build_file: str

    @property
    def text(self) -> str:
        """The build file. Blocking."""
        return (self.directory / self.build_file).read_text(errors="replace")


def unpack_context(plain: Path, directory: Path, limits: Limits | None = None) -> Context:
    """Unpack a tar into a new directory; what is there under that name goes first.

    Raises:
        ContextInvalid: it holds what a context may not, or too much of it.
        ArchiveError: it is no whole tar.
        StorageFull: there is no room for it.
    """
    remove_tree(directory)
    with _worded():
        directory.mkdir(mode=0o755)
        _Unpacking(directory, limits or Limits()).run(plain)
    return Context(directory, _build_file(directory))


def _build_file(directory: Path) -> str:
    for name in BUILD_FILES:
        path = directory / name
        if path.is_symlink() or path.exists():
            if path.is_symlink() or not path.is_file():
                raise ContextInvalid(f"{_OPERATION}: its {name} is not a regular file.")
            if path.stat().st_size > _BUILD_FILE_BYTES:
                raise ContextInvalid(
                    f"{_OPERATION}: its {name} has more than {_BUILD_FILE_BYTES} bytes."
                )
            return name
    raise ContextInvalid(f"{_OPERATION}: there is no Containerfile and no Dockerfile at its top.")


class _Unpacking:
    """One run over a tar. Used once."""

    def __init__(self, directory: Path, limits: Limits) -> None:
        self._directory = directory
        self._limits = limits
        self._entries = 0
        self._bytes = 0

    def run(self, archive: Path) -> None:
        source = os.open(archive, os.O_RDONLY | os.O_CLOEXEC)
        top = os.open(self._directory, _OPEN_DIRECTORY)
        try:
            for entry in entries(source):
                from_thread.check_cancelled()
                self._count(entry)
                self._take(source, top, entry)
        finally:
            os.close(top)
            os.close(source)

    def _count(self, entry: Entry) -> None:
        self._entries += 1
        self._bytes += entry.size if entry.regular else 0
        if self._entries > self._limits.entries:
            raise ContextInvalid(f"{_OPERATION}: it has more than {self._limits.entries} entries.")
        if self._bytes > self._limits.size_bytes:
            raise ContextInvalid(
                f"{_OPERATION}: its files have more than {self._limits.size_bytes} bytes."
            )

    def _take(self, source: int, top: int, entry: Entry) -> None:
        parts = _parts(entry)
        if entry.kind == _DIRECTORY:
            with _opened(top, parts, entry) as directory:
                os.fchmod(directory, entry.mode | _OWNER_MAY)
            return
        if not parts:
            raise _refused(entry, "it has no name")
        with _opened(top, parts[:-1], entry) as directory:
            _make_way(directory, parts[-1])
            if entry.regular:
                _write(source, entry, directory, parts[-1])
            elif entry.kind == _SYMBOLIC_LINK:
                os.symlink(_inner(entry, parts), parts[-1], dir_fd=directory)
            elif entry.kind == _HARD_LINK:
                _link(top, entry, directory, parts[-1])
            else:
                raise _refused(entry, "it is a device, a pipe, or something else that is no file")


def _parts(entry: Entry) -> list[str]:
    """The components of an entry's name, which was normalised: `..` could be at its front only."""
    if entry.name.startswith("/"):
        raise _refused(entry, "its name is absolute")
    parts = [part for part in entry.name.split("/") if part not in ("", ".")]
    if ".." in parts:
        raise _refused(entry, "its name leads out of the context")
    if len(parts) > _DEPTH or "\0" in entry.name:
        raise _refused(entry, "its name is no name")
    return parts


def _inner(entry: Entry, parts: list[str]) -> str:
    """A symbolic link's target, if it stays inside whatever the directories on its way are.

    The directory of the link is a real one. After steps upwards, which are counted from there,
    only steps downwards may come: those pass through links that stay inside themselves.
    """
    target = entry.link or ""
    steps = [step for step in target.split("/") if step not in ("", ".")]
    upwards = next((i for i, step in enumerate(steps) if step != ".."), len(steps))
    if not target or "\0" in target:
        raise _refused(entry, "it is a link to nothing")
    if target.startswith("/") or upwards >= len(parts) or ".." in steps[upwards:]:
        raise _refused(entry, f"it is a link to {shown(target)}, which may be outside")
    return target


def _link(top: int, entry: Entry, directory: int, name: str) -> None:
    meant = Entry(entry.target or "", 0, 0, regular=False)
    parts = _parts(meant)
    if not parts:
        raise _refused(entry, "it is a hard link to nothing")
    with _opened(top, parts[:-1], entry, make=False) as there:
        # A symbolic link means something else in another directory.
        if not _is_file(there, parts[-1]):
            raise _refused(entry, "it is a hard link to no file of the context")
        os.link(parts[-1], name, src_dir_fd=there, dst_dir_fd=directory, follow_symlinks=False)


def _is_file(directory: int, name: str) -> bool:
    try:
        return stat.S_ISREG(os.stat(name, dir_fd=directory, follow_symlinks=False).st_mode)
    except FileNotFoundError:
        return False


def _write(source: int, entry: Entry, directory: int, name: str) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    out = os.open(name, flags, 0o600, dir_fd=directory)
    try:
        copy_entry(source, entry, out)
        os.fchmod(out, entry.mode)
        # A time that no file can have is of no use to a build either.
        with contextlib.suppress(OSError, OverflowError):
            os.utime(out, (entry.modified, entry.modified))
    finally:
        os.close(out)


@contextmanager
def _opened(top: int, parts: list[str], entry: Entry, *, make: bool = True) -> Iterator[int]:
    """The directory of these components below `top`, made where it is missing; never by a link."""
    directory = os.dup(top)
    try:
        for part in parts:
            if make:
                with contextlib.suppress(FileExistsError):
                    os.mkdir(part, 0o755, dir_fd=directory)
            try:
                inner = os.open(part, _OPEN_DIRECTORY, dir_fd=directory)
            except OSError as error:
                if error.errno in (errno.ENOTDIR, errno.ELOOP, errno.ENOENT):
                    raise _refused(entry, f"{shown(part)} on its way is no directory") from error
                raise
            os.close(directory)
            directory = inner
        yield directory
    finally:
        os.close(directory)


def _make_way(directory: int, name: str) -> None:
    """A later entry of the same name replaces the earlier one, as in every tar."""
    with contextlib.suppress(FileNotFoundError, IsADirectoryError):
        os.unlink(name, dir_fd=directory)


def _refused(entry: Entry, reason: str) -> ContextInvalid:
    return ContextInvalid(f"{_OPERATION}: its entry {shown(entry.name)}: {reason}.")


@contextmanager
def _worded() -> Iterator[None]:
    try:
        with tar_worded():
            yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StorageFull(f"{_OPERATION}: there is no room left for it.") from error
        if error.errno in (errno.ENAMETOOLONG, errno.EEXIST, errno.EISDIR, errno.EILSEQ):
            raise ContextInvalid(f"{_OPERATION}: a name in it cannot be one ({error}).") from error
        raise
