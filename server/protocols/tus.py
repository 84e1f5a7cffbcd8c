"""tus 1.0.0 with all its extensions.

Knows: which header means what, and which answer the specification wants.
Must not know: files, locks, what an image is.

Headers are judged before a body byte is read, so nothing of a refused request is stored.
"""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from typing import Final

from anyio import to_thread
from starlette.requests import Request
from starlette.responses import FileResponse, Response

from server.auth import Action, Caller, Callers
from server.errors import (
    BadRequest,
    NotFound,
    ServerError,
    UnsupportedMediaType,
    UnsupportedVersion,
)
from server.final_uploads import FinalUploads
from server.finder import Found
from server.interruption import Ending
from server.proof import Checksum, Proof
from server.protocols import headers as h
from server.protocols.location import Locations
from server.protocols.terms import lengthened, method, promised, refusal, unchanged
from server.protocols.tus_creation import check_body, concatenation_of, described, final
from server.reception import Reception
from server.termination import Termination
from server.upload import Concatenation, Upload
from server.wire import TRAILERS

ITEM_METHODS: Final = ("HEAD", "PATCH", "DELETE", "OPTIONS")


def common_headers() -> dict[str, str]:
    """What every answer of this protocol carries, errors too."""
    return {h.TUS_RESUMABLE: h.TUS_1_0_0}


class TusProtocol:
    """The verbs of tus over the reception."""

    def __init__(
        self,
        finals: FinalUploads,
        reception: Reception,
        termination: Termination,
        callers: Callers,
        locations: Locations,
        *,
        downloads: bool,
    ) -> None:
        """Wire the parts; with `downloads`, GET gives a whole upload back."""
        self._finals = finals
        self._reception = reception
        self._termination = termination
        self._callers = callers
        self._locations = locations
        self._downloads = downloads

    async def collection(self, request: Request) -> Response:
        """`/files/`: OPTIONS tells what is spoken, POST creates."""
        match method(request):
            case "OPTIONS":
                return self._options()
            case "POST":
                return await self._create(request)
        allow = {h.ALLOW: h.joined(("POST", "OPTIONS"))}
        return _answer(HTTPStatus.METHOD_NOT_ALLOWED, allow)

    async def item(self, request: Request) -> Response:
        """`/files/ID`: HEAD, PATCH, DELETE, OPTIONS; POST with X-HTTP-Method-Override."""
        match method(request):
            case "OPTIONS":
                return self._options()
            case "HEAD":
                return await self._head(request)
            case "PATCH":
                return await self._patch(request)
            case "DELETE":
                return await self._delete(request)
            case "GET" if self._downloads:
                return await self._get(request)
        return _answer(HTTPStatus.METHOD_NOT_ALLOWED, {h.ALLOW: h.joined(ITEM_METHODS)})

    def _options(self) -> Response:
        """What this server speaks. No token, no version needed.

        Spec: tus 1.0.0, OPTIONS.
        """
        headers = {
            h.TUS_VERSION: h.TUS_1_0_0,
            h.TUS_EXTENSION: h.joined(h.TUS_EXTENSIONS),
            h.TUS_CHECKSUM_ALGORITHM: h.joined(h.CHECKSUM_BYTES),
        }
        if self._reception.limits.max_size:
            headers[h.TUS_MAX_SIZE] = str(self._reception.limits.max_size)
        return _answer(HTTPStatus.NO_CONTENT, headers)

    def _caller(self, request: Request) -> Caller:
        _check_version(request)
        return self._callers.identify(request.headers)

    async def _create(self, request: Request) -> Response:
        """Create an upload; with a body, append it at once.

        Spec: tus 1.0.0, Creation, Creation With Upload.
        """
        caller = self._caller(request)
        concatenation = concatenation_of(request)
        if concatenation and concatenation.parts:
            return await self._concatenate(request, caller, concatenation)
        upload = described(request, caller, concatenation)
        with_upload = check_body(request, upload)
        proof = _proof(request)
        found = await self._reception.create(upload, caller)
        headers = {h.LOCATION: self._locations.of(request, upload.id)}
        if with_upload:
            try:
                appended = await self._reception.append(
                    request,
                    found,
                    0,
                    amend=unchanged,
                    declared=h.size(request.headers, h.CONTENT_LENGTH),
                    proof=proof,
                )
                if appended.received.ending is Ending.OVERLONG:
                    raise refusal(appended)
            except ServerError as error:
                # The upload is there all the same: the sender may send the right bytes to it.
                error.headers |= headers
                raise
            # The sender learns where its upload is also when the body broke off: it resumes there.
            found = appended.found
            headers[h.UPLOAD_OFFSET] = str(found.offset)
        return _answer(HTTPStatus.CREATED, headers, found)

    async def _concatenate(
        self, request: Request, caller: Caller, concatenation: Concatenation
    ) -> Response:
        """Create a final upload; it is whole at once when its parts are.

        Spec: tus 1.0.0, Concatenation.
        """
        found = await self._finals.create(final(request, caller, concatenation), caller)
        headers = {h.LOCATION: self._locations.of(request, found.upload.id)}
        return _answer(HTTPStatus.CREATED, headers, found)

    async def _head(self, request: Request) -> Response:
        """Where the upload is.

        Spec: tus 1.0.0, HEAD.
        """
        caller = self._caller(request)
        found = await self._reception.receivable(request.path_params["id"], caller, Action.READ)
        found = await self._reception.settled(found)
        upload = found.upload
        headers = {h.CACHE_CONTROL: "no-store"}
        if found.finished or not upload.parts:
            # Before its parts are whole, a final upload has no offset.
            headers[h.UPLOAD_OFFSET] = str(found.offset)
        if upload.concatenation:
            headers[h.UPLOAD_CONCAT] = upload.concatenation.raw
        if upload.length is not None:
            headers[h.UPLOAD_LENGTH] = str(upload.length)
        elif not upload.parts:
            headers[h.UPLOAD_DEFER_LENGTH] = "1"
        if upload.raw_metadata is not None:
            headers[h.UPLOAD_METADATA] = upload.raw_metadata
        return _answer(HTTPStatus.OK, headers, found)

    async def _patch(self, request: Request) -> Response:
        """Append the body.

        Spec: tus 1.0.0, PATCH; Upload-Length of a deferred upload by Creation.
        """
        caller = self._caller(request)
        if h.media_type(request.headers) != h.OFFSET_OCTET_STREAM:
            raise UnsupportedMediaType(
                f"PATCH with Content-Type {h.media_type(request.headers)!r}",
                f"send {h.OFFSET_OCTET_STREAM}",
            )
        offset = h.size(request.headers, h.UPLOAD_OFFSET)
        if offset is None:
            raise BadRequest(f"PATCH without {h.UPLOAD_OFFSET}", "say where the bytes belong")
        length = h.size(request.headers, h.UPLOAD_LENGTH)
        digests = h.repr_digest(request.headers)
        proof = _proof(request)
        found = await self._reception.receivable(request.path_params["id"], caller, Action.WRITE)

        def amend(upload: Upload) -> Upload:
            return promised(lengthened(upload, length), digests)

        try:
            amend(found.upload)
            appended = await self._reception.append(
                request,
                found,
                offset,
                amend=amend,
                declared=h.size(request.headers, h.CONTENT_LENGTH),
                proof=proof,
            )
            if appended.received.ending is not Ending.COMPLETE:
                raise refusal(appended)
        except ServerError as error:
            error.headers |= _expiry(found)
            raise
        headers = {h.UPLOAD_OFFSET: str(appended.found.offset)}
        return _answer(HTTPStatus.NO_CONTENT, headers, appended.found)

    async def _get(self, request: Request) -> Response:
        """The whole archive, while it is kept; no part of tus, so no version is asked for.

        Spec: RFC 9110, section 14 (Range).
        """
        caller = self._callers.identify(request.headers)
        found = await self._reception.receivable(request.path_params["id"], caller, Action.READ)
        path = self._reception.store.path(found.upload.id)
        there = await to_thread.run_sync(self._reception.store.measure, found.upload.id)
        if not found.finished or there != found.offset or found.upload.partial:
            raise NotFound(
                "the archive is not here: a part, unfinished, not assembled yet, or removed",
                "ask its status",
            )
        # Whatever was sent, a browser stores it and never shows or runs it.
        return FileResponse(
            path,
            media_type="application/octet-stream",
            filename=found.upload.filename,
            headers={"X-Content-Type-Options": "nosniff", h.CACHE_CONTROL: "no-store"},
        )

    async def _delete(self, request: Request) -> Response:
        """Terminate: stop whoever writes or works on it, free its space.

        Spec: tus 1.0.0, Termination.
        """
        caller = self._caller(request)
        found = await self._reception.receivable(request.path_params["id"], caller, Action.REMOVE)
        await self._termination.delete(found)
        return _answer(HTTPStatus.NO_CONTENT)


def _check_version(request: Request) -> None:
    if h.single(request.headers, h.TUS_RESUMABLE) != h.TUS_1_0_0:
        raise UnsupportedVersion(
            f"{h.TUS_RESUMABLE} is missing or not {h.TUS_1_0_0}",
            f"send `{h.TUS_RESUMABLE}: {h.TUS_1_0_0}`",
            headers={h.TUS_VERSION: h.TUS_1_0_0},
        )


def _proof(request: Request) -> Proof | None:
    """The checksum of this request's bytes, from its header or announced for its trailer.

    Spec: tus 1.0.0, Checksum, Checksum Trailer.
    """
    text = h.single(request.headers, h.UPLOAD_CHECKSUM)

    def trailer() -> Checksum:
        fields = (request.scope.get("extensions") or {}).get(TRAILERS, [])
        values = [value for name, value in fields if name == h.UPLOAD_CHECKSUM.lower().encode()]
        if len(values) != 1:
            raise BadRequest(
                f"trailer {h.UPLOAD_CHECKSUM}: {len(values)} came", "send the announced one, once"
            )
        return Checksum(*h.checksum(values[0].decode("latin-1")))

    if text is not None:
        return Proof(Checksum(*h.checksum(text)), trailer)
    if h.announces(request.headers, h.UPLOAD_CHECKSUM):
        return Proof(None, trailer)
    return None


def _answer(
    status: HTTPStatus, headers: Mapping[str, str] | None = None, found: Found | None = None
) -> Response:
    """An answer with the protocol's own headers; Upload-Expires while the upload is unfinished.

    Spec: tus 1.0.0, Expiration.
    """
    merged = {**common_headers(), **(headers or {})}
    merged |= _expiry(found)
    return Response(status_code=status, headers=merged)


def _expiry(found: Found | None) -> dict[str, str]:
    if found is None or found.expires_at is None:
        return {}
    return {h.UPLOAD_EXPIRES: h.http_date(found.expires_at)}
