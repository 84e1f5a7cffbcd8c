"""Followers: exact, bounded, prompt, and never ahead of what is proven."""

from __future__ import annotations

import hashlib
import os
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path

import anyio
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hooks.follow import BLOCK_BYTES, DigestFollower, Ending, Follower
from hooks.following import Following, lease_name
from hooks.ports import Digests, Growth
from tests.redis_servers import until
from tests.workers import Bench, Setup, bench, one_redis, setup

__all__ = ["one_redis", "setup"]

MIB = 1024**2
# Another program may take a core for a moment; what holds once, holds.
TRIES = 4


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


def readers_of(path: Path) -> int:
    """Descriptors of this process that are open for the file."""
    found = 0
    for descriptor in Path("/proc/self/fd").iterdir():
        with suppress(FileNotFoundError):
            found += descriptor.readlink() == path
    return found


def resident_bytes() -> int:
    pages = Path("/proc/self/statm").read_text().split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


def digests_of(path: Path) -> Digests:
    data = path.read_bytes()
    return Digests(len(data), hashlib.md5(data).hexdigest(), hashlib.sha256(data).hexdigest())  # noqa: S324


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


def _lag_seconds(path: Path, source: bytes, mib_per_second: int) -> float:
    """How long after the last of 512 MiB, sent at that rate, the digests were there."""
    file = GrowingFile(path, 512 * MIB)
    ended_at = 0.0

    def write() -> None:
        nonlocal ended_at
        began_at = time.monotonic()
        with file.path.open("wb", buffering=0) as out:
            for sent in range(512):
                out.write(source)
                time.sleep(max(0, began_at + (sent + 1) / mib_per_second - time.monotonic()))
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
    lags = (_lag_seconds(tmp_path / str(number), source, 300) for number in range(TRIES))
    assert any(lag <= 0.2 for lag in lags)


@pytest.mark.slow
def test_two_digests_cost_less_time_than_one_after_the_other(tmp_path: Path) -> None:
    path = tmp_path / "data"
    path.write_bytes(os.urandom(256 * MIB))
    data = path.read_bytes()
    whole = Growth(256 * MIB, 256 * MIB)

    def seconds(work: Callable[[], object]) -> float:
        began_at = time.monotonic()
        work()
        return time.monotonic() - began_at

    for _ in range(TRIES):
        apart = seconds(lambda: (hashlib.md5(data), hashlib.sha256(data)))  # noqa: S324
        together = seconds(lambda: anyio.run(digest, path, lambda: whole))
        if together < apart:
            return
    raise AssertionError(f"together {together:.2f} s, one after the other {apart:.2f} s")


# Who follows what.


@asynccontextmanager
async def followings(*many: Following) -> AsyncIterator[None]:
    async with anyio.create_task_group() as tasks:
        for one in many:
            tasks.start_soon(one.run)
        # Until each has begun, it takes no upload.
        await anyio.sleep(0.05)
        yield
        tasks.cancel_scope.cancel()


async def followed(parts: Bench, *ids: str, readers: int = 1) -> None:
    """Return once so many descriptors are open for each upload."""

    async def open_now() -> bool:
        return all(readers_of(parts.uploads.data(one)) == readers for one in ids)

    await until(open_now)


async def has_digests(parts: Bench, upload_id: str) -> Digests:
    found: list[Digests] = []

    async def there() -> bool:
        upload = await parts.uploads.get(upload_id)
        digests = await upload.digests() if upload else None
        found.extend([digests] if digests else [])
        return bool(found)

    await until(there)
    return found[0]


@pytest.mark.anyio
async def test_a_growing_upload_is_followed_to_its_digests(setup: Setup) -> None:
    async with bench(setup) as parts:
        following = Following(parts.uploads, parts.leases)
        async with followings(following):
            upload_id = parts.uploads.create(2 * MIB)
            parts.uploads.append(upload_id, os.urandom(MIB))
            following.grew(upload_id)
            await followed(parts, upload_id)
            assert await parts.leases.held(lease_name(upload_id))
            parts.uploads.append(upload_id, os.urandom(MIB))
            following.grew(upload_id)
            found = await has_digests(parts, upload_id)
            assert found == digests_of(parts.uploads.data(upload_id))
            await followed(parts, upload_id, readers=0)

            async def dropped() -> bool:
                return not await parts.leases.held(lease_name(upload_id))

            await until(dropped)


@pytest.mark.anyio
async def test_of_many_workers_one_follows_an_upload(setup: Setup) -> None:
    async with bench(setup, "one") as one, bench(setup, "two") as two:
        many = [Following(parts.uploads, parts.leases) for parts in (one, two)]
        async with followings(*many):
            upload_id = one.uploads.create(MIB)
            for _ in range(5):
                for following in many:
                    following.grew(upload_id)
                await anyio.sleep(0.05)
                assert readers_of(one.uploads.data(upload_id)) == 1


@pytest.mark.anyio
async def test_no_more_are_followed_than_allowed(setup: Setup) -> None:
    async with bench(setup) as parts:
        following = Following(parts.uploads, parts.leases, limit=2)
        async with followings(following):
            ids = [parts.uploads.create(1) for _ in range(3)]
            for upload_id in ids:
                following.grew(upload_id)
            await followed(parts, *ids[:2])
            await followed(parts, ids[2], readers=0)
            parts.uploads.append(ids[0], b"x")
            following.grew(ids[0])
            await has_digests(parts, ids[0])
            await followed(parts, ids[0], readers=0)
            following.grew(ids[2])
            await followed(parts, ids[2])


@pytest.mark.anyio
async def test_an_idle_upload_is_let_go_and_followed_anew(setup: Setup) -> None:
    async with bench(setup) as parts:
        following = Following(parts.uploads, parts.leases, idle_seconds=0.3)
        async with followings(following):
            upload_id = parts.uploads.create(2 * MIB)
            parts.uploads.append(upload_id, os.urandom(MIB))
            following.grew(upload_id)
            await followed(parts, upload_id)
            await followed(parts, upload_id, readers=0)
            parts.uploads.append(upload_id, os.urandom(MIB // 2))
            following.grew(upload_id)
            await followed(parts, upload_id)
            parts.uploads.append(upload_id, os.urandom(MIB // 2))
            found = await has_digests(parts, upload_id)
            assert found == digests_of(parts.uploads.data(upload_id))


@pytest.mark.anyio
async def test_what_is_whole_gone_or_unknown_is_not_followed(setup: Setup) -> None:
    async with bench(setup) as parts:
        following = Following(parts.uploads, parts.leases)
        async with followings(following):
            whole = parts.uploads.create(3)
            parts.uploads.append(whole, b"abc")
            for upload_id in (whole, "f" * 32):
                following.grew(upload_id)
                await anyio.sleep(0.2)
                assert not await parts.leases.held(lease_name(upload_id))
                assert parts.uploads.read(upload_id, "digest") is None


@pytest.mark.anyio
async def test_an_upload_removed_while_it_is_followed_leaves_nothing(setup: Setup) -> None:
    async with bench(setup) as parts:
        following = Following(parts.uploads, parts.leases)
        async with followings(following):
            upload_id = parts.uploads.create(2)
            following.grew(upload_id)
            await followed(parts, upload_id)
            parts.uploads.beside(upload_id, "info").unlink()
            parts.uploads.data(upload_id).unlink()

            async def let_go() -> bool:
                return not await parts.leases.held(lease_name(upload_id))

            await until(let_go)
            assert parts.uploads.read(upload_id, "digest") is None


@pytest.mark.anyio
async def test_a_worker_that_ends_lets_go_of_what_it_follows(setup: Setup) -> None:
    async with bench(setup) as parts:
        following = Following(parts.uploads, parts.leases)
        async with followings(following):
            upload_id = parts.uploads.create(2)
            following.grew(upload_id)
            await followed(parts, upload_id)
        assert readers_of(parts.uploads.data(upload_id)) == 0
        assert not await parts.leases.held(lease_name(upload_id))


@pytest.mark.anyio
async def test_a_lease_that_somebody_else_has_ends_the_follower(setup: Setup) -> None:
    async with bench(setup, "one") as one, bench(setup, "two") as two:
        following = Following(one.uploads, one.leases, lease_seconds=0.6)
        async with followings(following):
            upload_id = one.uploads.create(2)
            following.grew(upload_id)
            await followed(one, upload_id)
            # Redis forgets, and another worker is faster.
            await one.redis.flushall()
            assert await two.leases.take(lease_name(upload_id), 30)
            await followed(one, upload_id, readers=0)
            assert await two.leases.held(lease_name(upload_id))


@pytest.mark.anyio
async def test_a_lease_that_redis_forgot_is_taken_again(setup: Setup) -> None:
    async with bench(setup) as parts:
        following = Following(parts.uploads, parts.leases, lease_seconds=0.6)
        async with followings(following):
            upload_id = parts.uploads.create(2)
            following.grew(upload_id)
            await followed(parts, upload_id)
            await parts.redis.flushall()

            async def held() -> bool:
                return await parts.leases.held(lease_name(upload_id))

            await until(held)
            assert readers_of(parts.uploads.data(upload_id)) == 1
