"""Rows of the extensions checksum and checksum-trailer; `tests/test_checksum.py` has the depth."""

from __future__ import annotations

import base64
import hashlib
import re
import zlib
from collections.abc import Mapping

from tests.conformance.case import Case, listing
from tests.conformance.core import AT_4, HALF, LENGTH_8
from tests.raw import OCTETS

_BODY = b"5678"
_WHOLE = b"12345678"


def _checksum(algorithm: str, data: bytes = _BODY) -> str:
    if algorithm == "crc32":
        digest = zlib.crc32(data).to_bytes(4, "big")
    else:
        digest = hashlib.new(algorithm, data, usedforsecurity=False).digest()
    return f"{algorithm} {base64.b64encode(digest).decode()}"


def _right(algorithm: str) -> Case:
    headers = {**AT_4, "Upload-Checksum": _checksum(algorithm)}
    offset = {"Upload-Offset": "8"}
    return Case(algorithm, "Checksum", HALF, "PATCH", headers, 204, offset, _BODY, _WHOLE)


def _wrong(name: str, value: str | tuple[str, ...], status: int = 400) -> Case:
    headers = {**AT_4, "Upload-Checksum": value}
    late = status == 460
    return Case(name, "Checksum", HALF, "PATCH", headers, status, {}, _BODY, late=late)


def _trailer(
    name: str, trailers: Mapping[str, str], status: int, after: bytes | None = None
) -> Case:
    headers = {**AT_4, "Trailer": "Upload-Checksum"}
    return Case(
        name,
        "Checksum Trailer",
        HALF,
        "PATCH",
        headers,
        status,
        {},
        _BODY,
        after,
        chunked=True,
        trailers=trailers,
        late=True,
    )


_SHA1 = _checksum("sha1")

CHECKSUM = [
    Case("announced", "Checksum", None, "OPTIONS", {}, 204, {"Tus-Extension": listing("checksum")}),
    Case(
        "algorithms",
        "Checksum",
        None,
        "OPTIONS",
        {},
        204,
        {"Tus-Checksum-Algorithm": listing("sha1", "md5", "sha256", "sha512", "crc32")},
    ),
    Case(
        "algorithms in lower case",
        "Checksum",
        None,
        "OPTIONS",
        {},
        204,
        {"Tus-Checksum-Algorithm": re.compile(r"[a-z0-9]+(,[a-z0-9]+)*")},
    ),
    *(_right(algorithm) for algorithm in ("sha1", "md5", "sha256", "sha512", "crc32")),
    Case(
        "chunked",
        "Checksum",
        HALF,
        "PATCH",
        {**AT_4, "Upload-Checksum": _SHA1},
        204,
        {"Upload-Offset": "8"},
        _BODY,
        _WHOLE,
        chunked=True,
    ),
    Case(
        "of a creation",
        "Checksum",
        None,
        "POST",
        {**LENGTH_8, **OCTETS, "Upload-Checksum": _SHA1},
        201,
        {"Upload-Offset": "4"},
        _BODY,
        _BODY,
    ),
    _wrong("of other bytes", _checksum("sha1", b"other"), 460),
    _wrong("of other bytes, crc32", _checksum("crc32", b"other"), 460),
    Case(
        "of other bytes, chunked",
        "Checksum",
        HALF,
        "PATCH",
        {**AT_4, "Upload-Checksum": _checksum("md5", b"other")},
        460,
        {},
        _BODY,
        chunked=True,
        late=True,
    ),
    _wrong("unknown algorithm", "sha3 " + _SHA1.split(" ")[1]),
    _wrong("upper case", _SHA1.replace("sha1", "SHA1")),
    _wrong("no digest", "sha1"),
    _wrong("no space", _SHA1.replace(" ", "")),
    _wrong("not Base64", "sha1 %%%"),
    _wrong("too short", "sha1 YQ=="),
    _wrong("empty", ""),
    _wrong("twice", (_SHA1, _SHA1)),
]

TRAILER = [
    Case(
        "announced",
        "Checksum Trailer",
        None,
        "OPTIONS",
        {},
        204,
        {"Tus-Extension": listing("checksum", "checksum-trailer")},
    ),
    _trailer("right", {"Upload-Checksum": _SHA1}, 204, _WHOLE),
    _trailer("of other bytes in the trailer", {"Upload-Checksum": _checksum("sha1", b"o")}, 460),
    _trailer("unknown algorithm in the trailer", {"Upload-Checksum": "sha3 YQ=="}, 400),
    _trailer("announced, and none came", {}, 400),
]

CASES = [*CHECKSUM, *TRAILER]
