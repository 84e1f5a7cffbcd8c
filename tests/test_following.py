"""Who follows what: one worker for each upload, a bounded number, and nothing left behind."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
import pytest

from hooks.following import Following, lease_name
from hooks.ports import Digests
from tests.disk_uploads import digests_of, readers_of
from tests.redis_servers import until
from tests.workers import Bench, Setup, bench, one_redis, setup

__all__ = ["one_redis", "setup"]
pytestmark = pytest.mark.anyio

MIB = 1024**2


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


async def followed_when_told(parts: Bench, following: Following, upload_id: str) -> None:
    """Return once it is followed; as the server does, say again and again that it grows."""

    async def open_now() -> bool:
        following.grew(upload_id)
        return readers_of(parts.uploads.data(upload_id)) == 1

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
            await followed_when_told(parts, following, ids[2])


async def test_an_idle_upload_is_let_go_and_followed_anew(setup: Setup) -> None:
    async with bench(setup) as parts:
        following = Following(parts.uploads, parts.leases, idle_seconds=2.0)
        async with followings(following):
            upload_id = parts.uploads.create(2 * MIB)
            parts.uploads.append(upload_id, os.urandom(MIB))
            following.grew(upload_id)
            await followed(parts, upload_id)
            await followed(parts, upload_id, readers=0)
            parts.uploads.append(upload_id, os.urandom(MIB // 2))
            await followed_when_told(parts, following, upload_id)
            parts.uploads.append(upload_id, os.urandom(MIB // 2))
            found = await has_digests(parts, upload_id)
            assert found == digests_of(parts.uploads.data(upload_id))


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


async def test_a_worker_that_ends_lets_go_of_what_it_follows(setup: Setup) -> None:
    async with bench(setup) as parts:
        following = Following(parts.uploads, parts.leases)
        async with followings(following):
            upload_id = parts.uploads.create(2)
            following.grew(upload_id)
            await followed(parts, upload_id)
        assert readers_of(parts.uploads.data(upload_id)) == 0
        assert not await parts.leases.held(lease_name(upload_id))


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
