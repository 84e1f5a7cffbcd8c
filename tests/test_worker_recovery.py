"""Whatever is killed, emptied, cut off or stopped: every job ends once, and leaves nothing."""

from __future__ import annotations

import random
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path

import anyio
import anyio.to_thread
import pytest

from buildah.workspace import sweep_workspaces
from hooks.attempt import DELIVERIES_LIMIT
from hooks.pipeline import StepContext
from hooks.record import ImageResult, Status, StepState
from tests.archives import MIB, Archive, write_docker_archive
from tests.jobs import (
    Endless,
    assert_pushed,
    children_of,
    finished,
    image_in,
    large,
    parts,
    place,
    small,
)
from tests.redis_servers import RedisServer, until
from tests.registries import RunningRegistry, plain_registry
from tests.workers import (
    Bench,
    Setup,
    bench,
    one_redis,
    setup,
    worker_process,
    working,
)

__all__ = ["large", "one_redis", "parts", "place", "plain_registry", "setup", "small"]
pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("step", ["verify", "load", "push"])
async def test_kill_9_in_a_step_leaves_nothing_and_another_worker_finishes(
    place: Setup, plain_registry: RunningRegistry, large: Archive, step: str
) -> None:
    async with bench(place) as parts:
        with worker_process(place, "first") as first:
            upload_id = await finished(parts, large.path, image=image_in(plain_registry))
            await parts.running(upload_id, step)
            await anyio.sleep(0.1)
            first.kill()

        async def all_gone() -> bool:
            return children_of(first) == []

        await until(all_gone, 5)
        killed_at = anyio.current_time()
        with worker_process(place, "second"):
            await assert_pushed(parts, plain_registry, large, upload_id, "team/app:1")
        # Sooner than the lease would let it: the kernel's lock is free the moment its holder dies.
        assert anyio.current_time() - killed_at < 30


async def test_a_job_that_kills_its_workers_is_given_up(place: Setup, small: Archive) -> None:
    class Deadly(Endless):
        async def run(self, context: StepContext) -> None:
            context.document.progress(1, 2)
            await super().run(context)

    step = Deadly()
    async with bench(place) as parts:
        upload_id = await finished(parts, small.path)
        for number in range(DELIVERIES_LIMIT):
            async with (
                bench(place, f"worker-{number}") as dying,
                anyio.create_task_group() as tasks,
            ):
                tasks.start_soon(dying.worker(step).run, anyio.Event())

                async def began(number: int = number) -> bool:
                    return step.began == number + 1

                await until(began, 30)
                await dying.running(upload_id, "load")
                # As dead as a task can be: nothing is given back.
                tasks.cancel_scope.cancel()
        assert await parts.uploads.outcome(upload_id) is None
        async with working(parts.worker(step)):
            outcome = await parts.outcome(upload_id)
    assert step.began == DELIVERIES_LIMIT
    assert outcome.status is Status.FAILED
    assert outcome.error
    assert (outcome.error.code, outcome.error.step) == ("job_crashed", "load")
    assert outcome.error.retryable
    assert outcome.error.hint
    assert parts.uploads.data(upload_id).exists()


async def test_a_redis_that_forgets_everything_in_the_middle_costs_no_job(
    parts: Bench, plain_registry: RunningRegistry, large: Archive
) -> None:
    upload_id = await finished(parts, large.path, image=image_in(plain_registry))
    async with working(parts.worker()):
        await parts.running(upload_id, "load")
        await parts.redis.flushall()
        await assert_pushed(parts, plain_registry, large, upload_id, "team/app:1")


async def test_a_redis_that_forgets_everything_after_the_end_changes_nothing(
    parts: Bench, small: Archive
) -> None:
    upload_id = await finished(parts, small.path)
    async with working(parts.worker()):
        outcome = await parts.outcome(upload_id)
        await parts.redis.flushall()
    async with working(parts.worker()):
        await anyio.sleep(1)
        assert (await parts.queue.depth()).waiting == 0
    assert await parts.uploads.outcome(upload_id) == outcome


async def test_a_redis_that_restarts_in_the_middle_interrupts_nothing(
    place: Setup, one_redis: RedisServer, small: Archive
) -> None:
    step = Endless()
    async with bench(replace(place, lease_seconds=1.0, patience_seconds=0.5)) as parts:
        upload_id = await finished(parts, small.path)
        async with working(parts.worker(step)):
            await parts.running(upload_id, "load")
            # An append-only file is written to the disk once a second.
            await anyio.sleep(1.5)
            await anyio.to_thread.run_sync(one_redis.kill)
            await anyio.sleep(3)
            assert step.cancelled == 0
            await anyio.to_thread.run_sync(one_redis.start)
            await anyio.sleep(2)
            assert (step.began, step.cancelled) == (1, 0)
            parts.uploads.request_cancel(upload_id)
            assert (await parts.outcome(upload_id)).status is Status.CANCELED


async def test_a_job_that_is_no_longer_ours_is_let_go_without_an_outcome(
    place: Setup, small: Archive
) -> None:
    step = Endless()
    async with bench(replace(place, lease_seconds=0.5)) as parts, bench(place, "rival") as rival:
        upload_id = await finished(parts, small.path)
        async with working(parts.worker(step)):
            await parts.running(upload_id, "load")
            [pending] = await rival.queue.pending()
            taken = await rival.queue.take_over(pending)
            while taken is None:
                [pending] = await rival.queue.pending()
                taken = await rival.queue.take_over(pending)

            async def let_go() -> bool:
                return step.cancelled == 1

            await until(let_go, 5)
            upload = await parts.uploads.get(upload_id)
            assert upload

            async def unlocked() -> bool:
                async with upload.lock():
                    return True

            await until(unlocked)
            assert await parts.uploads.outcome(upload_id) is None
            assert await rival.queue.heartbeat(taken)


async def test_a_silent_holder_that_has_the_lock_is_not_robbed(
    place: Setup, small: Archive
) -> None:
    async with bench(replace(place, lease_seconds=0.5)) as parts, bench(place, "cut-off") as holder:
        upload_id = await finished(parts, small.path)
        delivery = await holder.queue.claim(1)
        assert delivery
        upload = await holder.uploads.get(upload_id)
        assert upload
        async with working(parts.worker()):
            async with upload.lock():
                # Many leases long nothing is heard of it.
                await anyio.sleep(4)
                assert await holder.queue.heartbeat(delivery)
            assert (await parts.outcome(upload_id, 10)).status is Status.DONE
        assert not await holder.queue.heartbeat(delivery)


async def test_an_outcome_that_nobody_heard_of_is_told_by_the_next_worker(
    place: Setup, small: Archive
) -> None:
    async with bench(place, "dead") as dead, bench(place) as parts:
        upload_id = await finished(parts, small.path)
        assert await dead.queue.claim(1)
        upload = await dead.uploads.get(upload_id)
        assert upload
        ended = replace(upload.record, status=Status.DONE)
        await upload.record_outcome(ended)
        async with working(parts.worker()):

            async def told() -> bool:
                return await parts.status.get(upload_id) == ended

            await until(told)

            async def empty() -> bool:
                depth = await parts.queue.depth()
                return (depth.waiting, depth.running) == (0, 0)

            await until(empty)


async def test_an_entry_whose_upload_is_gone_is_thrown_out(parts: Bench) -> None:
    await parts.queue.enqueue("f" * 32)
    async with working(parts.worker()):

        async def empty() -> bool:
            depth = await parts.queue.depth()
            return (depth.waiting, depth.running) == (0, 0)

        await until(empty)


async def test_an_upload_that_somebody_holds_waits_without_being_lost(
    parts: Bench, small: Archive
) -> None:
    upload_id = await finished(parts, small.path)
    upload = await parts.uploads.get(upload_id)
    assert upload
    async with working(parts.worker()):
        async with upload.lock():
            await anyio.sleep(8)
            assert await parts.uploads.outcome(upload_id) is None
        assert (await parts.outcome(upload_id, 10)).status is Status.DONE


async def test_a_worker_that_stops_lets_a_short_job_end(
    parts: Bench, plain_registry: RunningRegistry, small: Archive
) -> None:
    upload_id = await finished(parts, small.path, image=image_in(plain_registry))
    async with working(parts.worker()) as stop:
        await parts.running(upload_id, "load")
        stop.set()
    outcome = await parts.uploads.outcome(upload_id)
    assert outcome
    assert outcome.status is Status.DONE


async def test_a_worker_that_stops_gives_a_long_job_back_at_once(
    place: Setup, plain_registry: RunningRegistry, large: Archive
) -> None:
    async with bench(replace(place, grace_seconds=0.2)) as parts:
        upload_id = await finished(parts, large.path, image=image_in(plain_registry))
        with worker_process(parts.setup, "first") as first:
            await parts.running(upload_id, "load")
            stopped_at = anyio.current_time()
            assert await anyio.to_thread.run_sync(first.terminate) == 0
            assert anyio.current_time() - stopped_at < 6
        assert await parts.uploads.outcome(upload_id) is None
        assert parts.left_over == []
        waiting = await parts.status.get(upload_id)
        assert waiting
        assert waiting.status is Status.QUEUED
        assert {step.state for step in waiting.steps} == {StepState.WAITING}
        delivery = await parts.queue.claim(1)
        assert delivery
        # Nobody died, so it does not count.
        assert delivery.deliveries == 1
        await parts.queue.give_back(delivery)
        with worker_process(parts.setup, "second"):
            await assert_pushed(parts, plain_registry, large, upload_id, "team/app:1")


async def test_what_was_pushed_before_a_kill_is_not_pushed_again(
    parts: Bench, plain_registry: RunningRegistry, small: Archive
) -> None:
    image = image_in(plain_registry)
    first = await finished(parts, small.path, image=image)
    async with working(parts.worker()):
        outcome = await parts.outcome(first)
    # The same upload, as a worker leaves it that dies between the push and the outcome.
    second = parts.uploads.add(small.path, image=image)
    upload = await parts.uploads.get(second)
    assert upload
    pushed = replace(upload.record, status=Status.RUNNING, results=outcome.results)
    await parts.status.put(pushed)
    await parts.queue.enqueue(second)
    requests = plain_registry.log.count("PUT")
    async with working(parts.worker()):
        again = await parts.outcome(second)
    assert again.status is Status.DONE
    assert again.results == outcome.results
    assert "found in the registry" in again.step("push").message
    assert plain_registry.log.count("PUT") == requests


async def test_what_was_pushed_and_is_gone_again_is_pushed_once_more(
    parts: Bench, plain_registry: RunningRegistry, small: Archive
) -> None:
    upload_id = parts.uploads.add(small.path, image=image_in(plain_registry))
    upload = await parts.uploads.get(upload_id)
    assert upload
    stale = ImageResult(image_in(plain_registry), "sha256:" + "0" * 64)
    await parts.status.put(replace(upload.record, status=Status.RUNNING, results=(stale,)))
    await parts.queue.enqueue(upload_id)
    async with working(parts.worker()):
        await assert_pushed(parts, plain_registry, small, upload_id, "team/app:1")


@pytest.mark.slow
@pytest.mark.timeout(600)
async def test_whatever_is_killed_every_upload_becomes_its_image(
    place: Setup, plain_registry: RunningRegistry, one_redis: RedisServer, tmp_path: Path
) -> None:
    chance = random.Random(7)
    archives = [
        write_docker_archive(tmp_path / f"{number}.tar", [number * 10 * MIB], seed=str(number))
        for number in range(1, 9)
    ]
    names = [f"team/app{number}:1" for number in range(len(archives))]
    async with bench(place) as parts, AsyncExitStack() as stack:
        ids = [
            await finished(parts, archive.path, image=image_in(plain_registry, name))
            for archive, name in zip(archives, names, strict=True)
        ]
        workers = [stack.enter_context(worker_process(place, f"w{number}")) for number in range(2)]
        for number in range(12):
            await anyio.sleep(chance.uniform(0.5, 3))
            match chance.choice(["worker", "worker", "redis", "flush"]):
                case "worker":
                    victim = workers.pop(chance.randrange(2))
                    victim.kill()
                    name = f"again{number}"
                    workers.append(stack.enter_context(worker_process(place, name)))
                case "redis":
                    await anyio.to_thread.run_sync(one_redis.kill)
                    await anyio.sleep(chance.uniform(0, 3))
                    await anyio.to_thread.run_sync(one_redis.start)
                case "flush":
                    await parts.redis.flushall()
        outcomes = [await parts.outcome(upload_id, 180) for upload_id in ids]
        # A job that died too often is given up; a person tries again.
        for upload_id, outcome in zip(ids, outcomes, strict=True):
            if outcome.error and outcome.error.code == "job_crashed":
                parts.uploads.forget_outcome(upload_id)
        for upload_id in ids:
            assert (await parts.outcome(upload_id, 60)).error is None
        for archive, name in zip(archives, names, strict=True):
            image = image_in(plain_registry, name)
            found = await anyio.to_thread.run_sync(plain_registry.config_digest, image)
            assert found == archive.image_id

        async def clean() -> bool:
            depth = await parts.queue.depth()
            return (depth.waiting, depth.running) == (0, 0)

        await until(clean, 60)
        for worker in workers:
            await anyio.to_thread.run_sync(worker.terminate)
            assert children_of(worker) == []
        await anyio.to_thread.run_sync(sweep_workspaces, place.jobs_dir)
        assert parts.left_over == []
