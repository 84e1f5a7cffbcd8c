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
from server.upload import Upload, UploadId

_HOUR_SECONDS: Final = 3600


@dataclass(frozen=True)
class Found:
    """An upload as it is now. `outcome` says how it ended, if it did."""

    upload: Upload
    offset: int
    outcome: Record | None
    expires_at: float | None
    canceling: bool = False
    part_of: UploadId | None = None

    @property
    def finished(self) -> bool:
        """Whether every byte came (the archive itself may be gone by now).

        Of an upload in chunks somebody must have said that these are all.
        """
        return self.offset == self.upload.length and not self.upload.unmerged

    @property
    def expired(self) -> bool:
        """Whether an unfinished upload's time is over (a sweep may not have come by yet)."""
        return self.expires_at is not None and self.expires_at <= time.time()

    def record(self) -> Record:
        """The status document, as the disk alone tells it."""
        if self.outcome is not None and self.part_of is None:
            return self.outcome
        queued = self.finished and not self.upload.partial
        status = Status.QUEUED if queued else Status.RECEIVING
        if self.outcome is not None:
            status = self.outcome.status
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
        if upload.parts:
            return self._look_at_final(upload)
        final = self.final_of(upload)
        if final is not None:
            return self._look_at_part(upload, final)
        return self._look_at_one(upload)

    def final_of(self, upload: Upload) -> Upload | None:
        """The final upload that a partial is a part of."""
        claimer = self._store.claimer(upload.id) if upload.partial else None
        return self._store.find(claimer) if claimer and claimer != upload.id else None

    def told_of(self, found: Found) -> Found:
        """What is told when bytes came: of a part, how its final upload stands."""
        final = self.final_of(found.upload)
        if final is None:
            return found
        self._store.touch(final.id)
        return self.glance(final) or found

    def _look_at_one(self, upload: Upload) -> Found:
        # The outcome is read after the size: an archive is only removed once its outcome is there.
        offset = self._store.measure(upload.id)
        last_byte_at = self._store.last_byte_at(upload.id)
        outcome = self._store.outcome(upload.id)
        if offset is None:
            offset = outcome.offset if outcome else 0
        # A whole partial that nobody makes a part of anything expires like an unfinished upload.
        came = offset == upload.length and not upload.unmerged
        unfinished = outcome is None and (not came or upload.partial)
        if last_byte_at is None and outcome is None:
            raise NotFound("the upload's bytes are gone", "create a new one")
        expires_at = last_byte_at + self.ttl_seconds if unfinished and last_byte_at else None
        canceling = outcome is None and self._store.cancel_requested(upload.id)
        return Found(upload, offset, outcome, expires_at, canceling)

    def _look_at_part(self, upload: Upload, final: Upload) -> Found:
        """A part lives and ends with its final upload, which may have taken its bytes already."""
        store = self._store
        offset = store.measure(upload.id)
        started_at = store.last_byte_at(final.id)
        outcome = store.outcome(final.id)
        # Read again: its parts' bytes go once it is sealed.
        final = store.find(final.id) or final
        if offset is None:
            offset = (upload.length or 0) if final.sealed or outcome else 0
        if outcome is not None or final.sealed or started_at is None:
            return Found(upload, offset, outcome, None, part_of=final.id)
        expires_at: float | None = started_at + self.ttl_seconds
        if started_at + self.ttl_seconds <= time.time() and self._look_at_final(final).finished:
            expires_at = None
        canceling = store.cancel_requested(final.id)
        return Found(upload, offset, None, expires_at, canceling, part_of=final.id)

    def _look_at_final(self, upload: Upload) -> Found:
        """The sum of its parts; once it is sealed, what the parts were then."""
        store = self._store
        # In this order, as for one: the archive is only removed once its outcome is there.
        last_byte_at = store.last_byte_at(upload.id)
        outcome = store.outcome(upload.id)
        if last_byte_at is None and outcome is None:
            raise NotFound("the upload's bytes are gone", "create a new one")
        canceling = outcome is None and store.cancel_requested(upload.id)
        if upload.sealed:
            return Found(upload, upload.length or 0, outcome, None, canceling)
        if outcome is not None:
            upload = upload if outcome.length is None else upload.with_length(outcome.length)
            return Found(upload, outcome.offset, outcome, None)
        own = store.parts(upload.id)
        parts = [part for part in (store.find(one) for one in own) if part]
        sizes = [store.measure(part.id) for part in parts]
        if None in sizes and (now := store.find(upload.id)) is not None and now.sealed:
            return self._look_at_final(now)
        lengths = [part.length for part in parts if part.length is not None]
        offset = sum(size or 0 for size in sizes)
        if len(lengths) == len(upload.parts):
            upload = upload.with_length(sum(lengths))
        unfinished = offset != upload.length
        expires_at = last_byte_at + self.ttl_seconds if unfinished and last_byte_at else None
        return Found(upload, offset, None, expires_at, canceling)
