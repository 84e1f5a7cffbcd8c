"""The four old endpoints over the reception, in one dialect.

Knows: which request means what, and which answer it gets.
Must not know: files, locks, what an image is.

What is there already; one chunk; merge and push; how that stands.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from http import HTTPStatus

from anyio import to_thread
from starlette.requests import Request
from starlette.responses import Response

from hooks.errors import AdmissionRefused
from server.auth import Action, Caller
from server.chunk_reception import ChunksMissing
from server.errors import BadRequest, Conflict, NotFound
from server.finder import Found
from server.intake import Sink
from server.interruption import Ending
from server.journal import Proven
from server.protocols import headers as h
from server.protocols.legacy.answers import answer, answered, broken_off
from server.protocols.legacy.body import all_fields, query_fields
from server.protocols.legacy.dialect import Dialect
from server.protocols.legacy.form import Form, FormSink, add_field, boundary_of
from server.protocols.legacy.listing import Listing
from server.protocols.legacy.parts import Parts
from server.protocols.legacy.progress import progress, word
from server.protocols.legacy.said import Said, coded, said
from server.protocols.legacy.staging import Staging
from server.protocols.terms import lengthened, promised
from server.upload import Upload


@dataclass
class _Sending:
    """One request for a chunk, as far as it was read: its words, and whether more is to come."""

    fields: dict[str, str]
    form: Form | None
    more: bool

    @property
    def brings_bytes(self) -> bool:
        """Whether there is a chunk in it."""
        return self.more if self.form is None else self.form.file_begun


class LegacyProtocol:
    """The endpoints of one dialect."""

    def __init__(self, parts: Parts, dialect: Dialect) -> None:
        """Speak this dialect."""
        self.dialect = dialect
        self._parts = parts

    @answered
    async def check(self, request: Request) -> Response:
        """`GET /chunks`: what is already there. Creates nothing."""
        caller = self._parts.caller(request)
        asked = said(query_fields(request), self.dialect)
        found = await self._known(asked, caller)
        listing = await self._listing(asked, found)
        if asked.index is not None and self.dialect.absent is not None:
            if not listing.finished and not listing.has(asked.index):
                return Response(status_code=self.dialect.absent)
            listing = replace(listing, brief=asked.index > 0)
        # Of twenty thousand chunks the list takes a while.
        shape = await to_thread.run_sync(self.dialect.shape, listing)
        return answer(await to_thread.run_sync(listing.to_json), shape)

    @answered
    async def chunk(self, request: Request) -> Response:
        """`POST /chunks`: one chunk, as a form or as it is; without one, the upload begins."""
        caller = self._parts.caller(request)
        sending = await self._begin_reading(request)
        asked = said(sending.fields, self.dialect)
        if not sending.brings_bytes and not asked.names_chunk:
            found = await self._begun(asked, caller)
            return self._answer_chunk(asked, await self._listing(asked, found))
        if asked.names_file and asked.names_chunk:
            found = await self._begun(asked, caller)
            asked, found = await self._receive(request, sending, asked, found)
        else:
            asked, found = await self._receive_staged(request, sending, caller)
        return self._answer_chunk(asked, await self._listing(asked, found))

    @answered
    async def merge(self, request: Request) -> Response:
        """`POST /merge`: all chunks are there; what follows runs by itself. Answers at once."""
        caller = self._parts.caller(request)
        asked = said(await all_fields(request), self.dialect)
        found = await self._latest(asked, caller)
        if found is None:
            raise NotFound("merge: no such upload", "send its chunks first, or say `uploadId`")

        def amend(upload: Upload) -> Upload:
            return _told(asked, upload)

        try:
            found = await self._parts.chunks.merge(found, caller, amend)
        except ChunksMissing as error:
            listing = Listing(found, error.proven, asked.layout(error.upload))
            error.members = {"missing": listing.missing, **listing.to_json()}
            raise
        [record] = await self._parts.records.of([found])
        task = {"taskId": found.upload.id, "uploadId": found.upload.id, "status": word(record)}
        return answer(task, status=HTTPStatus.ACCEPTED)

    @answered
    async def status(self, request: Request) -> Response:
        """`GET /status?taskId`: how merge, load and push stand."""
        caller = self._parts.caller(request)
        asked = said(query_fields(request), self.dialect)
        found = await self._latest(asked, caller)
        if found is None:
            raise NotFound("status: no such task", "say the `taskId` that merge answered")
        [record] = await self._parts.records.of([found])
        return answer(progress(record))

    # --- which upload ---

    async def _known(self, asked: Said, caller: Caller) -> Found | None:
        """The upload that goes on; a finished one only for who may write its image."""
        if asked.upload_id is not None:
            reception = self._parts.reception
            found: Found | None = await reception.find(asked.upload_id, caller, Action.READ)
        else:
            found = await self._parts.indexed.find(asked.identified(caller.name))
            found = found or await self._undigested(asked, caller)
        if found is not None and (found.finished or found.outcome is not None):
            try:
                self._parts.admit(found.upload.metadata, caller)
            except AdmissionRefused:
                return None
        return found

    async def _begun(self, asked: Said, caller: Caller) -> Found:
        """The upload that a chunk is for; begun now, where there is none."""
        if asked.upload_id is not None:
            found = await self._parts.reception.receivable(asked.upload_id, caller, Action.WRITE)
            if found.upload.concatenation is not None:
                raise Conflict("chunks for a partial or a final upload", "begin a new upload")
        else:
            found = await self._parts.indexed.begin(
                asked.identified(caller.name),
                lambda upload_id: asked.described(upload_id, caller.name),
                caller,
            )
        asked.check_length(found.upload)
        return found

    async def _latest(self, asked: Said, caller: Caller) -> Found | None:
        """The upload that is meant when all was sent: also one that ended."""
        if asked.upload_id is not None:
            return await self._parts.reception.find(asked.upload_id, caller, Action.READ)
        found = await self._parts.indexed.find_latest(asked.identified(caller.name))
        return found or await self._undigested(asked, caller)

    async def _undigested(self, asked: Said, caller: Caller) -> Found | None:
        """The upload of this file, if its digest (or its size) is said for the first time now."""
        if asked.filename is None:
            return None
        if asked.total is not None or asked.identity:
            plain = asked.identified(caller.name, digested=False)
            return await self._parts.indexed.find(plain)

        def fits(upload: Upload) -> bool:
            known = {name: upload.expected.get(name, hex_) for name, hex_ in asked.digests.items()}
            undecided = upload.image is None or asked.image is None
            return known == asked.digests and (undecided or asked.image == upload.image)

        return await self._parts.indexed.find_unnamed(caller.name, asked.filename, fits)

    async def _listing(self, asked: Said, found: Found | None) -> Listing:
        upload = found.upload if found else None
        proven = Proven()
        if found is not None:
            asked.check_length(found.upload)
            proven = await to_thread.run_sync(self._parts.reception.store.proven, found.upload.id)
            if found.finished:
                # The archive may be gone, and nothing is missing all the same.
                proven = proven.with_span(0, found.offset)
        return Listing(found, proven, asked.layout(upload))

    # --- its bytes ---

    async def _begin_reading(self, request: Request) -> _Sending:
        """Read what comes before the bytes of the chunk."""
        fields = query_fields(request)
        boundary = boundary_of(request)
        if boundary is None:
            return _Sending(fields, None, h.has_body(request.headers))
        form = Form(boundary)

        def feed(data: bytes) -> bool:
            form.feed(data)
            return form.file_begun

        ended = await self._parts.intake.begin(request, feed)
        if ended is Ending.COMPLETE:
            form.check_whole()
        elif ended is not None:
            raise broken_off(ended)
        for name, value in form.fields.items():
            add_field(fields, name, value)
        return _Sending(fields, form, ended is None)

    async def _receive(
        self, request: Request, sending: _Sending, asked: Said, found: Found
    ) -> tuple[Said, Found]:
        """Bytes to their place; they count once all words are read and kept."""
        place = asked.place(asked.layout(found.upload))
        async with self._parts.chunks.writing(found, place.start, place.room) as target:
            form = sending.form
            sink: Sink = target.writer if form is None else FormSink(form, target.writer)
            received = await self._parts.intake.pour(request, target.lock, sink, more=sending.more)
            if received.ending is not Ending.COMPLETE:
                self._parts.reception.check_disk(received)
                raise broken_off(received.ending)
            final = self._finish_reading(sending)
            if (final.index, final.offset) != (asked.index, asked.offset):
                raise BadRequest(
                    "the form says behind the chunk that it belongs elsewhere", "say it once"
                )
            size = place.size if final.size is None else final.size
            found = await self._parts.count(found, target, size, final.chunk_digests)
        return final, found

    async def _receive_staged(
        self, request: Request, sending: _Sending, caller: Caller
    ) -> tuple[Said, Found]:
        """A form that says behind the bytes where they belong: they wait until then."""
        self._parts.reception.check_size(h.size(request.headers, h.CONTENT_LENGTH))
        if sending.form is None:
            raise BadRequest("a chunk of what? no file is named", "say it in the query")
        staging = await to_thread.run_sync(Staging, self._parts.reception.store.directory)
        try:
            sink = FormSink(sending.form, staging)
            received = await self._parts.intake.pour(request, None, sink, more=sending.more)
            if received.ending is not Ending.COMPLETE:
                self._parts.reception.check_disk(received)
                raise broken_off(received.ending)
            asked = self._finish_reading(sending)
            if not asked.names_chunk:
                raise BadRequest("where does the chunk belong?", "say index or offset")
            found = await self._begun(asked, caller)
            place = asked.place(asked.layout(found.upload))
            async with self._parts.chunks.writing(found, place.start, place.room) as target:
                await self._parts.give(staging, target.writer)
                found = await self._parts.count(found, target, place.size, asked.chunk_digests)
        finally:
            await to_thread.run_sync(staging.close)
        return asked, found

    def _finish_reading(self, sending: _Sending) -> Said:
        """All words of the request, now that its end was seen."""
        if sending.form is not None:
            sending.form.check_whole()
            for name, value in sending.form.fields.items():
                add_field(sending.fields, name, value)
        return said(sending.fields, self.dialect)

    def _answer_chunk(self, asked: Said, listing: Listing) -> Response:
        index = None if asked.index is None else asked.index + asked.first_index
        # The list is for who asks for it: here it would grow with each chunk.
        brief = replace(listing, brief=True)
        data = {**brief.to_json(), "index": index, "complete": listing.complete}
        # A client that asks about its first chunk only reads the others' from this answer.
        shaped = listing if asked.index == 0 else brief
        return answer(data, self.dialect.shape(shaped))


def _told(asked: Said, upload: Upload) -> Upload:
    """The upload with what a merge tells of it.

    Raises:
        BadRequest: another digest or length was said before.
        Conflict: another destination was.
    """
    added = dict(asked.digests)
    if asked.image is not None and upload.image not in (None, asked.image):
        raise Conflict(
            f"merge: the image is {upload.image}, not {asked.image}",
            "a destination is said once; send the file again for another one",
            code="image_conflict",
        )
    if asked.image is not None:
        added["image"] = asked.image
    length = asked.total if asked.total is not None else upload.length
    upload = promised(lengthened(upload, length), asked.digests)
    metadata: Mapping[str, str] = {**upload.metadata, **added}
    if metadata != upload.metadata:
        upload = replace(upload, metadata=metadata, raw_metadata=coded(metadata))
    return upload
