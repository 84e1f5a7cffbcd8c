"""Serving: uvicorn around the application, in one process or several, and how they end.

Knows: uvicorn, sockets to listen on, signals, parent and child processes.
Must not know: routes, uploads.

Beside uvicorn's own order of stopping, the application is told at the signal itself: bodies that
would last for hours stop being read at once, with true offsets, so that the process is gone within
seconds.
"""

from __future__ import annotations

import asyncio
import logging
import multiprocessing
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator, MutableSequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from multiprocessing.connection import wait
from types import FrameType
from typing import Final
from urllib.parse import urlsplit

import uvicorn

from hooks import metrics
from hooks.embedded import EmbeddedRedis
from server.app import Application
from server.auth import LOOPBACK, Callers
from server.logs import configure
from server.metrics import CountedRequests
from server.runtime import Runtime, prepare, require_storage
from server.settings import Settings, SettingsError
from server.wire import WireProtocol

logger = logging.getLogger(__name__)

# Requests that are not bodies (a cancel that waits for its job) get this long at the end.
_GRACEFUL_SECONDS: Final = 5
_KEEP_ALIVE_SECONDS: Final = 75
_BACKLOG: Final = 2048
_LOOK_SECONDS: Final = 0.5
_STOP_SECONDS: Final = 9


class _Server(uvicorn.Server):
    """uvicorn's server: it tells the application of a signal, and returns instead of dying."""

    def __init__(self, config: uvicorn.Config, application: Application) -> None:
        super().__init__(config)
        self._application = application
        self._loop: asyncio.AbstractEventLoop | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        self._loop = asyncio.get_running_loop()
        await super().startup(sockets)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        super().handle_exit(sig, frame)
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._application.stop)

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """As uvicorn's, without dying by the signal at the end: the caller has to clean up."""
        handled = (signal.SIGINT, signal.SIGTERM)
        before = {number: signal.signal(number, self.handle_exit) for number in handled}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def listen(host: str, port: int) -> socket.socket:
    """A listening socket.

    Raises:
        SettingsError: the address is taken or not ours.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(_BACKLOG)
    except OSError as error:
        listener.close()
        raise SettingsError(f"listen on {host}:{port}: {error.strerror}") from error
    listener.set_inheritable(True)
    return listener


def scraped(settings: Settings) -> AbstractContextManager[socket.socket | None]:
    """Where metrics are told, if anywhere.

    Raises:
        SettingsError: the address is taken or not ours.
    """
    port = settings.metrics_port
    return listen(settings.host, port) if port else nullcontext()


@contextmanager
def redis_of(settings: Settings) -> Iterator[str]:
    """The URL of the Redis to use; the embedded one is there as long as the block runs.

    Raises:
        CoordinationLost: the embedded one cannot be started.
    """
    if settings.redis_url:
        yield settings.redis_url
        return
    with EmbeddedRedis(settings.data_dir / "redis") as embedded:
        yield embedded.url


def serve(settings: Settings, listener: socket.socket, told: socket.socket | None = None) -> None:
    """Serve until SIGTERM or SIGINT, in as many processes as the settings say.

    Metrics are told on `told`, by any of the processes for all of them.

    Raises:
        CoordinationLost: the embedded Redis cannot be started.
        SettingsError: the data directory cannot be used.
    """
    prepare(settings)
    if settings.run_worker:
        require_storage(settings)
    with redis_of(settings) as redis_url:
        if settings.workers == 1:
            _serve_here(settings, redis_url, listener, told)
        else:
            # What a child would refuse again and again is refused here, once.
            _application(settings, redis_url)
            _Processes(settings, listener, told).run()


class _Processes:
    """Several server processes on one socket; one that dies is started again."""

    def __init__(
        self, settings: Settings, listener: socket.socket, told: socket.socket | None
    ) -> None:
        self._workers = settings.workers
        self._stopping = threading.Event()
        # Forked children would inherit locks and threads in the middle of something.
        self._context = multiprocessing.get_context("spawn")
        rows = self._context.RawArray("d", metrics.row_width() * settings.workers)
        self._arguments = (settings, listener, told, rows)

    def run(self) -> None:
        """Keep them alive until a signal; then let them stop in order, and wait for them."""
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: self._stopping.set())
        children = [self._start(row) for row in range(self._workers)]
        while not self._stopping.wait(_LOOK_SECONDS):
            for index, child in enumerate(children):
                if not child.is_alive():
                    logger.error("server process died", extra={"exit_code": child.exitcode})
                    children[index] = self._start(index)
        for child in children:
            child.terminate()
        deadline = time.monotonic() + _STOP_SECONDS
        for child in children:
            child.join(max(0.0, deadline - time.monotonic()))
            child.kill()

    def _start(self, row: int) -> multiprocessing.process.BaseProcess:
        child = self._context.Process(target=_be_child, args=(*self._arguments, row))
        child.start()
        return child


def _be_child(
    settings: Settings,
    listener: socket.socket,
    told: socket.socket | None,
    rows: MutableSequence[float],
    row: int,
) -> None:
    configure(settings.log_format)
    metrics.share(rows, row)
    # Ctrl-C reaches the whole group of a terminal; the parent passes it on as SIGTERM.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_leave_with_parent, daemon=True).start()
    # The parent runs the embedded Redis; a child only finds its way to it.
    with redis_of(settings) as redis_url:
        _serve_here(settings, redis_url, listener, told)


def _hosts(settings: Settings) -> frozenset[str] | None:
    """The names under which a server without callers may be asked; None: any."""
    if settings.insecure_no_auth:
        return None
    public = urlsplit(settings.public_url).hostname
    return LOOPBACK | ({public} if public else set())


def _leave_with_parent() -> None:
    """A parent that was killed cannot stop its children: they go by themselves, in order."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os.kill(os.getpid(), signal.SIGTERM)


def _application(
    settings: Settings, redis_url: str, told: socket.socket | None = None
) -> Application:
    callers = Callers.from_file(settings.tokens_file, _hosts(settings))
    return Application(Runtime(settings, redis_url), callers, told)


def _serve_here(
    settings: Settings,
    redis_url: str,
    listener: socket.socket,
    told: socket.socket | None,
) -> None:
    application = _application(settings, redis_url, told)
    config = uvicorn.Config(
        CountedRequests(application.asgi),
        http=WireProtocol,
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=_KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=_GRACEFUL_SECONDS,
    )
    _Server(config, application).run(sockets=[listener])
