"""kill -9 while eight senders send chunks of one file: what is counted is what the file holds."""

from __future__ import annotations

import random
import threading
import time
from collections import deque
from contextlib import suppress

import pytest

from tests.conftest import Serve
from tests.live import LiveServer
from tests.old_pages import OldFile, check, journal_chunks, md5, merge, send, stored, uploaded
from tests.resumable import finished

KIB, MIB = 2**10, 2**20
SENDERS = 8


def send_and_kill(server: LiveServer, file: OldFile, chance: random.Random) -> set[int]:
    """Eight senders take what is missing, in any order, until the server dies.

    The indexes that it had acknowledged.
    """
    there = set(uploaded(check(server.port, file)))
    missing = deque(chance.sample(range(file.count), file.count))
    acknowledged = set(there)

    def keep_sending() -> None:
        while server.alive:
            with suppress(IndexError):
                index = missing.popleft()
                with suppress(OSError):
                    if send(server.port, file, index).status == 200:
                        acknowledged.add(index)
                continue
            return

    threads = [threading.Thread(target=keep_sending) for _ in range(SENDERS)]
    for thread in threads:
        thread.start()
    time.sleep(chance.uniform(0.0, 0.25))
    server.kill()
    for thread in threads:
        thread.join()
    return acknowledged


def assert_true(server: LiveServer, file: OldFile, acknowledged: set[int]) -> None:
    """Every chunk that is listed is in the file, and every acknowledged one is listed."""
    there = check(server.port, file)
    assert acknowledged <= set(uploaded(there))
    if not there["uploadId"]:
        return
    data = stored(server, there["uploadId"]).read_bytes()
    for entry in there["uploaded"]:
        start, end = entry["offset"], entry["offset"] + entry["size"]
        assert data[start:end] == file.data[start:end]
        assert entry["md5"] == md5(data[start:end])
    assert all(
        md5(data[start : start + size]) == digest
        for start, size, digest in journal_chunks(server, there["uploadId"])
    )
    prefix = there["offset"]
    assert data[:prefix] == file.data[:prefix]


def kill_again_and_again(server: LiveServer, file: OldFile, kills: int, seed: int) -> None:
    chance = random.Random(seed)
    for _ in range(kills):
        acknowledged = send_and_kill(server, file, chance)
        server.start()
        assert_true(server, file, acknowledged)
    for index in set(range(file.count)) - set(uploaded(check(server.port, file))):
        assert send(server.port, file, index).status == 200
    answer = merge(server.port, file)
    assert answer.status == 202, answer
    upload_id = answer.problem["data"]["taskId"]
    finished(server, upload_id, file.data)
    assert stored(server, upload_id).read_bytes() == file.data


def test_kills_during_eight_senders(serve: Serve) -> None:
    file = OldFile.of("killed.tar", 48 * MIB + 1, 512 * KIB)
    kill_again_and_again(serve(), file, 3, seed=1)


@pytest.mark.slow
def test_fifty_kills_during_eight_senders(serve: Serve) -> None:
    server = serve()
    for number in range(5):
        file = OldFile.of(f"killed {number}.tar", 96 * MIB + number, 512 * KIB)
        kill_again_and_again(server, file, 10, seed=number)
