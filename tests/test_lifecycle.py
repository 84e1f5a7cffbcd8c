"""Lifecycle: what each event leaves in Redis, and that a Redis that is away stops nobody."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest

from hooks.events import (
    UploadCreated,
    UploadEnded,
    UploadEvent,
    UploadFinished,
    UploadGrew,
    UploadRemoved,
)
from hooks.record import Failure, ImageResult, Record, Status
from hooks.redis import Signal
from hooks.steps import STEP_NAMES
from tests.redis_servers import RedisServer, until
from tests.workers import Bench, Setup, bench, one_redis, setup

__all__ = ["one_redis", "setup"]
pytestmark = pytest.mark.anyio

RECORD = Record(
    id="0123456789abcdef0123456789abcdef",
    filename="llm.tar",
    length=10,
    offset=0,
    protocol="tus",
    owner="ci",
    status=Status.RECEIVING,
    image="harbor.example/team/llm:v1",
    digests={"md5": None, "sha256": None},
    created_at="2024-01-01T00:00:00.000Z",
    updated_at="2024-01-01T00:00:00.000Z",
)
WHOLE = replace(RECORD, offset=10, status=Status.QUEUED)


@pytest.fixture
async def parts(setup: Setup) -> AsyncIterator[Bench]:
    async with bench(setup) as made:
        yield made


@pytest.fixture
async def signals(parts: Bench) -> AsyncIterator[list[tuple[Signal, str]]]:
    """What another process hears."""
    heard: list[tuple[Signal, str]] = []

    def listen(signal: Signal) -> Any:
        return lambda upload_id: heard.append((signal, upload_id))

    async with anyio.create_task_group() as tasks:
        await tasks.start(parts.signals.run, {signal: listen(signal) for signal in Signal})
        yield heard
        tasks.cancel_scope.cancel()


async def newest_event(parts: Bench) -> dict[str, Any]:
    event = (await parts.events())[-1]
    return {**event, "data": json.loads(event["data"])}


async def test_created_is_told(parts: Bench) -> None:
    await parts.lifecycle.handle(UploadCreated(RECORD))
    assert await parts.status.get(RECORD.id) == RECORD
    event = await newest_event(parts)
    assert (event["type"], event["owner"]) == ("status", "ci")
    assert (await parts.queue.depth()).waiting == 0


async def test_growth_is_told_and_followers_are_called(
    parts: Bench, signals: list[tuple[Signal, str]]
) -> None:
    grown = replace(RECORD, offset=5)
    await parts.lifecycle.handle(UploadGrew(grown))
    assert await parts.status.get(RECORD.id) == grown

    async def heard() -> bool:
        return (Signal.GREW, RECORD.id) in signals

    await until(heard)


async def test_finished_waits_in_the_queue_once_with_fresh_steps(parts: Bench) -> None:
    # A retry comes with what the last run had pushed: it is looked for before it is pushed again.
    failed = replace(
        WHOLE,
        results=(ImageResult("harbor.example/team/llm:v1", "sha256:1"),),
        error=Failure("broken", "push", "it broke", "mend it", retryable=True),
    )
    for _ in range(3):
        await parts.lifecycle.handle(UploadFinished(failed))
    waiting = await parts.status.get(RECORD.id)
    assert waiting
    assert waiting.status is Status.QUEUED
    assert [(step.name, step.state.value) for step in waiting.steps] == [
        (name, "waiting") for name in STEP_NAMES
    ]
    assert (waiting.results, waiting.error) == (failed.results, None)
    assert (await parts.queue.depth()).waiting == 1


async def test_removed_is_forgotten_everywhere(parts: Bench) -> None:
    await parts.lifecycle.handle(UploadFinished(WHOLE))
    await parts.lifecycle.handle(UploadRemoved(RECORD.id, RECORD.owner))
    assert await parts.status.get(RECORD.id) is None
    assert (await newest_event(parts))["type"] == "removed"
    assert (await parts.queue.depth()).waiting == 0


async def test_ended_is_told(parts: Bench) -> None:
    ended = replace(RECORD, status=Status.EXPIRED)
    await parts.lifecycle.handle(UploadEnded(ended))
    assert await parts.status.get(RECORD.id) == ended


async def test_cancelling_a_waiting_job_takes_it_out(
    parts: Bench, signals: list[tuple[Signal, str]]
) -> None:
    await parts.lifecycle.handle(UploadFinished(WHOLE))
    await parts.lifecycle.cancel(RECORD.id)
    assert (await parts.queue.depth()).waiting == 0
    assert await parts.queue.claim(0) is None
    await parts.signals.send(Signal.GREW, "sentinel")

    async def heard() -> bool:
        return bool(signals)

    await until(heard)
    assert signals == [(Signal.GREW, "sentinel")]


async def test_cancelling_a_running_job_tells_its_worker(
    parts: Bench, signals: list[tuple[Signal, str]]
) -> None:
    await parts.lifecycle.handle(UploadFinished(WHOLE))
    assert await parts.queue.claim(1)
    await parts.lifecycle.cancel(RECORD.id)

    async def heard() -> bool:
        return signals == [(Signal.CANCEL, RECORD.id)]

    await until(heard)


@pytest.mark.parametrize(
    "event",
    [
        UploadCreated(RECORD),
        UploadGrew(RECORD),
        UploadFinished(WHOLE),
        UploadRemoved(RECORD.id, RECORD.owner),
        UploadEnded(RECORD),
    ],
    ids=lambda event: type(event).__name__,
)
async def test_a_redis_that_is_away_is_no_error(
    setup: Setup, one_redis: RedisServer, event: UploadEvent, tmp_path: Path
) -> None:
    await anyio.to_thread.run_sync(one_redis.kill)
    async with bench(replace(setup, patience_seconds=0.1)) as parts:
        began_at = time.monotonic()
        await parts.lifecycle.handle(event)
        await parts.lifecycle.cancel(RECORD.id)
        assert time.monotonic() - began_at < 5
