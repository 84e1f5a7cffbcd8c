"""tus-js-client in Node, driven by `upload.mjs` beside this file.

Knows: how to find Node and the client as `.ci/setup` leaves them, how to start the driver, and what
it prints.
Must not know: what a test wants to prove.
"""

from __future__ import annotations

import functools
import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests import live
from tests.live import environment, wait_until
from tests.proxy import CuttingProxy

HERE = Path(__file__).resolve().parent
MODULES = HERE / "node_modules"
PINNED = json.loads((HERE / "package.json").read_text())["dependencies"]
OLDEST_NODE = 18
# The events that say where the upload is.
NAMING = ("url", "success")


@functools.cache
def node() -> str:
    """The path of a Node that can run the clients.

    A machine without is no reason to pass over a test: it fails, and says what to run.
    """
    linked = Path(sys.executable).with_name("node")
    found = str(linked) if linked.exists() else shutil.which("node")
    if found is None:
        pytest.fail("this test needs Node: run .ci/setup", pytrace=False)
    ran = subprocess.run([found, "--version"], capture_output=True, text=True, check=True)
    if int(ran.stdout.strip().lstrip("v").split(".")[0]) < OLDEST_NODE:
        pytest.fail(f"{found} is older than Node {OLDEST_NODE}: run .ci/setup", pytrace=False)
    for name, version in PINNED.items():
        manifest = MODULES / name / "package.json"
        if not manifest.exists() or json.loads(manifest.read_text())["version"] != version:
            pytest.fail(f"this test needs {name} {version}: run .ci/setup", pytrace=False)
    return found


@dataclass(frozen=True)
class Sent:
    """What the driver said, and how it ended."""

    code: int
    events: list[dict[str, Any]]
    stderr: str

    def all(self, event: str) -> list[dict[str, Any]]:
        """The events of this name, in their order."""
        return [one for one in self.events if one["event"] == event]

    @property
    def requests(self) -> list[dict[str, Any]]:
        """Every request that was answered: method, url, headers, status."""
        return self.all("request")

    @property
    def methods(self) -> list[str]:
        """The methods of the answered requests, in their order."""
        return [request["method"] for request in self.requests]

    @property
    def url(self) -> str:
        """Where the upload is, as the client sees it."""
        # Of an upload in parallel parts the client tells it at the end only.
        return str([event["url"] for event in self.events if event["event"] in NAMING][-1])

    @property
    def succeeded(self) -> bool:
        """Whether the client holds its upload for finished."""
        return self.code == 0 and [one["event"] for one in self.events[-1:]] == ["success"]


def start(home: Path, path: Path, endpoint: str, **order: Any) -> subprocess.Popen[str]:
    """Start sending `path`; `order` is as `upload.mjs` says, `options` without the endpoint."""
    order["options"] = {
        "endpoint": endpoint,
        "metadata": {"filename": path.name},
        **order.get("options", {}),
    }
    process = subprocess.Popen(
        [node(), str(HERE / "upload.mjs")],
        env=environment(home),
        cwd=home,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None
    process.stdin.write(json.dumps({"path": str(path), **order}))
    process.stdin.close()
    process.stdin = None
    return process


def finish(process: subprocess.Popen[str], *, seconds: float = 60) -> Sent:
    """Wait for a driver that `start` started.

    Raises:
        AssertionError: it was still running after `seconds` (it is killed then).
    """
    try:
        ran = live.finish(process, seconds=seconds)
    finally:
        # Whatever interrupts the wait, no client outlives its test.
        process.kill()
    return Sent(ran.code, [json.loads(line) for line in ran.stdout.splitlines()], ran.stderr)


def interrupted(
    line: CuttingProxy,
    place: int,
    ready: Callable[[], bool],
    home: Path,
    path: Path,
    endpoint: str,
    **order: Any,
) -> Sent:
    """Send until the line goes dead at this place, and abort there once `ready` holds."""
    started: list[subprocess.Popen[str]] = []

    def abort() -> None:
        wait_until(ready)
        started[0].send_signal(signal.SIGTERM)

    line.at(place, abort)
    line.stall_after(place)
    started.append(start(home, path, endpoint, **order))
    sent = finish(started[0])
    assert (sent.code, len(sent.all("aborted"))) == (0, 1), sent
    return sent


def send(home: Path, path: Path, endpoint: str, **order: Any) -> Sent:
    """Send `path` and wait for the end."""
    return finish(start(home, path, endpoint, **order))
