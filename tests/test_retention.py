"""Retention: what is expired goes, what is in use stays, one process is enough for each tick."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import anyio
import anyio.to_thread
import pytest

from buildah.workspace import Workspace
from hooks.ports import Swept
from hooks.record import Status
from hooks.retention import Retention
from tests.disk_uploads import DiskUploads
from tests.redis_servers import RedisServer, until
from tests.workers import Bench, Setup, bench, one_redis, setup

__all__ = ["one_redis", "setup"]
pytestmark = pytest.mark.anyio


@pytest.fixture
async def parts(setup: Setup) -> AsyncIterator[Bench]:
    async with bench(setup) as made:
        made.uploads = DiskUploads(made.uploads.directory, ttl_seconds=0)
        yield made


def retention(parts: Bench, interval_seconds: float = 3600.0) -> Retention:
    return Retention(
        parts.uploads,
        parts.leases,
        jobs_dir=parts.setup.jobs_dir,
        interval_seconds=interval_seconds,
    )


async def failed_upload(parts: Bench, tmp_path: Path, size: int = 1000) -> str:
    """One whose archive is kept, and due."""
    archive = tmp_path / "archive"
    archive.write_bytes(bytes(size))
    upload_id = parts.uploads.add(archive)
    upload = await parts.uploads.get(upload_id)
    assert upload
    await upload.record_outcome(replace(upload.record, status=Status.FAILED))
    return upload_id


async def gone(parts: Bench, upload_id: str) -> None:
    """Return once the archive is removed."""

    async def removed() -> bool:
        return not await anyio.Path(parts.uploads.data(upload_id)).exists()

    await until(removed)


def dead_workspace(parts: Bench, job_id: str = "a" * 32) -> Path:
    """What a killed worker leaves: a directory that nobody holds."""
    left = parts.setup.jobs_dir / job_id
    (left / "root" / "overlay").mkdir(parents=True)
    (left / "root" / "overlay" / "layer").write_bytes(b"x")
    return left


async def test_what_is_due_goes_and_is_counted(parts: Bench, tmp_path: Path) -> None:
    upload_id = await failed_upload(parts, tmp_path)
    left = dead_workspace(parts)
    collected = await retention(parts).collect()
    assert collected.uploads == (Swept(upload_id, "archive, kept long enough", 1000),)
    assert collected.freed_bytes == 1000
    assert collected.workspaces == (left.name,)
    assert not parts.uploads.data(upload_id).exists()
    assert not left.exists()
    assert await parts.uploads.outcome(upload_id)


async def test_a_dry_run_says_it_and_changes_nothing(parts: Bench, tmp_path: Path) -> None:
    upload_id = await failed_upload(parts, tmp_path)
    left = dead_workspace(parts)
    collected = await retention(parts).collect(dry_run=True)
    assert [swept.upload_id for swept in collected.uploads] == [upload_id]
    assert parts.uploads.data(upload_id).exists()
    assert left.exists()


async def test_what_is_in_use_stays(parts: Bench, tmp_path: Path) -> None:
    archive = tmp_path / "archive"
    archive.write_bytes(bytes(10))
    upload_id = parts.uploads.add(archive)
    upload = await parts.uploads.get(upload_id)
    assert upload
    workspace = await anyio.to_thread.run_sync(
        lambda: Workspace.open(parts.setup.jobs_dir, upload_id, storage_driver="vfs")
    )
    async with upload.lock():
        await upload.record_outcome(replace(upload.record, status=Status.FAILED))
        collected = await retention(parts).collect()
    assert (collected.uploads, collected.workspaces) == ((), ())
    assert upload.path.exists()
    assert (parts.setup.jobs_dir / upload_id).exists()
    await anyio.to_thread.run_sync(workspace.close)


async def test_it_sweeps_on_every_tick(parts: Bench, tmp_path: Path) -> None:
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(retention(parts, interval_seconds=0.2).run)
        for _ in range(3):
            await gone(parts, await failed_upload(parts, tmp_path))
        tasks.cancel_scope.cancel()


async def test_of_many_processes_one_sweeps_each_tick(setup: Setup, tmp_path: Path) -> None:
    async with bench(setup, "one") as one, bench(setup, "two") as two:
        for parts in (one, two):
            parts.uploads = DiskUploads(parts.uploads.directory, ttl_seconds=0)
        async with anyio.create_task_group() as tasks:
            first = await failed_upload(one, tmp_path)
            tasks.start_soon(retention(one).run)
            await gone(one, first)
            second = await failed_upload(one, tmp_path)
            tasks.start_soon(retention(two).run)
            await anyio.sleep(0.5)
            assert one.uploads.data(second).exists()
            tasks.cancel_scope.cancel()


async def test_without_redis_it_sweeps_all_the_same(
    setup: Setup, one_redis: RedisServer, tmp_path: Path
) -> None:
    await anyio.to_thread.run_sync(one_redis.kill)
    async with bench(replace(setup, patience_seconds=0.1)) as parts:
        parts.uploads = DiskUploads(parts.uploads.directory, ttl_seconds=0)
        upload_id = await failed_upload(parts, tmp_path)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(retention(parts).run)
            await gone(parts, upload_id)
            tasks.cancel_scope.cancel()
