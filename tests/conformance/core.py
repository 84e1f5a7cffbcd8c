"""Rows of the core protocol: headers, HEAD, OPTIONS."""

from __future__ import annotations

from tests.conformance.case import BEARER, UNKNOWN, Before, Case, listing
from tests.raw import OCTETS, TUS

FRESH = Before()
HALF = Before(sent=b"1234")
WHOLE = Before(length=4, sent=b"1234")
DEFERRED = Before(length=None, sent=b"12")
REMOVED = Before(sent=b"1234", end="removed")
CANCELED = Before(sent=b"1234", end="canceled")
EXPIRED = Before(sent=b"1234", aged_hours=7)
AT_0 = {**TUS, **OCTETS, "Upload-Offset": "0"}
AT_4 = {**TUS, **OCTETS, "Upload-Offset": "4"}
LENGTH_8 = {**TUS, "Upload-Length": "8"}
VERSIONS = {"Tus-Version": "1.0.0"}

_NOWHERE = {"Upload-Offset": None, "Cache-Control": "no-store"}
_NO_VERSION = {**OCTETS, "Upload-Offset": "4"}
_OLD = {"Tus-Resumable": "0.2.2"}


def _override(method: str) -> dict[str, str]:
    return {"X-HTTP-Method-Override": method}


VERSION = [
    Case("HEAD without", "Tus-Resumable", HALF, "HEAD", {}, 412, VERSIONS),
    Case("HEAD old", "Tus-Resumable", HALF, "HEAD", _OLD, 412, VERSIONS),
    Case("HEAD twice", "Tus-Resumable", HALF, "HEAD", {"Tus-Resumable": ("1.0.0",) * 2}, 400),
    Case("PATCH without", "Tus-Resumable", HALF, "PATCH", _NO_VERSION, 412, VERSIONS, b"5678"),
    Case(
        "PATCH old", "Tus-Resumable", HALF, "PATCH", {**_NO_VERSION, **_OLD}, 412, VERSIONS, b"5678"
    ),
    Case(
        "PATCH of a later version",
        "Tus-Resumable",
        HALF,
        "PATCH",
        {**_NO_VERSION, "Tus-Resumable": "1.0.1"},
        412,
        VERSIONS,
        b"5678",
    ),
    Case("POST without", "Tus-Resumable", None, "POST", {"Upload-Length": "8"}, 412, VERSIONS, b""),
    Case(
        "POST with a body, without",
        "Tus-Resumable",
        None,
        "POST",
        {"Upload-Length": "8", **OCTETS},
        412,
        VERSIONS,
        b"1234",
    ),
    Case("POST old", "Tus-Resumable", None, "POST", {**LENGTH_8, **_OLD}, 412, VERSIONS),
    Case("DELETE without", "Tus-Resumable", HALF, "DELETE", {}, 412, VERSIONS),
    Case("DELETE old", "Tus-Resumable", HALF, "DELETE", _OLD, 412, VERSIONS),
    Case("405 has it", "Tus-Resumable", HALF, "PUT", TUS, 405, {"Allow": listing("PATCH")}, b"56"),
    Case("405 at creation", "Tus-Resumable", None, "PATCH", AT_0, 405, {"Allow": listing("POST")}),
    Case("404 has it", "Tus-Resumable", None, "DELETE", TUS, 404, path=UNKNOWN),
    Case("404 of what is no id", "Tus-Resumable", None, "HEAD", TUS, 404, path="/files/nonsense"),
    Case("401 on HEAD", "Tus-Resumable", HALF, "HEAD", TUS, 401, server="guarded"),
    Case("401 on PATCH", "Tus-Resumable", HALF, "PATCH", AT_4, 401, {}, b"5678", server="guarded"),
    Case(
        "401 on POST",
        "Tus-Resumable",
        None,
        "POST",
        {**LENGTH_8, **OCTETS},
        401,
        {},
        b"1234",
        server="guarded",
    ),
    Case("401 on DELETE", "Tus-Resumable", HALF, "DELETE", TUS, 401, server="guarded"),
    Case(
        "with a token",
        "Tus-Resumable",
        HALF,
        "PATCH",
        {**AT_4, **BEARER},
        204,
        {"Upload-Offset": "8"},
        b"5678",
        b"12345678",
        server="guarded",
    ),
]

HEAD = [
    Case("offset 0", "HEAD", FRESH, "HEAD", TUS, 200, {"Upload-Offset": "0", "Upload-Length": "8"}),
    Case("offset 4", "HEAD", HALF, "HEAD", TUS, 200, {"Upload-Offset": "4", "Upload-Length": "8"}),
    Case("whole", "HEAD", WHOLE, "HEAD", TUS, 200, {"Upload-Offset": "4", "Upload-Length": "4"}),
    Case(
        "of length 0",
        "HEAD",
        Before(length=0),
        "HEAD",
        TUS,
        200,
        {"Upload-Offset": "0", "Upload-Length": "0"},
    ),
    Case(
        "of unknown length",
        "HEAD",
        DEFERRED,
        "HEAD",
        TUS,
        200,
        {"Upload-Offset": "2", "Upload-Length": None},
    ),
    Case("is not cached", "HEAD", HALF, "HEAD", TUS, 200, {"Cache-Control": "no-store"}),
    Case("whole, not cached", "HEAD", WHOLE, "HEAD", TUS, 200, {"Cache-Control": "no-store"}),
    Case("never was", "HEAD", None, "HEAD", TUS, 404, _NOWHERE, path=UNKNOWN),
    Case("removed", "HEAD", REMOVED, "HEAD", TUS, 404, _NOWHERE),
    Case("canceled", "HEAD", CANCELED, "HEAD", TUS, 410, _NOWHERE),
]

_ALL = listing(
    "creation",
    "creation-with-upload",
    "creation-defer-length",
    "expiration",
    "checksum",
    "checksum-trailer",
    "termination",
    "concatenation",
)
OPTIONS = [
    Case("versions", "Tus-Version", None, "OPTIONS", {}, 204, VERSIONS),
    Case("extensions", "Tus-Extension", None, "OPTIONS", {}, 204, {"Tus-Extension": _ALL}),
    Case("no limit", "Tus-Max-Size", None, "OPTIONS", {}, 204, {"Tus-Max-Size": None}),
    Case(
        "a limit",
        "Tus-Max-Size",
        None,
        "OPTIONS",
        {},
        204,
        {"Tus-Max-Size": "1000"},
        server="limited",
    ),
    Case("of an upload", "OPTIONS", HALF, "OPTIONS", {}, 204, VERSIONS),
    Case("version ignored", "OPTIONS", None, "OPTIONS", {"Tus-Resumable": "9.9.9"}, 204, VERSIONS),
    Case("version said", "OPTIONS", None, "OPTIONS", TUS, 204, VERSIONS),
    Case("no token", "OPTIONS", None, "OPTIONS", {}, 204, VERSIONS, server="guarded"),
]

OVERRIDE = [
    Case(
        "POST for PATCH",
        "X-HTTP-Method-Override",
        HALF,
        "POST",
        {**AT_4, **_override("PATCH")},
        204,
        {"Upload-Offset": "8"},
        b"5678",
        b"12345678",
    ),
    Case(
        "PUT for PATCH",
        "X-HTTP-Method-Override",
        HALF,
        "PUT",
        {**AT_4, **_override("PATCH")},
        204,
        {"Upload-Offset": "8"},
        b"5678",
        b"12345678",
    ),
    Case(
        "POST for DELETE",
        "X-HTTP-Method-Override",
        HALF,
        "POST",
        {**TUS, **_override("DELETE")},
        204,
        removes=True,
    ),
    Case(
        "DELETE for HEAD removes nothing",
        "X-HTTP-Method-Override",
        HALF,
        "DELETE",
        {**TUS, **_override("HEAD")},
        200,
        {"Upload-Offset": "4"},
    ),
    Case(
        "PATCH for HEAD stores nothing",
        "X-HTTP-Method-Override",
        HALF,
        "PATCH",
        {**AT_4, **_override("HEAD")},
        200,
        {"Upload-Offset": "4"},
    ),
    Case(
        "PATCH for POST",
        "X-HTTP-Method-Override",
        None,
        "PATCH",
        {**LENGTH_8, **_override("POST")},
        201,
    ),
    Case(
        "POST for OPTIONS",
        "X-HTTP-Method-Override",
        None,
        "POST",
        {**TUS, **_override("OPTIONS")},
        204,
        VERSIONS,
    ),
    Case("unknown", "X-HTTP-Method-Override", HALF, "PATCH", {**AT_4, **_override("ODD")}, 405),
    Case(
        "twice",
        "X-HTTP-Method-Override",
        HALF,
        "POST",
        {**AT_4, "X-HTTP-Method-Override": ("PATCH", "DELETE")},
        400,
        {},
        b"5678",
    ),
    Case(
        "judged as the method meant",
        "X-HTTP-Method-Override",
        HALF,
        "POST",
        {**AT_0, **_override("PATCH")},
        409,
        {"Upload-Offset": "4"},
        b"1234",
    ),
]

CASES = [*VERSION, *HEAD, *OPTIONS, *OVERRIDE]
