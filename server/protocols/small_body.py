"""A request's body that brings words only: read whole, within a limit.

Knows: how much is taken, that a sender may go away.
Must not know: what it says.
"""

from __future__ import annotations

from starlette.requests import ClientDisconnect, Request

from server.errors import BadRequest


async def small_body(request: Request, limit_bytes: int) -> bytes:
    """All of the body.

    Raises:
        BadRequest: it is larger, or broke off.
    """
    body = bytearray()
    try:
        async for piece in request.stream():
            body += piece
            if len(body) > limit_bytes:
                raise BadRequest(f"the body has over {limit_bytes} bytes", "send words only")
    except ClientDisconnect as error:
        raise BadRequest("the body broke off", "send it again") from error
    return bytes(body)
