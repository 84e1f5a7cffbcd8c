"""Answers of the old endpoints: `{"code": 0, "message": "ok", "data": {...}}`, errors too.

Knows: the envelope; which refusals pass by themselves, and which statuses a client takes as final.
Must not know: what was asked.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from functools import wraps
from http import HTTPStatus
from typing import Any, Final, Protocol, TypeVar

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from hooks.errors import AdmissionRefused, CoordinationLost
from server.errors import (
    BodyTimeout,
    Evicted,
    InsufficientStorage,
    ServerError,
    Unavailable,
    UploadLocked,
    WrongChunk,
)
from server.interruption import Ending
from server.protocols.headers import CACHE_CONTROL, RETRY_AFTER
from server.protocols.legacy.dialect import Dialect
from server.refusals import as_answer

# The same request may go well a moment later.
_PASSING: Final = (
    BodyTimeout,
    Evicted,
    InsufficientStorage,
    Unavailable,
    UploadLocked,
    WrongChunk,
)
_UNCACHED: Final = {CACHE_CONTROL: "no-store"}


def broken_off(ending: Ending) -> ServerError:
    """What a request hears whose body did not come to its end; nothing of the chunk counts."""
    hint = "send the chunk again"
    match ending:
        case Ending.IDLE:
            return BodyTimeout("the chunk stopped coming", hint)
        case Ending.STOPPING:
            return Unavailable("the server is stopping", hint, headers={RETRY_AFTER: "1"})
    return Evicted("another request took this chunk over, or ended its upload", hint)


class Speaker(Protocol):
    """Whoever answers in a dialect."""

    @property
    def dialect(self) -> Dialect:
        """The row."""


S = TypeVar("S", bound=Speaker)


def answer(
    data: Mapping[str, Any],
    shape: Mapping[str, Any] | None = None,
    status: HTTPStatus = HTTPStatus.OK,
) -> Response:
    """A success; `shape` is what a dialect's client reads beside it."""
    document = {"code": 0, "message": "ok", "data": data, **(shape or {})}
    return JSONResponse(document, status, _UNCACHED)


def refuse(dialect: Dialect, error: ServerError) -> Response:
    """An error: the right status, a code that is not 0, words and a hint."""
    status = int(error.status)
    if isinstance(error, _PASSING) and status in dialect.final:
        status = int(HTTPStatus.SERVICE_UNAVAILABLE)
    document = {
        "code": status,
        "message": error.message,
        "hint": error.hint,
        "error": error.code,
        "data": error.members or None,
    }
    return JSONResponse(document, status, {**_UNCACHED, **error.headers})


def answered(
    endpoint: Callable[[S, Request], Awaitable[Response]],
) -> Callable[[S, Request], Awaitable[Response]]:
    """Let errors out as the old pages read them."""

    @wraps(endpoint)
    async def dressed(self: S, request: Request) -> Response:
        try:
            return await endpoint(self, request)
        except ServerError as error:
            return refuse(self.dialect, error)
        except (AdmissionRefused, CoordinationLost) as error:
            return refuse(self.dialect, as_answer(error))

    return dressed
