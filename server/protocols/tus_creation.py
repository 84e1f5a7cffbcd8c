"""What a creation request of tus describes.

Knows: the headers of POST, and which of them exclude each other.
Must not know: whether the upload may be created, what is answered.
"""

from __future__ import annotations

import time

from starlette.requests import Request

from server.auth import Caller
from server.errors import BadRequest, TooLarge, UnsupportedMediaType
from server.protocols import headers as h
from server.protocols.location import upload_id_of
from server.protocols.terms import promised
from server.upload import Concatenation, Upload, final_upload_id, new_upload_id


def concatenation_of(request: Request) -> Concatenation | None:
    """What a creation request says of parts.

    Spec: tus 1.0.0, Concatenation.
    """
    said = h.concatenation(request.headers)
    if said is None:
        return None
    raw, urls = said
    ids = [upload_id_of(url) for url in urls]
    parts = tuple(part for part in ids if part)
    if len(parts) != len(urls):
        url = urls[ids.index(None)]
        raise BadRequest(
            f"{h.UPLOAD_CONCAT}: {url!r} is no upload's URL",
            "name partial uploads as their Location did",
            code="unknown_partial",
        )
    if len(set(parts)) != len(parts):
        raise BadRequest(
            f"{h.UPLOAD_CONCAT}: a partial upload is there twice", "send its bytes again instead"
        )
    return Concatenation(raw, parts)


def final(request: Request, caller: Caller, concatenation: Concatenation) -> Upload:
    """The final upload that a creation request describes."""
    for name in (h.UPLOAD_LENGTH, h.UPLOAD_DEFER_LENGTH):
        if name in request.headers:
            raise BadRequest(
                f"final upload with {name}", "its length is the sum of its parts; do not say it"
            )
    if h.has_body(request.headers):
        raise BadRequest("final upload with a body", "its bytes are those of its parts")
    raw, pairs = h.metadata(request.headers)
    upload = Upload(
        id=final_upload_id(caller.name, raw, concatenation.parts),
        length=None,
        owner=caller.name,
        created_at=time.time(),
        raw_metadata=raw,
        metadata=pairs,
        expected=h.promised_digests(pairs),
        concatenation=concatenation,
    )
    return promised(upload, h.repr_digest(request.headers))


def described(request: Request, caller: Caller, concatenation: Concatenation | None) -> Upload:
    """The upload that a creation request describes."""
    length = h.size(request.headers, h.UPLOAD_LENGTH)
    deferred = h.single(request.headers, h.UPLOAD_DEFER_LENGTH)
    if deferred not in (None, "1"):
        raise BadRequest(f"{h.UPLOAD_DEFER_LENGTH}: {deferred!r}", "the only value is 1")
    if (length is None) == (deferred is None):
        raise BadRequest(
            f"POST needs exactly one of {h.UPLOAD_LENGTH} and {h.UPLOAD_DEFER_LENGTH}",
            "say the length, or that it comes later",
        )
    raw, pairs = h.metadata(request.headers)
    upload = Upload(
        id=new_upload_id(),
        length=length,
        owner=caller.name,
        created_at=time.time(),
        raw_metadata=raw,
        metadata=pairs,
        expected={} if concatenation else h.promised_digests(pairs),
        concatenation=concatenation,
    )
    return promised(upload, h.repr_digest(request.headers))


def check_body(request: Request, upload: Upload) -> bool:
    """Whether the creation brings bytes; refuse a body that is not meant for the upload."""
    if not h.has_body(request.headers):
        return False
    if h.media_type(request.headers) != h.OFFSET_OCTET_STREAM:
        raise UnsupportedMediaType(
            f"POST with a body of Content-Type {h.media_type(request.headers)!r}",
            f"send {h.OFFSET_OCTET_STREAM}, or no body",
        )
    declared = h.size(request.headers, h.CONTENT_LENGTH)
    if upload.length is not None and declared is not None and declared > upload.length:
        raise TooLarge(
            f"body of {declared} bytes: the upload has {upload.length}", "send no more than that"
        )
    return True
