"""Rows of Upload-Length at creation, and of the extension creation-defer-length."""

from __future__ import annotations

from tests.conformance.case import PATH, Case, listing
from tests.conformance.core import DEFERRED, HALF
from tests.raw import OCTETS, TUS

_LATER = {**TUS, "Upload-Defer-Length": "1"}
_AT_2 = {**TUS, **OCTETS, "Upload-Offset": "2"}


def _length(name: str, value: str | tuple[str, ...], status: int) -> Case:
    return Case(name, "Upload-Length", None, "POST", {**TUS, "Upload-Length": value}, status)


# What no disk here could hold is 507, and never 201.
LENGTHS = [
    _length("negative", "-1", 400),
    _length("signed", "+8", 400),
    _length("spaced", "8 0", 400),
    _length("empty", "", 400),
    _length("a fraction", "8.0", 400),
    _length("an exponent", "8e0", 400),
    _length("hexadecimal", "0x8", 400),
    _length("a list", "8,8", 400),
    _length("words", "eight", 400),
    _length("another alphabet", "\u00b2", 400),
    _length("twice", ("8", "8"), 400),
    _length("twice, two sizes", ("8", "9"), 400),
    _length("2^53", str(2**53), 507),
    _length("2^63 - 1", str(2**63 - 1), 507),
    _length("2^63", str(2**63), 400),
    _length("2^64 + 8", str(2**64 + 8), 400),
    _length("a thousand digits", "8" * 1000, 400),
]


def _deferral(name: str, value: str | tuple[str, ...]) -> Case:
    headers = {**TUS, "Upload-Defer-Length": value}
    return Case(name, "Upload-Defer-Length", None, "POST", headers, 400)


def _late(name: str, length: str | tuple[str, ...], status: int, body: bytes = b"34") -> Case:
    headers = {**_AT_2, "Upload-Length": length}
    return Case(name, "Upload-Defer-Length", DEFERRED, "PATCH", headers, status, {}, body)


DEFERRALS = [
    Case(
        "announced",
        "Upload-Defer-Length",
        None,
        "OPTIONS",
        {},
        204,
        {"Tus-Extension": listing("creation-defer-length")},
    ),
    Case(
        "a length later",
        "Upload-Defer-Length",
        None,
        "POST",
        _LATER,
        201,
        {"Location": PATH},
        after=b"",
        then={"Upload-Defer-Length": "1", "Upload-Length": None},
    ),
    _deferral("0", "0"),
    _deferral("2", "2"),
    _deferral("true", "true"),
    _deferral("empty", ""),
    _deferral("twice", ("1", "1")),
    Case(
        "HEAD says so",
        "Upload-Defer-Length",
        DEFERRED,
        "HEAD",
        TUS,
        200,
        {"Upload-Defer-Length": "1", "Upload-Length": None},
    ),
    Case(
        "omitted where the length is known",
        "Upload-Defer-Length",
        HALF,
        "HEAD",
        TUS,
        200,
        {"Upload-Defer-Length": None},
    ),
    Case(
        "said with bytes",
        "Upload-Defer-Length",
        DEFERRED,
        "PATCH",
        {**_AT_2, "Upload-Length": "6"},
        204,
        {"Upload-Offset": "4"},
        b"34",
        b"1234",
        {"Upload-Length": "6", "Upload-Defer-Length": None},
    ),
    Case(
        "said with the last bytes",
        "Upload-Defer-Length",
        DEFERRED,
        "PATCH",
        {**_AT_2, "Upload-Length": "4"},
        204,
        {"Upload-Offset": "4", "Upload-Expires": None},
        b"34",
        b"1234",
        {"Upload-Length": "4", "Upload-Defer-Length": None},
    ),
    Case(
        "said without bytes",
        "Upload-Defer-Length",
        DEFERRED,
        "PATCH",
        {**_AT_2, "Upload-Length": "2"},
        204,
        {"Upload-Offset": "2"},
        b"",
        b"12",
        {"Upload-Length": "2", "Upload-Defer-Length": None},
    ),
    Case(
        "not said yet",
        "Upload-Defer-Length",
        DEFERRED,
        "PATCH",
        _AT_2,
        204,
        {"Upload-Offset": "4"},
        b"34",
        b"1234",
        {"Upload-Defer-Length": "1"},
    ),
    Case(
        "changed",
        "Upload-Defer-Length",
        HALF,
        "PATCH",
        {**_AT_2, "Upload-Offset": "4", "Upload-Length": "9"},
        400,
        {},
        b"5678",
    ),
    Case(
        "changed to less",
        "Upload-Defer-Length",
        HALF,
        "PATCH",
        {**_AT_2, "Upload-Offset": "4", "Upload-Length": "4"},
        400,
        {},
        b"",
    ),
    _late("less than is there", "1", 400, b""),
    _late("less than comes", "3", 413),
    _late("negative", "-4", 400),
    _late("signed", "+4", 400),
    _late("spaced", "4 4", 400),
    _late("twice in a PATCH", ("4", "4"), 400),
    _late("2^53", str(2**53), 507),
    _late("2^63 - 1", str(2**63 - 1), 507),
    _late("2^63", str(2**63), 400),
    Case(
        "over the limit",
        "Upload-Defer-Length",
        DEFERRED,
        "PATCH",
        {**_AT_2, "Upload-Length": "1001"},
        413,
        {},
        b"34",
        server="limited",
    ),
]

CASES = [*LENGTHS, *DEFERRALS]
