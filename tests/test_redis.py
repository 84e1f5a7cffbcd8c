from __future__ import annotations

import contextlib
import logging
from collections.abc import AsyncIterator

import anyio
import pytest
from redis import exceptions

from hooks.errors import CoordinationLost
from hooks.queue import JobQueue
from hooks.redis import Client, Keys, Leases, Signal, Signals, connect, masked
from tests.redis_servers import PASSWORD, RedisServer, proxied, redis, redis_server, until

__all__ = ["redis", "redis_server"]
pytestmark = pytest.mark.anyio


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://h:1/0", "redis://h:1/0"),
        ("redis://:hunter2@h:1/0", "redis://***@h:1/0"),
        ("rediss://me:hunter2@h", "rediss://***@h"),
        ("unix:///run/r.sock?db=1&password=hunter2", "unix:///run/r.sock?db=1&password=***"),
        ("redis://me:hunter2@[::1]:1/0?ssl_password=x", "redis://***@[::1]:1/0?ssl_password=***"),
    ],
)
async def test_a_password_is_never_shown(url: str, shown: str) -> None:
    assert masked(url) == shown
    client = connect(url)
    assert "hunter2" not in repr(client)
    assert "hunter2" not in repr(client.connection_pool)
    await client.aclose()


async def test_another_scheme_is_refused() -> None:
    with pytest.raises(ValueError, match="redis://"):
        connect("http://127.0.0.1/")


async def test_a_wrong_password_is_said_at_once(redis_server: RedisServer) -> None:
    client = connect(f"redis://:wrong@127.0.0.1:{redis_server.port}/0")
    with anyio.fail_after(5), pytest.raises(CoordinationLost) as lost:
        await client.get("x")
    assert "password" in lost.value.hint
    assert "wrong" not in str(lost.value).replace("invalid username-password pair", "")
    await client.aclose()


async def test_nobody_there_is_said_after_the_patience() -> None:
    client = connect("unix:///nowhere/redis.sock", patience_seconds=1)
    began = anyio.current_time()
    with pytest.raises(CoordinationLost, match=r"GET at unix:///nowhere/redis\.sock"):
        await client.get("x")
    assert 0.3 < anyio.current_time() - began < 3
    await client.aclose()


async def test_a_redis_that_takes_no_writes_is_lost_and_one_that_errs_is_not(
    redis: Client,
) -> None:
    await redis.config_set("maxmemory", "1")
    with anyio.fail_after(5):
        with pytest.raises(CoordinationLost, match="maxmemory"):
            await redis.set("x", "1")
        with pytest.raises(CoordinationLost, match="maxmemory"):
            await redis.once("return redis.call('SET', KEYS[1], 1)", ["x"], [])
    await redis.config_set("maxmemory", "0")
    await redis.set("x", "1")
    with pytest.raises(exceptions.ResponseError):
        await redis.xlen("x")


async def test_a_silent_redis_is_noticed(redis_server: RedisServer) -> None:
    client = connect(redis_server.url, patience_seconds=0.1)
    await client.set("x", "1")
    redis_server.pause()
    with anyio.fail_after(15), pytest.raises(CoordinationLost):
        await client.get("x")
    redis_server.proceed()
    assert await client.get("x") == "1"
    await client.aclose()


async def test_more_commands_at_once_than_connections(redis: Client) -> None:
    async with anyio.create_task_group() as tasks:
        for number in range(500):
            tasks.start_soon(redis.set, f"key-{number}", "1")
    assert await redis.dbsize() == 500


@contextlib.asynccontextmanager
async def losing_the_next_answer(server: RedisServer) -> AsyncIterator[Client]:
    with proxied(server) as (proxy, url):
        client = connect(url)
        await client.ping()
        proxy.lose_answer_after(0)
        yield client
        # The answer was lost indeed: the client had to come again.
        assert proxy.connections > 1
        await client.aclose()


async def test_a_call_whose_answer_is_lost_acts_once(redis_server: RedisServer) -> None:
    async with losing_the_next_answer(redis_server) as client:
        assert await client.once("return redis.call('INCR', KEYS[1])", ["x"], []) == 1
        assert await client.once("return redis.call('INCR', KEYS[1])", ["x"], []) == 2
        assert await client.once("return {ARGV[1], 7, {}}", [], ["a"]) == ["a", 7, []]


async def test_an_enqueue_whose_answer_is_lost_is_true(redis_server: RedisServer) -> None:
    async with losing_the_next_answer(redis_server) as client:
        queue = JobQueue(client, "one")
        assert await queue.enqueue("a")
        assert (await queue.depth()).waiting == 1


async def test_a_lease_whose_answer_is_lost_is_ours(redis_server: RedisServer) -> None:
    async with losing_the_next_answer(redis_server) as client:
        assert await Leases(client, "one").take("a", 10)
        assert not await Leases(client, "one").take("a", 10)


async def test_a_lease_has_one_owner(redis: Client) -> None:
    one, two = Leases(redis, "one"), Leases(redis, "two")
    assert not await one.held("a")
    assert await one.take("a", 10)
    assert await two.held("a")
    assert not await two.take("a", 10)
    assert not await one.take("a", 10)
    assert not await two.renew("a", 10)
    assert not await two.drop("a")
    assert await one.renew("a", 20)
    assert 19_000 < await redis.pttl(Keys.lease("a")) <= 20_000
    assert await one.drop("a")
    assert not await one.drop("a")
    assert not await one.renew("a", 10)
    assert await two.take("a", 10)


async def test_a_lease_ends_by_itself(redis: Client) -> None:
    one, two = Leases(redis, "one"), Leases(redis, "two")
    assert await one.take("a", 0.2)

    async def free() -> bool:
        return await two.take("a", 10)

    await until(free)
    assert not await one.renew("a", 10)
    assert not await one.drop("a")
    assert await two.held("a")


async def test_signals_reach_every_listener_and_the_right_handler(redis: Client) -> None:
    heard: list[tuple[str, str, str]] = []
    signals = Signals(redis)

    async with anyio.create_task_group() as tasks:
        for name in ("one", "two"):

            def note(signal: Signal, name: str = name):  # type: ignore[no-untyped-def]
                return lambda upload_id: heard.append((name, signal.value, upload_id))

            handlers = {signal: note(signal) for signal in Signal}
            await tasks.start(lambda handlers=handlers, **started: signals.run(handlers, **started))
        for signal in Signal:
            await signals.send(signal, f"upload-{signal}")

        async def all_heard() -> bool:
            return len(heard) == 2 * len(Signal)

        await until(all_heard)
        tasks.cancel_scope.cancel()
    assert set(heard) == {(name, s.value, f"upload-{s}") for name in ("one", "two") for s in Signal}


@pytest.mark.parametrize("hurt", ["killed", "cut", "client killed"])
async def test_listening_goes_on_after_a_loss(redis_server: RedisServer, hurt: str) -> None:
    heard: list[str] = []
    with proxied(redis_server) as (proxy, url):
        client, other = connect(url), connect(redis_server.url)
        signals = Signals(client)

        async def arrives() -> bool:
            heard.clear()
            await Signals(other).send(Signal.CANCEL, "a")
            await anyio.sleep(0.05)
            return heard == ["a"]

        async with anyio.create_task_group() as tasks:
            await tasks.start(
                lambda **started: signals.run({Signal.CANCEL: heard.append}, **started)
            )
            for _ in range(3):
                assert await arrives()
                if hurt == "killed":
                    redis_server.kill()
                    await anyio.to_thread.run_sync(redis_server.start)
                elif hurt == "cut":
                    proxy.cut_now()
                else:
                    await other.client_kill_filter(_type="pubsub")
                await until(arrives)
            tasks.cancel_scope.cancel()
        await client.aclose()
        await other.aclose()


async def test_a_listener_notices_a_dead_line(
    redis_server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    heard: list[str] = []
    with proxied(redis_server) as (proxy, url):
        client, other = connect(url), connect(redis_server.url)

        async def arrives() -> bool:
            await Signals(other).send(Signal.GREW, "a")
            return bool(heard)

        async with anyio.create_task_group() as tasks:
            await tasks.start(
                lambda **started: Signals(client).run({Signal.GREW: heard.append}, **started)
            )
            proxy.stall_after(proxy.bytes_up + 1)
            with caplog.at_level(logging.WARNING):
                await until(lambda: _logged(caplog, "signals_lost"))
            await until(arrives)
            tasks.cancel_scope.cancel()
        await client.aclose()
        await other.aclose()
    assert PASSWORD not in caplog.text


async def _logged(caplog: pytest.LogCaptureFixture, event: str) -> bool:
    return event in caplog.text


async def test_a_signal_to_a_dead_redis_is_coordination_lost(redis_server: RedisServer) -> None:
    client = connect(redis_server.url, patience_seconds=0.3)
    redis_server.kill()
    with pytest.raises(CoordinationLost):
        await Signals(client).send(Signal.RELEASE, "a")
    await client.aclose()
