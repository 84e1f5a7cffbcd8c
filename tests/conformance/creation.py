"""Rows of the extensions creation and creation-with-upload."""

from __future__ import annotations

import base64

from tests.conformance.case import PATH, Before, Case, listing
from tests.conformance.core import FRESH, LENGTH_8
from tests.raw import OCTETS, TUS

_LATER = {**TUS, "Upload-Defer-Length": "1"}

POST = [
    Case("announced", "Creation", None, "OPTIONS", {}, 204, {"Tus-Extension": listing("creation")}),
    Case(
        "a length",
        "Creation",
        None,
        "POST",
        LENGTH_8,
        201,
        {"Location": PATH},
        after=b"",
        then={"Upload-Offset": "0", "Upload-Length": "8"},
    ),
    Case(
        "length 0 is whole at once",
        "Creation",
        None,
        "POST",
        {**TUS, "Upload-Length": "0"},
        201,
        {"Location": PATH, "Upload-Expires": None},
        after=b"",
        then={"Upload-Offset": "0", "Upload-Length": "0", "Upload-Expires": None},
    ),
    Case("no length", "Creation", None, "POST", TUS, 400),
    Case("both", "Creation", None, "POST", {**LENGTH_8, "Upload-Defer-Length": "1"}, 400),
    Case(
        "up to the limit",
        "Creation",
        None,
        "POST",
        {**TUS, "Upload-Length": "1000"},
        201,
        after=b"",
        server="limited",
    ),
    Case(
        "over the limit",
        "Creation",
        None,
        "POST",
        {**TUS, "Upload-Length": "1001"},
        413,
        server="limited",
    ),
    Case(
        "far over the limit",
        "Creation",
        None,
        "POST",
        {**TUS, "Upload-Length": str(2**63 - 1)},
        413,
        server="limited",
    ),
    Case(
        "over the limit with a body",
        "Creation",
        None,
        "POST",
        {**TUS, **OCTETS, "Upload-Length": "1001"},
        413,
        {},
        b"1234",
        server="limited",
    ),
]


def _echo(name: str, value: str) -> Case:
    before = Before(headers={"Upload-Metadata": value})
    return Case(name, "Upload-Metadata", before, "HEAD", TUS, 200, {"Upload-Metadata": value})


def _metadata(name: str, value: str | tuple[str, ...], status: int = 400) -> Case:
    headers = {**LENGTH_8, "Upload-Metadata": value}
    after = b"" if status == 201 else None
    return Case(name, "Upload-Metadata", None, "POST", headers, status, after=after)


METADATA = [
    _echo("one pair", "filename d29ybGRfZG9taW5hdGlvbl9wbGFuLnBkZg=="),
    _echo("a key without value", "is_confidential"),
    _echo("a key without value, with its space", "is_confidential ,note YQ=="),
    _echo("pairs and keys", "filename YS50YXI=,is_confidential,x-unknown YQ=="),
    _echo("their order", "z YQ==,a Yg==,m Yw=="),
    _echo("other alphabets", f"filename {base64.b64encode('täst 漢字.tar'.encode()).decode()}"),
    # Base64 in, Base64 out: no line of it ever becomes a header.
    _echo("line ends", "note YQ0KWC1TbXVnZ2xlZDogeWVz"),
    Case("none", "Upload-Metadata", FRESH, "HEAD", TUS, 200, {"Upload-Metadata": None}),
    _metadata("empty", "", 201),
    _metadata("a key twice", "a YQ==,a Yg=="),
    _metadata("a key twice, without value", "a,a"),
    _metadata("an empty key", "a YQ==,,b Yg=="),
    _metadata("a space in a key", "a b YQ=="),
    _metadata("a key that is not ASCII", "\u00e4 YQ=="),
    _metadata("a value that is not Base64", "filename %%%"),
    _metadata("Base64 cut short", "filename YQ"),
    _metadata("a value that is no text", "filename //79"),
    _metadata("the header twice", ("a YQ==", "b Yg==")),
    _metadata("too much of it", "a " + "YWFh" * 8000),
]

_BRINGS = {**LENGTH_8, **OCTETS}

WITH_UPLOAD = [
    Case(
        "announced",
        "Creation With Upload",
        None,
        "OPTIONS",
        {},
        204,
        {"Tus-Extension": listing("creation", "creation-with-upload")},
    ),
    Case(
        "a part",
        "Creation With Upload",
        None,
        "POST",
        _BRINGS,
        201,
        {"Location": PATH, "Upload-Offset": "4"},
        b"1234",
        b"1234",
    ),
    Case(
        "the whole",
        "Creation With Upload",
        None,
        "POST",
        _BRINGS,
        201,
        {"Location": PATH, "Upload-Offset": "8", "Upload-Expires": None},
        b"12345678",
        b"12345678",
    ),
    Case(
        "chunked",
        "Creation With Upload",
        None,
        "POST",
        _BRINGS,
        201,
        {"Location": PATH, "Upload-Offset": "8"},
        b"12345678",
        b"12345678",
        chunked=True,
    ),
    Case(
        "chunked, a part",
        "Creation With Upload",
        None,
        "POST",
        _BRINGS,
        201,
        {"Location": PATH, "Upload-Offset": "3"},
        b"123",
        b"123",
        chunked=True,
    ),
    Case(
        "of unknown length",
        "Creation With Upload",
        None,
        "POST",
        {**_LATER, **OCTETS},
        201,
        {"Upload-Offset": "4"},
        b"1234",
        b"1234",
        {"Upload-Defer-Length": "1"},
    ),
    Case(
        "no bytes, but their type",
        "Creation With Upload",
        None,
        "POST",
        _BRINGS,
        201,
        {"Location": PATH},
        after=b"",
    ),
    Case("no type", "Creation With Upload", None, "POST", LENGTH_8, 415, {}, b"1234"),
    Case(
        "another type",
        "Creation With Upload",
        None,
        "POST",
        {**LENGTH_8, "Content-Type": "application/octet-stream"},
        415,
        {},
        b"1234",
    ),
    Case(
        "another type, chunked",
        "Creation With Upload",
        None,
        "POST",
        {**LENGTH_8, "Content-Type": "text/plain"},
        415,
        {},
        b"1234",
        chunked=True,
    ),
    Case("over the length", "Creation With Upload", None, "POST", _BRINGS, 413, {}, b"123456789"),
    Case(
        "a body for length 0",
        "Creation With Upload",
        None,
        "POST",
        {**_BRINGS, "Upload-Length": "0"},
        413,
        {},
        b"1",
    ),
    Case(
        "a negative length",
        "Creation With Upload",
        None,
        "POST",
        {**_BRINGS, "Upload-Length": "-8"},
        400,
        {},
        b"1234",
    ),
    Case("no length", "Creation With Upload", None, "POST", {**TUS, **OCTETS}, 400, {}, b"1234"),
    Case(
        "a length that no disk holds",
        "Creation With Upload",
        None,
        "POST",
        {**_BRINGS, "Upload-Length": str(2**53)},
        507,
        {},
        b"1234",
    ),
    Case(
        "metadata that cannot be read",
        "Creation With Upload",
        None,
        "POST",
        {**_BRINGS, "Upload-Metadata": "a %"},
        400,
        {},
        b"1234",
    ),
]

CASES = [*POST, *METADATA, *WITH_UPLOAD]
