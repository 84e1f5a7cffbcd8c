"""Admittance: how uploads come into being, and are found again.

Knows: who may see and begin what, what fits, expiry.
Must not know: how bytes are appended, header names, which protocol asks.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from anyio import to_thread

from hooks.events import UploadCreated, UploadEvent, UploadFinished
from hooks.metrics import UPLOADS_CREATED, UPLOADS_FINISHED
from hooks.ports import Caller as AdmittedCaller
from hooks.record import Status
from server.auth import Action, Caller, authorize
from server.errors import Gone, NotFound, TooLarge
from server.finder import Finder, Found
from server.locker import Locker
from server.space import free_bytes, insufficient, share_a_file_system
from server.store import UploadStore
from server.upload import Upload

logger = logging.getLogger(__name__)


class Admission(Protocol):
    """Who says whether an upload may be sent at all (the hooks do)."""

    def check(self, metadata: Mapping[str, str], caller: AdmittedCaller) -> None:
        """Return, or raise an AdmissionRefused with the reason."""

    async def preflight(self, metadata: Mapping[str, str]) -> None:
        """The same, asking the registry; it takes some seconds at most."""

    def working_space(self, metadata: Mapping[str, str], length: int) -> int:
        """Bytes that what follows the upload will need beside the archive."""


@dataclass(frozen=True)
class Limits:
    """How large an upload may be (`max_size` in bytes, 0: any), and where its work takes space.

    That is below `jobs_dir`, which may be a mount of its own; without `works_here` the process
    that works may see another one there.
    """

    max_size: int
    jobs_dir: Path
    works_here: bool


class Admittance:
    """Creates and finds uploads; tells the hooks through `emit`, which never waits."""

    def __init__(
        self,
        store: UploadStore,
        finder: Finder,
        locker: Locker,
        admission: Admission,
        emit: Callable[[UploadEvent], None],
        *,
        limits: Limits,
    ) -> None:
        """Wire the parts."""
        self.store = store
        self.finder = finder
        self.locker = locker
        self._admission = admission
        self._emit = emit
        self.limits = limits

    async def create(self, upload: Upload, caller: Caller) -> Found:
        """Admit and create an upload; an empty one is finished at once.

        Raises:
            AdmissionRefused: the hooks refuse its metadata.
            TooLarge, InsufficientStorage: it does not fit.
        """
        authorize(caller, Action.CREATE, None)
        self.check_size(upload.length)
        if not upload.partial:
            await self.admit(upload.metadata, caller)
        await to_thread.run_sync(self._begin, upload)
        found = await self._look(upload)
        self.announce(found)
        return found

    async def admit(self, metadata: Mapping[str, str], caller: Caller) -> None:
        """Refuse what may not go there, or would not be taken there.

        Raises:
            AdmissionRefused: with the reason.
        """
        self._admission.check(metadata, caller)
        await self._admission.preflight(metadata)

    def announce(self, found: Found) -> None:
        """Tell that the upload is there, and whole if it is."""
        record = found.record()
        self._emit(UploadCreated(record))
        if found.finished and not found.upload.partial:
            self._emit(UploadFinished(record, in_parts=bool(found.upload.parts)))
        UPLOADS_CREATED.add()
        if found.finished:
            UPLOADS_FINISHED.add()
        logger.info("upload created", extra={"upload_id": record.id, "length": record.length})

    def check_size(self, length: int | None) -> None:
        """Refuse a length over the limit.

        Raises:
            TooLarge: it is over `max_size`.
        """
        most = self.limits.max_size
        if most and length is not None and length > most:
            raise TooLarge(
                f"upload of {length} bytes: at most {most} are taken",
                "ask the operator to raise `max_size`",
            )

    def check_space(
        self, missing: int, metadata: Mapping[str, str] | None, length: int | None = None
    ) -> None:
        """Refuse an upload that could be stored, but not be worked on. Blocking.

        `missing` bytes are still to come, of `length` (None: all of them). Without any metadata
        (None) nothing is going to follow.

        Raises:
            InsufficientStorage: needed and free are in its words.
        """
        length = missing if length is None else length
        work = 0 if metadata is None else self._admission.working_space(metadata, length)
        if share_a_file_system(self.store.directory, self.limits.jobs_dir):
            purpose = f" ({missing} for the archive, {work} to load and push it)"
            needs = [(self.store.directory, missing + work, purpose)]
        else:
            needs = [(self.store.directory, missing, " for the archive")]
            if self.limits.works_here:
                needs.append((self.limits.jobs_dir, work, " to load and push it"))
        for directory, needed, purpose in needs:
            if needed > free_bytes(directory):
                raise insufficient("take the upload", needed, directory, purpose)

    def _begin(self, upload: Upload) -> None:
        # Nothing follows a partial by itself: what is to follow is the final upload's to ask for.
        self.check_space(upload.length or 0, None if upload.partial else upload.metadata)
        self.store.begin(upload)

    async def find(self, upload_id: str, caller: Caller, action: Action) -> Found:
        """The upload, if the caller may do that to it.

        Raises:
            NotFound: no such upload, or another caller's.
        """
        upload = await to_thread.run_sync(self.store.find, upload_id)
        if upload is None:
            raise NotFound("no such upload", "create a new one")
        authorize(caller, action, upload.owner)
        return await self._look(upload)

    async def receivable(self, upload_id: str, caller: Caller, action: Action) -> Found:
        """As `find`, for requests that need an upload which was neither canceled nor has expired.

        Raises:
            Gone: it was canceled or has expired.
        """
        found = await self.find(upload_id, caller, action)
        self._check_alive(found)
        return found

    def _check_alive(self, found: Found) -> None:
        status = found.outcome.status if found.outcome else None
        canceled = status is Status.CANCELED or (found.canceling and not found.finished)
        if canceled or found.expired or status is Status.EXPIRED:
            word = "was canceled" if canceled else "has expired"
            raise Gone(f"the upload {word}", "create a new one and send it from the start")

    async def _look(self, upload: Upload) -> Found:
        return await to_thread.run_sync(self.finder.look, upload)

    async def digests(self, found: Found) -> Mapping[str, str]:
        """What the whole file hashes to, hex by `md5` and `sha256`; empty while nobody knows."""
        if found.upload.partial:
            return {}
        if found.outcome is not None:
            return {name: value for name, value in found.outcome.digests.items() if value}
        digests = await to_thread.run_sync(self.store.digests, found.upload.id)
        if digests is None or not found.finished or digests.length != found.offset:
            return {}
        return {"md5": digests.md5, "sha256": digests.sha256}

    async def settled(self, found: Found) -> Found:
        """The upload with a durable offset that stays true: an idle writer is evicted."""
        if found.finished or found.outcome is not None or found.upload.parts:
            return found
        await self.locker.settle(found.upload.id)
        offset = await to_thread.run_sync(self.store.durable_offset, found.upload.id)
        return found if offset is None else replace(await self._look(found.upload), offset=offset)
