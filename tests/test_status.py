from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from hooks.record import (
    Failure,
    ImageResult,
    Record,
    Status,
    StepRecord,
    StepState,
    utc_now,
)
from hooks.redis import Client, Keys
from hooks.status import KEPT_SECONDS, StatusStore
from tests.redis_servers import RedisServer, redis, redis_server, written

__all__ = ["redis", "redis_server"]
pytestmark = pytest.mark.anyio


def record(upload_id: str = "a", status: Status = Status.RUNNING) -> Record:
    return Record(
        id=upload_id,
        filename='né "quoted" \U0001f6a2.tar',
        length=None,
        offset=7,
        protocol="tus",
        owner="team",
        status=status,
        image="harbor.example/team/llm:v1",
        digests={"md5": None, "sha256": "0" * 64},
        created_at=utc_now(),
        updated_at=utc_now(),
        steps=(StepRecord("verify", StepState.DONE), StepRecord("push", StepState.RUNNING)),
        results=(ImageResult("harbor.example/team/llm:v1", "sha256:1", ("linux/amd64",)),),
        error=Failure("code", "push", "message", "hint", retryable=True),
    )


@pytest.fixture
def status(redis: Client) -> StatusStore:
    return StatusStore(redis)


async def events(redis: Client, upload_id: str | None = None) -> list[tuple[str, dict[str, Any]]]:
    key = Keys.EVENTS if upload_id is None else Keys.upload_events(upload_id)
    return [
        (entry_id, {**fields, "data": json.loads(fields["data"])})
        for entry_id, fields in await redis.xrange(key)
    ]


async def test_a_document_comes_back_as_it_was(status: StatusStore) -> None:
    assert await status.get("a") is None
    assert await status.put(record())
    assert await status.get("a") == record_of(await status.get("a"))
    kept = await status.get("a")
    assert kept is not None
    assert kept.filename == 'né "quoted" \U0001f6a2.tar'
    assert kept.error == record().error


def record_of(value: Record | None) -> Record:
    assert value is not None
    return Record.from_json(json.loads(json.dumps(value.to_json())))


async def test_many_at_once(status: StatusStore) -> None:
    documents = {f"upload-{number}": record(f"upload-{number}") for number in range(1203)}
    for document in documents.values():
        await status.put(document)
    assert await status.get_many([*documents, "unknown"]) == documents
    assert await status.get_many([]) == {}


async def test_a_change_is_one_event_with_one_id_in_both_streams(
    redis: Client, status: StatusStore
) -> None:
    document = record()
    await status.put(document)
    await status.put(document, step="push")
    await status.log("a", "team", "push", "Copying blob\t☃")
    await status.put(record("b"))
    await status.remove("a", "team")
    everybodys = await events(redis)
    assert [fields["type"] for _, fields in everybodys] == [
        "status",
        "step",
        "log",
        "status",
        "removed",
    ]
    assert await events(redis, "a") == [row for row in everybodys if row[1]["id"] == "a"]
    assert [fields["data"] for _, fields in everybodys if fields["id"] == "a"] == [
        document.to_json(),
        {"id": "a", "step": document.step("push").to_json()},
        {"id": "a", "step": "push", "line": "Copying blob\t☃"},
        {"id": "a"},
    ]
    assert {fields["owner"] for _, fields in everybodys} == {"team"}
    assert await status.get("a") is None
    assert await status.get("b") is not None


async def test_a_step_that_is_not_there_changes_nothing(redis: Client, status: StatusStore) -> None:
    with pytest.raises(KeyError):
        await status.put(record(), step="unknown")
    assert await status.get("a") is None
    assert await events(redis) == []


@pytest.mark.parametrize("end", [state for state in Status if state.terminal])
async def test_the_late_word_of_a_zombie_does_not_undo_an_end(
    redis: Client, status: StatusStore, end: Status
) -> None:
    await status.put(record(status=Status.RUNNING))
    assert await status.put(record(status=end))
    before = await events(redis)
    assert not await status.put(record(status=Status.RUNNING), step="push")
    assert not await status.put(record(status=Status.RECEIVING))
    assert await events(redis) == before
    assert (await status.get_many(["a"]))["a"].status is end
    # An end after an end, and a retry, are no zombies.
    assert await status.put(record(status=Status.EXPIRED))
    assert await status.put(record(status=Status.QUEUED))
    assert await status.put(record(status=Status.RUNNING))


async def test_everything_is_forgotten_after_a_while_but_not_everybodys_stream(
    redis: Client,
) -> None:
    await StatusStore(redis).put(record("a"))
    await StatusStore(redis, kept_seconds=100).put(record("b"))
    for upload_id, kept_seconds in (("a", KEPT_SECONDS), ("b", 100)):
        for key in (Keys.status(upload_id), Keys.upload_events(upload_id)):
            assert kept_seconds - 10 < await redis.ttl(key) <= kept_seconds
    assert await redis.ttl(Keys.EVENTS) == -1
    await StatusStore(redis).remove("a", "team")
    assert 0 < await redis.ttl(Keys.upload_events("a")) <= 3600


async def test_the_streams_are_bounded(redis: Client, status: StatusStore) -> None:
    for number in range(2500):
        await status.log("a", "team", "push", str(number))
    assert await redis.xlen(Keys.EVENTS) == 2500
    assert 2000 <= await redis.xlen(Keys.upload_events("a")) < 2200
    for number in range(2500, 6000):
        await status.log("a", "team", "push", str(number))
    assert 5000 <= len(await status.lines("a")) < 5300


async def test_what_steps_said_is_not_pushed_out_by_progress(
    redis: Client, status: StatusStore
) -> None:
    await status.log("b", "team", "push", "of another")
    await status.log("a", "team", "load", "first")
    moving = record().with_steps(["load"])
    for _ in range(2500):
        await status.put(moving, step="load")
    await status.log("a", "team", "load", "last")
    lines = await status.lines("a")
    assert [(one.step, one.line) for one in lines] == [("load", "first"), ("load", "last")]
    assert [one.event for one in lines][1] == (await events(redis, "a"))[-1][0]
    assert await status.lines("nobody") == []
    await status.remove("a", "team")
    assert await status.lines("a") == []


async def test_a_clock_that_goes_back_stops_nothing(redis: Client, status: StatusStore) -> None:
    # As if the streams had been written when the clock was an hour ahead.
    seconds, _ = await redis.time()
    ahead = f"{(seconds + 3600) * 1000}-7"
    fields = {"id": "a", "owner": "team", "type": "removed", "data": "{}"}
    await redis.xadd(Keys.EVENTS, fields, id=ahead)
    await redis.xadd(Keys.upload_events("a"), fields, id=ahead)
    await status.put(record())
    assert (await events(redis))[-1][0] == ahead.replace("-7", "-8")
    assert await events(redis, "a") == await events(redis)
    # Only everybody's stream was lost: the upload's own starts afresh and stays in step.
    await redis.delete(Keys.EVENTS)
    await status.put(record())
    await status.put(record())
    assert await events(redis, "a") == await events(redis)
    assert len(await events(redis)) == 2


@pytest.mark.parametrize("document", ["", "nonsense", "[]", "1", '{"id": "a"}', "null", "\x00"])
async def test_an_unreadable_document_is_as_good_as_none(
    redis: Client, status: StatusStore, document: str
) -> None:
    await redis.set(Keys.status("a"), document)
    await status.put(record("b"))
    assert await status.get("a") is None
    assert list(await status.get_many(["a", "b"])) == ["b"]
    assert await status.put(record("a"))
    assert await status.get("a") is not None


async def test_a_killed_redis_keeps_documents_and_events(
    redis_server: RedisServer, redis: Client, status: StatusStore
) -> None:
    for number in range(100):
        await status.put(replace(record(), offset=number))
    before = await events(redis)
    await written(redis)
    redis_server.kill()
    redis_server.start()
    kept = await status.get("a")
    assert kept is not None
    assert kept.offset == 99
    assert await events(redis) == before
    await status.put(record())
    after = await events(redis)
    assert after[:-1] == before
    assert await events(redis, "a") == after


async def test_after_flushall_ids_go_on_rising(redis: Client, status: StatusStore) -> None:
    # Loss and new beginning within one millisecond: Redis itself would give the same id again.
    for _ in range(200):
        await status.put(record())
        before = (await events(redis))[-1][0]
        await redis.flushall()
        await status.put(record())
        ((after, _),) = await events(redis)
        assert tuple(map(int, after.split("-"))) > tuple(map(int, before.split("-")))
