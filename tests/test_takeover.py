"""Who writes an upload when two want to: over one process and over two."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.conftest import Serve
from tests.live import LiveServer, free_port, wait_until
from tests.raw import OCTETS, TUS, Answer, Raw, append, ask, create, offset

MIB = 2**20


@pytest.fixture(params=["one process", "two processes"])
def ports(request: pytest.FixtureRequest, serve: Serve, tmp_path: Path) -> tuple[int, int]:
    """Where the holder sends to, and where the newcomer does."""
    first = serve(lock_wait_seconds=2)
    if request.param == "one process":
        return first.port, first.port
    second = serve(lock_wait_seconds=2, data_dir=first.data_dir, run_worker=False, port=free_port())
    return first.port, second.port


@contextmanager
def holder(port: int, upload: str, start: int, total: int) -> Iterator[Raw]:
    """A PATCH that has sent nothing of its body yet."""
    with Raw(port) as raw:
        place = {"Upload-Offset": str(start), "Content-Length": str(total)}
        raw.head("PATCH", upload, {**TUS, **OCTETS, **place})
        yield raw


def test_an_idle_holder_gives_way_to_a_patch(ports: tuple[int, int]) -> None:
    first, second = ports
    upload = create(first, 8)
    with holder(first, upload, 0, 8) as old:
        old.send(b"1234")
        wait_until(lambda: offset_passing_active(second, upload) == 4, what="4 bytes")
        time.sleep(0.3)
        begun = time.monotonic()
        assert append(second, upload, 4, b"5678").status == 204
        assert time.monotonic() - begun < 0.5
        answer = old.answer("PATCH")
        assert (answer.status, answer["Upload-Offset"]) == (409, "4")


def offset_passing_active(port: int, upload: str) -> int:
    return int(ask(port, "GET", f"/api/uploads/{upload.rsplit('/', 1)[-1]}").problem["offset"])


def test_head_evicts_an_idle_holder_so_that_its_answer_stays_true(ports: tuple[int, int]) -> None:
    first, second = ports
    upload = create(first, 8)
    with holder(first, upload, 0, 8) as old:
        old.send(b"1234")
        wait_until(lambda: offset_passing_active(second, upload) == 4, what="4 bytes")
        time.sleep(0.3)
        begun = time.monotonic()
        assert offset(second, upload) == 4
        assert time.monotonic() - begun < 0.5
        assert old.answer("PATCH").status == 409


@contextmanager
def active(port: int, upload: str, total: int) -> Iterator[Raw]:
    """A PATCH whose bytes keep dripping in."""
    stop = threading.Event()
    with holder(port, upload, 0, total) as raw:

        def drip() -> None:
            while not stop.wait(0.02):
                raw.send(b"x" * 1000)

        thread = threading.Thread(target=drip)
        thread.start()
        wait_until(lambda: offset_passing_active(port, upload) > 0, what="bytes")
        try:
            yield raw
        finally:
            stop.set()
            thread.join()


def test_an_active_holder_stays_and_the_newcomer_hears_423(ports: tuple[int, int]) -> None:
    first, second = ports
    upload = create(first, 100 * MIB)
    with active(first, upload, 100 * MIB):
        begun = time.monotonic()
        answer = append(second, upload, 0, b"y")
        waited = time.monotonic() - begun
        assert answer.status in (423, 409), answer
        assert answer.status == 409 or ("retry-after" in answer.headers and 1.5 < waited < 6)


def test_head_passes_an_active_holder_without_waiting(ports: tuple[int, int]) -> None:
    first, second = ports
    upload = create(first, 100 * MIB)
    with active(first, upload, 100 * MIB):
        seen = []
        for _ in range(10):
            begun = time.monotonic()
            seen.append(offset(second, upload))
            assert time.monotonic() - begun < 1
            time.sleep(0.05)
        assert seen == sorted(seen)
        assert seen[-1] > seen[0], "the holder was thrown out"


def test_the_status_api_never_evicts(ports: tuple[int, int]) -> None:
    first, second = ports
    upload = create(first, 8)
    with holder(first, upload, 0, 8) as old:
        old.send(b"1234")
        time.sleep(0.4)
        for _ in range(5):
            offset_passing_active(second, upload)
        old.send(b"5678")
        assert old.answer("PATCH").status == 204


def test_a_dead_connection_is_passed_in_half_a_second(ports: tuple[int, int]) -> None:
    """The peer vanished without a word (nobody closes the socket): the next PATCH gets in."""
    first, second = ports
    upload = create(first, 2 * MIB)
    with holder(first, upload, 0, 2 * MIB) as old:
        old.send(bytes(MIB))
        wait_until(lambda: offset_passing_active(second, upload) == MIB, what="1 MiB")
        begun = time.monotonic()
        answer = append(second, upload, MIB, bytes(MIB))
        took = time.monotonic() - begun
    assert answer.status == 204
    assert took < 0.75


def test_many_contenders_make_one_right_file(ports: tuple[int, int], serve: Serve) -> None:
    """20 eager clients at once: forward progress, and the file is the file."""
    first, second = ports
    data = bytes(range(256)) * 2048
    upload = create(first, len(data))
    answers: list[Answer] = []

    def contend(port: int) -> None:
        for _ in range(200):
            place = offset(port, upload)
            if place == len(data):
                return
            answer = append(port, upload, place, data[place : place + 40_000])
            answers.append(answer)

    threads = [
        threading.Thread(target=contend, args=(port,))
        for port in (first, second)
        for _ in range(10)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert offset(first, upload) == len(data)
    assert {answer.status for answer in answers} <= {204, 409, 413, 423}
    assert sum(answer.status == 204 for answer in answers) >= len(data) // 40_000
    running: LiveServer = serve.servers[0]
    stored = running.data_dir / "uploads" / upload.rsplit("/", 1)[-1]
    assert stored.read_bytes() == data
