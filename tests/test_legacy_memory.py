"""Gigabytes in chunks from many senders: the server's memory stays what it is."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from threading import local

import pytest

from tests.conftest import Serve
from tests.live import LiveServer
from tests.old_pages import BASE, BOUNDARY, FORM, md5, post_json
from tests.raw import Answer, Raw
from tests.resumable import stored

MIB, GIB = 2**20, 2**30
CHUNK = 8 * MIB
SENDERS = 16
LIMIT = 150 * MIB


def peak_bytes(pid: int) -> int:
    """The largest resident size that a process ever had."""
    [line] = [
        line
        for line in Path(f"/proc/{pid}/status").read_text().splitlines()
        if line.startswith("VmHWM")
    ]
    return int(line.split()[1]) * 1024


def chunk_of(index: int) -> bytes:
    """No two are the same, and none costs much."""
    return index.to_bytes(8, "big") * (CHUNK // 8)


def pieces(fields: dict[str, str], data: bytes) -> Iterator[bytes]:
    head = "".join(
        f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'
        for name, value in fields.items()
    )
    head += f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="file"; filename="blob"\r\n\r\n'
    yield head.encode()
    yield data
    yield f"\r\n--{BOUNDARY}--\r\n".encode()


def send_all(server: LiveServer, total: int, senders: int) -> str:
    """Every chunk, each sender on a connection of its own; returns the task of the merge."""
    count = total // CHUNK
    named = {"fileName": "llm.tar", "totalSize": str(total)}
    cut = {"chunkSize": str(CHUNK), "totalChunks": str(count)}
    mine = local()
    with ExitStack() as connections, ThreadPoolExecutor(senders) as pool:

        def send(index: int) -> Answer:
            if not hasattr(mine, "raw"):
                mine.raw = connections.enter_context(Raw(server.port, timeout_seconds=120))
            data = chunk_of(index)
            place = {"chunkIndex": str(index), "chunkMd5": md5(data)}
            body = list(pieces({**named, **cut, **place}, data))
            length = {"Content-Length": str(sum(map(len, body)))}
            mine.raw.head("POST", f"{BASE}/chunks", {**FORM, **length})
            for piece in body:
                mine.raw.send(piece)
            answer: Answer = mine.raw.answer("POST")
            return answer

        answers = list(pool.map(send, range(count)))
    assert {answer.status for answer in answers} == {200}
    merged = post_json(server.port, f"{BASE}/merge", named)
    assert merged.status == 202, merged
    return str(merged.problem["data"]["taskId"])


def assert_right(server: LiveServer, task: str, total: int) -> None:
    with stored(server, task).open("rb") as file:
        for index in range(total // CHUNK):
            assert hashlib.sha256(file.read(CHUNK)).digest() == (
                hashlib.sha256(chunk_of(index)).digest()
            )
        assert not file.read(1)


@pytest.mark.slow
def test_four_gigabytes_from_sixteen_senders(serve: Serve) -> None:
    server = serve()
    task = send_all(server, 4 * GIB, SENDERS)
    peak = peak_bytes(server.pid)
    assert_right(server, task, 4 * GIB)
    assert peak <= LIMIT, f"{peak / MIB:.0f} MiB"


def test_a_chunk_is_never_held_in_memory(serve: Serve) -> None:
    """The same in small: four senders of eight chunks of 8 MiB each."""
    server = serve()
    before = peak_bytes(server.pid)
    task = send_all(server, 32 * CHUNK, 4)
    grown = peak_bytes(server.pid) - before
    assert_right(server, task, 32 * CHUNK)
    assert grown < 4 * CHUNK, f"{grown / MIB:.0f} MiB"
