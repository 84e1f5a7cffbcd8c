"""The page that Prometheus scrapes, on a port of its own, and the counting of requests.

Knows: ASGI, uvicorn, and which numbers are read only when somebody asks.
Must not know: what is counted elsewhere, and how (`hooks/metrics.py`).

The port has no callers: whoever reaches it sees numbers, and neither ids nor names.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from http import HTTPStatus
from typing import Final

import anyio
import uvicorn
from anyio import to_thread
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from hooks.errors import CoordinationLost
from hooks.metrics import CONTENT_TYPE, ERRORS, REQUESTS, Reading, exposition
from server.runtime import Runtime
from server.space import free_bytes

# A scrape has to be answered soon, also while Redis is away.
_ASK_SECONDS: Final = 2.0
_CLOSE_SECONDS: Final = 1
_PROBES: Final = frozenset({"/livez", "/readyz"})


class CountedRequests:
    """Middleware: each request and each refusal counts, once."""

    def __init__(self, app: ASGIApp) -> None:
        """Wrap an application."""
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Count, and pass on."""
        if scope["type"] != "http" or scope["path"] in _PROBES:
            await self._app(scope, receive, send)
            return

        async def counted_send(message: Message) -> None:
            if message["type"] == "http.response.start":
                status = message["status"]
                if status >= HTTPStatus.BAD_REQUEST:
                    ERRORS.add(1, str(status))
            await send(message)

        REQUESTS.add(1, scope["method"])
        await self._app(scope, receive, counted_send)


class MetricsPage:
    """`GET /metrics` of one process, which tells the sum of all processes of its server."""

    def __init__(self, runtime: Runtime) -> None:
        """Read what nobody counts from this runtime."""
        self._runtime = runtime
        self._app = Starlette(routes=[Route("/metrics", self._show)])

    async def serve(self, listener: socket.socket, stop: anyio.Event) -> None:
        """Answer on `listener` until `stop` is set, or for ever."""
        config = uvicorn.Config(
            self._app,
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=_CLOSE_SECONDS,
        )
        server = _Silent(config)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(server.serve, [listener])
            await stop.wait()
            server.should_exit = True

    async def _show(self, _: Request) -> Response:
        readings = [await self._free(), *await self._queue()]
        return Response(exposition(readings), headers={"Content-Type": CONTENT_TYPE})

    async def _free(self) -> Reading:
        free = await to_thread.run_sync(free_bytes, self._runtime.settings.data_dir)
        return Reading("free_bytes", "Free space where uploads are kept.", free)

    async def _queue(self) -> list[Reading]:
        """How the queue stands, as far as Redis tells it in time."""
        up = "Whether Redis answers."
        with anyio.move_on_after(_ASK_SECONDS), contextlib.suppress(CoordinationLost):
            depth = await self._runtime.queue.depth()
            return [
                Reading("redis_up", up, 1),
                Reading("queue_waiting", "Jobs that wait for a worker.", depth.waiting),
                Reading("queue_running", "Jobs that a worker has.", depth.running),
                Reading(
                    "queue_oldest_seconds",
                    "For how long the oldest job has waited.",
                    depth.oldest_age_seconds,
                ),
            ]
        return [Reading("redis_up", up, 0)]


class _Silent(uvicorn.Server):
    """uvicorn's server beside another one: signals are that one's."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Take no signals."""
        yield
