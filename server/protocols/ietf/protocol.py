"""Resumable uploads of the IETF's HTTP working group, and uploads in one plain request.

Knows: which request means what, and which answer its dialect wants.
Must not know: files, locks, what an image is.

Spec: draft-ietf-httpbis-resumable-upload, -01 to -12; RFC 9530 for digests.

An upload is complete when its last byte came: one whose length is known ends there, also when the
sender did not say that this was the end. An empty append at the end says so once more.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from http import HTTPStatus
from typing import Final

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from server.auth import Action, Callers
from server.errors import BadRequest, ServerError, TooLarge, UnsupportedMediaType
from server.finder import Found
from server.interruption import Ending
from server.protocols import headers as h
from server.protocols.digests import content_proof, wanted_digest
from server.protocols.ietf.answers import dressed
from server.protocols.ietf.creation import check_plain, declared_bytes, new_upload
from server.protocols.ietf.dialect import Dialect, dialect_of, integer, named_dialect
from server.protocols.location import Locations
from server.protocols.terms import lengthened, method, promised, refusal, unchanged
from server.reception import INCONSISTENT_LENGTH, Appended, Reception
from server.termination import Termination
from server.upload import Upload, parse_upload_id
from server.wire import INTERIM, SendInterim

_COLLECTION_METHODS: Final = ("POST", "PUT", "OPTIONS")
_ITEM_METHODS: Final = ("HEAD", "GET", "PATCH", "DELETE", "OPTIONS")


def common_headers(request: Request) -> dict[str, str]:
    """What every answer carries, errors too: the version spoken, where the request named one."""
    named = named_dialect(request.headers)
    return {h.INTEROP_VERSION: str(named.version)} if named else {}


class IetfProtocol:
    """The requests of the draft over the reception."""

    def __init__(
        self,
        reception: Reception,
        termination: Termination,
        callers: Callers,
        locations: Locations,
        *,
        interim: bool,
    ) -> None:
        """Wire the parts; with `interim`, a creation is announced by an interim response."""
        self._reception = reception
        self._termination = termination
        self._callers = callers
        self._locations = locations
        self._interim = interim

    async def collection(self, request: Request) -> Response:
        """`/files/`: POST and PUT create, OPTIONS tells the limits."""
        dialect = dialect_of(request.headers)
        match method(request):
            case "OPTIONS":
                return _answer(request, HTTPStatus.NO_CONTENT, self.discovery(dialect))
            case "POST" | "PUT":
                with dressed(dialect, request, self._limits(dialect)):
                    return await self._create(request, dialect, None)
        return _refused_method(request, _COLLECTION_METHODS)

    async def item(self, request: Request) -> Response:
        """`/files/ID`: HEAD, PATCH, DELETE, OPTIONS; and PUT of `/files/NAME`, which creates."""
        dialect = dialect_of(request.headers)
        name = request.path_params["id"]
        with dressed(dialect, request, self._limits(dialect)):
            match method(request):
                case "OPTIONS":
                    return _answer(request, HTTPStatus.NO_CONTENT, self.discovery(dialect))
                case "HEAD" | "GET":
                    return await self._head(request, dialect)
                case "PATCH":
                    return await self._append(request, dialect)
                case "DELETE":
                    return await self._cancel(request, dialect)
                case "PUT" if parse_upload_id(name) is None:
                    return await self._create(request, dialect, name)
        return _refused_method(request, _ITEM_METHODS)

    def discovery(self, dialect: Dialect) -> dict[str, str]:
        """What OPTIONS tells: that uploads can be resumed, and their limits."""
        return {**self._limits(dialect), h.ACCEPT_PATCH: h.PARTIAL_UPLOAD}

    def _limits(self, dialect: Dialect, found: Found | None = None) -> dict[str, str]:
        """Upload-Limit of one upload, or of any."""
        age_seconds: float | None = self._reception.finder.ttl_seconds
        if found is not None:
            age_seconds = None if found.expires_at is None else found.expires_at - time.time()
        age = None if age_seconds is None else max(0, int(age_seconds))
        return dialect.limits(self._reception.limits.max_size, age)

    async def _create(self, request: Request, dialect: Dialect, name: str | None) -> Response:
        """Create an upload and append the body; without upload headers the body is all of it."""
        caller = self._callers.identify(request.headers)
        said = dialect.completes(request.headers)
        complete = check_plain(request) if said is None else said
        upload = new_upload(request, caller, name, complete=complete, plain=said is None)
        proof = content_proof(request)
        found = await self._reception.create(upload, caller)
        headers = {h.LOCATION: self._locations.of(request, upload.id)}
        self._announce(request, headers, found)
        try:
            if h.has_body(request.headers):
                appended = await self._reception.append(
                    request,
                    found,
                    0,
                    amend=unchanged,
                    declared=declared_bytes(request),
                    finish_at_end=complete,
                    proof=proof,
                )
                found = _whole(appended, complete=complete)
        except ServerError as error:
            # What came is kept: the sender may go on at the upload's own URL.
            error.headers |= headers
            raise
        return await self._acknowledge(request, dialect, found, HTTPStatus.CREATED, headers)

    def _announce(self, request: Request, headers: Mapping[str, str], found: Found) -> None:
        """Tell where the upload is before its body came, to a client that will understand."""
        dialect = named_dialect(request.headers)
        send: SendInterim | None = (request.scope.get("extensions") or {}).get(INTERIM)
        if self._interim and dialect and send:
            limits = self._limits(dialect, found)
            fields = {**common_headers(request), **headers, **limits}
            send(104, "Upload Resumption Supported", fields)

    async def _head(self, request: Request, dialect: Dialect) -> Response:
        """Where the upload is."""
        _check_bare(request, dialect)
        caller = self._callers.identify(request.headers)
        found = await self._reception.receivable(request.path_params["id"], caller, Action.READ)
        found = await self._reception.settled(found)
        headers = {h.CACHE_CONTROL: "no-store"}
        if found.upload.length is not None:
            headers[h.UPLOAD_LENGTH] = str(found.upload.length)
        return await self._acknowledge(request, dialect, found, HTTPStatus.NO_CONTENT, headers)

    async def _append(self, request: Request, dialect: Dialect) -> Response:
        """Append the body."""
        caller = self._callers.identify(request.headers)
        offset = _check_append(request, dialect)
        complete = dialect.completes_append(request.headers)
        declared = declared_bytes(request)
        length = integer(request.headers, h.UPLOAD_LENGTH)
        digests = h.repr_digest(request.headers)
        proof = content_proof(request)
        found = await self._reception.receivable(request.path_params["id"], caller, Action.WRITE)

        def amend(upload: Upload) -> Upload:
            end = None if declared is None else offset + declared
            upload = lengthened(upload, length)
            if complete:
                upload = lengthened(upload, end)
            elif upload.length is not None and end is not None and end > upload.length:
                raise BadRequest(
                    f"append up to {end}: the upload has {upload.length} bytes",
                    "send no more than its length",
                    code=INCONSISTENT_LENGTH,
                )
            return promised(upload, digests)

        try:
            appended = await self._reception.append(
                request,
                found,
                offset,
                amend=amend,
                declared=declared,
                finish_at_end=complete,
                proof=proof,
            )
        except TooLarge as error:
            if not found.finished:
                raise
            raise BadRequest(
                "append: the upload is complete",
                "it takes no more bytes",
                code=dialect.completed_code,
                headers=error.headers,
            ) from error
        found = _whole(appended, complete=complete)
        status = HTTPStatus.CREATED if found.finished else dialect.appended
        headers = {}
        if status is HTTPStatus.CREATED:
            headers[h.LOCATION] = self._locations.of(request, found.upload.id)
        return await self._acknowledge(request, dialect, found, status, headers)

    async def _cancel(self, request: Request, dialect: Dialect) -> Response:
        """Stop whoever writes or works on the upload, free its space."""
        _check_bare(request, dialect)
        caller = self._callers.identify(request.headers)
        found = await self._reception.receivable(request.path_params["id"], caller, Action.REMOVE)
        await self._termination.delete(found)
        return _answer(request, HTTPStatus.NO_CONTENT)

    async def _acknowledge(
        self,
        request: Request,
        dialect: Dialect,
        found: Found,
        status: HTTPStatus,
        headers: Mapping[str, str],
    ) -> Response:
        """A success: offset, completeness and limits; a whole upload's document, if it can."""
        known = await self._reception.digests(found) if found.finished else {}
        digest = wanted_digest(request, known)
        answer = {
            **common_headers(request),
            **headers,
            h.UPLOAD_OFFSET: str(found.offset),
            dialect.completeness: dialect.say(complete=found.finished),
            **self._limits(dialect, found),
            **({h.REPR_DIGEST: digest} if digest else {}),
        }
        if found.finished and status is HTTPStatus.CREATED:
            return JSONResponse(found.record().to_json(), status, answer)
        return Response(status_code=status, headers=answer)


def _check_append(request: Request, dialect: Dialect) -> int:
    """The offset of an append that has what its dialect asks for."""
    if dialect.names_appends and h.media_type(request.headers) != h.PARTIAL_UPLOAD:
        raise UnsupportedMediaType(
            f"PATCH with Content-Type {h.media_type(request.headers)!r}",
            f"send {h.PARTIAL_UPLOAD}",
            headers={h.ACCEPT_PATCH: h.PARTIAL_UPLOAD},
        )
    offset = integer(request.headers, h.UPLOAD_OFFSET)
    if offset is None:
        raise BadRequest(f"PATCH without {h.UPLOAD_OFFSET}", "say where the bytes belong")
    return offset


def _check_bare(request: Request, dialect: Dialect) -> None:
    """Older versions refuse a question that states what it asks for."""
    refused = dialect.refuses_headers and (*dialect.refuses_headers, dialect.completeness)
    if any(name in request.headers for name in refused):
        raise BadRequest(f"{request.method} with {' or '.join(refused)}", "leave them out")


def _whole(appended: Appended, *, complete: bool) -> Found:
    """What an append left, if its body came to the end that was announced.

    Raises:
        ServerError: it did not; what came is kept.
    """
    found, received = appended.found, appended.received
    known = found.upload.length is not None
    over = received.ending is Ending.OVERLONG and known
    short = received.ending is Ending.COMPLETE and complete and not found.finished
    if over or short:
        raise BadRequest(
            f"the body is {'longer' if over else 'shorter'} than announced: "
            f"the upload has {found.upload.length} bytes",
            "ask with HEAD where it is, and go on from there",
            code=INCONSISTENT_LENGTH,
            headers={h.UPLOAD_OFFSET: str(found.offset)},
        )
    if received.ending is not Ending.COMPLETE:
        raise refusal(appended)
    return found


def _answer(
    request: Request, status: HTTPStatus, headers: Mapping[str, str] | None = None
) -> Response:
    return Response(status_code=status, headers={**common_headers(request), **(headers or {})})


def _refused_method(request: Request, allowed: tuple[str, ...]) -> Response:
    return _answer(request, HTTPStatus.METHOD_NOT_ALLOWED, {h.ALLOW: h.joined(allowed)})
