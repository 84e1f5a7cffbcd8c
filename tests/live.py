"""A running `tusboat serve` of one's own, and `tusboat` commands beside it.

Knows: how to start, kill and stop the real program on a free loopback port with its own data
directory; how to run a command as a user would.
Must not know: what a test wants to prove. (What hurts the line in between is in `proxy.py`.)
"""

from __future__ import annotations

import contextlib
import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from types import TracebackType
from typing import Any, Self

ROOT = Path(__file__).resolve().parent.parent
COMMAND = (sys.executable, "-c", "from server.cli import main; main()")
READY_SECONDS = 60.0
STOP_SECONDS = 15.0
TAIL_LINES = 60


def free_port() -> int:
    """A loopback port that nobody listens on at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def wait_until(condition: Callable[[], bool], *, seconds: float = 30.0, what: str = "") -> None:
    """Poll until the condition holds.

    Raises:
        AssertionError: it did not within `seconds`.
    """
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds:g} s: {what or condition}")
        time.sleep(0.02)


def environment(home: Path, **extra: str) -> dict[str, str]:
    """A whole environment for a program of ours: nothing of the test runner's leaks in."""
    scratch = home / "tmp"
    scratch.mkdir(parents=True, exist_ok=True)
    return {
        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "HOME": str(home),
        "TMPDIR": str(scratch),
        "LANG": "C.UTF-8",
        "PYTHONPATH": str(ROOT),
        "PYTHONUNBUFFERED": "1",
        "COLUMNS": "200",
        **extra,
    }


def spawn_tusboat(
    home: Path,
    *arguments: str,
    env: Mapping[str, str] | None = None,
    stderr: int = subprocess.PIPE,
    stdin: int = subprocess.DEVNULL,
) -> subprocess.Popen[str]:
    """Start a `tusboat` command with `home` as the user's home; stdout is a pipe, text.

    `env` is added to the environment; `stdin` is a descriptor, or as `subprocess` has it.
    """
    return subprocess.Popen(
        [*COMMAND, *arguments],
        env=environment(home, **(env or {})),
        cwd=home,
        stdin=stdin,
        stdout=subprocess.PIPE,
        stderr=stderr,
        text=True,
    )


def finish(process: subprocess.Popen[str], *, seconds: float = 60.0) -> Ran:
    """Wait for a command that `spawn_tusboat` started.

    Raises:
        AssertionError: it was still running after `seconds` (it is killed then).
    """
    try:
        stdout, stderr = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        stdout, stderr = process.communicate()
        raise AssertionError(f"not done in {seconds:g} s\n{stdout}\n{stderr}") from None
    return Ran(process.returncode, stdout, stderr or "")


def run_tusboat(
    home: Path, *arguments: str, env: Mapping[str, str] | None = None, seconds: float = 60.0
) -> Ran:
    """Run a `tusboat` command to its end; `env` is added to the environment.

    Raises:
        AssertionError: it was still running after `seconds`.
    """
    return finish(spawn_tusboat(home, *arguments, env=env), seconds=seconds)


@dataclass(frozen=True)
class Ran:
    """A command that ended: exit code and what it printed."""

    code: int
    stdout: str
    stderr: str


def _as_text(value: object) -> str:
    """A setting as its environment variable wants it: lists, tables and booleans as JSON."""
    return str(value) if isinstance(value, (str, Path)) else json.dumps(value)


class LiveServer:
    """`tusboat serve` as a subprocess, on a free port that stays the same over restarts.

    Settings are given by their names (`registries=[{...}]`, `job_concurrency=1`) and reach the
    program as `TUSBOAT_*`; what is not given has the program's own default, except `data_dir`
    (`tmp_path/data`), `host` and `port`. The log of all starts is in `log_path`; its tail is shown
    when a start fails and when the `with` block ends with an exception.
    """

    def __init__(self, tmp_path: Path, *, arguments: tuple[str, ...] = (), **settings: Any) -> None:
        """Prepare, but do not start; `arguments` follow `serve` on the command line."""
        self.port = int(settings.pop("port", 0)) or free_port()
        self.host = str(settings.pop("host", "127.0.0.1"))
        self.data_dir = Path(settings.pop("data_dir", tmp_path / "data"))
        self.log_path = tmp_path / f"server-{self.port}.log"
        self._arguments = arguments
        self._settings = settings
        self._home = tmp_path / "home"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Where it listens, without a slash at the end."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def env(self) -> dict[str, str]:
        """The environment the server gets; good for `tusboat worker` or `gc` beside it, too."""
        rows: Mapping[str, Any] = {
            "host": self.host,
            "port": self.port,
            "data_dir": self.data_dir,
            **self._settings,
        }
        named = {f"TUSBOAT_{name.upper()}": _as_text(value) for name, value in rows.items()}
        return environment(self._home, **named)

    @property
    def command(self) -> list[str]:
        """What is started."""
        return [*COMMAND, "serve", *self._arguments]

    @property
    def pid(self) -> int:
        """The main process of `tusboat serve`."""
        return self._running().pid

    @property
    def alive(self) -> bool:
        """Whether it was started and has not ended."""
        return self._process is not None and self._process.poll() is None

    def start(self, *, ready_seconds: float = READY_SECONDS) -> Self:
        """Start, and wait until /readyz answers 200.

        Raises:
            AssertionError: it ended, or was not ready in time; the log's tail is in the message.
        """
        assert not self.alive, "already started"
        with self.log_path.open("ab") as log:
            self._process = subprocess.Popen(
                self.command,
                env=self.env,
                cwd=self._home,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        deadline = time.monotonic() + ready_seconds
        while not self.ready():
            if not self.alive:
                raise AssertionError(self._complaint(f"ended with {self._process.returncode}"))
            if time.monotonic() > deadline:
                self.kill()
                raise AssertionError(self._complaint(f"not ready in {ready_seconds:g} s"))
            time.sleep(0.05)
        return self

    def ready(self) -> bool:
        """Whether /readyz answers 200 now."""
        connection = HTTPConnection("127.0.0.1", self.port, timeout=5)
        try:
            connection.request("GET", "/readyz")
            return connection.getresponse().status == HTTPStatus.OK
        except (HTTPException, OSError):
            return False
        finally:
            connection.close()

    def kill(self) -> None:
        """SIGKILL to the main process alone, then reap it; its children are its own affair."""
        process = self._running()
        process.kill()
        process.wait()

    def stop(self, *, seconds: float = STOP_SECONDS) -> int:
        """SIGTERM, and the exit code (uvicorn's own is -15 or 143: the signal again).

        Raises:
            AssertionError: it was still there after `seconds` (it is killed then).
        """
        process = self._running()
        process.send_signal(signal.SIGTERM)
        try:
            return process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(self._complaint(f"did not stop in {seconds:g} s")) from None

    def tail(self) -> str:
        """The last lines of its log."""
        if not self.log_path.exists():
            return "(no log)"
        lines = self.log_path.read_text(errors="replace").splitlines()
        return "\n".join(lines[-TAIL_LINES:])

    def __enter__(self) -> Self:
        """Start it."""
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop it if it runs; after an exception its log's tail goes to stderr."""
        if error is not None:
            sys.stderr.write(self._complaint("log tail") + "\n")
        if self.alive:
            with contextlib.suppress(AssertionError) if error else contextlib.nullcontext():
                self.stop()

    def _running(self) -> subprocess.Popen[bytes]:
        assert self._process is not None, "not started"
        return self._process

    def _complaint(self, what: str) -> str:
        return f"tusboat serve ({self.url}): {what}\n{self.tail()}"
