"""Sending over bad lines: cut, stalled, answers lost, servers restarted, files that change."""

from __future__ import annotations

import hashlib
import signal
import subprocess
import threading
import time
from pathlib import Path

import pytest
import requests

from server.client import connection as connection_module
from server.client.archive import Archive
from server.client.connection import Connection
from server.client.display import PlainDisplay
from server.client.memory import Memory
from server.client.sender import Errand, Sender
from server.client.wishes import Wishes
from tests.live import LiveServer, finish, free_port, run_tusboat, spawn_tusboat, wait_until
from tests.proxy import CuttingProxy
from tests.uploading import (
    CHUNK,
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

pytest_plugins = ("tests.client_fixtures",)


def test_an_archive_arrives_and_its_md5_is_proven(
    server: LiveServer, llm: Path, home: Path
) -> None:
    ran = run_tusboat(home, "upload", str(llm), "--server", server.url, *CHUNK)
    assert_kept(ran, server.url, llm)
    assert remembered(home) == []
    assert "\x1b" not in ran.stderr
    again = run_tusboat(home, "upload", str(llm), "--server", server.url)
    assert upload_id_of(again) != upload_id_of(ran), "what ended is not gone on with"


def test_without_md5_nothing_is_promised(server: LiveServer, llm: Path, home: Path) -> None:
    arguments = ("upload", str(llm), "--no-md5")
    ran = run_tusboat(home, *arguments, env={"TUSBOAT_SERVER": f"{server.url}/"})
    assert_kept(ran, server.url, llm, verified=False)


@pytest.mark.parametrize("size", [1, 64 * 1024, 4 * MIB, 4 * MIB + 1, 8 * MIB])
def test_sizes_around_a_chunk(size: int, server: LiveServer, tmp_path: Path, home: Path) -> None:
    archive = write_archive(tmp_path / "edge.tar", size)
    ran = run_tusboat(home, "upload", str(archive), "--server", server.url, *CHUNK)
    assert_kept(ran, server.url, archive)


def test_cut_lines_are_gone_on_with_and_nothing_is_sent_twice(
    server: LiveServer, line: CuttingProxy, llm: Path, home: Path
) -> None:
    line.cut_after(100, 3 * MIB, 3 * MIB + 500, 9 * MIB, 17 * MIB, SIZE)
    ran = run_tusboat(home, "upload", str(llm), "--server", line.url, "--chunk-size", "64MiB")
    assert_kept(ran, server.url, llm)
    assert "going on with upload" in ran.stderr
    assert "trying again" in ran.stderr
    # What the proxy took and the server had not read when the line was cut is sent again.
    assert line.bytes_up < SIZE + 8 * MIB


def test_a_lost_last_answer_is_not_a_lost_upload(
    server: LiveServer, line: CuttingProxy, llm: Path, home: Path
) -> None:
    line.lose_answer_after(SIZE)
    ran = run_tusboat(home, "upload", str(llm), "--server", line.url, *CHUNK)
    assert_kept(ran, server.url, llm)
    assert line.bytes_up < SIZE + HEADERS


def test_a_lost_answer_to_creation_begins_another_upload(
    server: LiveServer, line: CuttingProxy, llm: Path, home: Path
) -> None:
    line.lose_answer_after(1)
    ran = run_tusboat(home, "upload", str(llm), "--server", line.url, *CHUNK)
    assert_kept(ran, server.url, llm)


def test_a_dead_line_is_noticed(
    server: LiveServer,
    line: CuttingProxy,
    llm: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """In this process, for the deadline to be short: as it is, it would take a minute."""
    monkeypatch.setattr(connection_module, "STALL_SECONDS", 1.0)
    line.stall_after(5 * MIB)
    with Archive(llm) as opened, Connection(line.url, None) as connection:
        errand = Errand(opened, Wishes(), (), 64 * MIB, True, 60)
        upload_id = Sender(connection, Memory(tmp_path), PlainDisplay(), errand).send()
    wait_until(lambda: document(server.url, upload_id)["status"] == "done")
    sha256 = hashlib.sha256(llm.read_bytes()).hexdigest()
    assert document(server.url, upload_id)["digests"]["sha256"] == sha256
    assert "does not answer" in capsys.readouterr().err


def test_ctrl_c_then_the_same_command_goes_on(
    server: LiveServer, line: CuttingProxy, llm: Path, home: Path
) -> None:
    command = ("upload", str(llm), "--server", line.url, *CHUNK)
    first = interrupted(line, 13 * MIB, home, command, signal.SIGINT)
    assert (first.code, first.stdout) == (130, ""), first
    assert "the same command again goes on" in first.stderr
    assert "Traceback" not in first.stderr
    assert len(remembered(home)) == 1

    before = line.bytes_up
    second = run_tusboat(home, *command)
    upload_id = assert_kept(second, server.url, llm)
    assert upload_id == upload_id_of(first)
    assert f"going on with upload {upload_id} at" in second.stderr
    assert line.bytes_up - before < SIZE - 8 * MIB
    assert remembered(home) == []


def test_kill_9_of_the_command_then_the_same_command_goes_on(
    server: LiveServer, line: CuttingProxy, llm: Path, home: Path
) -> None:
    command = ("upload", str(llm), "--server", line.url, *CHUNK)
    first = interrupted(line, 13 * MIB, home, command, signal.SIGKILL)
    assert first.code == -signal.SIGKILL
    before = line.bytes_up
    second = run_tusboat(home, *command)
    assert assert_kept(second, server.url, llm) == upload_id_of(first)
    assert line.bytes_up - before < SIZE - 8 * MIB


def test_the_server_killed_and_started_again_on_the_same_data(
    tmp_path: Path, llm: Path, home: Path
) -> None:
    with LiveServer(tmp_path) as server, CuttingProxy(server.port) as proxy:
        killed = threading.Event()

        def kill() -> None:
            server.kill()
            killed.set()

        proxy.at(10 * MIB, kill)
        command = ("upload", str(llm), "--server", proxy.url, "--no-wait", *CHUNK)
        process = spawn_tusboat(home, *command)
        assert killed.wait(30)
        assert process.stderr is not None
        said = [process.stderr.readline() for _ in range(2)]
        assert "trying again" in said[1], "an attempt met nobody"
        server.start()
        ran = finish(process)
        assert ran.code == 0, ran
        (stored,) = documents(server.url)
        assert (stored["id"], stored["offset"]) == (ran.stdout.strip(), SIZE)
        assert (server.data_dir / "uploads" / stored["id"]).read_bytes() == llm.read_bytes()
        assert proxy.bytes_up < SIZE + 12 * MIB


def test_the_server_stopped_in_an_orderly_way_and_started_again(
    tmp_path: Path, llm: Path, home: Path
) -> None:
    with LiveServer(tmp_path) as server, CuttingProxy(server.port) as proxy:
        stopping = threading.Event()
        proxy.at(10 * MIB, stopping.set)
        process = spawn_tusboat(home, "upload", str(llm), "--server", proxy.url, *CHUNK)
        assert stopping.wait(30)
        server.stop()
        server.start()
        assert_kept(finish(process), server.url, llm)
        assert len(documents(server.url)) == 1


def test_a_server_that_starts_later_is_waited_for(tmp_path: Path, llm: Path, home: Path) -> None:
    server = LiveServer(tmp_path)
    process = spawn_tusboat(home, "upload", str(llm), "--server", server.url)
    assert process.stderr is not None
    assert "Connection refused; trying again" in process.stderr.readline()
    with server:
        assert_kept(finish(process), server.url, llm)


def test_nobody_there_is_given_up_after_the_allowed_time(llm: Path, home: Path) -> None:
    server = f"http://127.0.0.1:{free_port()}"
    start = time.monotonic()
    ran = run_tusboat(home, "upload", str(llm), "--server", server, "--give-up-after", "1")
    assert (ran.code, ran.stdout) == (1, "")
    assert "gave up after 1 s without progress" in ran.stderr
    assert "Connection refused" in ran.stderr
    assert time.monotonic() - start < 20


def test_a_file_that_changes_meanwhile_is_not_an_image_of_anything(
    server: LiveServer, line: CuttingProxy, llm: Path, home: Path
) -> None:
    def change() -> None:
        with llm.open("ab") as stream:
            stream.write(b"more")

    line.at(10 * MIB, change)
    ran = run_tusboat(home, "upload", str(llm), "--server", line.url, *CHUNK)
    assert (ran.code, ran.stdout) == (1, "")
    assert f"{llm} changed while it was sent" in ran.stderr
    assert "hint: wait until" in ran.stderr
    assert remembered(home) == []
    answer = requests.get(f"{server.url}/api/uploads/{upload_id_of(ran)}", timeout=10)
    assert answer.status_code == 404 or answer.json()["status"] == "canceled"


def test_a_file_that_was_changed_between_two_runs_is_another_upload(
    server: LiveServer, line: CuttingProxy, llm: Path, home: Path
) -> None:
    command = ("upload", str(llm), "--server", line.url, *CHUNK)
    first = interrupted(line, 10 * MIB, home, command, signal.SIGINT)
    assert first.code == 130
    write_archive(llm, SIZE - 1)
    second = run_tusboat(home, *command)
    assert assert_kept(second, server.url, llm) != upload_id_of(first)


def test_an_upload_that_is_gone_is_begun_anew(
    server: LiveServer, line: CuttingProxy, llm: Path, home: Path
) -> None:
    command = ("upload", str(llm), "--server", line.url, *CHUNK)
    gone = upload_id_of(interrupted(line, 10 * MIB, home, command, signal.SIGINT))
    headers = {"Tus-Resumable": "1.0.0"}
    requests.delete(f"{server.url}/files/{gone}", headers=headers, timeout=10).raise_for_status()
    ran = run_tusboat(home, *command)
    assert "the upload is gone; beginning anew" in ran.stderr
    assert assert_kept(ran, server.url, llm) != gone


def test_canceled_by_somebody_while_it_is_sent(
    server: LiveServer, line: CuttingProxy, llm: Path, home: Path
) -> None:
    def cancel() -> None:
        receiving = [row["id"] for row in documents(server.url) if row["status"] == "receiving"]
        newest = receiving[0]
        canceled = run_tusboat(home, "cancel", newest, "--server", server.url)
        assert canceled.code == 0, canceled

    line.at(10 * MIB, cancel)
    ran = run_tusboat(home, "upload", str(llm), "--server", line.url, *CHUNK)
    assert (ran.code, ran.stdout) == (1, ""), ran
    assert f"upload {upload_id_of(ran)} was canceled while it was sent" in ran.stderr
    assert document(server.url, upload_id_of(ran))["status"] == "canceled"
    assert remembered(home) == []


def test_two_commands_on_one_upload_both_end_well(
    server: LiveServer, line: CuttingProxy, llm: Path, home: Path
) -> None:
    command = ("upload", str(llm), "--server", line.url, *CHUNK)
    second: list[subprocess.Popen[str]] = []

    def start_second() -> None:
        second.append(spawn_tusboat(home, *command))
        wait_until(lambda: line.connections >= 2 or second[0].poll() is not None)

    line.at(6 * MIB, start_second)
    first = finish(spawn_tusboat(home, *command))
    other = finish(second[0])
    upload_id = assert_kept(first, server.url, llm)
    assert assert_kept(other, server.url, llm) == upload_id
