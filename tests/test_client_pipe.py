"""Standard input: sent as it comes, gone on with within one run, and removed when that fails."""

from __future__ import annotations

import contextlib
import io
import os
import pty
import random
import shlex
import signal
import subprocess
import tarfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from server.client.errors import ArchiveUnusable
from server.client.pipe import Pipe
from tests.archives import write_docker_archive
from tests.conftest import Serve
from tests.journeys import assert_image, row
from tests.live import (
    COMMAND,
    LiveServer,
    environment,
    finish,
    run_tusboat,
    spawn_tusboat,
    wait_until,
)
from tests.proxy import CuttingProxy
from tests.registries import RunningRegistry, plain_registry
from tests.uploading import (
    CHUNK,
    HEADERS,
    MIB,
    SIZE,
    assert_kept,
    document,
    documents,
    remembered,
    upload_id_of,
    write_archive,
)

__all__ = ["plain_registry"]

pytest_plugins = ("tests.client_fixtures",)


@pytest.fixture
def stream(tmp_path: Path) -> Path:
    """What a program before the pipe writes; the server hears this name."""
    return write_archive(tmp_path / "stdin.tar", SIZE)


@pytest.fixture
def piped(home: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """`cat FILE | tusboat upload - ...`, started."""
    with contextlib.ExitStack() as running:

        def start(archive: Path, *arguments: str) -> subprocess.Popen[str]:
            source = running.enter_context(
                subprocess.Popen(["cat", str(archive)], stdout=subprocess.PIPE)
            )
            running.callback(source.kill)
            assert source.stdout is not None
            process = spawn_tusboat(home, "upload", "-", *arguments, stdin=source.stdout.fileno())
            source.stdout.close()
            return process

        yield start


def tar_of(path: Path, size: int) -> Path:
    """A plain tar with one file of random bytes."""
    with tarfile.open(path, "w") as tar:
        entry = tarfile.TarInfo("layer")
        entry.size = size
        tar.addfile(entry, io.BytesIO(random.Random(size).randbytes(size)))
    return path


@pytest.mark.parametrize("size", [1, 4 * MIB - 1, 4 * MIB, 8 * MIB + 1])
def test_a_pipe_arrives_and_its_md5_is_proven(
    size: int,
    server: LiveServer,
    tmp_path: Path,
    home: Path,
    piped: Callable[..., subprocess.Popen[str]],
) -> None:
    archive = write_archive(tmp_path / "stdin.tar", size)
    ran = finish(piped(archive, "--server", server.url, *CHUNK))
    upload_id = assert_kept(ran, server.url, archive)
    assert document(server.url, upload_id)["length"] == size
    assert remembered(home) == []


def test_a_name_and_no_digest_and_no_wait(
    server: LiveServer, stream: Path, piped: Callable[..., subprocess.Popen[str]]
) -> None:
    ran = finish(
        piped(stream, "--server", server.url, "--name", "llm.tar", "--no-md5", "--no-wait")
    )
    assert ran.code == 0, ran
    upload_id = ran.stdout.strip()
    wait_until(lambda: document(server.url, upload_id)["status"] == "done")
    found = document(server.url, upload_id)
    states = {step["name"]: step["state"] for step in found["steps"]}
    assert (found["filename"], found["length"], states["verify"]) == ("llm.tar", SIZE, "skipped")


def test_from_a_pipe_into_the_registry(
    serve: Serve,
    plain_registry: RunningRegistry,
    tmp_path: Path,
    piped: Callable[..., subprocess.Popen[str]],
) -> None:
    server = serve(registries=[row(plain_registry)])
    archive = write_docker_archive(tmp_path / "llm.tar", [3 * MIB, 4096])
    image = f"{plain_registry.host}/team/{{name}}:v1"
    arguments = ("--server", server.url, "--image", image, "--name", "piped.tar")
    ran = finish(piped(archive.path, *arguments, "--chunk-size", "1MiB"))
    assert ran.code == 0, ran
    found = document(server.url, upload_id_of(ran))
    assert_image(plain_registry, archive, found)
    assert found["image"] == f"{plain_registry.host}/team/piped:v1"
    assert ran.stdout == f"{found['results'][0]['digest']}\n"


def test_cut_lines_cost_no_more_than_what_was_on_its_way(
    server: LiveServer,
    line: CuttingProxy,
    stream: Path,
    piped: Callable[..., subprocess.Popen[str]],
) -> None:
    line.cut_after(100, 3 * MIB, 3 * MIB + 500, 9 * MIB, 17 * MIB)
    ran = finish(piped(stream, "--server", line.url, *CHUNK))
    assert_kept(ran, server.url, stream)
    assert "going on with upload" in ran.stderr
    assert line.bytes_up < SIZE + 8 * MIB


def test_a_lost_last_answer_is_not_a_lost_upload(
    server: LiveServer,
    line: CuttingProxy,
    stream: Path,
    piped: Callable[..., subprocess.Popen[str]],
) -> None:
    line.lose_answer_after(SIZE)
    ran = finish(piped(stream, "--server", line.url, *CHUNK))
    assert_kept(ran, server.url, stream)
    assert line.bytes_up < SIZE + HEADERS


def test_the_server_killed_and_started_again(
    tmp_path: Path, stream: Path, piped: Callable[..., subprocess.Popen[str]]
) -> None:
    with LiveServer(tmp_path) as server, CuttingProxy(server.port) as proxy:
        killed = threading.Event()

        def kill() -> None:
            server.kill()
            killed.set()

        proxy.at(10 * MIB, kill)
        process = piped(stream, "--server", proxy.url, *CHUNK)
        assert killed.wait(30)
        server.start()
        assert_kept(finish(process), server.url, stream)
        assert len(documents(server.url)) == 1


def test_what_broke_off_is_noticed_and_removed(
    server: LiveServer,
    tmp_path: Path,
    home: Path,
    piped: Callable[..., subprocess.Popen[str]],
) -> None:
    """Nobody can ask a pipe whether the program before it died; the archive's end tells."""
    archive = tar_of(tmp_path / "stdin.tar", 6 * MIB)
    assert_kept(finish(piped(archive, "--server", server.url, *CHUNK)), server.url, archive)
    before = len(documents(server.url))
    for size in (5 * MIB, 5 * MIB + 1, archive.stat().st_size - 10240):
        os.truncate(archive, size)
        ran = finish(piped(archive, "--server", server.url, *CHUNK))
        assert (ran.code, ran.stdout) == (1, ""), ran
        assert "ended in the middle of the archive" in ran.stderr
        assert "hint: look at what the program before the pipe said" in ran.stderr
        assert len(documents(server.url)) == before
        tar_of(archive, 6 * MIB)
    os.truncate(archive, 5 * MIB)
    ran = finish(piped(archive, "--server", server.url, "--no-check"))
    assert_kept(ran, server.url, archive)


def test_nothing_from_the_pipe_makes_no_upload(
    server: LiveServer, home: Path, tmp_path: Path
) -> None:
    before = len(documents(server.url))
    ran = run_tusboat(home, "upload", "-", "--server", server.url)
    assert (ran.code, ran.stdout) == (1, ""), ran
    assert "standard input is empty" in ran.stderr
    assert len(documents(server.url)) == before


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_removes_what_was_sent(
    number: int,
    server: LiveServer,
    line: CuttingProxy,
    stream: Path,
    home: Path,
    piped: Callable[..., subprocess.Popen[str]],
) -> None:
    before = documents(server.url)
    started: list[subprocess.Popen[str]] = []
    line.at(10 * MIB, lambda: started[0].send_signal(number))
    started.append(piped(stream, "--server", line.url, *CHUNK))
    ran = finish(started[0])
    assert (ran.code, ran.stdout) == (130, ""), ran
    assert "standard input cannot be had twice" in ran.stderr
    assert "Traceback" not in ran.stderr
    # Others of this server may move meanwhile.
    assert {one["id"] for one in documents(server.url)} == {one["id"] for one in before}


def test_canceled_by_somebody_while_it_is_sent(
    server: LiveServer,
    line: CuttingProxy,
    stream: Path,
    home: Path,
    piped: Callable[..., subprocess.Popen[str]],
) -> None:
    def cancel() -> None:
        newest = next(row for row in documents(server.url) if row["status"] == "receiving")
        assert run_tusboat(home, "cancel", newest["id"], "--server", server.url).code == 0

    line.at(10 * MIB, cancel)
    ran = finish(piped(stream, "--server", line.url, *CHUNK))
    assert (ran.code, ran.stdout) == (1, ""), ran
    assert "run the whole pipe again" in ran.stderr


def test_an_image_that_may_not_be_sent_is_refused_before_it_is(
    server: LiveServer,
    line: CuttingProxy,
    stream: Path,
    piped: Callable[..., subprocess.Popen[str]],
) -> None:
    ran = finish(piped(stream, "--server", line.url, "--image", "nowhere.example/a/b:1"))
    assert (ran.code, ran.stdout) == (1, ""), ran
    assert "nowhere.example" in ran.stderr
    assert line.bytes_up < HEADERS


def test_a_server_that_takes_no_more_keeps_nothing(
    serve: Serve, stream: Path, piped: Callable[..., subprocess.Popen[str]]
) -> None:
    """Nobody knew the length: that it is too much is known in the middle."""
    server = serve(max_size=10 * MIB)
    ran = finish(piped(stream, "--server", server.url, *CHUNK))
    assert (ran.code, ran.stdout) == (1, ""), ran
    assert "HTTP 413" in ran.stderr
    assert "max_size" in ran.stderr
    assert documents(server.url) == []


def test_a_slow_program_is_waited_for(server: LiveServer, home: Path, tmp_path: Path) -> None:
    """Also through a descriptor that somebody set to non-blocking."""
    archive = tar_of(tmp_path / "stdin.tar", 3 * MIB)
    data = archive.read_bytes()
    source, sink = os.pipe()
    os.set_blocking(source, False)
    process = spawn_tusboat(
        home, "upload", "-", "--server", server.url, "--chunk-size", "1MiB", stdin=source
    )
    for begin in range(0, len(data), MIB):
        os.write(sink, data[begin : begin + MIB])
        wait_until(
            lambda up_to=begin // MIB: (
                any(  # type: ignore[misc]
                    row["offset"] >= up_to * MIB and row["status"] == "receiving"
                    for row in documents(server.url)
                )
                or up_to == 0
            )
        )
    os.close(sink)
    os.close(source)
    assert_kept(finish(process), server.url, archive)


def test_a_terminal_or_nothing_for_standard_input(server: LiveServer, home: Path) -> None:
    main, side = pty.openpty()
    typed = finish(spawn_tusboat(home, "upload", "-", stdin=side))
    os.close(main)
    os.close(side)
    assert (typed.code, typed.stdout) == (2, ""), typed
    assert "standard input is this terminal" in typed.stderr
    words = f"{shlex.join(COMMAND)} upload - --server {server.url} <&-"
    closed = subprocess.run(
        ["sh", "-c", words], env=environment(home), capture_output=True, text=True, check=False
    )
    assert (closed.returncode, closed.stdout) == (1, ""), closed
    assert "standard input is closed" in closed.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("-", "other.tar"), "sent alone"),
        (("-", "--parallel", "2"), "--parallel"),
        (("-", "--image", "host.example/a/{name}:1"), "--name"),
        (("-", "--name", " "), "--name"),
    ],
)
def test_what_does_not_go_together_is_wrong_usage(
    arguments: tuple[str, ...], words: str, home: Path
) -> None:
    (home / "other.tar").write_bytes(b"x")
    ran = run_tusboat(home, "upload", *arguments)
    assert (ran.code, ran.stdout) == (2, ""), ran
    assert words in ran.stderr


def test_a_chunk_is_kept_until_the_next_one_is_asked_for() -> None:
    """However the bytes trickle in, and wherever the end of the archive falls."""
    data = random.Random(1).randbytes(2500)
    source, sink = os.pipe()

    def trickle() -> None:
        for begin in range(0, len(data), 97):
            os.write(sink, data[begin : begin + 97])
        os.close(sink)

    thread = threading.Thread(target=trickle)
    thread.start()
    pipe = Pipe(source, 1000)
    seen = b""
    while not pipe.ended:
        pipe.fill()
        chunk = pipe.read(pipe.start, 5000)
        assert chunk == pipe.read(pipe.start, 10) + pipe.read(pipe.start + 10, 5000)
        seen += chunk
    thread.join()
    os.close(source)
    assert (seen, pipe.start, pipe.end) == (data, 2000, 2500)


def test_a_descriptor_that_cannot_be_read_is_said(tmp_path: Path) -> None:
    descriptor = os.open(tmp_path, os.O_RDONLY)
    with pytest.raises(ArchiveUnusable, match="cannot read standard input"):
        Pipe(descriptor, 1000).fill()
    os.close(descriptor)
