"""Errors as a dialect wants them: status, problem type, and what the draft puts beside them.

Knows: which error of ours is which problem of the draft's.
Must not know: what was asked.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from starlette.requests import Request

from server.errors import BadRequest, ChecksumMismatch, Gone, NotFound, ServerError, TooLarge
from server.protocols import headers as h
from server.protocols.ietf.dialect import Dialect, integer

_ABOUT_UPLOADS = ("POST", "PUT", "PATCH")


@contextmanager
def dressed(dialect: Dialect, request: Request, limits: Mapping[str, str]) -> Iterator[None]:
    """Let errors out as this dialect wants them; `limits` go with a refusal that is due to them."""
    try:
        yield
    except ServerError as error:
        ours = _translated(dialect, error)
        if request.method in _ABOUT_UPLOADS:
            # This answer is not the one to the whole upload.
            ours.headers.setdefault(dialect.completeness, dialect.say(complete=False))
        if isinstance(ours, TooLarge):
            ours.headers |= limits
        problem_type = dialect.problem_type(ours.code)
        if problem_type:
            ours.problem_type = problem_type
        if ours.code == "offset_mismatch":
            ours.members = {
                "expected-offset": int(ours.headers[h.UPLOAD_OFFSET]),
                "provided-offset": integer(request.headers, h.UPLOAD_OFFSET),
            }
        if ours is error:
            raise
        raise ours from error


def _translated(dialect: Dialect, error: ServerError) -> ServerError:
    """The same refusal with a status that this protocol has."""
    kind: type[ServerError]
    match error:
        case ChecksumMismatch():
            kind = BadRequest
        case Gone() if dialect.forgets_ended:
            kind = NotFound
        case _:
            return error
    return kind(error.message, error.hint, code=error.code, headers=error.headers)
