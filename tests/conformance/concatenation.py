"""Rows of the extension concatenation; `tests/test_concatenation.py` has the bytes of the whole."""

from __future__ import annotations

from tests.conformance.case import UNKNOWN, Before, Case, listing
from tests.conformance.core import AT_0, AT_4
from tests.raw import OCTETS, TUS

_TWO = ((3, b"abc"), (4, b"defg"))
_ARRIVING = ((3, b"abc"), (4, b"de"))
_LIST = "final;{part0} {part1}"
_FINAL = {**TUS, "Upload-Concat": _LIST}
PARTS = Before(parts=_TWO)
WHOLE = Before(parts=_TWO, final=True, headers={"Upload-Concat": _LIST})
UNFINISHED = Before(parts=_ARRIVING, final=True, headers={"Upload-Concat": _LIST})
_PARTIAL = Before(headers={"Upload-Concat": "partial"}, sent=b"1234")
_ABSOLUTE = "final;{origin}{part0} https://console.example/api{part1}"


def _refused(name: str, value: str, status: int = 400, before: Before = PARTS) -> Case:
    return Case(
        name,
        "Concatenation",
        before,
        "POST",
        {**TUS, "Upload-Concat": value},
        status,
        path="/files/",
    )


PARTIALS = [
    Case(
        "announced",
        "Concatenation",
        None,
        "OPTIONS",
        {},
        204,
        {"Tus-Extension": listing("concatenation")},
    ),
    Case(
        "unfinished ones announced",
        "Concatenation",
        None,
        "OPTIONS",
        {},
        204,
        {"Tus-Extension": listing("concatenation", "concatenation-unfinished")},
    ),
    Case(
        "a partial",
        "Concatenation",
        None,
        "POST",
        {**TUS, "Upload-Length": "8", "Upload-Concat": "partial"},
        201,
        after=b"",
        then={"Upload-Concat": "partial", "Upload-Offset": "0", "Upload-Length": "8"},
    ),
    Case(
        "a partial with bytes",
        "Concatenation",
        None,
        "POST",
        {**TUS, **OCTETS, "Upload-Length": "8", "Upload-Concat": "partial"},
        201,
        {"Upload-Offset": "4"},
        b"1234",
        b"1234",
        {"Upload-Concat": "partial"},
    ),
    Case(
        "a partial of unknown length",
        "Concatenation",
        None,
        "POST",
        {**TUS, "Upload-Defer-Length": "1", "Upload-Concat": "partial"},
        201,
        after=b"",
        then={"Upload-Concat": "partial", "Upload-Defer-Length": "1"},
    ),
    Case(
        "HEAD of a partial",
        "Concatenation",
        _PARTIAL,
        "HEAD",
        TUS,
        200,
        {"Upload-Concat": "partial", "Upload-Offset": "4", "Upload-Length": "8"},
    ),
    Case(
        "HEAD of what is none", "Concatenation", Before(), "HEAD", TUS, 200, {"Upload-Concat": None}
    ),
    Case(
        "PATCH of a partial",
        "Concatenation",
        _PARTIAL,
        "PATCH",
        AT_4,
        204,
        {"Upload-Offset": "8"},
        b"5678",
        b"12345678",
    ),
    Case(
        "a partial without length",
        "Concatenation",
        None,
        "POST",
        {**TUS, "Upload-Concat": "partial"},
        400,
    ),
]

FINALS = [
    Case(
        "of whole parts",
        "Concatenation",
        PARTS,
        "POST",
        _FINAL,
        201,
        path="/files/",
        then={"Upload-Concat": _LIST, "Upload-Offset": "7", "Upload-Length": "7"},
    ),
    Case(
        "in the order of the list",
        "Concatenation",
        PARTS,
        "POST",
        {**TUS, "Upload-Concat": "final;{part1} {part0}"},
        201,
        path="/files/",
        then={"Upload-Concat": "final;{part1} {part0}", "Upload-Offset": "7"},
    ),
    Case(
        "by absolute URLs",
        "Concatenation",
        PARTS,
        "POST",
        {**TUS, "Upload-Concat": _ABSOLUTE},
        201,
        path="/files/",
        then={"Upload-Concat": _ABSOLUTE, "Upload-Offset": "7"},
    ),
    Case(
        "of one part",
        "Concatenation",
        PARTS,
        "POST",
        {**TUS, "Upload-Concat": "final;{part1}"},
        201,
        path="/files/",
        then={"Upload-Offset": "4", "Upload-Length": "4"},
    ),
    Case(
        "with metadata of its own",
        "Concatenation",
        PARTS,
        "POST",
        {**_FINAL, "Upload-Metadata": "filename YQ==,new"},
        201,
        path="/files/",
        then={"Upload-Metadata": "filename YQ==,new"},
    ),
    Case(
        "without metadata of its parts",
        "Concatenation",
        WHOLE,
        "HEAD",
        TUS,
        200,
        {"Upload-Metadata": None, "Upload-Concat": _LIST},
    ),
    Case(
        "of parts that still arrive",
        "Concatenation",
        Before(parts=_ARRIVING),
        "POST",
        _FINAL,
        201,
        path="/files/",
        then={"Upload-Concat": _LIST, "Upload-Offset": None, "Upload-Length": "7"},
    ),
    Case(
        "HEAD when whole",
        "Concatenation",
        WHOLE,
        "HEAD",
        TUS,
        200,
        {"Upload-Concat": _LIST, "Upload-Offset": "7", "Upload-Length": "7"},
    ),
    Case(
        "HEAD before that",
        "Concatenation",
        UNFINISHED,
        "HEAD",
        TUS,
        200,
        {"Upload-Concat": _LIST, "Upload-Offset": None, "Upload-Length": "7"},
    ),
    Case(
        "HEAD of a part that is used",
        "Concatenation",
        UNFINISHED,
        "HEAD",
        TUS,
        200,
        {"Upload-Concat": "partial", "Upload-Offset": "2", "Upload-Length": "4"},
        path="{part1}",
    ),
    Case("PATCH", "Concatenation", WHOLE, "PATCH", {**AT_0, "Upload-Offset": "7"}, 403, {}, b"x"),
    Case("PATCH at 0", "Concatenation", WHOLE, "PATCH", AT_0, 403, {}, b"abc"),
    Case("PATCH of nothing", "Concatenation", WHOLE, "PATCH", {**AT_0, "Upload-Offset": "7"}, 403),
    Case(
        "PATCH before it is whole",
        "Concatenation",
        UNFINISHED,
        "PATCH",
        {**AT_0, "Upload-Offset": "5"},
        403,
        {},
        b"fg",
    ),
]

REFUSED = [
    Case(
        "a length",
        "Concatenation",
        PARTS,
        "POST",
        {**_FINAL, "Upload-Length": "7"},
        400,
        path="/files/",
    ),
    Case(
        "a deferred length",
        "Concatenation",
        PARTS,
        "POST",
        {**_FINAL, "Upload-Defer-Length": "1"},
        400,
        path="/files/",
    ),
    Case(
        "a body",
        "Concatenation",
        PARTS,
        "POST",
        {**_FINAL, **OCTETS},
        400,
        {},
        b"x",
        path="/files/",
    ),
    Case(
        "without version",
        "Concatenation",
        PARTS,
        "POST",
        {"Upload-Concat": _LIST},
        412,
        {"Tus-Version": "1.0.0"},
        path="/files/",
    ),
    Case(
        "the header twice",
        "Concatenation",
        PARTS,
        "POST",
        {**TUS, "Upload-Concat": ("final;{part0}", "final;{part1}")},
        400,
        path="/files/",
    ),
    Case(
        "over the limit",
        "Concatenation",
        Before(parts=((600, b"a"), (401, b"b"))),
        "POST",
        _FINAL,
        413,
        path="/files/",
        server="limited",
    ),
    _refused("an unknown part", f"final;{{part0}} {UNKNOWN}"),
    _refused("what is no partial", "final;{part0} {plain}"),
    _refused("a comma in between", "final;{part0},{part1}"),
    _refused("a part twice", "final;{part0} {part0}"),
    _refused("another place's URL", f"final;{{part0}} /elsewhere/{'0' * 32}"),
    _refused("two spaces", "final;{part0}  {part1}"),
    _refused("no parts", "final;"),
    _refused("no list", "final"),
    _refused("another word", "whole;{part0} {part1}"),
    _refused("upper case", "Final;{part0} {part1}"),
    _refused("partial with a list", "partial;{part0}"),
    _refused("empty", ""),
    _refused("parts of another", "final;{part1}", 409, WHOLE),
]

CASES = [*PARTIALS, *FINALS, *REFUSED]
