"""Finder: how an upload stands, as the disk alone tells it.

Knows: sizes, outcomes, marks and times; what partial and final uploads are to each other.
Must not know: who asks, Redis.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Final

from hooks.record import Record, Status
from server.errors import NotFound
from server.store import UploadStore
from server.upload import Upload

_HOUR_SECONDS: Final = 3600


@dataclass(frozen=True)
class Found:
    """An upload as it is now. `outcome` says how it ended, if it did."""

    upload: Upload
    offset: int
    outcome: Record | None
    expires_at: float | None
    canceling: bool = False

    @property
    def finished(self) -> bool:
        """Whether every byte came (the archive itself may be gone by now)."""
        return self.offset == self.upload.length

    @property
    def expired(self) -> bool:
        """Whether an unfinished upload's time is over (a sweep may not have come by yet)."""
        return self.expires_at is not None and self.expires_at <= time.time()

    def record(self) -> Record:
        """The status document, as the disk alone tells it."""
        if self.outcome is not None:
            return self.outcome
        status = Status.QUEUED if self.finished else Status.RECEIVING
        return self.upload.record(status=status, offset=self.offset, expires_at=self.expires_at)


class Finder:
    """Looks at uploads. Blocking: call it from a thread."""

    def __init__(self, store: UploadStore, *, unfinished_ttl_hours: float) -> None:
        """An unfinished upload expires so long after its last byte."""
        self._store = store
        self.ttl_seconds = unfinished_ttl_hours * _HOUR_SECONDS

    def glance(self, upload: Upload) -> Found | None:
        """As `look`; None for an upload that is being removed just now."""
        try:
            return self.look(upload)
        except NotFound:
            return None

    def look(self, upload: Upload) -> Found:
        """How the upload stands on disk now.

        Raises:
            NotFound: neither its bytes nor an outcome are there.
        """
        # The outcome is read after the size: an archive is only removed once its outcome is there.
        offset = self._store.measure(upload.id)
        last_byte_at = self._store.last_byte_at(upload.id)
        outcome = self._store.outcome(upload.id)
        if offset is None:
            offset = outcome.offset if outcome else 0
        unfinished = outcome is None and offset != upload.length and last_byte_at is not None
        expires_at = last_byte_at + self.ttl_seconds if unfinished and last_byte_at else None
        if last_byte_at is None and outcome is None:
            raise NotFound("the upload's bytes are gone", "create a new one")
        canceling = outcome is None and self._store.cancel_requested(upload.id)
        return Found(upload, offset, outcome, expires_at, canceling)
