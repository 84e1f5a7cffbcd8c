"""Header names, media types, versions and their parsers, in one place.

Knows: the grammar of each header.
Must not know: uploads on disk, callers, what is done with a value.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from email.utils import format_datetime
from typing import Final

from starlette.datastructures import Headers

from server.errors import BadRequest

TUS_RESUMABLE: Final = "Tus-Resumable"
TUS_VERSION: Final = "Tus-Version"
TUS_EXTENSION: Final = "Tus-Extension"
TUS_MAX_SIZE: Final = "Tus-Max-Size"
UPLOAD_OFFSET: Final = "Upload-Offset"
UPLOAD_LENGTH: Final = "Upload-Length"
UPLOAD_DEFER_LENGTH: Final = "Upload-Defer-Length"
UPLOAD_METADATA: Final = "Upload-Metadata"
UPLOAD_CONCAT: Final = "Upload-Concat"
UPLOAD_EXPIRES: Final = "Upload-Expires"
INTEROP_VERSION: Final = "Upload-Draft-Interop-Version"
UPLOAD_COMPLETE: Final = "Upload-Complete"
UPLOAD_INCOMPLETE: Final = "Upload-Incomplete"
UPLOAD_LIMIT: Final = "Upload-Limit"
METHOD_OVERRIDE: Final = "X-HTTP-Method-Override"
REPR_DIGEST: Final = "Repr-Digest"
CONTENT_DIGEST: Final = "Content-Digest"
WANT_REPR_DIGEST: Final = "Want-Repr-Digest"
CONTENT_DISPOSITION: Final = "Content-Disposition"
CONTENT_RANGE: Final = "Content-Range"
UPLOAD_CHECKSUM: Final = "Upload-Checksum"
TUS_CHECKSUM_ALGORITHM: Final = "Tus-Checksum-Algorithm"
TRAILER: Final = "Trailer"
CONTENT_LENGTH: Final = "Content-Length"
CONTENT_TYPE: Final = "Content-Type"
LOCATION: Final = "Location"
RETRY_AFTER: Final = "Retry-After"
CACHE_CONTROL: Final = "Cache-Control"
WWW_AUTHENTICATE: Final = "WWW-Authenticate"
AUTHORIZATION: Final = "Authorization"
LAST_EVENT_ID: Final = "Last-Event-ID"
CONNECTION: Final = "Connection"
ALLOW: Final = "Allow"
ACCEPT_PATCH: Final = "Accept-Patch"
ORIGIN: Final = "Origin"

# What a page of another origin may send, and may read, over all protocols.
CORS_REQUEST_HEADERS: Final = (
    AUTHORIZATION,
    CONTENT_TYPE,
    LAST_EVENT_ID,
    METHOD_OVERRIDE,
    "X-Request-ID",
    TUS_RESUMABLE,
    UPLOAD_OFFSET,
    UPLOAD_LENGTH,
    UPLOAD_DEFER_LENGTH,
    UPLOAD_METADATA,
    UPLOAD_CHECKSUM,
    UPLOAD_CONCAT,
    REPR_DIGEST,
    CONTENT_DIGEST,
    WANT_REPR_DIGEST,
    CONTENT_DISPOSITION,
    INTEROP_VERSION,
    UPLOAD_COMPLETE,
    UPLOAD_INCOMPLETE,
)
CORS_ANSWER_HEADERS: Final = (
    LOCATION,
    RETRY_AFTER,
    TUS_RESUMABLE,
    TUS_VERSION,
    TUS_EXTENSION,
    TUS_MAX_SIZE,
    TUS_CHECKSUM_ALGORITHM,
    UPLOAD_OFFSET,
    UPLOAD_LENGTH,
    UPLOAD_DEFER_LENGTH,
    UPLOAD_METADATA,
    UPLOAD_EXPIRES,
    UPLOAD_CONCAT,
    REPR_DIGEST,
    INTEROP_VERSION,
    UPLOAD_COMPLETE,
    UPLOAD_INCOMPLETE,
    UPLOAD_LIMIT,
    ACCEPT_PATCH,
)

TUS_1_0_0: Final = "1.0.0"
TUS_EXTENSIONS: Final = (
    "creation",
    "creation-with-upload",
    "creation-defer-length",
    "expiration",
    "checksum",
    "checksum-trailer",
    "termination",
    "concatenation",
    "concatenation-unfinished",
)

OFFSET_OCTET_STREAM: Final = "application/offset+octet-stream"
PARTIAL_UPLOAD: Final = "application/partial-upload"
FORM_DATA: Final = "multipart/form-data"
PROBLEM_JSON: Final = "application/problem+json"
EVENT_STREAM: Final = "text/event-stream"

LARGEST_LENGTH: Final = 2**63 - 1
# More than any client sends; each part costs a look at its files.
PARTS_LIMIT: Final = 256
METADATA_LIMIT_BYTES: Final = 16 * 1024

_DIGITS = re.compile(r"[0-9]{1,19}")
# RFC 8941: a dictionary member whose value is a byte sequence; parameters are refused.
_DIGEST_MEMBER = re.compile(r"([a-z*][a-z0-9_.*-]*)=:([A-Za-z0-9+/=]*):")
_DIGEST_BYTES: Final = {"md5": 16, "sha256": 32}
# The algorithms of Upload-Checksum, and the size of their digests.
CHECKSUM_BYTES: Final = {"md5": 16, "sha1": 20, "sha256": 32, "sha512": 64, "crc32": 4}
_REPR_DIGEST_NAMES: Final = {"md5": "md5", "sha-256": "sha256"}


def single(headers: Headers, name: str) -> str | None:
    """The one value of a header; None when it is absent.

    Raises:
        BadRequest: the header is there more than once (two lengths are how requests are smuggled).
    """
    values = headers.getlist(name)
    if len(values) > 1:
        raise BadRequest(f"header {name} is there {len(values)} times", "send it once")
    return values[0] if values else None


def size(headers: Headers, name: str) -> int | None:
    """A non-negative integer header of at most 2^63 - 1; None when it is absent.

    Raises:
        BadRequest: signs, spaces, fractions, other alphabets, too large, or sent twice.
    """
    text = single(headers, name)
    if text is None:
        return None
    if not _DIGITS.fullmatch(text) or int(text) > LARGEST_LENGTH:
        raise BadRequest(
            f"header {name}: {text!r} is not a size", "send decimal digits only, at most 2^63 - 1"
        )
    return int(text)


def media_type(headers: Headers) -> str:
    """Content-Type without parameters, lower-case; empty when it is absent.

    Spec: RFC 9110, section 8.3.1.
    """
    return (single(headers, CONTENT_TYPE) or "").split(";", 1)[0].strip().lower()


def announces(headers: Headers, name: str) -> bool:
    """Whether the request says that this field will come behind its body.

    Raises:
        BadRequest: Trailer is there twice.

    Spec: RFC 9110, section 6.6.2.
    """
    names = (single(headers, TRAILER) or "").lower().split(",")
    return name.lower() in (announced.strip() for announced in names)


def has_body(headers: Headers) -> bool:
    """Whether the request brings content.

    Spec: RFC 9112, section 6.3.
    """
    return "transfer-encoding" in headers or (size(headers, CONTENT_LENGTH) or 0) > 0


def metadata(headers: Headers) -> tuple[str | None, dict[str, str]]:
    """Upload-Metadata as sent (None: absent), and its decoded pairs.

    Raises:
        BadRequest: an empty or repeated key, a value that is not Base64 or not UTF-8, or too long a
        header.

    Spec: tus 1.0.0, Upload-Metadata.
    """
    raw = single(headers, UPLOAD_METADATA)
    if raw is None:
        return None, {}
    if len(raw) > METADATA_LIMIT_BYTES:
        raise BadRequest(
            f"header {UPLOAD_METADATA} has {len(raw)} bytes",
            f"at most {METADATA_LIMIT_BYTES} are taken",
        )
    pairs: dict[str, str] = {}
    for part in raw.split(","):
        if not part.strip() and raw.strip() == "":
            continue  # tuspy always sends the header, even when it has nothing to say
        key, _, encoded = part.strip().partition(" ")
        if not key or key in pairs or not key.isascii():
            raise BadRequest(
                f"header {UPLOAD_METADATA}: key {key!r} is empty, repeated or not ASCII",
                "send pairs `key base64` separated by commas, each key once",
            )
        pairs[key] = _decoded(key, encoded)
    return raw, pairs


def _decoded(key: str, encoded: str) -> str:
    try:
        return base64.b64decode(encoded, validate=True).decode()
    except ValueError as error:  # also of what is no ASCII at all
        raise BadRequest(
            f"header {UPLOAD_METADATA}: the value of {key!r} is not Base64 of UTF-8: {error}",
            "encode each value with standard Base64",
        ) from error


def repr_digest(headers: Headers) -> dict[str, str]:
    """The digests promised for the whole file, lower-case hex by `md5` and `sha256`.

    Algorithms that we do not compute are passed over, as the specification asks.

    Raises:
        BadRequest: not a dictionary of byte sequences, or a digest of the wrong size.

    Spec: RFC 9530, section 3; RFC 9651, section 3.2.
    """
    members = digest_members(headers.getlist(REPR_DIGEST), REPR_DIGEST)
    return {
        name: digest(name, members[member], header=REPR_DIGEST)
        for member, name in _REPR_DIGEST_NAMES.items()
        if member in members
    }


def digest_members(values: Iterable[str], header: str) -> dict[str, str]:
    """A digest field's values as one dictionary: Base64 by algorithm; the last of each counts.

    Raises:
        BadRequest: not a dictionary of byte sequences.

    Spec: RFC 9530, section 2; RFC 9651, section 3.2.
    """
    found: dict[str, str] = {}
    for value in values:
        for part in value.split(","):
            match = _DIGEST_MEMBER.fullmatch(part.strip())
            if not match:
                raise BadRequest(
                    f"header {header}: {part.strip()!r} is not `algorithm=:BASE64:`",
                    "for example `md5=:1B2M2Y8AsgTpgAmY7PhCfg==:`",
                )
            found[match[1]] = match[2]
    return found


def promised_digests(pairs: Mapping[str, str]) -> dict[str, str]:
    """The digests among the metadata (`md5`, `sha256`, each hex or Base64), as lower-case hex.

    Raises:
        BadRequest: neither hex nor Base64 of the right size.
    """
    return {
        name: digest(name, pairs[name], header=UPLOAD_METADATA)
        for name in _DIGEST_BYTES
        if pairs.get(name)
    }


def checksum(value: str) -> tuple[str, bytes]:
    """Upload-Checksum: the algorithm (one that we know) and the digest.

    Raises:
        BadRequest: an unknown algorithm, or not Base64 of its digest's size.

    Spec: tus 1.0.0, Checksum.
    """
    algorithm, _, encoded = value.strip().partition(" ")
    if algorithm not in CHECKSUM_BYTES:
        raise BadRequest(
            f"header {UPLOAD_CHECKSUM}: algorithm {algorithm!r} is not known here",
            f"one of {', '.join(CHECKSUM_BYTES)}",
        )
    try:
        decoded = base64.b64decode(encoded, validate=True)
    except ValueError:
        decoded = b""
    if len(decoded) != CHECKSUM_BYTES[algorithm]:
        raise BadRequest(
            f"header {UPLOAD_CHECKSUM}: {encoded!r} is not a {algorithm} digest",
            f"send Base64 of {CHECKSUM_BYTES[algorithm]} bytes",
        )
    return algorithm, decoded


def concatenation(headers: Headers) -> tuple[str, list[str]] | None:
    """Upload-Concat as sent, and the URLs that a final upload is made of (a partial: none).

    Raises:
        BadRequest: neither `partial` nor `final;` with URLs.

    Spec: tus 1.0.0, Concatenation.
    """
    raw = single(headers, UPLOAD_CONCAT)
    if raw is None:
        return None
    kind, _, rest = raw.partition(";")
    urls = rest.split(" ")
    if raw == "partial":
        return raw, []
    if kind == "final" and all(urls) and "," not in rest:
        if len(urls) > PARTS_LIMIT:
            raise BadRequest(
                f"header {UPLOAD_CONCAT}: {len(urls)} parts, at most {PARTS_LIMIT} are taken",
                "send fewer and larger parts",
                code="too_many_parts",
            )
        return raw, urls
    raise BadRequest(
        f"header {UPLOAD_CONCAT}: {raw!r} is neither partial nor final",
        "send `partial`, or `final;` and the URLs of partial uploads with a space in between",
    )


def digest(name: str, text: str, *, header: str) -> str:
    """One digest, given as hex or Base64, as lower-case hex.

    Raises:
        BadRequest: it is neither.
    """
    length = _DIGEST_BYTES[name]
    if re.fullmatch(rf"[0-9A-Fa-f]{{{2 * length}}}", text):
        return text.lower()
    try:
        decoded = base64.b64decode(text, validate=True)
    except ValueError:
        decoded = b""
    if len(decoded) != length:
        raise BadRequest(
            f"header {header}: {name} {text!r} is not a digest",
            f"send {2 * length} hex digits, or Base64 of {length} bytes",
        )
    return decoded.hex()


def http_date(timestamp_seconds: float) -> str:
    """A POSIX timestamp as Upload-Expires wants it.

    Spec: RFC 9110, section 5.6.7 (tus names its predecessor, RFC 7231).
    """
    return format_datetime(datetime.fromtimestamp(int(timestamp_seconds), UTC), usegmt=True)


def joined(values: Iterable[str]) -> str:
    """Values as one comma separated header."""
    return ",".join(values)
