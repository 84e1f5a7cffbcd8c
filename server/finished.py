"""The store as the hooks see it: implements `hooks/ports.py`.

Knows: store, locks, expiry.
Must not know: steps, Redis, HTTP.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from anyio import to_thread

from hooks.ports import Digests, Growth, Swept, UploadBusy
from hooks.record import Record
from server.assembly import Assembly
from server.errors import NotFound, UploadLocked
from server.expiry import Expiry
from server.finder import Finder, Found
from server.locker import Locker
from server.store import UploadStore


class StoredUpload:
    """One whole upload without an outcome (a `FinishedUpload`)."""

    def __init__(
        self,
        store: UploadStore,
        locker: Locker,
        expiry: Expiry,
        assembly: Assembly,
        found: Found,
    ) -> None:
        """Describe what was found."""
        self._store = store
        self._assembly = assembly
        self._locker = locker
        self._expiry = expiry
        self._found = found

    @property
    def id(self) -> str:
        """32 lower-case hex digits."""
        return self._found.upload.id

    @property
    def path(self) -> Path:
        """The data file; read only."""
        return self._store.path(self.id)

    @property
    def length(self) -> int:
        """Size in bytes."""
        return self._found.offset

    @property
    def metadata(self) -> Mapping[str, str]:
        """What the sender said."""
        return self._found.upload.metadata

    @property
    def expected(self) -> Mapping[str, str]:
        """Digests the sender promised, lower-case hex by `md5` and `sha256`."""
        return self._found.upload.expected

    @property
    def record(self) -> Record:
        """The status document as the disk alone can tell it."""
        return self._found.record()

    @property
    def in_parts(self) -> bool:
        """Whether it was sent as several uploads."""
        return bool(self._found.upload.parts)

    async def assemble(self, progress: Callable[[int, int], None]) -> None:
        """Make one file of its parts, from where it was left.

        Raises:
            OSError: the disk is full, or a part cannot be read.
        """
        await self._assembly.run(self._found.upload, progress)

    @asynccontextmanager
    async def lock(self) -> AsyncIterator[None]:
        """Hold the upload.

        Raises:
            UploadBusy: somebody else holds it, or it was removed.
        """
        try:
            async with self._locker.hold(self.id, wait_seconds=0):
                yield
        except (UploadLocked, NotFound) as error:
            raise UploadBusy(self.id) from error

    async def digests(self) -> Digests | None:
        """What a follower left, if it covers the whole length."""
        digests = await to_thread.run_sync(self._store.digests, self.id)
        return digests if digests and digests.length == self.length else None

    async def cancel_requested(self) -> bool:
        """Whether somebody asked to cancel what follows this upload."""
        return await to_thread.run_sync(self._store.cancel_requested, self.id)

    async def record_contents(self, contents: Mapping[str, Any]) -> None:
        """Keep what a look into the archive told."""
        await to_thread.run_sync(self._store.record_contents, self.id, contents)

    async def record_outcome(self, outcome: Record) -> None:
        """Write the end of this upload to disk, with the time until which its archive is kept."""
        await to_thread.run_sync(self._store.record_outcome, self._expiry.dated(outcome))

    async def discard(self) -> None:
        """Remove the data file."""
        await to_thread.run_sync(self._store.erase_data, self.id)


class StoredUploads:
    """All uploads of the store (an `Uploads`)."""

    def __init__(self, store: UploadStore, locker: Locker, finder: Finder, expiry: Expiry) -> None:
        """Wire the parts."""
        self._store = store
        self._locker = locker
        self._finder = finder
        self._expiry = expiry
        self._assembly = Assembly(store, finder)

    async def finished(self) -> list[str]:
        """Ids of uploads that are whole and have no outcome."""
        return await to_thread.run_sync(self._finished)

    def _finished(self) -> list[str]:
        found = (self._found(upload_id) for upload_id in self._store.ids())
        return [one.upload.id for one in found if one]

    def _found(self, upload_id: str) -> Found | None:
        # The cheap questions first: most uploads on disk have ended.
        if self._store.measure(upload_id) is None or self._store.outcome(upload_id) is not None:
            return None
        upload = self._store.find(upload_id)
        found = self._finder.glance(upload) if upload and not upload.partial else None
        whole = found is not None and found.finished and found.outcome is None
        return found if whole else None

    async def get(self, upload_id: str) -> StoredUpload | None:
        """A whole upload without an outcome."""
        found = await to_thread.run_sync(self._found, upload_id)
        if found is None:
            return None
        return StoredUpload(self._store, self._locker, self._expiry, self._assembly, found)

    async def outcome(self, upload_id: str) -> Record | None:
        """How the upload ended, if it ended."""
        return await to_thread.run_sync(self._store.outcome, upload_id)

    def growth(self, upload_id: str) -> Growth | None:
        """How far its file has come; None where there is nothing to follow. Blocking."""
        proven = self._store.measure(upload_id)
        upload = self._store.find(upload_id)
        if proven is None or upload is None or upload.concatenation is not None:
            return None
        return Growth(upload.length, proven)

    def location(self, upload_id: str) -> str:
        """The path of the data file."""
        return self._store.location(upload_id)

    async def record_digests(self, upload_id: str, digests: Digests) -> None:
        """Leave a follower's result beside the sidecar."""
        await to_thread.run_sync(self._store.record_digests, upload_id, digests)

    async def sweep(self, *, dry_run: bool) -> list[Swept]:
        """Expire what is due, remove archives and history whose time is over."""
        return await self._expiry.sweep(dry_run=dry_run)
