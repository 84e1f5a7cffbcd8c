"""What a creation request says of its upload: length, name, image, digests.

Knows: query parameters, Upload-Metadata, Content-Disposition, and which of them wins; what a plain
request may be.
Must not know: dialects, what a value means.
"""

from __future__ import annotations

import base64
import time
from email.message import Message
from email.utils import collapse_rfc2231_value
from typing import Final

from starlette.requests import Request

from server.auth import Caller
from server.errors import BadRequest, Forbidden, UnsupportedMediaType
from server.protocols import headers as h
from server.protocols.ietf.dialect import integer
from server.protocols.terms import promised
from server.reception import INCONSISTENT_LENGTH
from server.upload import Upload, new_upload_id

_FILENAME: Final = "filename"
_PARAMETERS: Final = (_FILENAME, "image", "md5", "sha256")


def new_upload(
    request: Request, caller: Caller, name: str | None, *, complete: bool, plain: bool
) -> Upload:
    """The upload that a creation request describes.

    Raises:
        BadRequest: lengths that do not fit each other, an offset, or bad metadata.
    """
    if h.UPLOAD_OFFSET in request.headers:
        raise BadRequest(
            f"{h.UPLOAD_OFFSET} in a creation", "send it with PATCH to the upload's URL"
        )
    length = integer(request.headers, h.UPLOAD_LENGTH)
    declared = declared_bytes(request)
    end = declared if complete else None
    over = length is not None and declared is not None and declared > length
    if over or (length is not None and end is not None and end != length):
        raise BadRequest(
            f"body of {declared} bytes: {h.UPLOAD_LENGTH} is {length}",
            "both are the size of the whole file when the body is all of it",
            code=INCONSISTENT_LENGTH,
        )
    raw, pairs = _described(request, name)
    upload = Upload(
        id=new_upload_id(),
        length=end if length is None else length,
        owner=caller.name,
        created_at=time.time(),
        protocol="http" if plain else "ietf",
        raw_metadata=raw,
        metadata=pairs,
        expected=h.promised_digests(pairs),
    )
    return promised(upload, h.repr_digest(request.headers))


def check_plain(request: Request) -> bool:
    """Refuse what is not one whole archive in one plain request; otherwise true: it is complete.

    A page of any origin can make a browser send a plain POST, without asking us first. So a plain
    request that comes from a page is not taken: with Upload-Complete, the browser asks.
    """
    if h.ORIGIN in request.headers:
        raise Forbidden(
            "plain upload from a web page: any page could send it",
            f"send `{h.UPLOAD_COMPLETE}: ?1` with it",
        )
    if h.CONTENT_RANGE in request.headers:
        raise BadRequest(
            f"{h.CONTENT_RANGE}: a part cannot be put here",
            f"ask for the offset with HEAD, and PATCH with {h.PARTIAL_UPLOAD}",
        )
    if h.media_type(request.headers) == h.FORM_DATA:
        raise UnsupportedMediaType(
            "the body is a form, not an archive", "send the file itself: `curl -T FILE URL`"
        )
    return True


def declared_bytes(request: Request) -> int | None:
    """The body's size; None when only its end will tell."""
    if not h.has_body(request.headers):
        return 0
    return h.size(request.headers, h.CONTENT_LENGTH)


def _described(request: Request, name: str | None) -> tuple[str | None, dict[str, str]]:
    """Metadata as Upload-Metadata would have it (None: nothing was said), and its pairs.

    `name` is the last part of the URL. A filename is taken from the query, else Upload-Metadata,
    else Content-Disposition, else the URL.

    Raises:
        BadRequest: a parameter is unknown, repeated, or not what Upload-Metadata says.
    """
    raw, pairs = h.metadata(request.headers)
    added = _from_query(request)
    for key, value in added.items():
        if pairs.get(key, value) != value:
            raise BadRequest(
                f"{key} is {value!r} in the query and {pairs[key]!r} in {h.UPLOAD_METADATA}",
                "say it once",
            )
    filename = _disposition_filename(request) or name
    if filename and _FILENAME not in {**pairs, **added}:
        added[_FILENAME] = filename
    coded = [_coded(key, value) for key, value in added.items() if key not in pairs]
    merged = ",".join([*([raw] if raw else []), *coded])
    if len(merged) > h.METADATA_LIMIT_BYTES:
        raise BadRequest(
            f"metadata has {len(merged)} bytes", f"at most {h.METADATA_LIMIT_BYTES} are taken"
        )
    return (merged or raw), {**pairs, **added}


def _from_query(request: Request) -> dict[str, str]:
    found: dict[str, str] = {}
    for key, value in request.query_params.multi_items():
        if key not in _PARAMETERS or key in found:
            raise BadRequest(
                f"query parameter {key!r} is unknown or repeated",
                f"one of {', '.join(_PARAMETERS)}, each once",
            )
        found[key] = value
    return found


def _disposition_filename(request: Request) -> str | None:
    """The filename of Content-Disposition, encoded or not.

    Spec: RFC 6266, section 4.3.
    """
    value = h.single(request.headers, h.CONTENT_DISPOSITION)
    if value is None:
        return None
    message = Message()
    message[h.CONTENT_DISPOSITION] = value
    try:
        parameters = message.get_params(header=h.CONTENT_DISPOSITION) or []
        names = [value for key, value in parameters if key.lower() == _FILENAME]
        # The encoded form (`filename*`, a tuple here) wins over the plain one.
        names.sort(key=lambda name: isinstance(name, str))
        filename = collapse_rfc2231_value(names[0]) if names else None
        # Some encodings that a sender may name make no text of it.
        (filename or "").encode()
    # TypeError: the parser sorts a parameter's parts, of which one has a number and one has none.
    except (ValueError, TypeError) as error:
        raise BadRequest(
            f"header {h.CONTENT_DISPOSITION}: the filename cannot be read: {error}",
            "send `filename*=utf-8''NAME`, percent-encoded",
        ) from error
    return filename


def _coded(key: str, value: str) -> str:
    return f"{key} {base64.b64encode(value.encode()).decode()}"
