"""UploadFiles: the bytes of uploads, in one directory: how they begin, and how they go.

Knows: files, durability, space.
Must not know: HTTP, callers, what follows an upload, tuspyserver.

Layout: `ID` holds the data, `ID.info` the sidecar (see `server/sidecar.py`). An upload exists once
its sidecar does.
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from server.kernel_locks import is_linked, try_lock
from server.offsets import Offsets
from server.sidecar import Kind, sync_directory
from server.space import free_bytes, insufficient, is_disk_full, reserve
from server.upload import Upload


class UploadFiles(Offsets):
    """Uploads on a local or shared file system. Blocking: call it from a thread."""

    def begin(self, upload: Upload) -> None:
        """Make an empty upload durable, with its space reserved.

        Raises:
            InsufficientStorage: the disk would not hold it.
            FileExistsError: the id is taken, or somebody takes it just now.
        """
        path = self.path(upload.id)
        # What comes in chunks has an id that many may want at once, and again after a kill.
        exclusive = 0 if upload.chunking else os.O_EXCL
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | exclusive | os.O_CLOEXEC, 0o640)
        try:
            if upload.chunking:
                self._take_id(upload.id, descriptor)
            self._reserve(descriptor, upload.length or 0)
            if upload.chunking:
                self.journals.begin(upload.id)
            self._sidecars.write(upload.id, Kind.INFO, upload.to_sidecar())
        except FileExistsError:
            raise
        except OSError as error:
            path.unlink(missing_ok=True)
            if not is_disk_full(error):
                raise
            raise insufficient("create upload", upload.length or 0, self.directory) from error
        except BaseException:
            path.unlink(missing_ok=True)
            raise
        finally:
            os.close(descriptor)

    def _take_id(self, upload_id: str, descriptor: int) -> None:
        """Be the one who makes this upload.

        Raises:
            FileExistsError: it is there, or another one makes it (or gave it up) just now.
        """
        path = self.path(upload_id)
        free = try_lock(descriptor) and not self._sidecars.exists(upload_id, Kind.INFO)
        if not free or not is_linked(descriptor, path):
            raise FileExistsError(errno.EEXIST, "the upload is there already", str(path))

    def begin_final(self, upload: Upload) -> None:
        """Make a final upload durable, unless it is there already.

        Its file is what is locked, and where its parts are put together in the end.

        Raises:
            InsufficientStorage: not even its sidecar fits.
        """
        if self._sidecars.exists(upload.id, Kind.INFO):
            return
        flags = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC
        try:
            os.close(os.open(self.path(upload.id), flags, 0o640))
            self._sidecars.write_once(upload.id, Kind.INFO, upload.to_sidecar())
        except OSError as error:
            if not is_disk_full(error):
                raise
            self.path(upload.id).unlink(missing_ok=True)
            raise insufficient("create upload", 1, self.directory, " at least") from error

    def forget_final(self, upload_id: str) -> None:
        """Take a final upload back that came to nothing; its lock must be held, its parts stay."""
        for part in self.parts(upload_id):
            self.unclaim(part)
        self._sidecars.remove(upload_id, *Kind)
        self.path(upload_id).unlink(missing_ok=True)

    def touch(self, upload_id: str) -> None:
        """Bytes came to a part of this final upload: its time begins anew."""
        with suppress(FileNotFoundError):
            os.utime(self.path(upload_id))

    def seal(self, upload: Upload, descriptor: int) -> None:
        """Keep that all chunks of an upload are there; what never counted behind them goes.

        The upload's lock must be held, and `descriptor` be its file.
        """
        self._cut(upload, descriptor, upload.length or 0)
        self.keep(upload)

    def _reserve(self, descriptor: int, length: int) -> None:
        if reserve(descriptor, 0, length):
            return
        # No reservation on this file system: count what the others still have to come instead.
        needed = length + sum(self._outstanding())
        if needed > free_bytes(self.directory):
            raise insufficient(
                "reserve", needed, self.directory, " (all unfinished uploads together)"
            )

    def _outstanding(self) -> Iterator[int]:
        for upload_id in self.ids():
            upload = self.find(upload_id)
            # A final upload takes no space that its parts did not have before.
            if upload and upload.length and not upload.parts:
                yield max(0, upload.length - (self.measure(upload_id) or 0))

    def save(self, upload: Upload, descriptor: int) -> None:
        """Rewrite the sidecar, and reserve what a length said late asks for.

        `descriptor` is the data file, opened by the lock's holder.

        Raises:
            InsufficientStorage: the disk would not hold the whole length.
        """
        try:
            self._reserve(descriptor, upload.length or 0)
        except OSError as error:
            if not is_disk_full(error):
                raise
            raise insufficient("take the length", upload.length or 0, self.directory) from error
        self._sidecars.write(upload.id, Kind.INFO, upload.to_sidecar())

    def end_here(self, upload: Upload, descriptor: int) -> None:
        """The upload's length is what is there: keep that, and free what was reserved ahead.

        The upload's lock must be held, and `descriptor` be its file.
        """
        size = os.fstat(descriptor).st_size
        os.ftruncate(descriptor, size)
        self._sidecars.write(upload.id, Kind.INFO, upload.with_length(size).to_sidecar())

    def last_byte_at(self, upload_id: str) -> float | None:
        """When the data file was last written (POSIX seconds); None when there is no file."""
        try:
            return self.path(upload_id).stat().st_mtime
        except FileNotFoundError:
            return None

    def stored_bytes(self, upload_id: str) -> int:
        """What the upload's bytes occupy, reservations included."""
        return sum(self._occupied(one) for one in (upload_id, *self.parts(upload_id)))

    def _occupied(self, upload_id: str) -> int:
        try:
            return self.path(upload_id).stat().st_blocks * 512
        except FileNotFoundError:
            return 0

    def erase_data(self, upload_id: str) -> int:
        """Remove the data only; returns the bytes freed (the lock must be held)."""
        freed = self.stored_bytes(upload_id)
        for one in (*self.parts(upload_id), upload_id):
            self.path(one).unlink(missing_ok=True)
        sync_directory(self.directory)
        return freed

    def erase(self, upload_id: str) -> int:
        """Remove all of an upload; returns the bytes freed (the lock must be held)."""
        # Its parts first, as long as it is known that they are its own.
        freed = sum(self.erase(part) for part in self.parts(upload_id))
        # The sidecar goes first: from then on the upload does not exist, whatever is left of it.
        self._sidecars.remove(upload_id, *Kind)
        return freed + self.erase_data(upload_id)

    def leftovers(self, older_than_seconds: float) -> list[Path]:
        """Files of no upload: what a kill in the middle of `begin` or of a rename left."""
        horizon = time.time() - older_than_seconds
        known = set(self.ids())
        with os.scandir(self.directory) as entries:
            return [
                Path(entry.path)
                for entry in entries
                if entry.is_file(follow_symlinks=False)
                and (entry.name.endswith(".tmp") or entry.name.split(".")[0] not in known)
                and entry.stat().st_mtime < horizon
            ]
