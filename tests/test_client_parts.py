"""One archive in parts at once: joined, proven, gone on with, and refused before a byte is sent."""

from __future__ import annotations

import re
import signal
import subprocess
from pathlib import Path

import pytest
import requests

from server.client.parts import SMALLEST_PART_BYTES, shares
from tests.archives import write_docker_archive
from tests.conftest import Serve
from tests.journeys import assert_image, row
from tests.live import LiveServer, finish, run_tusboat, spawn_tusboat, wait_until
from tests.proxy import CuttingProxy
from tests.registries import RunningRegistry, plain_registry
from tests.uploading import (
    HEADERS,
    MIB,
    SIZE,
    assert_kept,
    document,
    documents,
    interrupted,
    remembered,
    upload_id_of,
    write_archive,
)

__all__ = ["plain_registry"]

pytest_plugins = ("tests.client_fixtures",)

PARTS = ("--parallel", "3", "--chunk-size", "1MiB")


def own(server: LiveServer, archive: Path) -> list[dict[str, object]]:
    """The documents of this archive: the whole, and parts that nothing was made of."""
    return [row for row in documents(server.url) if row["filename"].startswith(archive.name)]


@pytest.fixture
def llm(tmp_path: Path) -> Path:
    """Under a name of its own: other tests' parts are on the same server."""
    return write_archive(tmp_path / f"{tmp_path.name}.tar", SIZE)


def test_an_archive_arrives_in_parts_and_its_md5_is_proven(
    server: LiveServer, line: CuttingProxy, llm: Path, home: Path
) -> None:
    ran = run_tusboat(home, "upload", str(llm), "--server", line.url, *PARTS)
    upload_id = assert_kept(ran, server.url, llm)
    assert line.connections >= 4
    assert [row["id"] for row in own(server, llm)] == [upload_id]
    steps = {step["name"]: step["state"] for step in document(server.url, upload_id)["steps"]}
    assert steps["assemble"] == "done"
    assert remembered(home) == []
    assert line.bytes_up < SIZE + HEADERS


@pytest.mark.parametrize("size", [2 * MIB + 1, 3 * MIB, 3 * MIB + 1, 3 * MIB + 2])
def test_sizes_that_do_not_divide(
    size: int, server: LiveServer, tmp_path: Path, home: Path
) -> None:
    archive = write_archive(tmp_path / "edge.tar", size)
    ran = run_tusboat(home, "upload", str(archive), "--server", server.url, *PARTS, "--no-md5")
    assert_kept(ran, server.url, archive, verified=False)


@pytest.mark.parametrize(
    ("length", "parallel", "count"),
    [
        (1, 8, 1),
        (2 * SMALLEST_PART_BYTES - 1, 8, 1),
        (2 * SMALLEST_PART_BYTES, 8, 2),
        (100 * SMALLEST_PART_BYTES, 8, 8),
        (100 * SMALLEST_PART_BYTES, 1, 1),
    ],
)
def test_small_files_are_not_worth_many_parts(length: int, parallel: int, count: int) -> None:
    assert shares(length, parallel) == count


def test_in_parts_into_the_registry(
    serve: Serve, plain_registry: RunningRegistry, tmp_path: Path, home: Path
) -> None:
    server = serve(registries=[row(plain_registry)])
    archive = write_docker_archive(tmp_path / "llm.tar", [5 * MIB, 4096])
    image = f"{plain_registry.host}/team/llm:v1"
    arguments = ("--server", server.url, "--image", image, *PARTS)
    ran = run_tusboat(home, "upload", str(archive.path), *arguments)
    assert ran.code == 0, ran
    found = document(server.url, upload_id_of(ran))
    assert_image(plain_registry, archive, found)
    assert ran.stdout == f"{found['results'][0]['digest']}\n"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_stopped_and_given_again_every_part_goes_on(
    number: int, server: LiveServer, line: CuttingProxy, llm: Path, home: Path
) -> None:
    command = ("upload", str(llm), "--server", line.url, *PARTS)
    first = interrupted(line, 13 * MIB, home, command, number)
    assert first.code == (130 if number == signal.SIGINT else -signal.SIGKILL), first
    assert "Traceback" not in first.stderr
    assert len(remembered(home)) == 3
    # Of what is under way there is one row, and a document for each part that says so.
    listed = run_tusboat(home, "status", "--server", server.url).stdout
    assert listed.count(f"{llm.name} in 3 parts") == 1
    parts = [one for one in documents(server.url) if one["part_of"]]
    assert {one["part_of"] for one in parts[:3]} == {parts[0]["part_of"]}
    before = line.bytes_up
    second = run_tusboat(home, *command)
    assert_kept(second, server.url, llm)
    assert "going on with upload at" in second.stderr
    # What the server had not acknowledged of each part may be sent again.
    assert line.bytes_up - before < SIZE - 6 * MIB
    assert len(own(server, llm)) == 1
    assert remembered(home) == []


def test_cut_lines_are_gone_on_with(
    server: LiveServer, line: CuttingProxy, llm: Path, home: Path
) -> None:
    line.cut_after(1 * MIB, 3 * MIB, 9 * MIB, 9 * MIB + 10, 17 * MIB)
    ran = run_tusboat(home, "upload", str(llm), "--server", line.url, *PARTS)
    assert_kept(ran, server.url, llm)
    assert "trying again" in ran.stderr
    assert line.bytes_up < SIZE + 8 * MIB


def test_a_lost_answer_to_the_joining_is_not_a_second_upload(
    server: LiveServer, line: CuttingProxy, llm: Path, home: Path
) -> None:
    line.lose_answer_after(SIZE)
    ran = run_tusboat(home, "upload", str(llm), "--server", line.url, *PARTS)
    assert_kept(ran, server.url, llm)
    assert len(own(server, llm)) == 1
    assert line.bytes_up < SIZE + 2 * MIB


def test_a_part_that_is_gone_is_sent_again_and_no_other(
    server: LiveServer, line: CuttingProxy, llm: Path, home: Path
) -> None:
    command = ("upload", str(llm), "--server", line.url, *PARTS)
    first = interrupted(line, 20 * MIB, home, command, signal.SIGINT)
    assert first.code == 130
    gone = next(row for row in own(server, llm) if "part 2 of 3" in str(row["filename"]))
    headers = {"Tus-Resumable": "1.0.0"}
    url = f"{server.url}/files/{gone['id']}"
    requests.delete(url, headers=headers, timeout=10).raise_for_status()
    before = line.bytes_up
    ran = run_tusboat(home, *command)
    assert_kept(ran, server.url, llm)
    assert line.bytes_up - before < SIZE // 3 + 10 * MIB
    assert len(own(server, llm)) == 1


def test_a_part_that_somebody_removes_meanwhile_is_said(
    server: LiveServer, line: CuttingProxy, llm: Path, home: Path
) -> None:
    def remove() -> None:
        part = min(own(server, llm), key=lambda row: int(str(row["offset"])))
        canceled = run_tusboat(home, "cancel", str(part["id"]), "--server", server.url)
        assert canceled.code == 0, canceled

    line.at(10 * MIB, remove)
    command = ("upload", str(llm), "--server", line.url, *PARTS)
    ran = run_tusboat(home, *command)
    assert (ran.code, ran.stdout) == (1, ""), ran
    assert "was canceled while it was sent" in ran.stderr
    assert_kept(run_tusboat(home, *command), server.url, llm)


def test_a_file_that_changes_meanwhile_leaves_nothing_behind(
    server: LiveServer, line: CuttingProxy, llm: Path, home: Path
) -> None:
    def change() -> None:
        with llm.open("ab") as stream:
            stream.write(b"more")

    line.at(10 * MIB, change)
    ran = run_tusboat(home, "upload", str(llm), "--server", line.url, *PARTS)
    assert (ran.code, ran.stdout) == (1, ""), ran
    assert f"{llm} changed while it was sent" in ran.stderr
    assert remembered(home) == []
    assert own(server, llm) == []


def test_wrong_bytes_are_found_by_the_md5(
    server: LiveServer, line: CuttingProxy, llm: Path, home: Path
) -> None:
    """The server's disk, or anything on the way, may betray a part; the whole is proven."""

    def spoil() -> None:
        part = next(row for row in own(server, llm) if int(str(row["offset"])) > MIB)
        with (server.data_dir / "uploads" / str(part["id"])).open("r+b") as stored:
            stored.write(b"not what was sent")

    line.at(16 * MIB, spoil)
    ran = run_tusboat(home, "upload", str(llm), "--server", line.url, *PARTS)
    assert (ran.code, ran.stdout) == (1, ""), ran
    assert "failed at verify" in ran.stderr
    assert "upload the archive again" in ran.stderr
    assert remembered(home) == []


def test_interrupted_while_waiting_and_given_again_nothing_is_sent(
    serve: Serve, llm: Path, home: Path
) -> None:
    server = serve(run_worker=False)
    with CuttingProxy(server.port) as line:
        command = ("upload", str(llm), "--server", line.url, *PARTS)
        ids = []
        for _ in range(2):
            process = spawn_tusboat(home, *command)
            assert process.stderr is not None
            while "queued" not in (said := process.stderr.readline()):
                ids += re.findall(r"upload ([0-9a-f]{32}): made of 3 parts", said)
            process.send_signal(signal.SIGINT)
            ran = finish(process)
            assert ran.code == 130, ran
        assert ids[0] == ids[1]
        assert line.bytes_up < SIZE + 2 * HEADERS
    assert [row["id"] for row in own(server, llm)] == ids[:1]


def test_two_commands_on_the_same_parts_both_end_well(
    server: LiveServer, line: CuttingProxy, llm: Path, home: Path
) -> None:
    command = ("upload", str(llm), "--server", line.url, *PARTS)
    second: list[subprocess.Popen[str]] = []

    def start_second() -> None:
        second.append(spawn_tusboat(home, *command))
        wait_until(lambda: line.connections >= 6 or second[0].poll() is not None)

    line.at(6 * MIB, start_second)
    first = finish(spawn_tusboat(home, *command))
    upload_id = assert_kept(first, server.url, llm)
    other = finish(second[0])
    assert assert_kept(other, server.url, llm) == upload_id
    assert len(own(server, llm)) == 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--image", "nowhere.example/a/b:1", "--no-check"), "nowhere.example"),
        (("--compression", "rar"), "rar"),
    ],
)
def test_what_may_not_be_sent_is_refused_before_the_first_byte(
    arguments: tuple[str, ...],
    words: str,
    server: LiveServer,
    line: CuttingProxy,
    llm: Path,
    home: Path,
) -> None:
    ran = run_tusboat(home, "upload", str(llm), "--server", line.url, *PARTS, *arguments)
    assert (ran.code, ran.stdout) == (1, ""), ran
    assert words in ran.stderr
    assert "hint: " in ran.stderr
    assert line.bytes_up < HEADERS
    assert own(server, llm) == []


def test_nobody_there_is_said_once_and_given_up(llm: Path, home: Path, server: LiveServer) -> None:
    with CuttingProxy(server.port) as line:
        url = line.url
    ran = run_tusboat(home, "upload", str(llm), "--server", url, *PARTS, "--give-up-after", "1")
    assert (ran.code, ran.stdout) == (1, "")
    assert ran.stderr.count("trying again") == 1
    assert "gave up after 1 s without progress" in ran.stderr
