"""The wire under ASGI: uvicorn's HTTP protocol, extended by what a receiver of large bodies needs.

Knows: sockets, HTTP/1.1 framing, uvicorn's protocol class.
Must not know: uploads.

- A request body may be handed over: the application takes the socket itself and reads the rest of
  the body from it (ASGI extension `EXTENSION`). Plain HTTP/1.1 with Content-Length only; everything
  else goes through `receive()`.
- An interim response (1xx) may be written before the final one (ASGI extension `INTERIM`).
- An answer given before the body was read ends the connection gently: the sender gets a moment to
  read the answer before the connection is closed, instead of a reset that destroys it.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Final, Literal, cast

import httptools
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from server.errors import BadRequest, HeadTooLarge, ServerError
from server.protocols import headers as h
from server.space import KIB, MIB

EXTENSION: Final = "tusboat.body"
# Header fields that came behind a chunked body, as a list of (name, value); complete at its end.
TRAILERS: Final = "tusboat.trailers"
# Writes an interim response: status, reason phrase, headers. HTTP/1.1 only.
INTERIM: Final = "tusboat.interim"
SendInterim = Callable[[int, str, Mapping[str, str]], None]
# What a sender that does not listen may still send after our answer, and for how long.
_LINGER_BYTES: Final = 64 * MIB
_LINGER_SECONDS: Final = 2.0
# Request line and headers together; and what may stand between two pieces of a chunked body.
_HEAD_BYTES: Final = 64 * KIB
_PIECE_BYTES: Final = 256 * KIB


class BodySocket:
    """The body of one request, still in the socket."""

    def __init__(self, protocol: WireProtocol, cycle: RequestResponseCycle, length: int) -> None:
        """A body of `length` bytes of the protocol's current request."""
        self._protocol = protocol
        self._cycle = cycle
        self._length = length
        self._seen = 0
        self.taken = False
        self.finished = False

    def saw(self, count: int) -> None:
        """The parser gave out body bytes."""
        self._seen += count

    @property
    def available(self) -> bool:
        """Whether there is anything left to take over."""
        return self._protocol.cycle is self._cycle and self._seen < self._length and not self.taken

    def take(self) -> tuple[int, bytes, int]:
        """Take the connection: a descriptor, body bytes already read, the count still to come.

        Nobody else reads from the connection until `complete`; without it the connection ends after
        the answer.
        """
        self.taken = True
        self._protocol.flow.pause_reading()
        if self._cycle.waiting_for_100_continue:
            self._protocol.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            self._cycle.waiting_for_100_continue = False
        buffered = bytes(self._cycle.body)
        self._cycle.body = bytearray()
        self._cycle.more_body = True
        descriptor = os.dup(self._protocol.transport.get_extra_info("socket").fileno())
        return descriptor, buffered, self._length - self._seen

    def complete(self) -> None:
        """Every byte of the body was read: the connection goes on with the next request."""
        self.finished = True
        self._protocol.fresh_parser()
        self._cycle.more_body = False
        self._cycle.message_event.set()


class _LingeringTransport:
    """What a request sees as its transport: `close` waits for a sender that is still sending."""

    def __init__(self, protocol: WireProtocol, cycle: RequestResponseCycle) -> None:
        self._protocol = protocol
        self._cycle = cycle

    def __getattr__(self, name: str) -> Any:
        return getattr(self._protocol.transport, name)

    def close(self) -> None:
        if self._cycle.more_body and not self._cycle.disconnected:
            self._protocol.linger()
        else:
            self._protocol.transport.close()


class WireProtocol(HttpToolsProtocol):
    """uvicorn's httptools protocol with body hand-over and lingering close."""

    _lingering = False
    _discarded = 0
    _in_head = True
    _head_bytes = 0
    _silent_bytes = 0

    def fresh_parser(self) -> None:
        """Begin anew: the old parser still waits for a body that it will never see."""
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)

    def on_message_begin(self) -> None:
        """A new request: what comes first are headers."""
        super().on_message_begin()
        self._in_head = True
        self._trailers: list[tuple[bytes, bytes]] | None = None

    def on_header(self, name: bytes, value: bytes) -> None:
        """Keep what comes behind the body apart: the application has its headers already."""
        if self._trailers is None:
            super().on_header(name, value)
        else:
            self._trailers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        """Offer the extensions where the body's extent is plain."""
        super().on_headers_complete()
        self._in_head = False
        self._head_bytes = self._silent_bytes = 0
        cycle = self.cycle
        self._trailers = []
        extensions = cast(dict[str, Any], self.scope.setdefault("extensions", {}))
        extensions[TRAILERS] = self._trailers
        cycle.transport = cast(asyncio.Transport, _LingeringTransport(self, cycle))
        length = _plain_content_length(self.headers)
        if self.scope["http_version"] == "1.1":
            extensions[INTERIM] = partial(self._send_interim, cycle)
            if length and self.scheme == "http":
                extensions[EXTENSION] = BodySocket(self, cycle, length)

    def on_body(self, body: bytes) -> None:
        """Count what the parser gives out."""
        self._silent_bytes = 0
        extensions = self.cycle.scope.get("extensions") or {}
        handed = extensions.get(EXTENSION)
        if isinstance(handed, BodySocket):
            handed.saw(len(body))
        super().on_body(body)

    def _send_interim(
        self, cycle: RequestResponseCycle, status: int, reason: str, headers: Mapping[str, str]
    ) -> None:
        """Write an interim response, unless it would come too late.

        Spec: RFC 9110, section 15.2.
        """
        if cycle.response_started or cycle.disconnected or self.transport.is_closing():
            return
        lines = [f"HTTP/1.1 {status} {reason}", *(f"{n}: {v}" for n, v in headers.items())]
        self.transport.write("\r\n".join([*lines, "", ""]).encode("latin-1"))

    def linger(self) -> None:
        """Finish our side, throw away what still comes, close when the sender is done."""
        if self._lingering or self.transport.is_closing():
            return
        self._lingering = True
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self.flow.resume_reading()
        self.loop.call_later(_LINGER_SECONDS, self.transport.close)

    def data_received(self, data: bytes) -> None:
        """Parse, or throw away when lingering."""
        if not self._lingering:
            self._parse(data)
            return
        self._discarded += len(data)
        if self._discarded > _LINGER_BYTES:
            self.transport.close()

    def _parse(self, data: bytes) -> None:
        """Feed the parser, which has no limits of its own, in pieces whose effect is looked at.

        Between the bytes of a body come chunk sizes, extensions and trailers; before it, the head.
        """
        view = memoryview(data)
        while view and not self.transport.is_closing() and not self._lingering:
            # One byte more than a head may have, so that a longer one never ends within a piece.
            allowed = _HEAD_BYTES + 1 - self._head_bytes if self._in_head else _PIECE_BYTES
            piece, view = view[:allowed], view[allowed:]
            if self._in_head:
                self._head_bytes += len(piece)
            else:
                self._silent_bytes += len(piece)
            super().data_received(bytes(piece))
            if self._in_head and self._head_bytes > _HEAD_BYTES:
                self._refuse_head()
            elif self._silent_bytes > _HEAD_BYTES + _PIECE_BYTES:
                self.transport.close()

    def _refuse_head(self) -> None:
        if self.cycle is None or self.cycle.response_complete:
            limit = f"at most {_HEAD_BYTES} bytes are taken"
            self._refuse(HeadTooLarge("the request's head is too long", limit))
        self.transport.close()

    def send_400_response(self, msg: str) -> None:
        """Answer what is no HTTP as every other error is answered."""
        self._refuse(BadRequest(msg, "send a request as HTTP/1.1 has them", code="invalid_http"))
        self.transport.close()

    def _refuse(self, error: ServerError) -> None:
        """No route will see the request; which protocol it meant is not known."""
        problem = error.problem()
        body = json.dumps(problem).encode()
        head = (
            f"HTTP/1.1 {problem['status']} {problem['title']}\r\n"
            f"{h.TUS_RESUMABLE}: {h.TUS_1_0_0}\r\n{h.CONTENT_TYPE}: {h.PROBLEM_JSON}\r\n"
            f"{h.CONTENT_LENGTH}: {len(body)}\r\n{h.CONNECTION}: close\r\n\r\n"
        )
        self.transport.write(head.encode() + body)


def _plain_content_length(headers: list[tuple[bytes, bytes]]) -> int | Literal[0]:
    lengths = [value for name, value in headers if name == b"content-length"]
    coded = any(name == b"transfer-encoding" for name, _ in headers)
    return int(lengths[0]) if len(lengths) == 1 and lengths[0].isdigit() and not coded else 0


class CloseUnread:
    """Middleware: an answer that leaves body bytes unread says `Connection: close`.

    Otherwise the server would read the rest of a 20 GB body only to throw it away.
    """

    def __init__(self, app: ASGIApp) -> None:
        """Wrap an application."""
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Watch the body go by, and mark the answer when it was not read to its end."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        unread = headers.get(b"content-length", b"0") != b"0" or b"transfer-encoding" in headers

        async def watched_receive() -> Message:
            nonlocal unread
            message = await receive()
            if message["type"] == "http.request" and not message.get("more_body", False):
                unread = False
            return message

        async def marked_send(message: Message) -> None:
            if message["type"] == "http.response.start" and unread and not _handed_over(scope):
                message = {
                    **message,
                    "headers": [*message.get("headers", []), (b"connection", b"close")],
                }
            await send(message)

        await self._app(scope, watched_receive, marked_send)


def _handed_over(scope: Scope) -> bool:
    """Whether the application took the socket and read the body to its end."""
    handed = (scope.get("extensions") or {}).get(EXTENSION)
    return isinstance(handed, BodySocket) and handed.finished
