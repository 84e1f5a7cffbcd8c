"""Final uploads: made of partials, whole as soon as these are.

Knows: what may become a part of what, and that the same request twice means one upload.
Must not know: header names; how the parts become one file, and when.

Spec: tus 1.0.0, Concatenation.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from anyio import to_thread

from hooks.events import UploadEvent, UploadRemoved
from hooks.ports import Caller as AdmittedCaller
from server.auth import Action, Caller, authorize
from server.errors import BadRequest, Conflict, NotFound
from server.finder import Found
from server.reception import Reception
from server.upload import Upload, UploadId


class FinalUploads:
    """Creates final uploads. Nothing is copied: a final upload is a list of its parts."""

    def __init__(
        self,
        reception: Reception,
        admit: Callable[[Mapping[str, str], AdmittedCaller], None],
        emit: Callable[[UploadEvent], None],
    ) -> None:
        """Wire the parts; `admit` is the hooks' admission."""
        self._reception = reception
        self._admit = admit
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
        if known is None:
            self._admit(upload.metadata, caller)
            lengths = [await self._length(part, caller) for part in upload.parts]
            total = sum(length or 0 for length in lengths)
            self._reception.check_size(total)
            await to_thread.run_sync(self._reception.check_space, 0, upload.metadata, total)
        elif known.expected != upload.expected:
            raise Conflict(
                "concatenation: these parts are one upload already, with other digests promised",
                "a digest is said once; send the right one with new parts",
                code="digest_conflict",
            )
        if not await to_thread.run_sync(self._begin, upload):
            return await self._reception.receivable(upload.id, caller, Action.READ)
        found = await self._reception.find(upload.id, caller, Action.READ)
        for part in upload.parts:
            # From now on it is told of as a part of the whole only.
            self._emit(UploadRemoved(part, upload.owner))
        self._reception.announce(found)
        return found

    async def _length(self, part: UploadId, caller: Caller) -> int | None:
        """The length of what is to be a part, None while it is unknown."""
        try:
            found = await self._reception.receivable(part, caller, Action.WRITE)
        except NotFound as error:
            raise BadRequest(
                f"concatenation: there is no upload {part}",
                "name partial uploads that were created here",
                code="unknown_partial",
            ) from error
        if not found.upload.partial:
            raise BadRequest(
                f"concatenation: {part} is not a partial upload",
                "create the parts with `Upload-Concat: partial`",
                code="not_partial",
            )
        return found.upload.length

    def _begin(self, upload: Upload) -> bool:
        """Write the final upload and its claims; False when all of that was there. Blocking."""
        new = self._store.begin_final(upload)
        claimed: list[UploadId] = []
        for part in upload.parts:
            free = self._store.claimer(part) is None
            owner = self._store.claim(part, upload.id) if free else self._store.claimer(part)
            if owner != upload.id:
                if new:
                    self._take_back(upload, claimed)
                raise Conflict(
                    f"concatenation: {part} is a part of another upload already",
                    "a partial upload is used once; send its bytes again",
                    code="partial_in_use",
                )
            if free:
                claimed.append(part)
        return new or bool(claimed)

    def _take_back(self, upload: Upload, claimed: list[UploadId]) -> None:
        for part in claimed:
            self._store.unclaim(part)
        self._store.erase(upload.id)
