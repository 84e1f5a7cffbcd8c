"""Bodies of the old endpoints that bring words only: JSON, a form, or nothing beside the query.

Knows: their media types, and how much is read of them.
Must not know: what a field means.
"""

from __future__ import annotations

import json
from typing import Any, Final
from urllib.parse import parse_qsl

from starlette.requests import Request

from server.errors import BadRequest
from server.protocols import headers as h
from server.protocols.legacy.form import FIELDS_LIMIT_BYTES, Form, add_field, boundary_of
from server.protocols.small_body import small_body

_URLENCODED: Final = "application/x-www-form-urlencoded"


def query_fields(request: Request) -> dict[str, str]:
    """The fields of the query.

    Raises:
        BadRequest: one is there twice, with two values.
    """
    fields: dict[str, str] = {}
    for name, value in request.query_params.multi_items():
        add_field(fields, name, value)
    return fields


async def all_fields(request: Request) -> dict[str, str]:
    """The fields of the query and of the body, whatever its type.

    Raises:
        BadRequest: they cannot be understood, or contradict each other.
    """
    fields = query_fields(request)
    boundary = boundary_of(request)
    body = await small_body(request, FIELDS_LIMIT_BYTES)
    for name, value in _body_fields(request, boundary, body).items():
        add_field(fields, name, value)
    return fields


def _body_fields(request: Request, boundary: bytes | None, body: bytes) -> dict[str, str]:
    if not body:
        return {}
    if boundary is not None:
        form = Form(boundary)
        form.feed(body)
        form.check_whole()
        return form.fields
    try:
        if h.media_type(request.headers) == _URLENCODED:
            return dict(parse_qsl(body.decode(), keep_blank_values=True))
        data = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise BadRequest(f"the body is not JSON: {error}", "send {name: value}") from error
    if not isinstance(data, dict):
        raise BadRequest("the body is not a JSON object", "send {name: value}")
    return {name: _as_text(name, value) for name, value in data.items() if value is not None}


def _as_text(name: str, value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if not isinstance(value, (str, int)):
        raise BadRequest(f"field {name!r} is neither a text nor a number", "send one of them")
    return str(value)
