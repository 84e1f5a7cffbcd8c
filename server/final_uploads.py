"""Final uploads: made of partials, whole as soon as these are.

Knows: what may become a part of what, and that the same request twice means one upload.
Must not know: header names; how the parts become one file, and when.

Spec: tus 1.0.0, Concatenation.
"""

from __future__ import annotations

from collections.abc import Callable

from anyio import to_thread

from hooks.events import UploadEvent, UploadRemoved
from server.auth import Action, Caller, authorize
from server.errors import BadRequest, Conflict, Gone, NotFound
from server.finder import Found
from server.reception import Reception
from server.upload import Upload, UploadId


class FinalUploads:
    """Creates final uploads. Nothing is copied: a final upload is a list of its parts."""

    def __init__(
        self,
        reception: Reception,
        emit: Callable[[UploadEvent], None],
    ) -> None:
        """Wire the parts."""
        self._reception = reception
        self._emit = emit
        self._store = reception.store
        self._finder = reception.finder

    async def create(self, upload: Upload, caller: Caller) -> Found:
        """Make a final upload of partials, whole ones or such that still arrive.

        The same again (its id is made of what it is) is the same upload.

        Raises:
            AdmissionRefused: the hooks refuse its metadata.
            BadRequest: a part is no partial upload of this caller.
            Conflict: a part belongs to another final upload already.
            Gone: a part has expired, or the final upload was canceled.
            TooLarge, InsufficientStorage: it does not fit.
        """
        authorize(caller, Action.CREATE, None)
        known = await to_thread.run_sync(self._store.find, upload.id)
        if known is not None and known.expected != upload.expected:
            raise Conflict(
                "concatenation: these parts are one upload already, with other digests promised",
                "a digest is said once; send the right one with new parts",
                code="digest_conflict",
            )
        if known is not None and await to_thread.run_sync(self._is_settled, known):
            return await self._reception.receivable(upload.id, caller, Action.READ)
        await self._reception.admit(upload.metadata, caller)
        owners = [await self._check_part(part, upload.id, caller) for part in upload.parts]
        await self._check_size(upload)
        await self._begin(upload)
        found = await self._reception.find(upload.id, caller, Action.READ)
        for part, owner in zip(upload.parts, owners, strict=True):
            # From now on it is told of as a part of the whole only.
            self._emit(UploadRemoved(part, owner))
        self._reception.announce(found)
        return found

    def _is_settled(self, upload: Upload) -> bool:
        """Whether all of its parts are its own; then there is nothing left to do. Blocking."""
        ended = upload.sealed or self._store.outcome(upload.id) is not None
        return ended or len(self._store.parts(upload.id)) == len(upload.parts)

    async def _check_part(self, part: UploadId, final_id: UploadId, caller: Caller) -> str:
        """Judge what is to be a part; returns whose it is."""
        try:
            found = await self._reception.receivable(part, caller, Action.WRITE)
        except NotFound as error:
            raise _unknown(part) from error
        if found.upload.owner != caller.name:
            raise _unknown(part)
        if not found.upload.partial:
            raise BadRequest(
                f"concatenation: {part} is not a partial upload",
                "create the parts with `Upload-Concat: partial`",
                code="not_partial",
            )
        if found.canceling:
            raise Gone(f"concatenation: {part} was canceled", "send its bytes again")
        if found.part_of not in (None, final_id):
            raise _in_use(part)
        return found.upload.owner

    async def _check_size(self, upload: Upload) -> None:
        parts = [await to_thread.run_sync(self._store.find, part) for part in upload.parts]
        lengths = [part.length if part else None for part in parts]
        if self._reception.limits.max_size and None in lengths:
            raise BadRequest(
                "concatenation: not all parts have said their lengths",
                "this server limits the size of the whole: say the lengths first",
                code="unknown_length",
            )
        total = sum(length or 0 for length in lengths)
        self._reception.check_size(total)
        await to_thread.run_sync(self._reception.check_space, 0, upload.metadata, total)

    async def _begin(self, upload: Upload) -> None:
        """Write the final upload and claim its parts, all of them or none."""
        await to_thread.run_sync(self._store.begin_final, upload)
        try:
            # The same request at the same time, DELETE and sweeps wait for each other here.
            async with self._reception.locker.hold(upload.id):
                await to_thread.run_sync(self._claim, upload)
        except NotFound as error:
            raise Conflict(
                "concatenation: the upload was taken back meanwhile", "ask again"
            ) from error

    def _claim(self, upload: Upload) -> None:
        # In one order for all, so that of two final uploads with common parts one gets them.
        for part in sorted(upload.parts):
            if self._store.claim(part, upload.id) != upload.id:
                self._store.forget_final(upload.id)
                raise _in_use(part)


def _unknown(part: UploadId) -> BadRequest:
    return BadRequest(
        f"concatenation: there is no upload {part}",
        "name partial uploads that were created here",
        code="unknown_partial",
    )


def _in_use(part: UploadId) -> Conflict:
    return Conflict(
        f"concatenation: {part} is a part of another upload already, or was removed",
        "a partial upload is used once; send its bytes again",
        code="partial_in_use",
    )
