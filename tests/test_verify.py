"""The verify step: digests from a follower or from the file, and what was promised."""

from __future__ import annotations

import hashlib
import os
import time
from pathlib import Path

import anyio
import anyio.to_thread
import pytest

from hooks.following import lease_name
from hooks.job import Job
from hooks.pipeline import Pipeline, Retry, StepContext
from hooks.ports import Digests
from hooks.record import Failure, Record, StepState
from hooks.verify import NO_DIGEST, VerifyDigest
from tests.steps import archive, context_of, parts, told
from tests.workers import Bench, one_redis, setup

__all__ = ["archive", "one_redis", "parts", "setup"]
pytestmark = pytest.mark.anyio

MIB = 1024**2
QUICK = Retry(attempts=3, base_seconds=0.05)


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
    async with told(context):
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
    async with told(context):
        assert await Pipeline([step]).run(context) is None


async def test_a_follower_that_is_not_done_is_waited_for(parts: Bench, archive: Path) -> None:
    promised, step = promises(archive), VerifyDigest(parts.uploads, parts.leases)
    context = await context_of(parts, archive, (step,), **promised)
    context.job.path.write_bytes(bytes(context.job.length))
    await parts.leases.take(lease_name(context.job.id), 30)

    async def follow() -> None:
        await anyio.sleep(1)
        await left_by_follower(context, parts, promised)

    async with told(context), anyio.create_task_group() as tasks:
        tasks.start_soon(follow)
        began_at = time.monotonic()
        assert await Pipeline([step]).run(context) is None
        assert 0.9 < time.monotonic() - began_at < 2


async def test_a_follower_that_died_is_replaced_by_reading(parts: Bench, archive: Path) -> None:
    promised, step = promises(archive), VerifyDigest(parts.uploads, parts.leases)
    context = await context_of(parts, archive, (step,), **promised)
    await parts.leases.take(lease_name(context.job.id), 1)
    async with told(context):
        assert await Pipeline([step]).run(context) is None
    assert context.document.record.digests == promised


async def test_digests_of_a_part_do_not_count(parts: Bench, archive: Path) -> None:
    step = VerifyDigest(parts.uploads, parts.leases)
    context = await context_of(parts, archive, (step,), **promises(archive))
    await parts.uploads.record_digests(context.job.id, Digests(5, "a" * 32, "b" * 64))
    async with told(context):
        assert await Pipeline([step]).run(context) is None
    assert context.document.record.digests == promises(archive)


async def test_a_file_that_was_cut_fails_by_name(parts: Bench, archive: Path) -> None:
    step = VerifyDigest(parts.uploads, parts.leases)
    context = await context_of(parts, archive, (step,))
    os.truncate(context.job.path, MIB)
    async with told(context):
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
