"""Rows of PATCH: where the bytes go, and everything that is refused before they do."""

from __future__ import annotations

from tests.conformance.case import UNKNOWN, Before, Case
from tests.conformance.core import (
    AT_0,
    AT_4,
    CANCELED,
    DEFERRED,
    FRESH,
    HALF,
    REMOVED,
    WHOLE,
)
from tests.raw import OCTETS, TUS

_THERE = {"Upload-Offset": "4"}

ACCEPTED = [
    Case("first bytes", "PATCH", FRESH, "PATCH", AT_0, 204, {"Upload-Offset": "3"}, b"123", b"123"),
    Case(
        "the rest", "PATCH", HALF, "PATCH", AT_4, 204, {"Upload-Offset": "8"}, b"5678", b"12345678"
    ),
    Case("a part", "PATCH", HALF, "PATCH", AT_4, 204, {"Upload-Offset": "6"}, b"56", b"123456"),
    Case("no bytes", "PATCH", HALF, "PATCH", AT_4, 204, _THERE, b"", b"1234"),
    Case("no bytes at the end", "PATCH", WHOLE, "PATCH", AT_4, 204, _THERE, b"", b"1234"),
    Case(
        "of unknown length",
        "PATCH",
        DEFERRED,
        "PATCH",
        {**AT_0, "Upload-Offset": "2"},
        204,
        {"Upload-Offset": "4"},
        b"34",
        b"1234",
    ),
    Case(
        "chunked",
        "PATCH",
        HALF,
        "PATCH",
        AT_4,
        204,
        {"Upload-Offset": "8"},
        b"5678",
        b"12345678",
        chunked=True,
    ),
    Case(
        "chunked, a part",
        "PATCH",
        HALF,
        "PATCH",
        AT_4,
        204,
        {"Upload-Offset": "7"},
        b"567",
        b"1234567",
        chunked=True,
    ),
    Case(
        "chunked, no bytes", "PATCH", HALF, "PATCH", AT_4, 204, _THERE, b"", b"1234", chunked=True
    ),
    Case(
        "type with a parameter",
        "PATCH",
        HALF,
        "PATCH",
        {**AT_4, "Content-Type": "Application/Offset+Octet-Stream; charset=binary"},
        204,
        {"Upload-Offset": "8"},
        b"5678",
        b"12345678",
    ),
    Case(
        "the whole in one",
        "PATCH",
        FRESH,
        "PATCH",
        AT_0,
        204,
        {"Upload-Offset": "8"},
        b"12345678",
        b"12345678",
    ),
    Case(
        "the length again",
        "PATCH",
        HALF,
        "PATCH",
        {**AT_4, "Upload-Length": "8"},
        204,
        {"Upload-Offset": "8"},
        b"5678",
        b"12345678",
    ),
]

REFUSED = [
    Case("behind", "PATCH", HALF, "PATCH", AT_0, 409, _THERE, b"1234"),
    Case("ahead", "PATCH", HALF, "PATCH", {**AT_0, "Upload-Offset": "5"}, 409, _THERE, b"678"),
    Case("a whole one again", "PATCH", WHOLE, "PATCH", AT_0, 409, _THERE, b"1234"),
    Case("behind, no bytes", "PATCH", HALF, "PATCH", AT_0, 409, _THERE),
    Case("behind, chunked", "PATCH", HALF, "PATCH", AT_0, 409, _THERE, b"1234", chunked=True),
    Case("no type", "PATCH", HALF, "PATCH", {**TUS, "Upload-Offset": "4"}, 415, {}, b"5678"),
    Case(
        "octet-stream",
        "PATCH",
        HALF,
        "PATCH",
        {**AT_4, "Content-Type": "application/octet-stream"},
        415,
        {},
        b"5678",
    ),
    Case(
        "a form",
        "PATCH",
        HALF,
        "PATCH",
        {**AT_4, "Content-Type": "multipart/form-data; boundary=x"},
        415,
        {},
        b"5678",
    ),
    Case(
        "type twice",
        "PATCH",
        HALF,
        "PATCH",
        {**AT_4, "Content-Type": tuple(OCTETS.values()) * 2},
        400,
        {},
        b"5678",
    ),
    Case(
        "other type, chunked",
        "PATCH",
        HALF,
        "PATCH",
        {**AT_4, "Content-Type": "text/plain"},
        415,
        {},
        b"5678",
        chunked=True,
    ),
    Case(
        "never was",
        "PATCH",
        None,
        "PATCH",
        AT_0,
        404,
        {"Upload-Offset": None},
        b"1234",
        path=UNKNOWN,
    ),
    Case("removed", "PATCH", REMOVED, "PATCH", AT_4, 404, {}, b"5678"),
    Case("canceled", "PATCH", CANCELED, "PATCH", AT_4, 410, {}, b"5678"),
    Case("over the length", "PATCH", HALF, "PATCH", AT_4, 413, _THERE, b"56789"),
    Case(
        "over the length from 0",
        "PATCH",
        FRESH,
        "PATCH",
        AT_0,
        413,
        {"Upload-Offset": "0"},
        b"123456789",
    ),
    Case("more for a whole one", "PATCH", WHOLE, "PATCH", AT_4, 413, _THERE, b"5"),
    Case(
        "more for a whole one, chunked",
        "PATCH",
        WHOLE,
        "PATCH",
        AT_4,
        413,
        _THERE,
        b"5",
        chunked=True,
        late=True,
    ),
    Case(
        "over the limit, of unknown length",
        "PATCH",
        Before(length=None),
        "PATCH",
        AT_0,
        413,
        {},
        b"x" * 1001,
        server="limited",
    ),
]


def _offset(name: str, value: str | tuple[str, ...], status: int) -> Case:
    headers = {**TUS, **OCTETS, "Upload-Offset": value}
    there = _THERE if status == 409 else {}
    return Case(name, "Upload-Offset", HALF, "PATCH", headers, status, there, b"5678")


OFFSETS = [
    Case("absent", "Upload-Offset", HALF, "PATCH", {**TUS, **OCTETS}, 400, {}, b"5678"),
    _offset("negative", "-4", 400),
    _offset("signed", "+4", 400),
    _offset("spaced", "4 4", 400),
    _offset("empty", "", 400),
    _offset("a fraction", "4.0", 400),
    _offset("an exponent", "4e0", 400),
    _offset("hexadecimal", "0x4", 400),
    _offset("a list", "4,4", 400),
    _offset("words", "four", 400),
    _offset("another alphabet", "\u00b2", 400),
    _offset("twice", ("4", "4"), 400),
    _offset("twice, two places", ("0", "4"), 400),
    _offset("2^53", str(2**53), 409),
    _offset("2^63 - 1", str(2**63 - 1), 409),
    _offset("2^63", str(2**63), 400),
    _offset("2^64 + 4", str(2**64 + 4), 400),
    _offset("a thousand digits", "4" * 1000, 400),
]

CASES = [*ACCEPTED, *REFUSED, *OFFSETS]
