"""Followers: exact, bounded, prompt, and never ahead of what is proven."""

from __future__ import annotations

import hashlib
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import anyio
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hooks.follow import BLOCK_BYTES, DigestFollower, Ending, Follower
from hooks.ports import Digests, Growth
from tests.disk_uploads import digests_of, readers_of

MIB = 1024**2
# Another program may take a core for a moment; what holds once, holds.
TRIES = 12


class GrowingFile:
    """A file, and how much of it counts as proven (all of it, unless a test says less)."""

    def __init__(self, path: Path, length: int | None) -> None:
        self.path = path
        self.length = length
        self.proven: int | None = None
        self.measured = 0
        path.touch()

    def measure(self) -> Growth | None:
        self.measured += 1
        try:
            size = self.path.stat().st_size
        except FileNotFoundError:
            return None
        return Growth(self.length, size if self.proven is None else self.proven)

    def append(self, block: bytes) -> None:
        with self.path.open("ab") as file:
            file.write(block)


class Seen:
    """A sink that keeps everything."""

    def __init__(self) -> None:
        self.data = bytearray()

    def update(self, block: memoryview, /) -> None:
        self.data += block


@contextmanager
def following(follower: Follower) -> Iterator[Callable[[], Ending]]:
    """Run it in a thread; the value waits for its end."""
    endings: list[Ending] = []
    thread = threading.Thread(target=lambda: endings.append(follower.follow()))
    thread.start()

    def ending() -> Ending:
        thread.join(30)
        assert not thread.is_alive()
        return endings[0]

    try:
        yield ending
    finally:
        follower.stop()
        thread.join(30)


def wait_until(condition: Callable[[], bool], seconds: float = 10.0) -> None:
    give_up_at = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < give_up_at
        time.sleep(0.005)


def resident_bytes() -> int:
    pages = Path("/proc/self/statm").read_text().split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


async def digest(path: Path, measure: Callable[[], Growth | None]) -> Digests | Ending:
    return await DigestFollower(path, measure).digests(anyio.CapacityLimiter(1))


@settings(
    max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    blocks=st.lists(
        st.tuples(st.integers(0, 3 * BLOCK_BYTES), st.sampled_from([0.0, 0.0, 0.001, 0.03])),
        max_size=8,
    )
)
def test_digest_equals_the_file_however_it_grows(
    tmp_path: Path, blocks: list[tuple[int, float]]
) -> None:
    file = GrowingFile(tmp_path / os.urandom(4).hex(), sum(size for size, _ in blocks))

    def write() -> None:
        for size, pause_seconds in blocks:
            file.append(os.urandom(size))
            time.sleep(pause_seconds)

    writer = threading.Thread(target=write)
    writer.start()
    found = anyio.run(digest, file.path, file.measure)
    writer.join()
    assert found == digests_of(file.path)
    file.path.unlink()


def test_every_sink_sees_every_byte_in_order(tmp_path: Path) -> None:
    file = GrowingFile(tmp_path / "data", None)
    sinks = [Seen(), Seen(), Seen()]
    with following(Follower(file.path, file.measure, sinks)) as ending:
        for size in (1, BLOCK_BYTES - 1, BLOCK_BYTES + 1, 5 * BLOCK_BYTES):
            file.append(os.urandom(size))
            time.sleep(0.01)
        file.length = file.path.stat().st_size
        assert ending() is Ending.COMPLETE
    assert all(sink.data == file.path.read_bytes() for sink in sinks)


def test_bytes_that_are_not_proven_are_not_read(tmp_path: Path) -> None:
    file = GrowingFile(tmp_path / "data", 3 * MIB)
    file.proven = MIB
    file.append(bytes(2 * MIB))
    follower = DigestFollower(file.path, file.measure)
    with following(follower) as ending:
        wait_until(lambda: follower.position == MIB)
        # The checksum did not match: the bytes go, and others come in their place.
        os.truncate(file.path, MIB)
        file.append(b"x" * 2 * MIB)
        looks = file.measured
        wait_until(lambda: file.measured > looks + 2)
        assert follower.position == MIB
        file.proven = 3 * MIB
        assert ending() is Ending.COMPLETE
    assert anyio.run(digest, file.path, file.measure) == digests_of(file.path)


def test_a_file_that_shrank_gives_no_digest(tmp_path: Path) -> None:
    file = GrowingFile(tmp_path / "data", 4 * MIB)
    file.append(bytes(2 * MIB))
    follower = DigestFollower(file.path, file.measure)
    with following(follower) as ending:
        wait_until(lambda: follower.position == 2 * MIB)
        os.truncate(file.path, MIB)
        assert ending() is Ending.CUT


def test_a_file_that_is_shorter_than_proven_gives_no_digest(tmp_path: Path) -> None:
    file = GrowingFile(tmp_path / "data", 2 * MIB)
    file.proven = 2 * MIB
    file.append(bytes(MIB))
    assert anyio.run(digest, file.path, file.measure) is Ending.CUT


def test_a_file_that_was_removed_gives_no_digest(tmp_path: Path) -> None:
    file = GrowingFile(tmp_path / "data", 2 * MIB)
    file.append(bytes(MIB))
    follower = DigestFollower(file.path, file.measure)
    with following(follower) as ending:
        wait_until(lambda: follower.position == MIB)
        file.path.unlink()
        assert ending() is Ending.GONE


def test_a_file_that_was_replaced_gives_no_digest(tmp_path: Path) -> None:
    file = GrowingFile(tmp_path / "data", 2 * MIB)
    file.append(bytes(MIB))
    follower = DigestFollower(file.path, file.measure)
    with following(follower) as ending:
        wait_until(lambda: follower.position == MIB)
        other = tmp_path / "other"
        other.write_bytes(b"x" * 2 * MIB)
        other.replace(file.path)
        assert ending() is Ending.GONE


def test_a_file_that_never_was_gives_no_digest(tmp_path: Path) -> None:
    assert anyio.run(digest, tmp_path / "none", lambda: Growth(1, 1)) is Ending.GONE


def test_an_empty_file_has_the_digest_of_nothing(tmp_path: Path) -> None:
    file = GrowingFile(tmp_path / "data", 0)
    assert anyio.run(digest, file.path, file.measure) == digests_of(file.path)


def test_an_idle_file_is_let_go(tmp_path: Path) -> None:
    file = GrowingFile(tmp_path / "data", MIB)
    with following(DigestFollower(file.path, file.measure, idle_seconds=0.2)) as ending:
        assert ending() is Ending.IDLE


def test_an_idle_file_is_looked_at_seldom_and_at_once_when_told(tmp_path: Path) -> None:
    file = GrowingFile(tmp_path / "data", 1)
    follower = DigestFollower(file.path, file.measure)
    with following(follower) as ending:
        time.sleep(2.0)
        looks = file.measured
        time.sleep(1.0)
        assert file.measured - looks <= 5
        file.append(b"x")
        told_at = time.monotonic()
        follower.wake()
        assert ending() is Ending.COMPLETE
    assert time.monotonic() - told_at < 0.2


def test_a_failing_sink_ends_the_run_with_its_error(tmp_path: Path) -> None:
    class Broken:
        def update(self, block: memoryview, /) -> None:
            raise OSError(f"no more than {len(block)}")

    file = GrowingFile(tmp_path / "data", 4 * BLOCK_BYTES)
    file.append(bytes(4 * BLOCK_BYTES))
    threads = threading.active_count()
    with pytest.raises(OSError, match="no more than"):
        Follower(file.path, file.measure, [Seen(), Broken()]).follow()
    assert threading.active_count() == threads


def test_progress_counts_up_to_the_whole(tmp_path: Path) -> None:
    file = GrowingFile(tmp_path / "data", 5 * BLOCK_BYTES + 7)
    file.append(bytes(5 * BLOCK_BYTES + 7))
    steps: list[tuple[int, int]] = []
    DigestFollower(file.path, file.measure, progress=lambda *step: steps.append(step)).follow()
    assert steps == sorted(steps)
    assert steps[-1] == (file.length, file.length)


@pytest.mark.anyio
async def test_cancelling_ends_the_thread_at_once(tmp_path: Path) -> None:
    file = GrowingFile(tmp_path / "data", 2 * MIB)
    file.append(bytes(MIB))
    follower = DigestFollower(file.path, file.measure)
    with anyio.move_on_after(0.5) as scope:
        await follower.digests(anyio.CapacityLimiter(1))
    cancelled_at = anyio.current_time()
    assert scope.cancelled_caught
    assert cancelled_at - scope.deadline < 0.2
    assert readers_of(file.path) == 0


@pytest.mark.anyio
async def test_cancelling_in_the_middle_of_a_large_file_is_prompt(tmp_path: Path) -> None:
    path = tmp_path / "data"
    with path.open("wb") as file:
        file.truncate(64 * 1024 * MIB)
    whole = Growth(64 * 1024 * MIB, 64 * 1024 * MIB)
    with anyio.move_on_after(0.3) as scope:
        await digest(path, lambda: whole)
    assert scope.cancelled_caught
    assert anyio.current_time() - scope.deadline < 0.2


def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    path = tmp_path / "data"
    with path.open("wb") as file:
        file.truncate(512 * MIB)
    whole = Growth(512 * MIB, 512 * MIB)
    before = resident_bytes()
    most = 0

    def progress(*_: int) -> None:
        nonlocal most
        most = max(most, resident_bytes())

    DigestFollower(path, lambda: whole, progress=progress).follow()
    assert most - before < 24 * MIB


def _rate_mib() -> int:
    """MiB a second to send: 300, or less where md5 does not get the cores for that just now."""
    began_at = time.monotonic()
    hashlib.md5(bytes(64 * MIB), usedforsecurity=False)
    return min(300, int(0.4 * 64 / (time.monotonic() - began_at)))


def _lag_seconds(path: Path, source: bytes) -> float:
    """How long after the last byte of an upload that takes 0.8 s the digests were there."""
    rate = _rate_mib()
    blocks = int(0.8 * rate)
    file = GrowingFile(path, blocks * MIB)
    ended_at = 0.0

    def write() -> None:
        nonlocal ended_at
        began_at = time.monotonic()
        with file.path.open("wb", buffering=0) as out:
            for sent in range(blocks):
                out.write(source)
                time.sleep(max(0, began_at + (sent + 1) / rate - time.monotonic()))
        ended_at = time.monotonic()

    writer = threading.Thread(target=write)
    writer.start()
    found = anyio.run(digest, file.path, file.measure)
    lag = time.monotonic() - ended_at
    writer.join()
    assert isinstance(found, Digests)
    file.path.unlink()
    return lag


def test_digests_are_there_moments_after_the_last_byte(tmp_path: Path) -> None:
    source = os.urandom(MIB)
    lags = (_lag_seconds(tmp_path / str(number), source) for number in range(TRIES))
    assert any(lag <= 0.2 for lag in lags)


def test_sinks_work_at_the_same_time_while_the_next_block_is_read(tmp_path: Path) -> None:
    class Meeting:
        """Goes on only when the other one works, too."""

        def update(self, block: memoryview, /) -> None:
            # Nobody comes: BrokenBarrierError, and the run fails.
            meeting.wait(10)
            release.wait(10)

    meeting, release = threading.Barrier(2), threading.Event()
    file = GrowingFile(tmp_path / "data", 4 * BLOCK_BYTES)
    file.append(bytes(4 * BLOCK_BYTES))
    follower = Follower(file.path, file.measure, [Meeting(), Meeting()])
    with following(follower) as ending:
        wait_until(lambda: follower.position == 2 * BLOCK_BYTES)
        time.sleep(0.1)
        # Two blocks of memory: the third has to wait until the first is taken.
        assert follower.position == 2 * BLOCK_BYTES
        release.set()
        assert ending() is Ending.COMPLETE
