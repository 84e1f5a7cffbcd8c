"""Old clients, unmodified, in Node: each sends a real archive to a real registry; killed, resumed.

`tests/clients/old_page.mjs` drives simple-uploader.js and resumable.js; the third is the client of
`examples/legacy`.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.archives import Archive, write_docker_archive
from tests.clients import tus_js
from tests.journeys import assert_image, ended, row
from tests.live import ROOT, LiveServer, environment, finish, wait_until
from tests.old_pages import BASE
from tests.proxy import CuttingProxy
from tests.raw import status
from tests.registries import RunningRegistry, serving
from tests.uploading import documents

KIB, MIB = 2**10, 2**20
DRIVER = Path(tus_js.__file__).with_name("old_page.mjs")
EXAMPLE = ROOT / "examples" / "legacy"
DIALECTS = ["simple-uploader", "resumable"]


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningRegistry]:
    with serving(tmp_path_factory.mktemp("registry")) as running:
        yield running


@pytest.fixture(scope="module")
def wired(
    registry: RunningRegistry, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[LiveServer]:
    """A server that may push to the registry, and speaks what these clients speak."""
    folder = tmp_path_factory.mktemp("server")
    rows = [row(registry)]
    with LiveServer(folder, registries=rows, legacy_dialects=DIALECTS) as server:
        yield server


@dataclass(frozen=True)
class Library:
    """One way of using a library."""

    name: str
    library: str
    dialect: str
    options: dict[str, Any] = field(default_factory=dict)
    by_response: bool = False

    def start(
        self, home: Path, url: str, archive: Path, image: str | None
    ) -> subprocess.Popen[str]:
        order = {
            "library": self.library,
            "path": str(archive),
            "target": f"{url}{BASE}/{self.dialect}",
            "byResponse": self.by_response,
            "merge": {"image": image} if image else {},
            "options": {"chunkSize": 256 * KIB, **RETRIES, **self.options},
        }
        process = subprocess.Popen(
            [tus_js.node(), str(DRIVER)],
            env=environment(home),
            cwd=home,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert process.stdin is not None
        process.stdin.write(json.dumps(order))
        process.stdin.close()
        process.stdin = None
        return process


# A client that goes on for a minute: so long may a server take to come back on a busy machine.
RETRIES = {"maxChunkRetries": 300, "chunkRetryInterval": 200}
SIMPLE, RESUMABLE = "simple-uploader.js", "resumablejs"
LIBRARIES = [
    Library("simple-uploader.js", SIMPLE, "simple-uploader"),
    Library("by response", SIMPLE, "simple-uploader", by_response=True),
    Library("whole chunks", SIMPLE, "simple-uploader", {"forceChunkSize": True}),
    Library("bare chunks", SIMPLE, "simple-uploader", {"method": "octet"}),
    Library("never asks", SIMPLE, "simple-uploader", {"testChunks": False}),
    Library("resumable.js", RESUMABLE, "resumable"),
    Library("bare chunks of resumable.js", RESUMABLE, "resumable", {"method": "octet"}),
    Library("eight at once", RESUMABLE, "resumable", {"simultaneousUploads": 8}),
]
RESUMED = [LIBRARIES[0], LIBRARIES[1], LIBRARIES[5]]


@dataclass(frozen=True)
class Sent:
    """What the driver said."""

    code: int
    events: list[dict[str, Any]]
    stderr: str

    @classmethod
    def by(cls, process: subprocess.Popen[str]) -> Sent:
        ran = finish(process)
        return cls(ran.code, [json.loads(line) for line in ran.stdout.splitlines()], ran.stderr)

    def said(self, method: str) -> list[int]:
        """The statuses of the answers to this method."""
        named = [event for event in self.events if event["event"] == "request"]
        return [event["status"] for event in named if event["method"] == method]

    @property
    def task(self) -> str:
        """The task of the one merge."""
        [merged] = [event for event in self.events if event["event"] == "merge"]
        assert merged["status"] == 202, merged
        assert merged["document"]["code"] == 0
        return str(merged["document"]["data"]["taskId"])


def archive_of(tmp_path: Path) -> Archive:
    return write_docker_archive(tmp_path / "llm v1.tar", [3 * MIB, 700_000], seed=str(tmp_path))


@pytest.mark.parametrize("library", LIBRARIES, ids=lambda library: library.name)
def test_an_image_arrives_in_the_registry(
    wired: LiveServer, registry: RunningRegistry, tmp_path: Path, library: Library
) -> None:
    archive = archive_of(tmp_path)
    image = f"{registry.host}/old/{tmp_path.name.lower()}:v1"
    sent = Sent.by(library.start(tmp_path, wired.url, archive.path, image))
    assert sent.code == 0, sent
    assert_image(registry, archive, ended(wired, sent.task))
    assert set(sent.said("POST")) == {200}
    assert set(sent.said("GET")) <= {204}


@pytest.mark.parametrize(
    "library", [LIBRARIES[0], LIBRARIES[1], LIBRARIES[5]], ids=lambda x: x.name
)
def test_killed_in_the_middle_and_begun_again(
    wired: LiveServer, registry: RunningRegistry, tmp_path: Path, library: Library
) -> None:
    archive = archive_of(tmp_path)
    size = archive.path.stat().st_size
    image = f"{registry.host}/killed/{tmp_path.name.lower()}:v1"
    with CuttingProxy(wired.port) as line:
        first: list[subprocess.Popen[str]] = []

        def kill() -> None:
            wait_until(lambda: documents(wired.url)[0]["offset"] >= 512 * KIB)
            os.kill(first[0].pid, signal.SIGKILL)

        line.at(2 * MIB, kill)
        line.stall_after(2 * MIB)
        first.append(library.start(tmp_path, line.url, archive.path, image))
        assert finish(first[0]).code == -signal.SIGKILL
        begun = documents(wired.url)[0]["id"]
        before = line.bytes_up
        sent = Sent.by(library.start(tmp_path, line.url, archive.path, image))
        assert (sent.code, sent.task) == (0, begun), sent
        assert line.bytes_up - before < size - 512 * KIB + 256 * KIB
        assert set(sent.said("GET")) <= {200, 204}
        assert 200 in sent.said("GET"), "chunks that are there are not sent"
    assert_image(registry, archive, ended(wired, begun))


@pytest.mark.parametrize("library", RESUMED, ids=lambda library: library.name)
def test_a_killed_server_is_waited_for(tmp_path: Path, library: Library) -> None:
    archive = archive_of(tmp_path)
    with (
        LiveServer(tmp_path, legacy_dialects=DIALECTS) as server,
        CuttingProxy(server.port) as line,
    ):
        line.at(2 * MIB, server.kill)
        process = library.start(tmp_path, line.url, archive.path, None)
        wait_until(lambda: not server.alive, seconds=60, what="the kill")
        server.start()
        sent = Sent.by(process)
        assert sent.code == 0, sent
        assert ended(server, sent.task)["status"] == "done"


# --- the client of examples/legacy ---


def start_example(
    home: Path, url: str, *arguments: str | Path, chunk_bytes: int = 256 * KIB
) -> subprocess.Popen[str]:
    copy = home / "legacy"
    if not copy.exists():
        shutil.copytree(EXAMPLE, copy)
    return subprocess.Popen(
        [tus_js.node(), str(copy / "upload.mjs"), *map(str, arguments)],
        env=environment(home, TUSBOAT_SERVER=url, CHUNK_SIZE=str(chunk_bytes)),
        cwd=home,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_the_example_has_sixty_lines() -> None:
    lines = (EXAMPLE / "client.mjs").read_text().splitlines()
    code = [line for line in lines if line.strip() and not line.strip().startswith("//")]
    assert len(code) <= 60


def test_the_example_sends_an_image(
    wired: LiveServer, registry: RunningRegistry, tmp_path: Path
) -> None:
    archive = archive_of(tmp_path)
    image = f"{registry.host}/example/{tmp_path.name.lower()}:v1"
    ran = finish(start_example(tmp_path, wired.url, archive.path, image))
    assert ran.code == 0, ran
    task, state, result = ran.stdout.splitlines()
    document = status(wired.port, task)
    assert_image(registry, archive, document)
    assert (state, result) == ("done", f"{image} {document['results'][0]['digest']}")
    again = finish(start_example(tmp_path, wired.url, archive.path, image))
    assert again.stdout == ran.stdout, "the same image is said at once"


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM], ids=["killed", "paused"])
def test_the_example_goes_on(
    wired: LiveServer, registry: RunningRegistry, tmp_path: Path, number: signal.Signals
) -> None:
    archive = archive_of(tmp_path)
    size = archive.path.stat().st_size
    image = f"{registry.host}/example/{tmp_path.name.lower()}:v1"
    with CuttingProxy(wired.port) as line:
        first: list[subprocess.Popen[str]] = []

        def stop() -> None:
            wait_until(lambda: documents(wired.url)[0]["offset"] >= 256 * KIB)
            os.kill(first[0].pid, number)

        line.at(2 * MIB, stop)
        line.stall_after(2 * MIB)
        first.append(start_example(tmp_path, line.url, archive.path, image))
        assert finish(first[0]).code in (-signal.SIGKILL, 1)
        begun = documents(wired.url)[0]["id"]
        before = line.bytes_up
        second = finish(start_example(tmp_path, line.url, archive.path, image))
        assert second.code == 0, second
        assert re.match(rf"^{begun}$", second.stdout.splitlines()[0])
        assert line.bytes_up - before < size
    assert_image(registry, archive, status(wired.port, begun))


def test_the_example_tells_a_refusal_in_the_server_s_words(
    wired: LiveServer, tmp_path: Path
) -> None:
    archive = archive_of(tmp_path)
    ran = finish(start_example(tmp_path, wired.url, archive.path, "elsewhere.example/a:v1"))
    assert (ran.code, ran.stdout) == (1, "")
    assert "elsewhere.example" in ran.stderr
    assert "at async" not in ran.stderr
