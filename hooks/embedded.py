"""Who runs the redis-server of a data directory, for when nobody gave us a Redis.

Knows: that any number of processes may use one directory, and which of them has to run the server.
Must not know: how it is started and ended (`redis_server.py`), or what is kept in it.

The kernel's lock on the file `lock` elects the one that runs the server; all others use it and
stand by. When the lock is free, because its holder stopped or died, one of them takes over. The
server dies with the process that runs it, whatever that dies of.
"""

from __future__ import annotations

import logging
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from hooks.errors import CoordinationLost
from hooks.redis import backoff_seconds
from hooks.redis_server import RedisServer

logger = logging.getLogger(__name__)

_WATCH_SECONDS = 0.2
# A server that ran for so long did not fail at its start.
_SETTLED_SECONDS = 10.0


class EmbeddedRedis:
    """Runs the server of a directory, or uses the one that another process runs there.

    Blocking: start it before the event loop and stop it after. A context manager.
    """

    def __init__(self, directory: Path, *, executable: Path | None = None) -> None:
        """Keep data, socket, log and locks in `directory`; nothing is done yet.

        `executable` is the redis-server to run, by default what `find_redis_server` finds.
        """
        self._stopping = threading.Event()
        self._server = RedisServer(directory, executable, self._stopping)
        self._elected: IO[bytes] | None = None
        self._monitor: threading.Thread | None = None

    @property
    def url(self) -> str:
        """Where clients of this process find the server, between `start` and `stop`."""
        return self._server.url

    def start(self) -> None:
        """Return when a server answers on the socket, ours or another process's.

        Raises:
            CoordinationLost: there is no redis-server, it does not start, or the directory cannot
                be used; the message says which.
        """
        self._stopping.clear()
        try:
            self._server.open()
            self._server.wait_for(self._served)
        except BaseException:
            self.stop()
            raise
        self._monitor = threading.Thread(target=self._watch, name="embedded-redis", daemon=True)
        self._monitor.start()

    def stop(self) -> None:
        """Let go of the server; one that we run ends with all its data on disk.

        May be called again, and after a `start` that failed.
        """
        self._stopping.set()
        if self._monitor is not None:
            self._monitor.join()
            self._monitor = None
        self._server.stop()
        # Only now: whoever takes over finds no server of ours.
        if self._elected is not None:
            self._elected.close()
            self._elected = None
        self._server.close()

    def __enter__(self) -> Self:
        """Start."""
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Stop."""
        self.stop()

    def _served(self) -> bool:
        self._tend()
        return self._server.answers()

    def _tend(self) -> None:
        """Run the server if nobody else does, and run it again if it ended."""
        if self._elected is None:
            self._elected = self._server.elect()
        if self._elected is not None and not self._server.running:
            self._server.launch()

    def _watch(self) -> None:
        delays, launched_at, pause_seconds = backoff_seconds(), time.monotonic(), 0.0
        while not self._stopping.wait(_WATCH_SECONDS + pause_seconds):
            pause_seconds = 0.0
            status = self._server.exit_status
            if status is not None:
                logger.warning("embedded_redis_died status=%d", status)
                if time.monotonic() - launched_at > _SETTLED_SECONDS:
                    delays = backoff_seconds()
                if self._stopping.wait(next(delays)):
                    return
                launched_at = time.monotonic()
            try:
                self._tend()
            except CoordinationLost as error:
                logger.error("embedded_redis_down cause=%s", error)  # noqa: TRY400
                pause_seconds = next(delays)
