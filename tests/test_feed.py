from __future__ import annotations

import random
from collections.abc import AsyncIterator

import anyio
import pytest

from hooks.errors import CoordinationLost
from hooks.feed import Event, EventFeed, Subscription
from hooks.redis import Client, Keys, connect
from hooks.status import StatusStore
from tests.redis_servers import RedisServer, redis, redis_server, until

__all__ = ["redis", "redis_server"]
pytestmark = pytest.mark.anyio


@pytest.fixture
async def feed(redis: Client) -> AsyncIterator[EventFeed]:
    """A feed that is read."""
    feed = EventFeed(redis)
    async with anyio.create_task_group() as tasks:
        await tasks.start(feed.run)
        yield feed
        tasks.cancel_scope.cancel()


@pytest.fixture
def status(redis: Client) -> StatusStore:
    return StatusStore(redis)


async def say(status: StatusStore, *lines: object, upload_id: str = "a") -> None:
    for line in lines:
        await status.log(upload_id, "team", "push", str(line))


async def take(subscription: Subscription, count: int, seconds: float = 20) -> list[Event]:
    with anyio.fail_after(seconds):
        return [await anext(subscription) for _ in range(count)]


def lines(events: list[Event]) -> list[str]:
    return [event.data["line"] for event in events]


async def nothing_comes(subscription: Subscription) -> bool:
    with anyio.move_on_after(0.3):
        await anext(subscription)
        return False
    return True


async def test_a_subscriber_hears_only_what_is_new(feed: EventFeed, status: StatusStore) -> None:
    await say(status, "old")
    async with feed.subscribe() as subscription:
        await say(status, "new")
        (event,) = await take(subscription, 1)
        assert (event.upload_id, event.owner, event.type) == ("a", "team", "log")
        assert event.data == {"id": "a", "step": "push", "line": "new"}
        assert await nothing_comes(subscription)


async def test_a_subscriber_of_one_upload_hears_nothing_else(
    feed: EventFeed, status: StatusStore
) -> None:
    await say(status, 1, 2)
    await say(status, 1, 2, upload_id="b")
    async with feed.subscribe(upload_id="a") as fresh, feed.subscribe("0", "a") as all_of_it:
        await say(status, 3, upload_id="b")
        await say(status, 3)
        assert lines(await take(fresh, 1)) == ["3"]
        assert lines(await take(all_of_it, 3)) == ["1", "2", "3"]
        assert await nothing_comes(fresh)
        assert await nothing_comes(all_of_it)


async def test_an_event_id_means_the_same_in_both_streams(
    feed: EventFeed, status: StatusStore
) -> None:
    async with feed.subscribe() as subscription:
        for number in range(10):
            await say(status, number, upload_id="ab"[number % 2])
        seen = await take(subscription, 10)
    for event in seen:
        number = int(event.data["line"])
        expected = [str(later) for later in range(number + 1, 10)]
        async with feed.subscribe(event.id) as everybodys:
            assert lines(await take(everybodys, len(expected))) == expected
        async with feed.subscribe(event.id, "a") as own:
            expected = [line for line in expected if int(line) % 2 == 0]
            assert lines(await take(own, len(expected))) == expected


@pytest.mark.parametrize("after", ["", "nonsense", "1-", "-1", "1-2-3", "٣", "9" * 40, "$", "+"])
async def test_what_is_no_event_id_begins_now(
    feed: EventFeed, status: StatusStore, after: str
) -> None:
    await say(status, "old")
    async with feed.subscribe(after) as subscription:
        await say(status, "new")
        assert lines(await take(subscription, 1)) == ["new"]


async def test_no_gap_and_no_repetition_while_many_write(
    redis: Client, feed: EventFeed, status: StatusStore
) -> None:
    # Subscribers come at all times, take up at random events, and read at their own pace.
    writers, each = 4, 300
    heard: list[tuple[str, list[Event]]] = []
    chance = random.Random(7)
    everything: list[str] = []

    async def write(writer: int) -> None:
        for number in range(each):
            await say(status, f"{writer}:{number}", upload_id=f"upload-{writer}")

    async def listen(after: str, upload_id: str | None) -> None:
        events: list[Event] = []
        heard.append((after, events))
        async with feed.subscribe(after, upload_id) as subscription:
            async for event in subscription:
                events.append(event)
                if event.data["line"] == "end":
                    return
                if chance.random() < 0.01:
                    await anyio.sleep(0.05)

    async def watch() -> None:
        async with anyio.create_task_group() as listeners:
            for round_number in range(20):
                await anyio.sleep(0.05)
                newest = await feed.newest_id()
                listeners.start_soon(listen, newest, None)
                listeners.start_soon(listen, "0-0", f"upload-{round_number % writers}")
                listeners.start_soon(listen, "0-0", None)
            async with anyio.create_task_group() as tasks:
                for writer in range(writers):
                    tasks.start_soon(write, writer)
            for writer in range(writers):
                await say(status, "end", upload_id=f"upload-{writer}")
            everything.extend(f"{entry_id}" for entry_id, _ in await redis.xrange(Keys.EVENTS))

    async with anyio.create_task_group() as tasks:
        for writer in range(writers):
            tasks.start_soon(write, writer)
        tasks.start_soon(watch)
    assert len(heard) == 60
    order = {entry_id: place for place, entry_id in enumerate(everything)}
    for _, events in heard:
        places = [order[event.id] for event in events]
        owners = {event.upload_id for event in events}
        if len(owners) > 1:
            assert places == list(range(places[0], places[0] + len(places)))
        else:
            assert len(set(places)) == len(places) == 2 * each + 1
            assert places == sorted(places)
    for after, events in heard:
        if after != "0-0":
            assert order[events[0].id] == order.get(after, -1) + 1


async def test_a_slow_subscriber_costs_no_memory_and_misses_nothing(
    feed: EventFeed, status: StatusStore
) -> None:
    count = 3500
    async with feed.subscribe() as slow, feed.subscribe() as quick:
        await say(status, "first")
        assert lines(await take(slow, 1)) == ["first"]
        held: list[int] = []

        async def keep_up() -> None:
            for _ in range(count + 1):
                await anext(quick)
                held.append(len(slow._live) + len(slow._ready))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(keep_up)
            for _ in range(10):
                tasks.start_soon(say, status, *range(count // 10))
        assert max(held) <= 2000
        assert len(lines(await take(slow, count))) == count
        await say(status, "last")
        assert lines(await take(slow, 1)) == ["last"]


async def test_waiting_may_be_canceled_at_any_moment(feed: EventFeed, status: StatusStore) -> None:
    # A keep-alive does that every few seconds.
    count = 600
    got: list[str] = []

    async def listen(subscription: Subscription) -> None:
        while len(got) < 2 * count:
            with anyio.move_on_after(0.005 * random.random()):
                got.append((await anext(subscription)).data["line"])

    await say(status, *range(count))
    async with feed.subscribe("0-0") as subscription, anyio.create_task_group() as tasks:
        tasks.start_soon(listen, subscription)
        await say(status, *range(count, 2 * count))
    assert got == [str(number) for number in range(2 * count)]


async def test_the_feed_outlasts_a_killed_redis(
    redis_server: RedisServer, feed: EventFeed, status: StatusStore
) -> None:
    async with feed.subscribe() as subscription:
        for round_number in range(3):
            await say(status, round_number)
            assert lines(await take(subscription, 1)) == [str(round_number)]
            redis_server.kill()
            await anyio.to_thread.run_sync(redis_server.start)
        await say(status, "end")
        assert lines(await take(subscription, 1)) == ["end"]


async def test_what_came_while_the_feed_had_given_up_is_heard(
    redis_server: RedisServer, status: StatusStore, caplog: pytest.LogCaptureFixture
) -> None:
    client = connect(redis_server.url, patience_seconds=0.2)
    feed = EventFeed(client)

    async def given_up() -> bool:
        return caplog.text.count("events_lost") > 3

    async with anyio.create_task_group() as tasks:
        await tasks.start(feed.run)
        async with feed.subscribe() as subscription, feed.subscribe("0-0", "a") as own:
            await say(status, "before")
            assert lines(await take(subscription, 1)) == ["before"]
            redis_server.kill()
            await until(given_up)
            # Its next try is up to a second away; these are there before.
            redis_server.start()
            await say(status, *range(500))
            await say(status, "after", upload_id="b")
            expected = [str(number) for number in range(500)]
            assert lines(await take(subscription, 501)) == [*expected, "after"]
            assert lines(await take(own, 501)) == ["before", *expected]
        tasks.cancel_scope.cancel()
    await client.aclose()


async def test_flushall_ends_no_subscription(
    redis: Client, feed: EventFeed, status: StatusStore
) -> None:
    async with feed.subscribe() as subscription, feed.subscribe(upload_id="a") as own:
        for round_number in range(3):
            await say(status, round_number)
            assert lines(await take(subscription, 1)) == [str(round_number)]
            assert lines(await take(own, 1)) == [str(round_number)]
            await redis.flushall()


async def test_a_stream_that_lost_its_end_is_not_told_again(
    redis: Client, feed: EventFeed, status: StatusStore, caplog: pytest.LogCaptureFixture
) -> None:
    async def rewound() -> bool:
        return "events_rewound" in caplog.text

    async with feed.subscribe() as subscription, feed.subscribe("0-0") as slow:
        await say(status, *range(10))
        seen = await take(subscription, 10)
        assert lines(await take(slow, 3)) == ["0", "1", "2"]
        # As after a crash: the last three were answered, but not yet on disk.
        kept = await redis.xrange(Keys.EVENTS, count=7)
        await redis.delete(Keys.EVENTS)
        for entry_id, fields in kept:
            await redis.xadd(Keys.EVENTS, fields, id=entry_id)
        await until(rewound)
        await say(status, "after")
        assert lines(await take(subscription, 1)) == ["after"]
        assert lines(await take(slow, 5)) == ["3", "4", "5", "6", "after"]
        assert await nothing_comes(subscription)
    async with feed.subscribe(seen[6].id) as returned:
        assert lines(await take(returned, 1)) == ["after"]


async def test_a_lost_stream_and_a_clock_that_went_back(
    redis: Client, feed: EventFeed, status: StatusStore
) -> None:
    seconds, _ = await redis.time()
    ahead = f"{(seconds + 3600) * 1000}-0"
    fields = {"id": "a", "owner": "team", "type": "log", "data": '{"line": "ahead"}'}
    async with feed.subscribe() as subscription:
        await redis.xadd(Keys.EVENTS, fields, id=ahead)
        (event,) = await take(subscription, 1)
        assert event.id == ahead
        await redis.flushall()
        await say(status, "behind")
        assert lines(await take(subscription, 1)) == ["behind"]
        # And who comes back with an id that is not reached yet has missed all there is.
        async with feed.subscribe(ahead) as returned, feed.subscribe(ahead, "a") as own:
            assert lines(await take(returned, 1)) == ["behind"]
            assert lines(await take(own, 1)) == ["behind"]
        await say(status, "more")
        assert lines(await take(subscription, 1)) == ["more"]


async def test_nonsense_in_the_stream_stops_nobody(
    redis: Client, feed: EventFeed, status: StatusStore
) -> None:
    unreadable = {"id": "a", "owner": "team", "type": "log", "data": "{"}
    async with feed.subscribe() as subscription:
        await say(status, "before")
        for _ in range(300):
            await redis.xadd(Keys.EVENTS, {"nonsense": "1"})
            await redis.xadd(Keys.EVENTS, unreadable)
        await say(status, "after")
        assert lines(await take(subscription, 2)) == ["before", "after"]
    async with feed.subscribe("0-0") as replayed:
        assert lines(await take(replayed, 2)) == ["before", "after"]


async def test_who_subscribed_before_the_feed_ran_misses_nothing(
    redis: Client, status: StatusStore
) -> None:
    feed = EventFeed(redis)
    async with feed.subscribe() as subscription:
        await say(status, "early")
        async with anyio.create_task_group() as tasks:
            await tasks.start(feed.run)
            await say(status, "late")
            assert lines(await take(subscription, 2)) == ["early", "late"]
            tasks.cancel_scope.cancel()


async def test_to_subscribe_at_a_dead_redis_is_coordination_lost(
    redis_server: RedisServer,
) -> None:
    client = connect(redis_server.url, patience_seconds=0.2)
    redis_server.kill()
    with pytest.raises(CoordinationLost):
        async with EventFeed(client).subscribe():
            pass
    await client.aclose()
