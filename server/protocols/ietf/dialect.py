"""The dialects of draft-ietf-httpbis-resumable-upload, by the interop version a client names.

Knows: what each version calls things, asks for and answers.
Must not know: uploads, what is done with a request.

| interop | drafts     | since then                                                              |
|---------|------------|-------------------------------------------------------------------------|
| 3       | -01        | Upload-Incomplete; an append without it is the last one                 |
| 5       | -03        | Upload-Complete instead, in the opposite sense                          |
| 6       | -04, -05   | application/partial-upload, Upload-Limit, Upload-Length, problem types  |
| 7       | -06 to -08 | every append says Upload-Complete; `max-age` instead of `expires`       |
| 8       | -09 to -11 | bytes for a whole upload are an inconsistent length                     |
| 9       | -12        | a response may complete an upload, too                                  |
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from http import HTTPStatus
from typing import Final

from starlette.datastructures import Headers

from server.errors import BadRequest
from server.protocols import headers as h
from server.reception import INCONSISTENT_LENGTH

COMPLETED: Final = "completed"

_PROBLEMS: Final = "https://iana.org/assignments/http-problem-types#"
# By our own code of the error.
_OFFSET: Final = {"offset_mismatch": "mismatching-upload-offset"}
_COMPLETED: Final = {COMPLETED: "completed-upload"}
_LENGTH: Final = {INCONSISTENT_LENGTH: "inconsistent-upload-length"}
_DIGEST: Final = {"checksum_mismatch": "digest-mismatching-values"}
_PARAMETERS: Final = r"(?:[ ]*;[ ]*[a-z*][a-z0-9_.*-]*(?:=[^;]*)?)*[ ]*"
_BOOLEAN = re.compile(rf"\?([01]){_PARAMETERS}")
_INTEGER = re.compile(rf"([0-9]{{1,15}}){_PARAMETERS}")
_LARGEST_INTEGER: Final = 10**15 - 1


@dataclass(frozen=True)
class Dialect:
    """One interop version.

    `inverted`: Upload-Incomplete instead of Upload-Complete. `silent_append`: whether an append
    without that header ends the upload (None: it must be there). `names_appends`: an append must be
    application/partial-upload. `limit_age`: the key of an upload's remaining seconds in
    Upload-Limit (None: there is no such header yet). `refuses_headers`: HEAD and DELETE with these,
    or with the completeness, must be refused. `forgets_ended`: an upload that expired or was
    canceled must be 404. `appended`: the status of an append that does not end the upload.
    `completed_code`: what bytes for a whole upload are called. `problems`: registered problem types
    by our own codes.
    """

    version: int
    inverted: bool
    silent_append: bool | None
    names_appends: bool
    limit_age: str | None
    refuses_headers: tuple[str, ...]
    forgets_ended: bool
    appended: HTTPStatus
    completed_code: str
    problems: Mapping[str, str]

    @property
    def completeness(self) -> str:
        """The header that says whether the upload ends with this request."""
        return h.UPLOAD_INCOMPLETE if self.inverted else h.UPLOAD_COMPLETE

    def say(self, *, complete: bool) -> str:
        """The value of that header."""
        return "?1" if complete is not self.inverted else "?0"

    def completes(self, headers: Headers) -> bool | None:
        """Whether the request's body is the end of the upload; None: it does not say.

        Raises:
            BadRequest: the header is no Boolean.
        """
        said = boolean(headers, self.completeness)
        return None if said is None else said is not self.inverted

    def completes_append(self, headers: Headers) -> bool:
        """The same for an append, where each version has its own word for silence.

        Raises:
            BadRequest: the header is no Boolean, or missing where it must not.
        """
        said = self.completes(headers)
        if said is not None:
            return said
        if self.silent_append is None:
            raise BadRequest(
                f"PATCH without {self.completeness}",
                "say ?1 when the body ends the upload, else ?0",
            )
        return self.silent_append

    def problem_type(self, code: str) -> str | None:
        """The registered problem type of an error, where this version has one."""
        name = self.problems.get(code)
        return _PROBLEMS + name if name else None

    def limits(self, max_size: int, age_seconds: int | None) -> dict[str, str]:
        """Upload-Limit; nothing before it was invented.

        `max_size` 0 is no limit; `age_seconds` is for how long the upload will be there.
        """
        if self.limit_age is None:
            return {}
        members = ["min-size=0"]
        if 0 < max_size <= _LARGEST_INTEGER:
            members.append(f"max-size={max_size}")
        if age_seconds is not None:
            members.append(f"{self.limit_age}={age_seconds}")
        return {h.UPLOAD_LIMIT: ", ".join(members)}


_INTEROP_3: Final = Dialect(
    version=3,
    inverted=True,
    silent_append=True,
    names_appends=False,
    limit_age=None,
    refuses_headers=(h.UPLOAD_OFFSET,),
    forgets_ended=True,
    appended=HTTPStatus.CREATED,
    completed_code=COMPLETED,
    problems={},
)
_INTEROP_5: Final = replace(_INTEROP_3, version=5, inverted=False, silent_append=False)
_INTEROP_6: Final = replace(
    _INTEROP_5,
    version=6,
    names_appends=True,
    limit_age="expires",
    refuses_headers=(h.UPLOAD_OFFSET, h.UPLOAD_LENGTH),
    problems={**_OFFSET, **_COMPLETED, **_DIGEST},
)
_INTEROP_7: Final = replace(
    _INTEROP_6,
    version=7,
    silent_append=None,
    limit_age="max-age",
    refuses_headers=(),
    forgets_ended=False,
    appended=HTTPStatus.NO_CONTENT,
    problems={**_OFFSET, **_COMPLETED, **_LENGTH, **_DIGEST},
)
_INTEROP_8: Final = replace(_INTEROP_7, version=8, completed_code=INCONSISTENT_LENGTH)
NEWEST: Final = replace(_INTEROP_8, version=9, problems={**_OFFSET, **_LENGTH, **_DIGEST})
_DIALECTS: Final = {
    dialect.version: dialect
    for dialect in (_INTEROP_3, _INTEROP_5, _INTEROP_6, _INTEROP_7, _INTEROP_8, NEWEST)
}


def named_dialect(headers: Headers) -> Dialect | None:
    """The dialect that the request names; None when it names none, or one we do not speak."""
    values = headers.getlist(h.INTEROP_VERSION)
    match = _INTEGER.fullmatch(values[0].strip()) if len(values) == 1 else None
    return _DIALECTS.get(int(match[1])) if match else None


def dialect_of(headers: Headers) -> Dialect:
    """The dialect to answer in: the named one, else the one its headers belong to."""
    named = named_dialect(headers)
    if named is not None:
        return named
    old = h.UPLOAD_INCOMPLETE in headers and h.UPLOAD_COMPLETE not in headers
    return _INTEROP_3 if old else NEWEST


def boolean(headers: Headers, name: str) -> bool | None:
    """A Boolean header; None when it is absent.

    The drafts would pass over a value that cannot be read. Here it is refused: half an archive
    would be taken for a whole one.

    Raises:
        BadRequest: it is something else, or there twice.

    Spec: RFC 9651, section 3.3.6.
    """
    text = h.single(headers, name)
    if text is None:
        return None
    match = _BOOLEAN.fullmatch(text.strip())
    if not match:
        raise BadRequest(f"header {name}: {text!r} is not a Boolean", "send ?1 or ?0")
    return match[1] == "1"


def integer(headers: Headers, name: str) -> int | None:
    """A non-negative Integer header; None when it is absent.

    Raises:
        BadRequest: it is something else, or there twice.

    Spec: RFC 9651, section 3.3.1.
    """
    text = h.single(headers, name)
    if text is None:
        return None
    match = _INTEGER.fullmatch(text.strip())
    if not match:
        raise BadRequest(f"header {name}: {text!r} is not a size", "send at most 15 decimal digits")
    return int(match[1])
