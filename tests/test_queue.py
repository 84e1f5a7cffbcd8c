from __future__ import annotations

import random
import uuid

import anyio
import pytest

from hooks.errors import CoordinationLost
from hooks.queue import Delivery, Depth, JobQueue
from hooks.record import Record, Status, utc_now
from hooks.redis import Client, Keys, connect
from hooks.status import StatusStore
from tests.redis_servers import RedisServer, proxied, redis, redis_server, until, written

__all__ = ["redis", "redis_server"]
pytestmark = pytest.mark.anyio

LEASE_SECONDS = 0.2


def record(upload_id: str, status: Status = Status.DONE) -> Record:
    return Record(
        id=upload_id,
        filename="a.tar",
        length=10,
        offset=10,
        protocol="tus",
        owner="local",
        status=status,
        image=None,
        digests={},
        created_at=utc_now(),
        updated_at=utc_now(),
    )


@pytest.fixture
def one(redis: Client) -> JobQueue:
    return JobQueue(redis, f"one-{uuid.uuid4().hex}", lease_seconds=LEASE_SECONDS)


@pytest.fixture
def two(redis: Client) -> JobQueue:
    return JobQueue(redis, f"two-{uuid.uuid4().hex}", lease_seconds=LEASE_SECONDS)


async def claimed(queue: JobQueue, upload_id: str) -> Delivery:
    assert await queue.enqueue(upload_id)
    delivery = await queue.claim(1)
    assert delivery is not None
    assert delivery.upload_id == upload_id
    return delivery


async def taken_over(queue: JobQueue) -> Delivery:
    (pending,) = await queue.pending()
    delivery = await queue.take_over(pending)
    assert delivery is not None
    return delivery


async def test_an_upload_is_in_the_queue_once(one: JobQueue) -> None:
    assert await one.enqueue("a")
    assert not await one.enqueue("a")
    delivery = await one.claim(1)
    assert delivery is not None
    assert (delivery.upload_id, delivery.deliveries) == ("a", 1)
    # Running is in the queue, too.
    assert not await one.enqueue("a")
    assert await one.claim(0) is None
    assert await one.finalize(delivery, record("a"))
    assert await one.enqueue("a")


async def test_a_hundred_at_once_enqueue_one(one: JobQueue) -> None:
    answers: list[bool] = []

    async def enqueue() -> None:
        answers.append(await one.enqueue("a"))

    async with anyio.create_task_group() as tasks:
        for _ in range(100):
            tasks.start_soon(enqueue)
    assert answers.count(True) == 1
    assert (await one.depth()).waiting == 1


async def test_jobs_come_in_order_and_each_to_one(one: JobQueue, two: JobQueue) -> None:
    names = [f"upload-{number}" for number in range(50)]
    for name in names:
        await one.enqueue(name)
    got: dict[str, list[str]] = {"one": [], "two": []}

    async def work(name: str, queue: JobQueue) -> None:
        while (delivery := await queue.claim(0)) is not None:
            got[name].append(delivery.upload_id)
            assert await queue.finalize(delivery, record(delivery.upload_id))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(work, "one", one)
        tasks.start_soon(work, "two", two)
    assert sorted(got["one"] + got["two"]) == sorted(names)
    assert got["one"] == sorted(got["one"], key=names.index)
    assert await one.depth() == Depth(0, 0, 0.0)


async def test_a_waiting_claim_gets_a_job_at_once(one: JobQueue, two: JobQueue) -> None:
    async with anyio.create_task_group() as tasks:

        async def enqueue() -> None:
            await anyio.sleep(0.3)
            await two.enqueue("a")

        tasks.start_soon(enqueue)
        began = anyio.current_time()
        delivery = await one.claim(20)
        assert delivery is not None
        assert anyio.current_time() - began < 1.5


async def test_a_claim_waits_no_longer_than_asked(one: JobQueue) -> None:
    began = anyio.current_time()
    assert await one.claim(0) is None
    assert anyio.current_time() - began < 0.5
    began = anyio.current_time()
    assert await one.claim(2.5) is None
    assert 2.4 < anyio.current_time() - began < 4


async def test_finalize_publishes_and_empties_in_one(redis: Client, one: JobQueue) -> None:
    delivery = await claimed(one, "a")
    assert await one.finalize(delivery, record("a"))
    status = StatusStore(redis)
    kept = await status.get("a")
    assert kept is not None
    assert kept.status is Status.DONE
    assert await redis.xlen(Keys.JOBS) == 0
    assert await redis.hlen(Keys.JOB_IDS) == 0
    everybodys = await redis.xrange(Keys.EVENTS)
    assert await redis.xrange(Keys.upload_events("a")) == everybodys
    assert len(everybodys) == 1
    assert not await one.finalize(delivery, record("a", Status.FAILED))
    assert (await status.get("a")) == kept


async def test_a_zombie_can_do_nothing(redis: Client, one: JobQueue, two: JobQueue) -> None:
    zombie = await claimed(one, "a")
    heir = await taken_over(two)
    assert heir.deliveries == 2
    assert not await one.heartbeat(zombie)
    assert not await one.finalize(zombie, record("a"))
    assert not await one.give_back(zombie)
    assert not await one.drop(zombie)
    assert await StatusStore(redis).get("a") is None
    assert await two.heartbeat(heir)
    assert await two.finalize(heir, record("a"))


async def test_who_takes_over_from_itself_is_another_owner(one: JobQueue) -> None:
    zombie = await claimed(one, "a")
    heir = await taken_over(one)
    assert not await one.heartbeat(zombie)
    assert not await one.finalize(zombie, record("a"))
    assert await one.heartbeat(heir)


async def test_of_many_rivals_one_takes_over(redis: Client, one: JobQueue) -> None:
    await claimed(one, "a")
    rivals = [JobQueue(redis, f"rival-{number}") for number in range(30)]
    (pending,) = await rivals[0].pending()
    won: list[Delivery] = []

    async def take(queue: JobQueue) -> None:
        delivery = await queue.take_over(pending)
        if delivery is not None:
            won.append(delivery)

    async with anyio.create_task_group() as tasks:
        for rival in rivals:
            tasks.start_soon(take, rival)
    assert [delivery.deliveries for delivery in won] == [2]
    (now,) = await one.pending()
    assert now.deliveries == 2


async def test_a_sign_of_life_forbids_to_take_over(one: JobQueue, two: JobQueue) -> None:
    delivery = await claimed(one, "a")
    await anyio.sleep(0.1)
    (pending,) = await two.pending()
    assert pending.idle_seconds >= 0.1
    assert await one.heartbeat(delivery)
    assert await two.take_over(pending) is None
    assert await one.finalize(delivery, record("a"))


async def test_heartbeats_raise_no_count_and_reset_the_idle_time(one: JobQueue) -> None:
    delivery = await claimed(one, "a")
    await anyio.sleep(0.3)
    for _ in range(5):
        assert await one.heartbeat(delivery)
    (pending,) = await one.pending()
    assert pending.deliveries == 1
    assert pending.idle_seconds < 0.25


async def test_each_taking_over_counts(one: JobQueue, two: JobQueue) -> None:
    await claimed(one, "a")
    for expected in range(2, 7):
        delivery = await taken_over(two if expected % 2 == 0 else one)
        assert delivery.deliveries == expected


async def test_given_back_goes_to_a_waiting_other_at_once(one: JobQueue, two: JobQueue) -> None:
    await claimed(one, "a")
    second = await taken_over(one)
    got: list[Delivery | None] = []

    async def wait() -> None:
        got.append(await two.claim(10))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(wait)
        await anyio.sleep(0.2)
        began = anyio.current_time()
        assert await one.give_back(second)
    assert anyio.current_time() - began < 1
    (delivery,) = got
    assert delivery is not None
    # As if the second delivery had not been.
    assert (delivery.upload_id, delivery.deliveries) == ("a", 2)
    assert delivery.entry_id != second.entry_id
    assert not await one.heartbeat(second)
    assert not await one.enqueue("a")
    assert await two.heartbeat(delivery)
    heir = await taken_over(one)
    assert heir.deliveries == 3
    assert await one.finalize(heir, record("a"))
    assert await one.depth() == Depth(0, 0, 0.0)


async def test_withdraw_only_what_nobody_has(one: JobQueue, two: JobQueue) -> None:
    assert not await one.withdraw("a")
    await one.enqueue("a")
    assert await two.withdraw("a")
    assert not await two.withdraw("a")
    assert await one.claim(0) is None
    delivery = await claimed(one, "a")
    assert not await two.withdraw("a")
    assert await one.give_back(delivery)
    assert await two.withdraw("a")
    assert await one.enqueue("a")


async def test_withdraw_or_claim_never_both(one: JobQueue, two: JobQueue) -> None:
    for number in range(100):
        upload_id = f"upload-{number}"
        await one.enqueue(upload_id)
        results: dict[str, bool] = {}

        async def withdraw(upload_id: str = upload_id, results: dict[str, bool] = results) -> None:
            results["withdrawn"] = await two.withdraw(upload_id)

        async def claim(results: dict[str, bool] = results) -> None:
            delivery = await one.claim(0)
            results["claimed"] = delivery is not None
            if delivery is not None:
                await one.drop(delivery)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(withdraw)
            tasks.start_soon(claim)
        assert results["withdrawn"] != results["claimed"]


async def test_a_dropped_job_leaves_no_trace(redis: Client, one: JobQueue) -> None:
    delivery = await claimed(one, "a")
    assert await one.drop(delivery)
    assert not await one.drop(delivery)
    assert await one.depth() == Depth(0, 0, 0.0)
    assert await redis.hlen(Keys.JOB_IDS) == 0
    assert await StatusStore(redis).get("a") is None


async def test_depth(one: JobQueue) -> None:
    assert await one.depth() == Depth(0, 0, 0.0)
    for name in "abc":
        await one.enqueue(name)
    await anyio.sleep(0.2)
    depth = await one.depth()
    assert (depth.waiting, depth.running) == (3, 0)
    assert 0.2 <= depth.oldest_age_seconds < 10
    delivery = await one.claim(0)
    assert delivery is not None
    depth = await one.depth()
    assert (depth.waiting, depth.running) == (2, 1)
    # Given back it is the last in the row, but as old as it is.
    await one.withdraw("b")
    await one.withdraw("c")
    assert await one.give_back(delivery)
    depth = await one.depth()
    assert (depth.waiting, depth.running) == (1, 0)
    assert depth.oldest_age_seconds >= 0.2


async def test_flushall_in_the_middle(redis: Client, one: JobQueue, two: JobQueue) -> None:
    held = await claimed(one, "a")
    await one.enqueue("b")
    await redis.flushall()
    assert not await one.heartbeat(held)
    assert not await one.finalize(held, record("a"))
    assert await one.pending() == []
    assert await one.depth() == Depth(0, 0, 0.0)
    assert not await one.withdraw("b")
    # The disk tells it again.
    assert await two.enqueue("a")
    assert await two.enqueue("b")
    delivery = await two.claim(1)
    assert delivery is not None
    assert delivery.upload_id == "a"
    assert not await one.heartbeat(held)
    assert await two.finalize(delivery, record("a"))


async def test_flushall_under_a_waiting_claim(redis: Client, one: JobQueue, two: JobQueue) -> None:
    await one.claim(0)
    async with anyio.create_task_group() as tasks:

        async def forget() -> None:
            await anyio.sleep(0.3)
            await redis.flushall()
            await two.enqueue("a")

        tasks.start_soon(forget)
        delivery = await one.claim(10)
    assert delivery is not None
    assert delivery.upload_id == "a"


async def test_a_killed_redis_keeps_the_queue(redis_server: RedisServer, redis: Client) -> None:
    one, two = JobQueue(redis, "one"), JobQueue(redis, "two")
    running = await claimed(one, "a")
    await taken_over(two)
    again = await taken_over(one)
    assert again.deliveries == 3
    await one.enqueue("b")
    await written(redis)
    redis_server.kill()
    redis_server.start()
    assert not await one.heartbeat(running)
    assert await one.heartbeat(again)
    assert not await one.enqueue("a")
    depth = await one.depth()
    assert (depth.waiting, depth.running) == (1, 1)
    waiting = await two.claim(1)
    assert waiting is not None
    assert (waiting.upload_id, waiting.deliveries) == ("b", 1)
    assert await one.finalize(again, record("a"))
    status = StatusStore(redis)
    await written(redis)
    redis_server.kill()
    redis_server.start()
    assert await one.enqueue("a")
    kept = await status.get("a")
    assert kept is not None
    assert kept.status is Status.DONE
    assert await two.finalize(waiting, record("b"))


async def test_commands_wait_for_a_redis_that_is_away(
    redis_server: RedisServer, one: JobQueue
) -> None:
    redis_server.kill()
    answers: list[bool] = []

    async def enqueue() -> None:
        answers.append(await one.enqueue("a"))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(enqueue)
        await anyio.sleep(2)
        assert answers == []
        await anyio.to_thread.run_sync(redis_server.start)
    assert answers == [True]


async def test_a_claim_outlasts_a_restart_of_redis(
    redis_server: RedisServer, redis: Client, one: JobQueue
) -> None:
    got: list[Delivery | None] = []

    async def wait() -> None:
        got.append(await one.claim(20))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(wait)
        await until(lambda: _has_group(redis))
        redis_server.kill()
        await anyio.to_thread.run_sync(redis_server.start)
        await JobQueue(redis, "other").enqueue("a")
    assert got[0] is not None


async def test_every_job_ends_while_redis_is_killed_again_and_again(
    redis_server: RedisServer, redis: Client
) -> None:
    # What Redis loses with its last moments comes back from disk, which here is `open_jobs`.
    open_jobs = {f"upload-{number}" for number in range(100)}
    chance = random.Random(3)

    async def work(name: str) -> None:
        queue = JobQueue(redis, name, lease_seconds=0.5)
        while open_jobs:
            delivery = await queue.claim(0.2)
            for pending in await queue.pending():
                if delivery is None and pending.idle_seconds > queue.lease_seconds:
                    delivery = await queue.take_over(pending)
            if delivery is None:
                continue
            await anyio.sleep(0.02)
            if chance.random() < 0.1:
                # As if killed.
                continue
            if await queue.finalize(delivery, record(delivery.upload_id)):
                open_jobs.discard(delivery.upload_id)

    async def tell_again() -> None:
        queue = JobQueue(redis, "disk")
        while open_jobs:
            for upload_id in sorted(open_jobs):
                await queue.enqueue(upload_id)
            await anyio.sleep(0.5)

    with anyio.fail_after(60):
        async with anyio.create_task_group() as tasks:
            for number in range(4):
                tasks.start_soon(work, f"worker-{number}")
            tasks.start_soon(tell_again)
            for _ in range(4):
                await anyio.sleep(chance.random())
                redis_server.kill()
                await anyio.to_thread.run_sync(redis_server.start)


async def _has_group(redis: Client) -> bool:
    return bool(await redis.exists(Keys.JOBS))


async def test_redis_away_for_good_is_coordination_lost(redis_server: RedisServer) -> None:
    redis = connect(redis_server.url, patience_seconds=0.5)
    queue = JobQueue(redis, "one")
    await queue.enqueue("a")
    redis_server.kill()
    for call in (queue.claim(1), queue.enqueue("b"), queue.pending(), queue.depth()):
        with pytest.raises(CoordinationLost) as lost:
            await call
        assert "s3cr3t" not in str(lost.value) + lost.value.hint
    await redis.aclose()


async def test_what_is_not_ours_in_the_stream_is_thrown_out(redis: Client, one: JobQueue) -> None:
    await one.claim(0)
    await redis.xadd(Keys.JOBS, {"nonsense": "1"})
    await one.enqueue("a")
    delivery = await one.claim(1)
    assert delivery is not None
    assert delivery.upload_id == "a"
    await redis.xadd(Keys.JOBS, {"nonsense": "2"})
    await redis.xreadgroup(Keys.JOB_GROUP, "somebody", {Keys.JOBS: ">"})
    (pending,) = await one.pending()
    assert pending.entry_id == delivery.entry_id
    assert await redis.xlen(Keys.JOBS) == 1


async def test_an_id_whose_entry_is_gone_is_enqueued_again(redis: Client, one: JobQueue) -> None:
    await one.enqueue("a")
    await redis.delete(Keys.JOBS)
    assert await one.enqueue("a")
    delivery = await one.claim(1)
    assert delivery is not None


async def test_consumers_long_gone_are_forgotten_but_never_with_a_job(redis: Client) -> None:
    for number in range(5):
        gone = JobQueue(redis, f"gone-{number}")
        assert await gone.drop(await claimed(gone, f"upload-{number}"))
    holder = JobQueue(redis, "holder")
    delivery = await claimed(holder, "a")
    living = JobQueue(redis, "living", lease_seconds=0.01)

    async def names() -> set[str]:
        return {row["name"] for row in await redis.xinfo_consumers(Keys.JOBS, Keys.JOB_GROUP)}

    async def forgotten() -> bool:
        await living.pending()
        return await names() == {"holder"}

    assert len(await names()) == 6
    await until(forgotten)
    assert await holder.heartbeat(delivery)


async def test_a_finalize_whose_answer_is_lost_is_true(
    redis_server: RedisServer, redis: Client
) -> None:
    with proxied(redis_server) as (proxy, url):
        client = connect(url)
        queue = JobQueue(client, "one")
        delivery = await claimed(queue, "a")
        proxy.lose_answer_after(0)
        assert await queue.finalize(delivery, record("a"))
        assert proxy.connections > 1
        await client.aclose()
    assert await redis.xlen(Keys.EVENTS) == 1


async def test_a_taking_over_whose_answer_is_lost_is_true_and_counts_once(
    redis_server: RedisServer, one: JobQueue
) -> None:
    await claimed(one, "a")
    with proxied(redis_server) as (proxy, url):
        client = connect(url)
        queue = JobQueue(client, "two")
        (pending,) = await queue.pending()
        proxy.lose_answer_after(0)
        delivery = await queue.take_over(pending)
        assert proxy.connections > 1
        assert delivery is not None
        assert await queue.heartbeat(delivery)
        await client.aclose()
    (pending,) = await one.pending()
    assert pending.deliveries == 2
