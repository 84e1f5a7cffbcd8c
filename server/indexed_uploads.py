"""IndexedUploads: which upload in chunks is which file, for senders that know no upload's id.

Knows: that one file has one upload that goes on, however many requests begin it at once.
Must not know: chunks, locks, how a request says which file it means.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

import anyio
from anyio import to_thread

from hooks.record import Status
from server.auth import Caller
from server.errors import Conflict, UploadLocked
from server.finder import Found
from server.reception import Reception
from server.upload import Upload, UploadId, indexed_upload_id

# How often one file may be tried within the time that history is kept.
_TURNS: Final = 64
_POLL_SECONDS: Final = 0.02
# Another request is just making the upload.
_PATIENCE_SECONDS: Final = 5.0


@dataclass(frozen=True)
class Identity:
    """Whose and which file it is: what a client tells of it again after a restart.

    `image` is where it is to go (None: not said); the same file for another place is another
    upload.
    """

    owner: str
    file: tuple[str, ...]
    image: str | None = None


class IndexedUploads:
    """Finds and begins uploads in chunks."""

    def __init__(self, reception: Reception) -> None:
        """Look into this reception's store, and create through it."""
        self._reception = reception
        self._store = reception.store

    async def find(self, identity: Identity) -> Found | None:
        """The upload of this file that goes on, or whose image is done; None: none does."""
        return await to_thread.run_sync(self._find, identity)

    async def find_latest(self, identity: Identity) -> Found | None:
        """As `find`; else the one that ended last, however it ended."""
        return await to_thread.run_sync(self._find_latest, identity)

    async def find_unnamed(
        self, owner: str, filename: str, promises: Callable[[Upload], bool]
    ) -> Found | None:
        """The one unmerged upload in chunks of this name that keeps what is promised now.

        For senders that learn the file's digest only at the end.

        Raises:
            Conflict: there are several.
        """
        found = await to_thread.run_sync(self._find_unnamed, owner, filename, promises)
        if len(found) > 1:
            raise Conflict(
                f"{filename}: {len(found)} unfinished uploads have this name",
                "say `uploadId`, or the size of the file",
                code="ambiguous",
            )
        return found[0] if found else None

    async def begin(
        self, identity: Identity, described: Callable[[UploadId], Upload], caller: Caller
    ) -> Found:
        """The upload of this file; if there is none, `described` says how it begins.

        Raises:
            Conflict: it was tried too often.
            AdmissionRefused, TooLarge, InsufficientStorage: as `Reception.create`.
        """
        with anyio.move_on_after(_PATIENCE_SECONDS):
            while True:
                there = await to_thread.run_sync(self._find_or_free, identity)
                if isinstance(there, Found):
                    return there
                try:
                    return await self._reception.create(described(there), caller)
                except FileExistsError:
                    # Of several that begin at once, another one does it just now.
                    await anyio.sleep(_POLL_SECONDS)
        raise UploadLocked("another request begins this upload", "try again")

    def _find(self, identity: Identity) -> Found | None:
        return next((found for found in self._tried(identity) if _goes_on(found, identity)), None)

    def _find_latest(self, identity: Identity) -> Found | None:
        tried = list(self._tried(identity))
        going = [found for found in tried if _goes_on(found, identity)]
        fitting = [found for found in tried if identity.image in (None, found.upload.image)]
        return next(iter([*going, *reversed(fitting)]), None)

    def _tried(self, identity: Identity) -> Iterator[Found]:
        """What there is of this file, in the order in which it was tried."""
        uploads = (
            self._store.find(indexed_upload_id(identity.owner, identity.file, turn))
            for turn in range(_TURNS)
        )
        found = (self._reception.finder.glance(upload) for upload in uploads if upload)
        return (one for one in found if one)

    def _find_or_free(self, identity: Identity) -> Found | UploadId:
        """The upload that goes on, or the id of the next one: the first that nobody had.

        In one pass: who looks for an id after another request has begun with the first would take
        the second, and one file would be two uploads.
        """
        free = None
        for turn in range(_TURNS):
            upload_id = indexed_upload_id(identity.owner, identity.file, turn)
            upload = self._store.find(upload_id)
            if upload is None:
                free = free or upload_id
                continue
            found = self._reception.finder.glance(upload)
            if found is not None and _goes_on(found, identity):
                return found
        if free is not None:
            return free
        raise Conflict(
            f"this file was sent {_TURNS} times already",
            "its history is kept for `history_days`; send it under another name",
            code="too_many_tries",
        )

    def _find_unnamed(
        self, owner: str, filename: str, promises: Callable[[Upload], bool]
    ) -> list[Found]:
        uploads = [self._store.find(upload_id) for upload_id in self._store.ids()]
        mine = [
            upload
            for upload in uploads
            if upload and upload.unmerged and upload.owner == owner and promises(upload)
        ]
        found = [
            self._reception.finder.glance(upload) for upload in mine if upload.filename == filename
        ]
        return [one for one in found if one and _alive(one)]


def _alive(found: Found) -> bool:
    return found.outcome is None and not found.expired and not found.canceling


def _goes_on(found: Found, identity: Identity) -> bool:
    """Whether this is the upload that a sender of this file means."""
    image = found.upload.image
    if found.outcome is not None:
        done = found.outcome.status is Status.DONE and bool(found.outcome.results)
        return done and image is not None and image == identity.image
    undecided = image is None and found.upload.unmerged
    return _alive(found) and (undecided or identity.image in (None, image))
