"""UploadStore: uploads in one directory, and the only writer of their bytes.

Knows: files, sizes, durability, space; the contract and the sidecar of tuspyserver.
Must not know: HTTP, callers, what follows an upload.

Layout: `ID` holds the data, `ID.info` the sidecar (see `server/sidecar.py`). An upload exists once
its sidecar does. The data file's size is the offset; nothing else is trusted for it.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

from anyio import to_thread
from tuspyserver.storage import TusStorage

from hooks.ports import Digests
from hooks.record import Record
from server.errors import BadRequest
from server.locker import Locker
from server.sidecar import Kind, Sidecars, sync_directory
from server.space import free_bytes, insufficient, is_disk_full, reserve
from server.upload import Upload, UploadId, merged_sidecar, parse_upload_id

logger = logging.getLogger(__name__)


class UploadStore(TusStorage):
    """Uploads on a local or shared file system.

    Plain methods block and are called from threads. The `async` ones are tuspyserver's contract, so
    that its router can be mounted over this store.
    """

    def __init__(self, directory: Path, locker: Locker, *, durable: bool = True) -> None:
        """Use (and make) the directory; `durable=False` leaves flushing to the kernel."""
        directory.mkdir(parents=True, exist_ok=True)
        self.directory = directory
        self.durable = durable
        self._locker = locker
        self._sidecars = Sidecars(directory)

    # What the protocols and the hooks use.

    def path(self, upload_id: str) -> Path:
        """The data file.

        Raises:
            BadRequest: not an id that we could have made.
        """
        if parse_upload_id(upload_id) is None:
            raise BadRequest(f"upload id {upload_id!r} is not 32 lower-case hex digits")
        return self.directory / upload_id

    def begin(self, upload: Upload) -> None:
        """Make an empty upload durable, with its space reserved.

        Raises:
            InsufficientStorage: the disk would not hold it.
            FileExistsError: the id is taken.
        """
        path = self.path(upload.id)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o640)
        try:
            self._reserve(descriptor, upload.length or 0)
            self._sidecars.write(upload.id, Kind.INFO, upload.to_sidecar())
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

    def begin_final(self, upload: Upload) -> bool:
        """Make a final upload durable; False when it is there already.

        Its file is what is locked, and where its parts are put together in the end.
        """
        flags = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC
        os.close(os.open(self.path(upload.id), flags, 0o640))
        return self._sidecars.write_once(upload.id, Kind.INFO, upload.to_sidecar())

    def seal(self, upload: Upload) -> None:
        """Keep a final upload's lengths; its lock must be held."""
        self._sidecars.write(upload.id, Kind.INFO, upload.to_sidecar())

    def claim(self, upload_id: str, final_id: str) -> str:
        """Make a partial a part of that final upload, for ever; returns whose it is (now)."""
        if self._sidecars.write_once(upload_id, Kind.CLAIM, {"final": final_id}):
            return final_id
        return self.claimer(upload_id) or ""

    def unclaim(self, upload_id: str) -> None:
        """Take a claim back that did not come to anything."""
        self._sidecars.remove(upload_id, Kind.CLAIM)

    def claimer(self, upload_id: str) -> str | None:
        """The final upload that a partial is a part of."""
        document = self._sidecars.read(upload_id, Kind.CLAIM)
        return None if document is None else str(document["final"])

    def parts(self, upload_id: str) -> list[UploadId]:
        """The parts of a final upload that are its own; of any other upload there are none."""
        upload = self.find(upload_id)
        return [part for part in upload.parts if self.claimer(part) == upload_id] if upload else []

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

    def find(self, upload_id: str) -> Upload | None:
        """The upload of that id; None when there is none (or its sidecar cannot be read)."""
        parsed = parse_upload_id(upload_id)
        data = self._sidecars.read(parsed, Kind.INFO) if parsed else None
        if parsed is None or data is None:
            return None
        try:
            return Upload.from_sidecar(parsed, data)
        except ValueError:
            return None

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

    def measure(self, upload_id: str) -> int | None:
        """The offset: bytes that are in the file and proven; None when there is no file or id."""
        if parse_upload_id(upload_id) is None:
            return None
        path = self.path(upload_id)
        try:
            return self._proven(upload_id, lambda: path.stat().st_size)
        except FileNotFoundError:
            return None

    def _proven(self, upload_id: str, size: Callable[[], int]) -> int:
        """The file's size, or where the bytes begin that are not proven yet.

        Asked twice, with the mark in between: a mark that comes or goes meanwhile, with its bytes,
        can make the answer smaller than it could be, never larger.
        """
        marks = [self._pending(upload_id)]
        sizes = [size()]
        marks.append(self._pending(upload_id))
        sizes.append(size())
        return min(sizes + [start for start in marks if start is not None])

    def _pending(self, upload_id: str) -> int | None:
        document = self._sidecars.read(upload_id, Kind.PENDING)
        return None if document is None else int(document["start"])

    def mark_pending(self, upload_id: str, start: int) -> None:
        """From here on nothing counts until it is proven: durable before the first byte comes."""
        self._sidecars.write(upload_id, Kind.PENDING, {"start": start})

    def prove(self, upload_id: str) -> None:
        """The pending bytes (durable by now) are the promised ones, and count."""
        self._sidecars.remove(upload_id, Kind.PENDING)

    def recover(self, upload: Upload, descriptor: int) -> int:
        """Make the file what its offset says; returns the offset.

        Bytes that were never proven go, and so do digests: a file that takes more bytes is not the
        one they were computed of (a power cut may have taken its end).

        The upload's lock must be held, and `descriptor` be its file.
        """
        if self._sidecars.exists(upload.id, Kind.DIGEST):
            self._sidecars.remove(upload.id, Kind.DIGEST)
        size = os.fstat(descriptor).st_size
        start = self._pending(upload.id)
        if start is None:
            return size
        proven = min(start, size)
        if proven < size:
            os.ftruncate(descriptor, proven)
            # Truncation frees the reservation behind the end.
            reserve(descriptor, proven, (upload.length or proven) - proven)
            os.fsync(descriptor)
        self._sidecars.remove(upload.id, Kind.PENDING)
        return proven

    def durable_offset(self, upload_id: str) -> int | None:
        """The offset after everything up to it has reached the disk.

        The size is read before the flush, so a writer that goes on meanwhile cannot make it untrue.
        """
        try:
            descriptor = os.open(self.path(upload_id), os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        try:
            offset = self._proven(upload_id, lambda: os.fstat(descriptor).st_size)
            if self.durable:
                os.fdatasync(descriptor)
        finally:
            os.close(descriptor)
        return offset

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

    def outcome(self, upload_id: str) -> Record | None:
        """How the upload ended; None while it has not."""
        data = self._sidecars.read(upload_id, Kind.OUTCOME) if parse_upload_id(upload_id) else None
        if not data:
            return None
        try:
            return Record.from_json(data)
        except (KeyError, TypeError, ValueError):
            # It ended, whatever is wrong with the words: running it again could push a wrong image.
            logger.warning("outcome unreadable", extra={"upload_id": upload_id})
            upload = self.find(upload_id)
            return upload.unreadable_outcome() if upload else None

    def outcome_age_seconds(self, upload_id: str) -> float | None:
        """How long ago the outcome was written; None when there is none."""
        written = self._sidecars.modified_at(upload_id, Kind.OUTCOME)
        return None if written is None else time.time() - written

    def record_outcome(self, outcome: Record) -> None:
        """Write the end of an upload; its cancel mark has done its work then."""
        self._sidecars.write(outcome.id, Kind.OUTCOME, outcome.to_json())
        self._sidecars.remove(outcome.id, Kind.CANCEL)

    def forget_outcome(self, upload_id: str) -> None:
        """Open a failed upload again, so that its pipeline can run once more."""
        # In this order: a kill in between must not leave a mark that cancels the new run.
        self._sidecars.remove(upload_id, Kind.CANCEL, Kind.OUTCOME)

    def digests(self, upload_id: str) -> Digests | None:
        """What a follower computed; None when it left nothing."""
        data = self._sidecars.read(upload_id, Kind.DIGEST)
        return Digests(**data) if data else None

    def record_digests(self, upload_id: str, digests: Digests) -> None:
        """Keep what a follower computed."""
        document = {"length": digests.length, "md5": digests.md5, "sha256": digests.sha256}
        self._sidecars.write(upload_id, Kind.DIGEST, document)

    def request_cancel(self, upload_id: str) -> None:
        """Leave the mark that whatever works on the upload must stop."""
        self._sidecars.write(upload_id, Kind.CANCEL, {})

    def cancel_requested(self, upload_id: str) -> bool:
        """Whether the mark is there."""
        return self._sidecars.exists(upload_id, Kind.CANCEL)

    def erase_data(self, upload_id: str) -> int:
        """Remove the data only; returns the bytes freed (the lock must be held)."""
        freed = self.stored_bytes(upload_id)
        for one in (*self.parts(upload_id), upload_id):
            self.path(one).unlink(missing_ok=True)
        sync_directory(self.directory)
        return freed

    def erase(self, upload_id: str) -> int:
        """Remove all of an upload; returns the bytes freed (the lock must be held)."""
        parts = self.parts(upload_id)
        # The sidecar goes first: from then on the upload does not exist, whatever is left of it.
        self._sidecars.remove(upload_id, *Kind)
        return self.erase_data(upload_id) + sum(self.erase(part) for part in parts)

    def ids(self) -> list[UploadId]:
        """Every upload that exists."""
        with os.scandir(self.directory) as entries:
            names = [entry.name for entry in entries if entry.name.endswith(Kind.INFO)]
        parsed = (parse_upload_id(name.removesuffix(Kind.INFO)) for name in names)
        return sorted(upload_id for upload_id in parsed if upload_id)

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

    # tuspyserver's contract.

    async def create(self, uid: str) -> None:
        """Begin a new, empty upload; doing it again changes nothing."""

        def make() -> None:
            os.close(os.open(self.path(uid), os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o640))

        await to_thread.run_sync(make)

    async def exists(self, uid: str) -> bool:
        """Whether there is data of that id."""
        return await to_thread.run_sync(self.path(uid).exists)

    async def size(self, uid: str) -> int:
        """Bytes in the file, durable: the Upload-Offset."""
        return await to_thread.run_sync(self.durable_offset, uid) or 0

    async def append(self, uid: str, chunk: bytes) -> None:
        """Add bytes at the end."""

        def write() -> None:
            with self.path(uid).open("ab", buffering=0) as file:
                view = memoryview(chunk)
                while view:
                    view = view[file.write(view) :]

        await to_thread.run_sync(write)

    async def flush(self, uid: str) -> None:
        """Make what was appended durable."""
        await to_thread.run_sync(self.durable_offset, uid)

    async def finalize(self, uid: str) -> None:
        """Nothing to do: a whole file is whole."""

    async def read(self, uid: str) -> bytes | None:
        """Every byte at once, as the contract wants it; not for large uploads."""
        if await self.exists(uid):
            return await to_thread.run_sync(self.path(uid).read_bytes)
        return None

    async def delete(self, uid: str) -> None:
        """Remove data, sidecar and everything beside them."""
        await to_thread.run_sync(self.erase, uid)

    async def read_info(self, uid: str) -> dict[str, Any] | None:
        """The sidecar as it stands on disk."""
        self.path(uid)
        return await to_thread.run_sync(self._sidecars.read, uid, Kind.INFO)

    async def write_info(self, uid: str, data: dict[str, Any]) -> None:
        """Replace the sidecar, keeping our own block when the writer does not know it."""

        def write() -> None:
            old = self._sidecars.read(uid, Kind.INFO)
            self._sidecars.write(uid, Kind.INFO, merged_sidecar(old, data))

        self.path(uid)
        await to_thread.run_sync(write)

    async def list_uids(self) -> list[str]:
        """Every known id."""
        return list(await to_thread.run_sync(self.ids))

    def location(self, uid: str) -> str:
        """The path of the data file."""
        return str(self.path(uid))

    # The contract's own type is wrong: an async context manager is meant, and used as one.
    def lock(  # type: ignore[override]
        self, uid: str
    ) -> AbstractAsyncContextManager[Any]:
        """Exclusive access to one upload, over all protocols and processes."""
        return self._locker.hold(uid)
