"""One suite over every protocol: kill and resume, disconnect, contention, expiry, the end.

The speakers are in `tests/dialects.py`. What one protocol alone promises is tested beside it
(`test_tus.py`, `test_ietf.py`); what is here holds whatever is spoken.
"""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime

import pytest

from tests.dialects import SPEAKERS, Place, Speaker
from tests.live import LiveServer, free_port, wait_until
from tests.raw import Answer, Raw, ask, status
from tests.resumable import finished, stored

KIB, MIB = 2**10, 2**20
HOUR_SECONDS = 3600
TRIES = 3
DATA = random.Random(1).randbytes(3 * MIB)

every_protocol = pytest.mark.parametrize("speaker", SPEAKERS, ids=repr)


@dataclass(frozen=True)
class Doors:
    """Two ways to one data directory: where the holder sends to, and where the newcomer does."""

    server: LiveServer
    first: int
    second: int


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[LiveServer, int]]:
    """A server, and the port of another process on the same data directory."""
    folder = tmp_path_factory.mktemp("two")
    with (
        LiveServer(folder, lock_wait_seconds=1) as first,
        LiveServer(
            folder,
            lock_wait_seconds=1,
            data_dir=first.data_dir,
            run_worker=False,
            port=free_port(),
        ) as second,
    ):
        yield first, second.port


@pytest.fixture(params=["one process", "two processes"])
def doors(request: pytest.FixtureRequest, two_processes: tuple[LiveServer, int]) -> Doors:
    server, other = two_processes
    return Doors(server, server.port, server.port if request.param == "one process" else other)


@dataclass(frozen=True)
class Survivor:
    """Two uploads of one protocol that a kill met: one in mid append, one of unknown length."""

    server: LiveServer
    cut: str
    deferred: str


@pytest.fixture(scope="module")
def survivors(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mapping[str, Survivor]]:
    """By speaker's name. One kill meets them all: starting again takes seconds."""
    found = {}
    with ExitStack() as sending, LiveServer(tmp_path_factory.mktemp("killed")) as server:
        for speaker in SPEAKERS:
            cut = speaker.create(server.port, len(DATA))
            assert speaker.append(server.port, cut, 0, DATA[:MIB]).status == speaker.appended
            raw = sending.enter_context(
                speaker.sender(server.port, cut, MIB, len(DATA) - MIB, last=True)
            )
            raw.send(DATA[MIB : 2 * MIB])
            deferred = speaker.create(server.port, None)
            assert speaker.append(server.port, deferred, 0, b"1234").status == speaker.appended
            found[speaker.name] = Survivor(server, cut, deferred)
        for survivor in found.values():
            wait_until(lambda cut=survivor.cut: size(server, cut) > MIB, what="unacknowledged")
        server.kill()
        server.start()
        yield found


def size(server: LiveServer, upload: str) -> int:
    return stored(server, upload).stat().st_size


# --- kills and cuts ---


@every_protocol
def test_a_kill_in_mid_append_loses_nothing_acknowledged(
    survivors: Mapping[str, Survivor], speaker: Speaker
) -> None:
    server, upload = survivors[speaker.name].server, survivors[speaker.name].cut
    place = speaker.head(server.port, upload)
    assert MIB <= place.offset <= 2 * MIB
    assert (place.length, place.complete) == (len(DATA), False)
    assert stored(server, upload).read_bytes() == DATA[: place.offset]
    rest = speaker.append(server.port, upload, place.offset, DATA[place.offset :], last=True)
    assert rest.status == speaker.finished
    finished(server, upload, DATA)


@every_protocol
def test_a_kill_keeps_an_upload_of_unknown_length_open(
    survivors: Mapping[str, Survivor], speaker: Speaker
) -> None:
    server, upload = survivors[speaker.name].server, survivors[speaker.name].deferred
    assert speaker.head(server.port, upload) == Place(4, None, complete=False)
    answer = speaker.append(server.port, upload, 4, b"5678", last=True)
    assert answer.status == speaker.finished
    assert speaker.head(server.port, upload) == Place(8, 8, complete=True)
    finished(server, upload, b"12345678")


@every_protocol
def test_a_cut_body_goes_on_where_head_says(doors: Doors, speaker: Speaker) -> None:
    data = random.Random(2).randbytes(MIB)
    upload = speaker.create(doors.first, len(data))
    with speaker.sender(doors.first, upload, 0, len(data), last=True) as raw:
        raw.send(data[: 300 * KIB])
    wait_until(lambda: speaker.head(doors.second, upload).offset == 300 * KIB, what="300 KiB")
    assert stored(doors.server, upload).read_bytes() == data[: 300 * KIB]
    rest = speaker.append(doors.second, upload, 300 * KIB, data[300 * KIB :], last=True)
    assert rest.status == speaker.finished
    finished(doors.server, upload, data)


# --- two that want the same upload ---


@every_protocol
def test_a_dead_connection_is_passed_within_half_a_second(doors: Doors, speaker: Speaker) -> None:
    """Nobody closes the holder's socket. The best of three: the machine has other work, too."""
    took = []
    for _ in range(TRIES):
        upload = speaker.create(doors.first, 8)
        with speaker.sender(doors.first, upload, 0, 8, last=True) as old:
            old.send(b"1234")
            wait_until(lambda upload=upload: size(doors.server, upload) == 4, what="4 bytes")
            begun = time.monotonic()
            answer = speaker.append(doors.second, upload, 4, b"5678", last=True)
            took.append(time.monotonic() - begun)
            assert answer.status == speaker.finished
            evicted = old.answer("PATCH")
            assert (evicted.status, evicted["Upload-Offset"]) == (409, "4")
        finished(doors.server, upload, b"12345678")
        if took[-1] < 0.5:
            return
    raise AssertionError(f"an idle holder was passed after {took} s")


@contextmanager
def active(speaker: Speaker, port: int, upload: str, total: int) -> Iterator[Raw]:
    """An append whose bytes keep dripping in."""
    stop = threading.Event()
    with speaker.sender(port, upload, 0, total, last=True) as raw:

        def drip() -> None:
            # A holder that was thrown out hears so; whoever looks on says whether that is right.
            with suppress(OSError):
                while not stop.wait(0.01):
                    raw.send(b"x" * 100)

        thread = threading.Thread(target=drip)
        thread.start()
        try:
            yield raw
        finally:
            stop.set()
            thread.join()


@every_protocol
def test_an_active_holder_stays_and_the_newcomer_hears_so(doors: Doors, speaker: Speaker) -> None:
    """A drip that falters on a busy machine is idle, and rightly passed: then once more."""
    answers = []
    for _ in range(TRIES):
        upload = speaker.create(doors.first, MIB)
        with active(speaker, doors.first, upload, MIB):
            wait_until(lambda upload=upload: size(doors.server, upload) > 0, what="bytes")
            answers.append(speaker.append(doors.second, upload, size(doors.server, upload), b"y"))
            if answers[-1].status != 423:
                continue
            assert answers[-1]["Retry-After"] == "1"
            # HEAD passes the holder, and its bytes go on coming.
            seen = speaker.head(doors.second, upload).offset
            assert seen > 0
            wait_until(
                lambda upload=upload, seen=seen: size(doors.server, upload) > seen,
                what="more bytes",
            )
        assert b"y" not in stored(doors.server, upload).read_bytes()
        return
    raise AssertionError(f"an active holder was passed: {answers}")


@every_protocol
def test_eight_contenders_make_one_right_file(doors: Doors, speaker: Speaker) -> None:
    data = random.Random(3).randbytes(240 * KIB)
    upload = speaker.create(doors.first, len(data))
    answers: list[Answer] = []

    def contend(port: int) -> None:
        while (place := speaker.head(port, upload).offset) < len(data):
            piece = data[place : place + 30 * KIB]
            ends = place + len(piece) == len(data)
            answers.append(speaker.append(port, upload, place, piece, last=ends))

    threads = [
        threading.Thread(target=contend, args=(port,))
        for port in (doors.first, doors.second)
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    said = [answer.status for answer in answers]
    assert set(said) <= {speaker.appended, speaker.finished, speaker.overlong, 409, 423}
    assert speaker.appended in said or speaker.finished in said
    finished(doors.server, upload, data)


@every_protocol
def test_removal_ends_a_sender_and_leaves_nothing(doors: Doors, speaker: Speaker) -> None:
    upload = speaker.create(doors.first, MIB)
    with active(speaker, doors.first, upload, MIB) as sender:
        wait_until(lambda: size(doors.server, upload) > 0, what="bytes")
        assert speaker.remove(doors.second, upload).status == 204
        assert sender.answer("PATCH").status in (404, 409)
    assert speaker.ask(doors.second, upload).status == 404
    assert speaker.append(doors.first, upload, 0, b"x").status == 404
    identifier = stored(doors.server, upload).name
    assert not list(stored(doors.server, upload).parent.glob(f"{identifier}*"))


# --- the same again, and the end ---


@every_protocol
def test_the_same_bytes_again_are_a_conflict_that_tells_the_offset(
    server: LiveServer, speaker: Speaker
) -> None:
    upload = speaker.create(server.port, 8)
    for place, piece, right in ((0, b"1234", speaker.appended), (4, b"5678", speaker.finished)):
        last = right == speaker.finished and place == 4
        assert speaker.append(server.port, upload, place, piece, last=last).status == right
        again = speaker.append(server.port, upload, place, piece, last=last)
        assert (again.status, again["Upload-Offset"]) == (409, str(place + 4))
    finished(server, upload, b"12345678")


@every_protocol
@pytest.mark.parametrize("length", [8, None], ids=["known", "deferred"])
def test_a_finished_upload_answers_also_without_its_archive(
    server: LiveServer, speaker: Speaker, length: int | None
) -> None:
    upload = speaker.create(server.port, length)
    assert status(server.port, upload)["protocol"] == speaker.protocol
    assert speaker.append(server.port, upload, 0, b"1234").status == speaker.appended
    assert speaker.head(server.port, upload) == Place(4, length, complete=False)
    assert speaker.append(server.port, upload, 4, b"5678", last=True).status == speaker.finished
    finished(server, upload, b"12345678")
    assert speaker.remove(server.port, upload).status == 204
    assert not stored(server, upload).exists()
    assert speaker.head(server.port, upload) == Place(8, 8, complete=True)
    document = status(server.port, upload)
    assert (document["protocol"], document["offset"]) == (speaker.protocol, 8)


@every_protocol
def test_canceled_is_gone(server: LiveServer, speaker: Speaker) -> None:
    upload = speaker.create(server.port, 8)
    speaker.append(server.port, upload, 0, b"1234")
    identifier = stored(server, upload).name
    assert ask(server.port, "POST", f"/api/uploads/{identifier}/cancel").status == 200
    assert speaker.ask(server.port, upload).status == speaker.gone
    assert speaker.append(server.port, upload, 4, b"5678").status == speaker.gone
    assert not stored(server, upload).exists()
    assert status(server.port, upload)["status"] == "canceled"


@every_protocol
def test_each_byte_renews_the_time_that_an_upload_has(server: LiveServer, speaker: Speaker) -> None:
    """The file's own time is set back, instead of waiting six hours."""
    upload = speaker.create(server.port, 12)
    speaker.append(server.port, upload, 0, b"1234")
    lived = expires_at(server, upload)

    age(server, upload, 5 * HOUR_SECONDS)
    assert lived - expires_at(server, upload) > 4 * HOUR_SECONDS
    assert speaker.head(server.port, upload).offset == 4, "not over yet"

    assert speaker.append(server.port, upload, 4, b"5678").status == speaker.appended
    assert expires_at(server, upload) >= lived

    age(server, upload, 7 * HOUR_SECONDS)
    assert speaker.ask(server.port, upload).status == speaker.gone
    assert speaker.append(server.port, upload, 8, b"9abc").status == speaker.gone
    assert stored(server, upload).read_bytes() == b"12345678"
    assert status(server.port, upload)["status"] == "expired"


def age(server: LiveServer, upload: str, seconds: float) -> None:
    then = time.time() - seconds
    os.utime(stored(server, upload), (then, then))


def expires_at(server: LiveServer, upload: str) -> float:
    return datetime.fromisoformat(status(server.port, upload)["expires_at"]).timestamp()
