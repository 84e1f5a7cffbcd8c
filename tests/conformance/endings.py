"""Rows of the extensions expiration and termination."""

from __future__ import annotations

from tests.conformance.case import IMF_DATE, UNKNOWN, Before, Case, later, listing
from tests.conformance.core import AT_0, AT_4, EXPIRED, FRESH, HALF, LENGTH_8, REMOVED, WHOLE
from tests.raw import OCTETS, TUS

# An hour ago its last byte came: what is told now must be an hour later than what was told then.
_AN_HOUR_AGO = Before(sent=b"1234", aged_hours=1)
_EXPIRES = {"Upload-Expires": IMF_DATE}
_LATER = {"Upload-Expires": later}

EXPIRATION = [
    Case(
        "announced",
        "Expiration",
        None,
        "OPTIONS",
        {},
        204,
        {"Tus-Extension": listing("expiration")},
    ),
    Case("at creation", "Expiration", None, "POST", LENGTH_8, 201, _EXPIRES, after=b""),
    Case(
        "at creation of unknown length",
        "Expiration",
        None,
        "POST",
        {**TUS, "Upload-Defer-Length": "1"},
        201,
        _EXPIRES,
        after=b"",
    ),
    Case(
        "at creation with a part",
        "Expiration",
        None,
        "POST",
        {**LENGTH_8, **OCTETS},
        201,
        _EXPIRES,
        b"1234",
        b"1234",
    ),
    Case("HEAD", "Expiration", HALF, "HEAD", TUS, 200, _EXPIRES),
    Case("PATCH", "Expiration", FRESH, "PATCH", AT_0, 204, _EXPIRES, b"1234", b"1234"),
    Case(
        "each byte gives more time",
        "Expiration",
        _AN_HOUR_AGO,
        "PATCH",
        AT_4,
        204,
        _LATER,
        b"56",
        b"123456",
        _LATER,
    ),
    Case(
        "chunked ones too",
        "Expiration",
        _AN_HOUR_AGO,
        "PATCH",
        AT_4,
        204,
        _LATER,
        b"56",
        b"123456",
        _LATER,
        chunked=True,
    ),
    Case(
        "asking does not",
        "Expiration",
        _AN_HOUR_AGO,
        "HEAD",
        TUS,
        200,
        {"Upload-Expires": lambda value, scene: not later(value, scene)},
    ),
    Case(
        "a whole one does not",
        "Expiration",
        HALF,
        "PATCH",
        AT_4,
        204,
        {"Upload-Expires": None},
        b"5678",
        b"12345678",
        {"Upload-Expires": None},
    ),
    Case("PATCH elsewhere", "Expiration", HALF, "PATCH", AT_0, 409, _EXPIRES, b"12"),
    Case("PATCH of too much", "Expiration", HALF, "PATCH", AT_4, 413, _EXPIRES, b"56789"),
    Case(
        "HEAD when it is over",
        "Expiration",
        EXPIRED,
        "HEAD",
        TUS,
        410,
        {"Upload-Offset": None, "Cache-Control": "no-store"},
    ),
    Case("PATCH when it is over", "Expiration", EXPIRED, "PATCH", AT_4, 410, {}, b"5678"),
    Case("PATCH of nothing when it is over", "Expiration", EXPIRED, "PATCH", AT_4, 410),
    Case(
        "of unknown length, when it is over",
        "Expiration",
        Before(length=None, sent=b"12", aged_hours=7),
        "HEAD",
        TUS,
        410,
    ),
    Case(
        "a whole one when the time would be over",
        "Expiration",
        Before(length=4, sent=b"1234", aged_hours=7),
        "HEAD",
        TUS,
        200,
        {"Upload-Offset": "4"},
    ),
]

TERMINATION = [
    Case(
        "announced",
        "Termination",
        None,
        "OPTIONS",
        {},
        204,
        {"Tus-Extension": listing("termination")},
    ),
    Case("before a byte came", "Termination", FRESH, "DELETE", TUS, 204, removes=True),
    Case("unfinished", "Termination", HALF, "DELETE", TUS, 204, removes=True),
    Case("whole", "Termination", WHOLE, "DELETE", TUS, 204, removes=True),
    Case(
        "of unknown length",
        "Termination",
        Before(length=None, sent=b"12"),
        "DELETE",
        TUS,
        204,
        removes=True,
    ),
    Case("never was", "Termination", None, "DELETE", TUS, 404, path=UNKNOWN),
    Case("a second time", "Termination", REMOVED, "DELETE", TUS, 404),
    Case("HEAD afterwards", "Termination", REMOVED, "HEAD", TUS, 404, {"Upload-Offset": None}),
    Case("PATCH afterwards", "Termination", REMOVED, "PATCH", AT_4, 404, {}, b"5678"),
    Case("without a token", "Termination", WHOLE, "DELETE", TUS, 401, server="guarded"),
]

CASES = [*EXPIRATION, *TERMINATION]
