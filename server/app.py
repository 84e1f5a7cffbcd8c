"""The ASGI application: routes, answers to errors, and what runs beside them.

Knows: which path leads to which part.
Must not know: how a part does its work.
"""

from __future__ import annotations

import logging
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from http import HTTPStatus
from typing import Any, Final

import anyio
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from hooks.errors import AdmissionRefused, CoordinationLost
from hooks.loops import again
from server.auth import Callers
from server.destinations import Destinations
from server.election import elected
from server.errors import ServerError
from server.metrics import MetricsPage
from server.page import Page
from server.protocols.choice import METHODS, Protocols, error_headers
from server.protocols.headers import (
    CORS_ANSWER_HEADERS,
    CORS_REQUEST_HEADERS,
    PROBLEM_JSON,
)
from server.protocols.ietf.protocol import IetfProtocol
from server.protocols.legacy.parts import Parts
from server.protocols.legacy.routes import check_paths, legacy_routes
from server.protocols.location import FILES, Locations
from server.protocols.tus import TusProtocol
from server.records import Records
from server.refusals import as_answer
from server.runtime import Runtime
from server.uploads_api import UploadsApi
from server.wire import CloseUnread

logger = logging.getLogger(__name__)

# Events of the last requests still reach Redis, but a Redis that is away does not hold the exit up.
_DRAIN_SECONDS: Final = 2.0
# Beyond the worker's own grace for running jobs.
_WORK_END_SECONDS: Final = 8.0
_PREFLIGHT_SECONDS: Final = 24 * 3600


class Application:
    """One process's application: Starlette, and the switch that ends its long answers."""

    def __init__(
        self, runtime: Runtime, callers: Callers, scraped: socket.socket | None = None
    ) -> None:
        """Wire routes over the runtime; metrics are told on `scraped`."""
        self._scraped = scraped
        self._runtime = runtime
        self._stop = anyio.Event()
        self._worked = anyio.Event()
        settings = runtime.settings
        parts = (
            runtime.reception,
            runtime.termination,
            callers,
            Locations(settings.public_url, settings.trusted_proxies),
        )
        protocols = Protocols(
            TusProtocol(runtime.finals, *parts, downloads=settings.downloads),
            IetfProtocol(*parts, interim=settings.ietf_interim),
        )
        records = Records(runtime.status)
        api = UploadsApi(
            runtime.reception,
            runtime.termination,
            callers,
            runtime.admission,
            records,
            runtime.feed,
            self._stop.is_set,
        )
        routes: list[BaseRoute] = [
            Route(FILES, protocols.collection, methods=METHODS),
            Route(FILES + "{id}", protocols.item, methods=METHODS),
            Route("/api/uploads", api.listing),
            Route("/api/uploads/{id}", api.one),
            Route("/api/uploads/{id}/events", api.upload_events),
            Route("/api/uploads/{id}/log", api.log),
            Route("/api/uploads/{id}/cancel", api.cancel, methods=["POST"]),
            Route("/api/uploads/{id}/retry", api.retry, methods=["POST"]),
            Route("/api/events", api.events),
            Route("/api/check", api.check, methods=["POST"]),
            Route("/api/destinations", Destinations(settings, callers).get),
            Route("/livez", self._livez),
            Route("/readyz", self._readyz),
            *Page(settings.console_uploads, settings.console_chunk_size).routes(),
        ]
        self.asgi = Starlette(
            routes=[*routes, *self._legacy_routes(routes, callers, records)],
            middleware=[_cors(settings.cors_origins), Middleware(CloseUnread)],
            exception_handlers=_ANSWERS,
            lifespan=self._lifespan,
        )
        # A redirect would go to whatever Host the request named.
        self.asgi.router.redirect_slashes = False

    def _legacy_routes(
        self, others: Sequence[BaseRoute], callers: Callers, records: Records
    ) -> Sequence[BaseRoute]:
        """The four old endpoints, in every dialect that the settings name.

        Raises:
            SettingsError: one of their paths means something else already.
        """
        runtime, settings = self._runtime, self._runtime.settings
        check_paths(settings, others)
        parts = Parts(
            runtime.reception,
            runtime.chunks,
            runtime.intake,
            callers,
            runtime.admission.check,
            records,
            settings.cors_origins,
        )
        return legacy_routes(settings, parts)

    def stop(self) -> None:
        """Bodies stop being read, streams end, readiness fails. Called on the event loop."""
        self._stop.set()
        self._runtime.intake.stop()

    @asynccontextmanager
    async def _lifespan(self, _: Starlette) -> AsyncIterator[None]:
        runtime = self._runtime
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(again, "relay", runtime.relay.run, 0)
            tasks.start_soon(again, "feed", runtime.feed.run, 0)
            tasks.start_soon(again, "signals", runtime.serve_signals, 0)
            tasks.start_soon(self._work)
            if self._scraped is not None:
                tasks.start_soon(MetricsPage(runtime).serve, self._scraped, self._stop)
            yield
            self.stop()
            with anyio.move_on_after(_DRAIN_SECONDS):
                await runtime.relay.drain()
            with anyio.move_on_after(_WORK_END_SECONDS):
                await self._worked.wait()
            tasks.cancel_scope.cancel()
        await runtime.close()

    async def _work(self) -> None:
        """Be the worker of this data directory, once no other server process is."""
        runtime = self._runtime
        lock = runtime.settings.data_dir / "worker.lock"

        async def work() -> None:
            async with elected(lock, self._stop) as chosen:
                if chosen:
                    await runtime.work(self._stop)
            # Only a stop ends the work; whatever else did begins it anew.
            self._worked.set()
            await anyio.sleep_forever()

        if runtime.settings.run_worker:
            await again("worker", work, 0)
        self._worked.set()

    async def _livez(self, _: Request) -> Response:
        """The process answers."""
        return JSONResponse({"status": "alive"})

    async def _readyz(self, _: Request) -> Response:
        """Whether new requests should come here.

        Redis being away does not turn senders away: what they send is safe on disk, and is worked
        on later.
        """
        stopping = self._stop.is_set()
        redis = "answers" if await self._runtime.redis_answers() else "away"
        return JSONResponse(
            {"status": "stopping" if stopping else "ready", "redis": redis},
            HTTPStatus.SERVICE_UNAVAILABLE if stopping else HTTPStatus.OK,
        )


def _cors(origins: Sequence[str]) -> Middleware:
    """Pages of these origins may send every header of the protocols, and read every answer's.

    Callers are known by a bearer token, so no origin is ever allowed to use a browser's cookies.
    """
    return Middleware(
        CORSMiddleware,
        allow_origins=origins,
        allow_methods=METHODS,
        allow_headers=CORS_REQUEST_HEADERS,
        expose_headers=CORS_ANSWER_HEADERS,
        max_age=_PREFLIGHT_SECONDS,
    )


def _problem(request: Request, error: ServerError) -> Response:
    """An error as every client sees it; below `/files/` with the protocol's own headers.

    Spec: RFC 9457.
    """
    headers = {**error_headers(request), **error.headers}
    return JSONResponse(error.problem(), error.status, headers, media_type=PROBLEM_JSON)


def _answer_hooks(request: Request, error: AdmissionRefused | CoordinationLost) -> Response:
    return _problem(request, as_answer(error))


def _answer_http(request: Request, error: HTTPException) -> Response:
    """What Starlette itself refuses: an unknown path, a wrong method."""
    status = HTTPStatus(error.status_code)
    code = status.name.lower()
    problem = {
        "type": "about:blank",
        "title": status.phrase,
        "status": int(status),
        "detail": error.detail,
    }
    headers = error_headers(request)
    return JSONResponse(
        {**problem, "code": code, "hint": "see the README for the paths"},
        status,
        {**headers, **(error.headers or {})},
        media_type=PROBLEM_JSON,
    )


def _answer_crash(request: Request, error: Exception) -> Response:
    """The request boundary: what nobody foresaw is logged by Starlette, and answered."""
    return _problem(
        request,
        ServerError(
            f"unexpected {type(error).__name__}", "try again; the server's log has the details"
        ),
    )


# Starlette looks an error's class up here, so each function gets errors of its own class only.
_ANSWERS: Final[dict[Any, Any]] = {
    ServerError: _problem,
    AdmissionRefused: _answer_hooks,
    CoordinationLost: _answer_hooks,
    HTTPException: _answer_http,
    Exception: _answer_crash,
}
