"""The programs of `examples/`, run as a user runs them. (The demo: `test_demo.py`.)"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.archives import write_docker_archive
from tests.clients import tus_js
from tests.journeys import assert_image, row
from tests.live import ROOT, LiveServer, Ran, environment, finish, free_port, wait_until
from tests.proxy import CuttingProxy
from tests.raw import TUS, ask, status
from tests.registries import RunningRegistry, serving
from tests.resumable import finished
from tests.uploading import documents, write_archive

MIB = 2**20
SIZE = 8 * MIB
EXAMPLES = ROOT / "examples"
Start = Callable[..., "subprocess.Popen[str]"]


def python(_home: Path) -> list[str]:
    return [sys.executable, str(EXAMPLES / "python" / "upload.py")]


def node(home: Path) -> list[str]:
    """A copy beside which the client is installed, as `npm install` there would do."""
    program = tus_js.node()
    copy = home / "node"
    if not copy.exists():
        shutil.copytree(EXAMPLES / "node", copy, ignore=shutil.ignore_patterns("node_modules"))
        (copy / "node_modules").symlink_to(tus_js.MODULES)
    return [program, str(copy / "upload.mjs")]


def curl(_home: Path) -> list[str]:
    return [str(EXAMPLES / "curl" / "upload.sh")]


@pytest.fixture(params=[python, node, curl], ids=lambda example: example.__name__)
def start(request: pytest.FixtureRequest, tmp_path: Path) -> Start:
    """Starts one of the examples: `start(url, archive, image)`."""
    command = request.param(tmp_path)

    def start(url: str, *arguments: str | Path) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [*command, *map(str, arguments)],
            env=environment(tmp_path, TUSBOAT_SERVER=url),
            cwd=tmp_path,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    return start


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningRegistry]:
    with serving(tmp_path_factory.mktemp("registry")) as running:
        yield running


@pytest.fixture(scope="module")
def wired(
    registry: RunningRegistry, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[LiveServer]:
    """A server that may push to the registry."""
    with LiveServer(tmp_path_factory.mktemp("server"), registries=[row(registry)]) as server:
        yield server


def upload_of(ran: Ran) -> str:
    """The path of the upload that the example named, in a line of its own."""
    [identifier] = re.findall(r"^[0-9a-f]{32}$", ran.stdout, re.MULTILINE)
    return f"/files/{identifier}"


def test_an_image_arrives_in_the_registry(
    wired: LiveServer, registry: RunningRegistry, tmp_path: Path, start: Start
) -> None:
    archive = write_docker_archive(tmp_path / "llm v1.tar", [MIB], seed=str(tmp_path))
    image = f"{registry.host}/examples/{tmp_path.name.lower()}:v1"
    ran = finish(start(wired.url, archive.path, image))
    assert ran.code == 0, ran
    document = status(wired.port, upload_of(ran))
    assert_image(registry, archive, document)
    assert document["filename"] == "llm v1.tar"
    assert ran.stdout.splitlines()[1:] == ["done", f"{image} {document['results'][0]['digest']}"]
    left = {path.name for path in tmp_path.glob("llm v1.tar*")}
    assert left <= {"llm v1.tar", "llm v1.tar.uploads.json"}, "nothing is remembered any more"


def test_killed_in_the_middle_and_run_again(
    server: LiveServer, tmp_path: Path, start: Start
) -> None:
    archive = write_archive(tmp_path / "llm.tar", SIZE)
    with CuttingProxy(server.port) as line:
        first: list[subprocess.Popen[str]] = []

        def kill() -> None:
            wait_until(lambda: documents(server.url)[0]["offset"] > MIB)
            os.killpg(first[0].pid, signal.SIGKILL)

        line.at(3 * MIB, kill)
        line.stall_after(3 * MIB)
        first.append(start(line.url, archive))
        assert finish(first[0]).code == -signal.SIGKILL
        begun = documents(server.url)[0]["id"]
        before = line.bytes_up
        second = finish(start(line.url, archive))
        assert second.code == 0, second
        assert upload_of(second) == f"/files/{begun}"
        assert line.bytes_up - before < SIZE - MIB // 2
    finished(server, begun, archive.read_bytes())


def test_begun_anew_when_the_server_knows_it_no_more(
    server: LiveServer, tmp_path: Path, start: Start
) -> None:
    archive = write_archive(tmp_path / "llm.tar", SIZE)
    with CuttingProxy(server.port) as line:
        first: list[subprocess.Popen[str]] = []
        line.at(3 * MIB, lambda: os.killpg(first[0].pid, signal.SIGKILL))
        line.stall_after(3 * MIB)
        first.append(start(line.url, archive))
        finish(first[0])
        gone = documents(server.url)[0]["id"]
        assert ask(server.port, "DELETE", f"/files/{gone}", TUS).status == 204
        second = finish(start(line.url, archive))
    assert second.code == 0, second
    assert upload_of(second) != f"/files/{gone}"
    finished(server, upload_of(second), archive.read_bytes())


def test_a_cut_line_is_gone_on_with(server: LiveServer, tmp_path: Path, start: Start) -> None:
    archive = write_archive(tmp_path / "llm.tar", SIZE)
    with CuttingProxy(server.port) as line:
        line.cut_after(2 * MIB, 6 * MIB)
        ran = finish(start(line.url, archive))
    assert ran.code == 0, ran
    finished(server, upload_of(ran), archive.read_bytes())


def test_a_refusal_is_told_in_the_server_s_words(
    server: LiveServer, tmp_path: Path, start: Start
) -> None:
    archive = write_archive(tmp_path / "llm.tar", 1000)
    ran = finish(start(server.url, archive, "registry.example/team/llm:v1"))
    assert (ran.code, ran.stdout) == (1, "")
    assert "cannot upload" in ran.stderr
    assert "registry.example" in ran.stderr
    assert "Traceback" not in ran.stderr
    assert "at async" not in ran.stderr


def test_a_failed_upload_is_told_with_its_cause(
    wired: LiveServer, registry: RunningRegistry, tmp_path: Path, start: Start
) -> None:
    archive = write_archive(tmp_path / "no archive.tar", 1000)
    ran = finish(start(wired.url, archive, f"{registry.host}/examples/none:v1"))
    assert ran.code == 1
    error = status(wired.port, upload_of(ran))["error"]
    assert error["message"] in ran.stderr


def test_a_file_that_is_not_there(server: LiveServer, tmp_path: Path, start: Start) -> None:
    ran = finish(start(server.url, tmp_path / "absent.tar"))
    assert ran.code == 1
    assert "absent.tar" in ran.stderr
    assert "Traceback" not in ran.stderr
    assert "at async" not in ran.stderr


def test_nobody_is_there(tmp_path: Path, start: Start) -> None:
    archive = write_archive(tmp_path / "llm.tar", 1000)
    ran = finish(start(f"http://127.0.0.1:{free_port()}", archive), seconds=100)
    assert (ran.code, ran.stdout) == (1, "")
    assert "cannot upload" in ran.stderr
    assert "Traceback" not in ran.stderr


def test_each_example_is_in_the_index() -> None:
    index = (EXAMPLES / "README.md").read_text()
    named = set(re.findall(r"\(([a-z]+)/README\.md\)", index))
    assert named == {path.parent.name for path in EXAMPLES.glob("*/README.md")}
