"""The pipeline and its first step: order, retries, failures, what is told of them, and digests."""

from __future__ import annotations

import hashlib
import os
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest

from buildah.errors import RegistryUnauthorized, RegistryUnreachable
from hooks.errors import StepFailed
from hooks.following import lease_name
from hooks.job import Job
from hooks.pipeline import Pipeline, Retry, Step, StepContext, StepSkipped
from hooks.ports import Digests
from hooks.record import Failure, Record, StepState
from hooks.redis import Keys
from hooks.report import Report
from hooks.verify import NO_DIGEST, VerifyDigest
from tests.redis_servers import RedisServer, until
from tests.workers import Bench, Setup, bench, one_redis, setup

__all__ = ["one_redis", "setup"]
pytestmark = pytest.mark.anyio

MIB = 1024**2
QUICK = Retry(attempts=3, base_seconds=0.05)


@dataclass
class Does:
    """A step that does what a test says; each call is remembered."""

    name: str
    action: Callable[[StepContext], Awaitable[None]]
    after_failure: bool = False
    calls: list[float] = field(default_factory=list)

    async def run(self, context: StepContext) -> None:
        self.calls.append(time.monotonic())
        await self.action(context)


async def nothing(_: StepContext) -> None:
    return


def failing(error: Exception, times: int = 1000) -> Callable[[StepContext], Awaitable[None]]:
    left = [times]

    async def fail(_: StepContext) -> None:
        left[0] -= 1
        if left[0] >= 0:
            raise error

    return fail


@asynccontextmanager
async def told(parts: Bench, context: StepContext) -> AsyncIterator[None]:
    """Write the document behind the block, as a worker does."""
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(context.document.run)
        yield
        await context.document.flush()
        tasks.cancel_scope.cancel()


async def context_of(
    parts: Bench, archive: Path, steps: tuple[Step, ...], **metadata: str
) -> StepContext:
    upload_id = parts.uploads.add(archive, **metadata)
    upload = await parts.uploads.get(upload_id)
    assert upload
    record = upload.record.with_steps([step.name for step in steps])
    return StepContext(Job.of(upload), upload, Report(parts.status, record))


async def run(
    parts: Bench, archive: Path, *steps: Step, retry: Retry = QUICK, **metadata: str
) -> tuple[Failure | None, Record]:
    context = await context_of(parts, archive, steps, **metadata)
    async with told(parts, context):
        failure = await Pipeline(steps, retry=retry).run(context)
    return failure, context.document.record


async def events(parts: Bench) -> list[dict[str, Any]]:
    return [fields for _, fields in await parts.redis.xrange(Keys.EVENTS)]


def states(record: Record) -> list[tuple[str, str]]:
    return [(step.name, step.state.value) for step in record.steps]


@pytest.fixture
async def parts(setup: Setup) -> AsyncIterator[Bench]:
    async with bench(setup) as made:
        yield made


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    path = tmp_path / "archive"
    path.write_bytes(os.urandom(3 * MIB + 17))
    return path


async def test_steps_run_in_order_and_every_transition_is_told(parts: Bench, archive: Path) -> None:
    steps = [Does(name, nothing) for name in ("one", "two", "three")]
    failure, record = await run(parts, archive, *steps)
    assert failure is None
    assert states(record) == [("one", "done"), ("two", "done"), ("three", "done")]
    assert [step.calls for step in steps] == sorted(step.calls for step in steps)
    said = [one["data"] for one in await events(parts) if one["type"] == "step"]
    assert [
        (name in line, state in line)
        for line, (name, state) in zip(
            said,
            [(n, s) for n in ("one", "two", "three") for s in ("running", "done")],
            strict=True,
        )
    ] == [(True, True)] * 6
    assert await parts.status.get(record.id) == record


async def test_a_skipped_step_says_why_and_the_next_one_runs(parts: Bench, archive: Path) -> None:
    steps = Does("one", failing(StepSkipped("nothing to do"))), Does("two", nothing)
    failure, record = await run(parts, archive, *steps)
    assert failure is None
    assert states(record) == [("one", "skipped"), ("two", "done")]
    assert record.step("one").message == "nothing to do"


async def test_a_failure_ends_the_job_but_what_cleans_up_runs(parts: Bench, archive: Path) -> None:
    error = StepFailed("broken", "it broke", "mend it", retryable=False)
    steps = (
        Does("one", nothing),
        Does("two", failing(error)),
        Does("three", nothing),
        Does("four", nothing, after_failure=True),
    )
    failure, record = await run(parts, archive, *steps)
    assert failure == Failure("broken", "two", "it broke", "mend it", retryable=False)
    assert states(record) == [
        ("one", "done"),
        ("two", "failed"),
        ("three", "skipped"),
        ("four", "done"),
    ]
    assert record.step("three").message == "not reached: two failed"
    assert len(steps[1].calls) == 1
    assert steps[2].calls == []


async def test_a_failure_that_may_pass_is_tried_again(parts: Bench, archive: Path) -> None:
    error = RegistryUnreachable("push to r: registry r refused the connection")
    seen: list[str] = []

    async def act(context: StepContext) -> None:
        seen.append(context.document.record.step("push").message)
        await failing_twice(context)

    failing_twice = failing(error, 2)
    step = Does("push", act)
    failure, record = await run(parts, archive, step, retry=Retry(6, base_seconds=0.6))
    assert failure is None
    assert len(step.calls) == 3
    assert record.step("push").message == ""
    assert seen == ["", "", ""]
    said = [one["data"] for one in await events(parts) if "trying again" in one["data"]]
    assert any(
        "registry r refused the connection; trying again in 1 s (attempt 2 of 6)" in line
        for line in said
    )
    assert any("(attempt 3 of 6)" in line for line in said)


async def test_a_failure_that_does_not_pass_fails_after_the_last_attempt(
    parts: Bench, archive: Path
) -> None:
    step = Does("push", failing(RegistryUnreachable("nobody answers at r")))
    failure, record = await run(parts, archive, step)
    assert failure
    assert (failure.code, failure.retryable) == ("registry_unreachable", True)
    assert len(step.calls) == QUICK.attempts
    assert record.step("push").message == "nobody answers at r"


async def test_what_cannot_pass_is_not_tried_again(parts: Bench, archive: Path) -> None:
    step = Does("push", failing(RegistryUnauthorized("wrong password for r")))
    failure, _ = await run(parts, archive, step)
    assert failure
    assert failure.code == "registry_unauthorized"
    assert len(step.calls) == 1


def test_waits_double_up_to_the_cap_and_scatter() -> None:
    retry = Retry(attempts=9, base_seconds=1, cap_seconds=60)
    for failed, longest in [(1, 1), (2, 2), (3, 4), (6, 32), (7, 60), (2000, 60)]:
        waits = {retry.wait_seconds(failed) for _ in range(50)}
        assert longest / 2 <= min(waits) < max(waits) <= longest


async def test_progress_from_a_thread_is_thinned_and_its_last_word_counts(
    parts: Bench, archive: Path
) -> None:
    def count(context: StepContext) -> None:
        for number in range(1, 2001):
            context.report(number, 2000)
            time.sleep(0.0005)

    async def act(context: StepContext) -> None:
        thread = threading.Thread(target=count, args=(context,))
        thread.start()
        await anyio.to_thread.run_sync(thread.join)

    began_at = time.monotonic()
    failure, record = await run(parts, archive, Does("load", act))
    seconds = time.monotonic() - began_at
    assert failure is None
    told_of = [one for one in await events(parts) if one["type"] == "step"]
    assert len(told_of) <= 2 + 4 * seconds + 1
    assert len(told_of) >= 4
    last = record.step("load")
    assert (last.bytes_done, last.bytes_total, last.state) == (2000, 2000, StepState.DONE)
    assert '"bytes_done": 2000' in told_of[-1]["data"]


async def test_lines_are_told_with_their_step(parts: Bench, archive: Path) -> None:
    async def act(context: StepContext) -> None:
        for number in range(20):
            context.log(f"line {number}")

    _, record = await run(parts, archive, Does("load", act))
    lines = [one for one in await events(parts) if one["type"] == "log"]
    assert [one["data"].split('"line": ')[1] for one in lines] == [
        f'"line {number}"}}' for number in range(20)
    ]
    assert all('"step": "load"' in one["data"] and one["id"] == record.id for one in lines)


async def test_a_redis_that_is_away_holds_nothing_up_and_hears_it_later(
    setup: Setup, one_redis: RedisServer, archive: Path
) -> None:
    async with bench(Setup(setup.directory, setup.redis_url, patience_seconds=0.2)) as parts:

        async def kill(_: StepContext) -> None:
            await anyio.to_thread.run_sync(one_redis.kill)

        steps = Does("one", nothing), Does("two", kill), Does("three", nothing)
        context = await context_of(parts, archive, steps)
        async with told(parts, context):
            began_at = time.monotonic()
            assert await Pipeline(steps, retry=QUICK).run(context) is None
            assert time.monotonic() - began_at < 2
            await anyio.sleep(0.5)
            await anyio.to_thread.run_sync(one_redis.start)

            async def heard() -> bool:
                return await parts.status.get(context.job.id) == context.document.record

            await until(heard)
        said = [one["data"] for one in await events(parts) if one["type"] == "step"]
        assert [state in said[-1] for state in ("three", "done")] == [True, True]
        assert sum('"three"' in line for line in said) == 2


# The verify step.


def promises(archive: Path) -> dict[str, str]:
    data = archive.read_bytes()
    return {
        "md5": hashlib.md5(data, usedforsecurity=False).hexdigest(),
        "sha256": hashlib.sha256(data).hexdigest(),
    }


async def verify(
    parts: Bench, archive: Path, **metadata: str
) -> tuple[Failure | None, Record, StepContext]:
    step = VerifyDigest(parts.uploads, parts.leases)
    context = await context_of(parts, archive, (step,), **metadata)
    async with told(parts, context):
        failure = await Pipeline([step], retry=QUICK).run(context)
    return failure, context.document.record, context


@pytest.mark.parametrize("names", [("md5",), ("sha256",), ("md5", "sha256")])
async def test_a_file_that_is_as_promised_is_verified(
    parts: Bench, archive: Path, names: tuple[str, ...]
) -> None:
    promised = promises(archive)
    failure, record, context = await verify(
        parts, archive, **{name: promised[name] for name in names}
    )
    assert failure is None
    assert record.digests == promised
    step = record.step("verify")
    assert (step.state, step.bytes_done) == (StepState.DONE, 3 * MIB + 17)
    # For whoever runs the job again.
    assert await context.upload.digests() == Digests(3 * MIB + 17, **promised)


@pytest.mark.parametrize("name", ["md5", "sha256"])
async def test_a_file_that_is_not_as_promised_fails_with_both_digests(
    parts: Bench, archive: Path, name: str
) -> None:
    promised = promises(archive)
    wrong = promised | {name: "0" * len(promised[name])}
    failure, record, _ = await verify(parts, archive, **wrong)
    assert failure
    assert (failure.code, failure.retryable) == ("digest_mismatch", False)
    assert wrong[name] in failure.message
    assert promised[name] in failure.message
    assert failure.hint
    assert record.digests == promised


async def test_without_a_promise_the_step_is_skipped_and_the_digests_are_kept(
    parts: Bench, archive: Path
) -> None:
    failure, record, _ = await verify(parts, archive)
    assert failure is None
    assert record.step("verify").state is StepState.SKIPPED
    assert record.step("verify").message == NO_DIGEST
    assert record.digests == promises(archive)


async def left_by_follower(context: StepContext, parts: Bench, promised: dict[str, str]) -> None:
    await parts.uploads.record_digests(context.job.id, Digests(context.job.length, **promised))


async def test_what_a_follower_left_is_taken_without_reading(parts: Bench, archive: Path) -> None:
    promised, step = promises(archive), VerifyDigest(parts.uploads, parts.leases)
    context = await context_of(parts, archive, (step,), **promised)
    await left_by_follower(context, parts, promised)
    # Whoever reads the file now finds another one.
    context.job.path.write_bytes(bytes(context.job.length))
    async with told(parts, context):
        assert await Pipeline([step]).run(context) is None


async def test_a_follower_that_is_not_done_is_waited_for(parts: Bench, archive: Path) -> None:
    promised, step = promises(archive), VerifyDigest(parts.uploads, parts.leases)
    context = await context_of(parts, archive, (step,), **promised)
    context.job.path.write_bytes(bytes(context.job.length))
    await parts.leases.take(lease_name(context.job.id), 30)

    async def follow() -> None:
        await anyio.sleep(1)
        await left_by_follower(context, parts, promised)

    async with told(parts, context), anyio.create_task_group() as tasks:
        tasks.start_soon(follow)
        began_at = time.monotonic()
        assert await Pipeline([step]).run(context) is None
        assert 0.9 < time.monotonic() - began_at < 2


async def test_a_follower_that_died_is_replaced_by_reading(parts: Bench, archive: Path) -> None:
    promised, step = promises(archive), VerifyDigest(parts.uploads, parts.leases)
    context = await context_of(parts, archive, (step,), **promised)
    await parts.leases.take(lease_name(context.job.id), 1)
    async with told(parts, context):
        assert await Pipeline([step]).run(context) is None
    assert context.document.record.digests == promised


async def test_digests_of_a_part_do_not_count(parts: Bench, archive: Path) -> None:
    step = VerifyDigest(parts.uploads, parts.leases)
    context = await context_of(parts, archive, (step,), **promises(archive))
    await parts.uploads.record_digests(context.job.id, Digests(5, "a" * 32, "b" * 64))
    async with told(parts, context):
        assert await Pipeline([step]).run(context) is None
    assert context.document.record.digests == promises(archive)


async def test_a_file_that_was_cut_fails_by_name(parts: Bench, archive: Path) -> None:
    step = VerifyDigest(parts.uploads, parts.leases)
    context = await context_of(parts, archive, (step,))
    os.truncate(context.job.path, MIB)
    async with told(parts, context):
        failure = await Pipeline([step], retry=QUICK).run(context)
    assert failure
    assert failure.code == "archive_lost"
    assert f"{MIB} of {context.job.length} bytes" in failure.message


async def test_verifying_is_cancelled_at_once(parts: Bench, tmp_path: Path) -> None:
    archive, step = tmp_path / "sparse", VerifyDigest(parts.uploads, parts.leases)
    archive.touch()
    context = await context_of(parts, archive, (step,))
    os.truncate(context.job.path, 64 * 1024 * MIB)
    upload = await parts.uploads.get(context.job.id)
    assert upload is None
    large = StepContext(
        Job(**{**vars(context.job), "length": 64 * 1024 * MIB}), context.upload, context.document
    )
    with anyio.move_on_after(0.5) as scope:
        await Pipeline([step]).run(large)
    assert scope.cancelled_caught
    assert anyio.current_time() - scope.deadline < 0.3
    done = context.document.record.step("verify").bytes_done
    assert MIB < done < 64 * 1024 * MIB
