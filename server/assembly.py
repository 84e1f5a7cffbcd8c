"""Assembly: a final upload's parts become one file, and their space comes back as it goes.

Knows: files and offsets; that the size of the final upload's file says how far it has come.
Must not know: who holds the lock, why one file is wanted.

A kill at any instruction leaves a state to go on from: the final upload is sealed (its parts'
lengths are on disk) before anything of a part goes, and a range of a part only goes when its copy
is on the disk.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from typing import Final

from anyio import to_thread

from server.finder import Finder
from server.sidecar import sync_directory
from server.space import MIB, give_back, is_disk_full
from server.store import UploadStore
from server.upload import Upload

_WINDOW_BYTES: Final = 64 * MIB
# copy_file_range between two file systems, or on one that lacks it.
_NO_COPY: Final = frozenset({errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP})


class Assembly:
    """Puts parts together. A final upload's lock must be held while it is worked on."""

    def __init__(self, store: UploadStore, finder: Finder) -> None:
        """Work in this store."""
        self._store = store
        self._finder = finder

    async def run(self, upload: Upload, progress: Callable[[int, int], None]) -> None:
        """Assemble a whole final upload, from where it was left.

        Raises:
            OSError: the disk is full, or a part cannot be read.
        """
        sealed = await to_thread.run_sync(self._sealed, upload.id)
        total = sealed.length or 0
        await to_thread.run_sync(self._flush, sealed)
        position = -1
        while position < total:
            # A window at a time, so that a cancellation is heard.
            position = await to_thread.run_sync(self._advance, sealed)
            progress(position, total)

    def _flush(self, upload: Upload) -> None:
        """Before anything of a part goes: what a run before a kill left is on the disk.

        Digests of a file that is still to grow are of no use.
        """
        target = os.open(self._store.path(upload.id), os.O_RDWR | os.O_CLOEXEC)
        try:
            os.fdatasync(target)
            if os.fstat(target).st_size != upload.length:
                self._store.forget_digests(upload.id)
        finally:
            os.close(target)

    def _sealed(self, upload_id: str) -> Upload:
        upload = self._store.find(upload_id)
        if upload is None:
            raise FileNotFoundError(errno.ENOENT, "the final upload is gone")
        if upload.sealed:
            return upload
        found = self._finder.look(upload)
        parts = [self._store.find(part) for part in upload.parts]
        lengths = [part.length for part in parts if part and part.length is not None]
        if not found.finished or len(lengths) != len(upload.parts):
            raise OSError(errno.EIO, "a part is not whole")
        sealed = upload.sealed_with(lengths)
        self._store.keep(sealed)
        return sealed

    def _advance(self, upload: Upload) -> int:
        """Copy the next window; returns how far the file is now."""
        target = os.open(self._store.path(upload.id), os.O_RDWR | os.O_CLOEXEC)
        try:
            position = os.fstat(target).st_size
            concatenation = upload.concatenation
            lengths = concatenation.lengths if concatenation else ()
            begin = 0
            moved = False
            for part, length in zip(upload.parts, lengths, strict=True):
                if position < begin + length and not moved:
                    count = min(begin + length - position, _WINDOW_BYTES)
                    position += self._copy(part, target, position - begin, position, count)
                    moved = True
                if position < begin + length:
                    break
                self._drop(part)
                begin += length
        finally:
            os.close(target)
        return position

    def _copy(self, part: str, target: int, start: int, position: int, count: int) -> int:
        """Move a range of a part behind what is assembled already; returns the bytes moved.

        On a full disk that is what fitted: its space comes back, so that more fits then.
        """
        source = os.open(self._store.path(part), os.O_RDWR | os.O_CLOEXEC)
        copied = 0
        try:
            while copied < count:
                left = count - copied
                copied += _copy_range(source, target, start + copied, position + copied, left)
        except OSError as error:
            if not is_disk_full(error) or not copied:
                raise
        finally:
            try:
                if copied:
                    self._settle(source, target, start, copied)
            finally:
                os.close(source)
        return copied

    def _settle(self, source: int, target: int, start: int, count: int) -> None:
        """Free a range of a part, once its copy cannot be lost."""
        # Whatever the setting `durability` says: what goes in the part cannot be sent again.
        os.fdatasync(target)
        give_back(source, start, count)

    def _drop(self, part: str) -> None:
        """Remove a part's bytes; what it was stays known, for a sender that asks again."""
        path = self._store.path(part)
        if path.exists():
            path.unlink()
            sync_directory(self._store.directory)


def _copy_range(source: int, target: int, start: int, position: int, count: int) -> int:
    """Copy within the kernel; returns the bytes copied, at least one.

    Raises:
        OSError: ENOSPC, EDQUOT; EIO where the source ends early.
    """
    try:
        copied = os.copy_file_range(source, target, count, start, position)
    except OSError as error:
        if error.errno not in _NO_COPY:
            raise
        os.lseek(target, position, os.SEEK_SET)
        copied = os.sendfile(target, source, start, count)
    if not copied:
        raise OSError(errno.EIO, "a part is shorter than it was")
    return copied
