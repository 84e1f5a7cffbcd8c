"""The pipeline: order, retries, failures, and what is told of them."""

from __future__ import annotations

import threading
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

import anyio
import anyio.to_thread
import pytest

from buildah.errors import RegistryUnauthorized, RegistryUnreachable
from hooks.errors import StepFailed
from hooks.pipeline import Pipeline, Retry, Step, StepContext, StepSkipped
from hooks.record import Failure, Record, StepState
from tests.redis_servers import RedisServer, until
from tests.steps import archive, context_of, parts, told
from tests.workers import Bench, Setup, bench, one_redis, setup

__all__ = ["archive", "one_redis", "parts", "setup"]
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


@dataclass
class Sometimes(Does):
    """A step that only some jobs have."""

    needed: bool = False

    def is_needed(self, _context: StepContext) -> bool:
        return self.needed


async def nothing(_: StepContext) -> None:
    return


def failing(error: Exception, times: int = 1000) -> Callable[[StepContext], Awaitable[None]]:
    left = [times]

    async def fail(_: StepContext) -> None:
        left[0] -= 1
        if left[0] >= 0:
            raise error

    return fail


async def run(
    parts: Bench, archive: Path, *steps: Step, retry: Retry = QUICK, **metadata: str
) -> tuple[Failure | None, Record]:
    context = await context_of(parts, archive, steps, **metadata)
    async with told(context):
        failure = await Pipeline(steps, retry=retry).run(context)
    return failure, context.document.record


def states(record: Record) -> list[tuple[str, str]]:
    return [(step.name, step.state.value) for step in record.steps]


async def test_steps_run_in_order_and_every_transition_is_told(parts: Bench, archive: Path) -> None:
    steps = [Does(name, nothing) for name in ("one", "two", "three")]
    failure, record = await run(parts, archive, *steps)
    assert failure is None
    assert states(record) == [("one", "done"), ("two", "done"), ("three", "done")]
    assert [step.calls for step in steps] == sorted(step.calls for step in steps)
    said = [one["data"] for one in await parts.events() if one["type"] == "step"]
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


@pytest.mark.parametrize("needed", [False, True])
@pytest.mark.parametrize("fails", ["", "extra", "last"])
async def test_a_step_that_is_not_needed_is_not_there(
    parts: Bench, archive: Path, needed: bool, fails: str
) -> None:
    actions = {fails: failing(StepFailed("broken", "it broke", "mend it", retryable=False))}
    first, extra, last, clean = (
        Does("first", nothing),
        Sometimes("extra", actions.get("extra", nothing), needed=needed),
        Does("last", actions.get("last", nothing)),
        Does("clean", nothing, after_failure=True),
    )
    pipeline = Pipeline([first, extra, last, clean], retry=QUICK)
    assert pipeline.names == ["first", "last", "clean"]
    context = await context_of(parts, archive, (first, last, clean))
    async with told(context):
        failure = await pipeline.run(context)
    failed = fails if needed or fails == "last" else ""
    assert (failure.step if failure else "") == failed
    expected = {
        "first": "done",
        "extra": "failed" if failed == "extra" else "done",
        "last": {"extra": "skipped", "last": "failed"}.get(failed, "done"),
        "clean": "done",
    }
    if not needed:
        del expected["extra"]
    assert states(context.document.record) == list(expected.items())
    assert len(extra.calls) == needed


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
    said = [one["data"] for one in await parts.events() if "trying again" in one["data"]]
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
    told_of = [one for one in await parts.events() if one["type"] == "step"]
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
    lines = [one for one in await parts.events() if one["type"] == "log"]
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
        async with told(context):
            began_at = time.monotonic()
            assert await Pipeline(steps, retry=QUICK).run(context) is None
            assert time.monotonic() - began_at < 2
            await anyio.sleep(0.5)
            await anyio.to_thread.run_sync(one_redis.start)

            async def heard() -> bool:
                return await parts.status.get(context.job.id) == context.document.record

            await until(heard)
        said = [one["data"] for one in await parts.events() if one["type"] == "step"]
        assert [state in said[-1] for state in ("three", "done")] == [True, True]
        assert sum('"three"' in line for line in said) == 2
