"""Workers on real parts: from an archive on disk to an image, a failure or a cancel."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import anyio
import anyio.to_thread
import pytest

from hooks.events import UploadFinished
from hooks.pipeline import StepContext
from hooks.record import Status
from tests.archives import Archive, write_truncated
from tests.jobs import (
    ALL_DONE,
    Endless,
    assert_pushed,
    digests,
    finished,
    image_in,
    large,
    parts,
    place,
    small,
    states,
)
from tests.redis_servers import until
from tests.registries import RunningRegistry, plain_registry
from tests.workers import (
    Bench,
    Setup,
    bench,
    one_redis,
    setup,
    working,
)

__all__ = ["large", "one_redis", "parts", "place", "plain_registry", "setup", "small"]
pytestmark = pytest.mark.anyio


async def test_an_archive_becomes_an_image(
    parts: Bench, plain_registry: RunningRegistry, small: Archive
) -> None:
    promised = digests(small.path)
    upload_id = await finished(parts, small.path, image=image_in(plain_registry), **promised)
    async with working(parts.worker()):
        outcome = await assert_pushed(parts, plain_registry, small, upload_id, "team/app:1")
    assert states(outcome) == ALL_DONE
    assert outcome.digests == promised
    assert outcome.results[0].platforms == ("linux/amd64",)
    for step in outcome.steps:
        assert step.started_at
        assert step.finished_at
        assert step.bytes_done == step.bytes_total
    assert outcome.step("verify").bytes_total == small.size


async def test_without_an_image_the_archive_is_verified_and_kept(
    parts: Bench, small: Archive
) -> None:
    upload_id = await finished(parts, small.path, **digests(small.path))
    async with working(parts.worker()):
        outcome = await parts.outcome(upload_id)
    assert outcome.status is Status.DONE
    assert states(outcome) == ALL_DONE | {"load": "skipped", "push": "skipped"}
    assert outcome.results == ()
    assert parts.uploads.data(upload_id).exists()


async def test_a_wrong_digest_pushes_nothing_and_keeps_the_archive(
    parts: Bench, plain_registry: RunningRegistry, small: Archive
) -> None:
    upload_id = await finished(parts, small.path, image=image_in(plain_registry), md5="0" * 32)
    async with working(parts.worker()):
        outcome = await parts.outcome(upload_id)
    assert outcome.status is Status.FAILED
    assert outcome.error
    assert (outcome.error.code, outcome.error.step) == ("digest_mismatch", "verify")
    assert states(outcome) == {
        "verify": "failed",
        "load": "skipped",
        "push": "skipped",
        "cleanup": "done",
    }
    assert plain_registry.tags("team/app") == []
    assert parts.uploads.data(upload_id).exists()
    assert parts.left_over == []


async def test_a_truncated_archive_fails_at_load_and_can_be_tried_again(
    parts: Bench, plain_registry: RunningRegistry, small: Archive, tmp_path: Path
) -> None:
    cut = write_truncated(tmp_path / "cut.tar")
    upload_id = await finished(parts, cut, image=image_in(plain_registry))
    async with working(parts.worker()):
        outcome = await parts.outcome(upload_id)
        assert outcome.error
        assert outcome.error.step == "load"
        assert outcome.error.code == "archive_truncated"
        assert states(outcome)["cleanup"] == "done"
        assert parts.left_over == []
        # What a person does next, if the archive were good after all.
        parts.uploads.data(upload_id).write_bytes(small.path.read_bytes())
        parts.uploads.beside(upload_id, "digest").unlink()
        parts.uploads.forget_outcome(upload_id)
        info = parts.uploads.read(upload_id, "info")
        assert info
        parts.uploads.write(upload_id, "info", {**info, "length": small.size})
        upload = await parts.uploads.get(upload_id)
        assert upload
        await parts.lifecycle.handle(UploadFinished(upload.record))
        await assert_pushed(parts, plain_registry, small, upload_id, "team/app:1")


async def test_many_jobs_share_a_worker(
    parts: Bench, plain_registry: RunningRegistry, small: Archive
) -> None:
    names = [f"team/app{number}:1" for number in range(5)]
    ids = [
        await finished(parts, small.path, image=image_in(plain_registry, name)) for name in names
    ]
    async with working(parts.worker()):
        for upload_id in ids:
            await parts.outcome(upload_id)
        for upload_id, name in zip(ids, names, strict=True):
            await assert_pushed(parts, plain_registry, small, upload_id, name)


async def test_a_registry_that_comes_back_gets_the_image(
    parts: Bench, plain_registry: RunningRegistry, small: Archive
) -> None:
    await anyio.to_thread.run_sync(plain_registry.stop)
    upload_id = await finished(parts, small.path, image=image_in(plain_registry))
    async with working(parts.worker()):

        async def told_to_wait() -> bool:
            record = await parts.status.get(upload_id)
            return record is not None and "trying again" in record.step("push").message

        await until(told_to_wait, 60)
        await anyio.to_thread.run_sync(plain_registry.start)
        outcome = await assert_pushed(parts, plain_registry, small, upload_id, "team/app:1")
    assert outcome.step("push").message == ""


async def test_a_registry_that_stays_away_fails_by_name(
    place: Setup, plain_registry: RunningRegistry, small: Archive
) -> None:
    await anyio.to_thread.run_sync(plain_registry.stop)
    async with bench(replace(place, attempts=2)) as parts, working(parts.worker()):
        upload_id = await finished(parts, small.path, image=image_in(plain_registry))
        outcome = await parts.outcome(upload_id)
    assert outcome.error
    assert (outcome.error.code, outcome.error.step) == ("registry_unreachable", "push")
    assert outcome.error.retryable
    assert outcome.error.hint
    assert plain_registry.host in outcome.error.message
    assert parts.left_over == []


async def test_a_disk_that_is_too_small_is_said_before_loading(
    place: Setup, plain_registry: RunningRegistry, small: Archive
) -> None:
    async with bench(replace(place, attempts=1)) as parts:
        upload_id = parts.uploads.add(small.path, image=image_in(plain_registry))
        # With a hole behind it, larger than this disk; its digests are known, so nobody reads it.
        length = 2**42
        parts.uploads.write(
            upload_id, "info", {**(parts.uploads.read(upload_id, "info") or {}), "length": length}
        )
        os.truncate(parts.uploads.data(upload_id), length)
        parts.uploads.write(
            upload_id, "digest", {"length": length, "md5": "0" * 32, "sha256": "0" * 64}
        )
        async with working(parts.worker()):
            outcome = await parts.outcome(upload_id)
    assert outcome.error
    assert (outcome.error.code, outcome.error.step) == ("storage_full", "load")
    assert str(2 * length) in outcome.error.message
    assert outcome.error.retryable


async def test_an_upload_nobody_queued_is_found_on_disk(
    parts: Bench, plain_registry: RunningRegistry, small: Archive
) -> None:
    upload_id = parts.uploads.add(small.path, image=image_in(plain_registry))
    async with working(parts.worker()):
        await assert_pushed(parts, plain_registry, small, upload_id, "team/app:1")


async def test_an_unexpected_error_in_a_step_is_an_outcome(parts: Bench, small: Archive) -> None:
    class Broken:
        name = "verify"
        after_failure = False

        async def run(self, context: StepContext) -> None:
            raise ZeroDivisionError

    upload_id = await finished(parts, small.path)
    async with working(parts.worker(Broken())):
        outcome = await parts.outcome(upload_id)
    assert outcome.status is Status.FAILED
    assert outcome.error
    assert (outcome.error.code, outcome.error.retryable) == ("internal_error", True)
    assert "ZeroDivisionError" in outcome.error.message


async def test_cancelling_a_running_job_ends_it_at_once(
    parts: Bench, plain_registry: RunningRegistry, large: Archive
) -> None:
    upload_id = await finished(parts, large.path, image=image_in(plain_registry))
    async with working(parts.worker()):
        await parts.running(upload_id, "load")
        parts.uploads.request_cancel(upload_id)
        cancelled_at = anyio.current_time()
        await parts.lifecycle.cancel(upload_id)
        outcome = await parts.outcome(upload_id)
        assert anyio.current_time() - cancelled_at < 4
    assert outcome.status is Status.CANCELED
    assert states(outcome) == {
        "verify": "skipped",
        "load": "canceled",
        "push": "canceled",
        "cleanup": "canceled",
    }
    assert not parts.uploads.data(upload_id).exists()
    assert parts.left_over == []
    assert plain_registry.tags("team/app") == []


async def test_a_cancel_whose_signal_is_lost_is_found_by_the_heartbeat(
    place: Setup, small: Archive
) -> None:
    step = Endless()
    async with bench(replace(place, lease_seconds=1.0)) as parts, working(parts.worker(step)):
        upload_id = await finished(parts, small.path)
        await parts.running(upload_id, "load")
        parts.uploads.request_cancel(upload_id)
        outcome = await parts.outcome(upload_id, 5)
    assert outcome.status is Status.CANCELED
    assert step.cancelled == 1


async def test_a_cancel_signal_without_its_mark_on_disk_ends_nothing(
    place: Setup, small: Archive
) -> None:
    step = Endless()
    async with bench(place) as parts, working(parts.worker(step)):
        upload_id = await finished(parts, small.path)
        await parts.running(upload_id, "load")
        await parts.lifecycle.cancel(upload_id)
        await anyio.sleep(0.5)
        assert step.cancelled == 0
        parts.uploads.request_cancel(upload_id)
        await parts.lifecycle.cancel(upload_id)
        assert (await parts.outcome(upload_id)).status is Status.CANCELED


async def test_a_job_that_was_cancelled_while_it_waited_does_not_run(
    parts: Bench, small: Archive
) -> None:
    step = Endless()
    upload_id = await finished(parts, small.path)
    parts.uploads.request_cancel(upload_id)
    async with working(parts.worker(step)):
        outcome = await parts.outcome(upload_id)
    assert outcome.status is Status.CANCELED
    assert states(outcome) == {"load": "canceled"}
    assert step.began == 0
    assert not parts.uploads.data(upload_id).exists()
