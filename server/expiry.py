"""Expiry: what is removed when its time is over, and what never is.

Knows: the retention settings, what an upload looks like on disk.
Must not know: who calls it, and when (the hooks' timer and `tusboat gc` do).
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from anyio import to_thread

from hooks.events import UploadEnded, UploadEvent, UploadRemoved
from hooks.ports import Swept
from hooks.record import Record, Status, rfc3339
from server.errors import NotFound, UploadLocked
from server.finder import Finder, Found
from server.locker import Locker
from server.space import is_disk_full
from server.store import UploadStore
from server.upload import UploadId

logger = logging.getLogger(__name__)

_HOUR_SECONDS: Final = 3600.0
_DAY_SECONDS: Final = 24 * _HOUR_SECONDS
# A file of no upload may be one that is being created just now.
_LEFTOVER_SECONDS: Final = _HOUR_SECONDS


@dataclass(frozen=True)
class Times:
    """How long things are kept."""

    finished_ttl_hours: float
    history_days: float


class Expiry:
    """Sweeps one data directory. Whatever is locked is in use and stays."""

    def __init__(
        self,
        store: UploadStore,
        locker: Locker,
        finder: Finder,
        emit: Callable[[UploadEvent], None],
        times: Times,
    ) -> None:
        """Wire the parts."""
        self._store = store
        self._locker = locker
        self._finder = finder
        self._emit = emit
        self._times = times

    def dated(self, outcome: Record) -> Record:
        """The outcome, saying until when its archive is kept (if it is)."""
        if not _keeps_archive(outcome):
            return replace(outcome, expires_at=None)
        until = time.time() + self._times.finished_ttl_hours * _HOUR_SECONDS
        return replace(outcome, expires_at=rfc3339(until))

    async def sweep(self, *, dry_run: bool) -> list[Swept]:
        """Remove what is due (or, with `dry_run`, only say what would be)."""
        swept = []
        for upload_id in await to_thread.run_sync(self._by_need):
            reason = await to_thread.run_sync(self._due, upload_id)
            if reason is None:
                continue
            if dry_run:
                freed = await to_thread.run_sync(self._store.stored_bytes, upload_id)
                swept.append(Swept(upload_id, reason, freed))
            else:
                swept += await self._removed(upload_id)
        for path in await to_thread.run_sync(self._store.leftovers, _LEFTOVER_SECONDS):
            swept.append(await to_thread.run_sync(_remove_leftover, path, dry_run))
        return swept

    def _by_need(self) -> list[UploadId]:
        """Uploads that have ended first: removing their archives needs no space, and makes some."""
        return sorted(self._store.ids(), key=lambda one: self._store.outcome(one) is None)

    def _found(self, upload_id: str) -> Found | None:
        upload = self._store.find(upload_id)
        return self._finder.glance(upload) if upload else None

    def _due(self, upload_id: str) -> str | None:
        """Why the upload, its archive or its history may go now; None: it stays."""
        upload = self._store.find(upload_id)
        if upload is None or self._finder.final_of(upload) is not None:
            return None
        found = self._finder.glance(upload)
        if found is None:
            # A kill in the middle of a removal left it.
            age = self._store.sidecar_age_seconds(upload_id) or 0.0
            return "belongs to no upload" if age > _LEFTOVER_SECONDS else None
        if found.outcome is None:
            return "unfinished, expired" if found.expired else None
        age = self._store.outcome_age_seconds(upload_id) or 0.0
        if self._store.measure(upload_id) is None:
            return "history" if age > self._times.history_days * _DAY_SECONDS else None
        if not _keeps_archive(found.outcome):
            # A kill between the outcome and the archive's removal left it.
            return f"archive of a {found.outcome.status} upload"
        return (
            "archive, kept long enough"
            if age > self._times.finished_ttl_hours * _HOUR_SECONDS
            else None
        )

    async def _removed(self, upload_id: str) -> list[Swept]:
        """As `_remove`; what one upload's files refuse does not keep the others."""
        try:
            return await self._remove(upload_id)
        except OSError as error:
            logger.warning("not swept", extra={"upload_id": upload_id, "cause": str(error)})
            return []

    async def _remove(self, upload_id: str) -> list[Swept]:
        if await to_thread.run_sync(self._store.measure, upload_id) is None:
            return await self._forget(upload_id)
        try:
            parts = await to_thread.run_sync(self._store.parts, upload_id)
            async with self._locker.hold_all(upload_id, parts, wait_seconds=0):
                # Somebody may have gone on with it while we came for it.
                found = await to_thread.run_sync(self._found, upload_id)
                reason = await to_thread.run_sync(self._due, upload_id)
                if found is None or reason is None:
                    return []
                withdraw = self._store.withdraw
                if found.upload.partial and not await to_thread.run_sync(withdraw, upload_id):
                    return []
                if found.outcome is None:
                    ended = replace(found.record(), status=Status.EXPIRED)
                    await to_thread.run_sync(self._record, ended)
                    self._emit(UploadEnded(ended))
                freed = await to_thread.run_sync(self._store.erase_data, upload_id)
                return [Swept(upload_id, reason, freed)]
        except (UploadLocked, NotFound):
            return []

    def _record(self, ended: Record) -> None:
        """Write an outcome; on a full disk, at the cost of the bytes that go anyway."""
        try:
            self._store.record_outcome(ended)
        except OSError as error:
            if not is_disk_full(error):
                raise
            for one in (ended.id, *self._store.parts(ended.id)):
                os.truncate(self._store.path(one), 0)
            self._store.record_outcome(ended)

    async def _forget(self, upload_id: str) -> list[Swept]:
        """Remove what is still known of an upload whose archive went long ago."""
        upload = await to_thread.run_sync(self._store.find, upload_id)
        reason = await to_thread.run_sync(self._due, upload_id)
        if upload is None or reason is None:
            return []
        await to_thread.run_sync(self._store.erase, upload_id)
        self._emit(UploadRemoved(upload_id, upload.owner))
        return [Swept(upload_id, reason, 0)]


def _keeps_archive(outcome: Record) -> bool:
    """Whether the archive stays for a while: to be tried again, or because nothing was pushed."""
    return outcome.status is Status.FAILED or (
        outcome.status is Status.DONE and not outcome.results
    )


def _remove_leftover(path: Path, dry_run: bool) -> Swept:
    freed = path.stat().st_blocks * 512
    if not dry_run:
        path.unlink(missing_ok=True)
    return Swept(path.name.split(".")[0], "belongs to no upload", freed)
