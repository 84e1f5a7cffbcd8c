"""The servers that are measured: how to get each one, start it and stop it.

Knows: pinned versions, command lines, and which servers flush before they answer.
Must not know: what is sent to them, or what is counted.
"""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

from tests.live import ROOT, LiveServer, environment, free_port, wait_until

BENCH: Final = ROOT / ".bench"
TUSD: Final = "2.9.1"
TUS_SERVER: Final = "2.4.5"
FILE_STORE: Final = "2.1.1"
INSTALL_SECONDS: Final = 900


class Unavailable(Exception):
    """A peer that cannot be had here; the message says why."""


@dataclass(frozen=True)
class Running:
    """A server that answers: its port, its main process, and where its uploads go."""

    port: int
    pid: int
    directory: Path


@dataclass(frozen=True)
class Peer:
    """A row: `flushes` says whether bytes are on the disk when PATCH is answered."""

    name: str
    flushes: bool
    start: Callable[[Path], Any]  # a folder of its own -> context manager of Running


def tusboat(durability: str, *, run_worker: bool = False) -> Peer:
    """`tusboat serve`; without its worker nothing is hashed."""

    @contextmanager
    def start(home: Path) -> Iterator[Running]:
        with LiveServer(home, durability=durability, run_worker=run_worker) as server:
            yield Running(server.port, server.pid, server.data_dir / "uploads")

    return Peer(f"tusboat, durability {durability}", durability == "patch", start)


def others() -> tuple[list[Peer], list[str]]:
    """Every other server that can be had here, and a sentence about each that cannot."""
    number = version("tuspyserver")
    peers = [
        _tuspyserver(f"tuspyserver {number}, default", "default", flushes=False),
        _tuspyserver(f"tuspyserver {number}, LocalFileStorage", "storage", flushes=True),
    ]
    left_out = []
    BENCH.mkdir(exist_ok=True)
    (BENCH / ".gitignore").write_text("*\n")
    for name, install in ((f"tusd {TUSD}", _tusd), (f"@tus/server {TUS_SERVER}", _tus_server)):
        try:
            peers.append(Peer(name, flushes=False, start=install()))
        except Unavailable as reason:
            left_out.append(f"{name} is left out: {reason}.")
    return peers, left_out


def _tuspyserver(name: str, mode: str, *, flushes: bool) -> Peer:
    module = (sys.executable, "-m", "tests.benchmarks.tuspyserver_app")
    return Peer(name, flushes, _program(lambda port, data: [*module, port, data, mode]))


def _tusd() -> Callable[[Path], Any]:
    program = BENCH / "tusd"
    if not program.exists():
        module = f"github.com/tus/tusd/v2/cmd/tusd@v{TUSD}"
        _install("go", "install", module, before=("env", f"GOBIN={BENCH}"))
    return _program(
        lambda port, data: [str(program), "-host", "127.0.0.1", "-port", port, "-upload-dir", data]
    )


def _tus_server() -> Callable[[Path], Any]:
    node = shutil.which("node")
    if node is None:
        raise Unavailable("there is no `node` command here")
    manifest = BENCH / "node_modules" / "@tus" / "server" / "package.json"
    if not manifest.exists() or f'"version": "{TUS_SERVER}"' not in manifest.read_text():
        packages = (f"@tus/server@{TUS_SERVER}", f"@tus/file-store@{FILE_STORE}")
        _install("npm", "install", "--no-audit", "--no-fund", "--prefix", str(BENCH), *packages)
    # Node looks for packages beside the script.
    script = shutil.copy(Path(__file__).with_name("tus_server.mjs"), BENCH)
    return _program(lambda port, data: [node, str(script), port, data])


def _install(program: str, *arguments: str, before: tuple[str, ...] = ()) -> None:
    if shutil.which(program) is None:
        raise Unavailable(f"there is no `{program}` command here")
    print(f"installing into {BENCH.name}/: {' '.join(arguments)}", file=sys.stderr)
    argv = [*before, program, *arguments]
    try:
        done = subprocess.run(
            argv, capture_output=True, text=True, timeout=INSTALL_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        raise Unavailable(f"`{program} {arguments[0]}` took too long") from None
    if done.returncode:
        last = (done.stderr.strip() or done.stdout.strip() or "no word").splitlines()[-1]
        raise Unavailable(f"`{program} {arguments[0]}` failed: {last}")


def _program(argv: Callable[[str, str], list[str]]) -> Callable[[Path], Any]:
    """Start a program with a port and an upload directory; stopped by its own handle."""

    @contextmanager
    def start(home: Path) -> Iterator[Running]:
        data = home / "data"
        data.mkdir()
        port = free_port()
        with (home / "server.log").open("wb") as log:
            process = subprocess.Popen(
                argv(str(port), str(data)), env=environment(home), cwd=home, stdout=log, stderr=log
            )
        try:
            wait_until(lambda: _answers(process, port), what=f"{home.name} listens")
            yield Running(port, process.pid, data)
        finally:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    return start


def _answers(process: subprocess.Popen[bytes], port: int) -> bool:
    assert process.poll() is None, f"ended with {process.returncode}"
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
