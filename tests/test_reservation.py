"""Room that a job counts on: what one was promised, another one does not get."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from buildah import unpacking
from buildah.errors import StorageFull
from buildah.opening import open_archive
from buildah.reservation import reserve
from buildah.workspace import Workspace, sweep_workspaces
from tests.archives import write_docker_archive, write_gzipped
from tests.failures import tiny_disk
from tests.live import ROOT, wait_until

MIB = 2**20


def opened(jobs: Path, name: str) -> Workspace:
    return Workspace.open(jobs, name, storage_driver="vfs")


def test_what_one_job_was_promised_another_does_not_get(tmp_path: Path) -> None:
    with tiny_disk(tmp_path / "disk", "64m") as disk:
        jobs = disk / "jobs"
        with opened(jobs, "first") as first, opened(jobs, "second") as second:
            reserve(first, 40 * MIB)
            with pytest.raises(StorageFull) as refused:
                reserve(second, 40 * MIB)
            assert "of them for other jobs" in refused.value.message
            assert refused.value.retryable
            reserve(second, 10 * MIB)
        # Both are closed, and so is what they needed.
        with opened(jobs, "third") as third:
            reserve(third, 50 * MIB)


def test_what_was_taken_is_not_counted_twice(tmp_path: Path) -> None:
    with tiny_disk(tmp_path / "disk", "64m") as disk:
        jobs = disk / "jobs"
        with opened(jobs, "first") as first, opened(jobs, "second") as second:
            reserve(first, 40 * MIB)
            (first.tmp / "layer").write_bytes(os.urandom(30 * MIB))
            with pytest.raises(StorageFull):
                reserve(second, 30 * MIB)
            reserve(second, 20 * MIB)


def test_a_need_can_be_said_again(tmp_path: Path) -> None:
    with tiny_disk(tmp_path / "disk", "64m") as disk:
        jobs = disk / "jobs"
        with opened(jobs, "first") as first, opened(jobs, "second") as second:
            reserve(first, 50 * MIB)
            reserve(first, 5 * MIB)
            reserve(second, 50 * MIB)


HOLDER = """
import sys, time
from pathlib import Path
from buildah.reservation import reserve
from buildah.workspace import Workspace
workspace = Workspace.open(Path(sys.argv[1]), "other", storage_driver="vfs")
reserve(workspace, 40 * 2**20)
print("reserved", flush=True)
time.sleep(600)
"""


def test_another_process_counts_until_it_is_dead(tmp_path: Path) -> None:
    with tiny_disk(tmp_path / "disk", "64m") as disk:
        jobs = disk / "jobs"
        with subprocess.Popen(
            [sys.executable, "-c", HOLDER, str(jobs)], stdout=subprocess.PIPE, text=True, cwd=ROOT
        ) as holder:
            assert holder.stdout
            assert holder.stdout.readline() == "reserved\n"
            with opened(jobs, "mine") as mine:
                with pytest.raises(StorageFull):
                    reserve(mine, 40 * MIB)
                holder.kill()
                holder.wait()
                reserve(mine, 40 * MIB)
        assert sweep_workspaces(jobs) == ["other"]


def test_of_many_at_once_as_many_begin_as_there_is_room_for(tmp_path: Path) -> None:
    with tiny_disk(tmp_path / "disk", "64m") as disk:
        jobs = disk / "jobs"
        jobs.mkdir()
        workspaces = [opened(jobs, f"job{number}") for number in range(12)]
        room = shutil.disk_usage(jobs).free // (15 * MIB)

        def begins(workspace: Workspace) -> bool:
            try:
                reserve(workspace, 15 * MIB)
            except StorageFull:
                return False
            return True

        with ThreadPoolExecutor(12) as pool:
            begun = list(pool.map(begins, workspaces))
        for workspace in workspaces:
            workspace.close()
        assert sum(begun) == room
        wait_until(lambda: sweep_workspaces(jobs) == [])


def test_what_was_taken_before_is_no_part_of_what_is_needed(tmp_path: Path) -> None:
    """An archive that was decompressed first still needs all that its images are going to take."""
    with tiny_disk(tmp_path / "disk", "64m") as disk:
        jobs = disk / "jobs"
        with opened(jobs, "first") as first, opened(jobs, "second") as second:
            (first.tmp / "plain").write_bytes(os.urandom(20 * MIB))
            reserve(first, 30 * MIB)
            with pytest.raises(StorageFull):
                reserve(second, 20 * MIB)
            reserve(second, 10 * MIB)


@pytest.mark.anyio
async def test_decompressing_takes_no_room_that_others_count_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unpacking, "_RESERVED_BYTES", 8 * MIB)
    archive = write_docker_archive(tmp_path / "a", [30 * MIB])
    packed = write_gzipped(tmp_path / "packed", archive.path)
    with tiny_disk(tmp_path / "disk", "64m") as disk:
        jobs = disk / "jobs"
        with opened(jobs, "first") as first, opened(jobs, "second") as second:
            reserve(first, 48 * MIB)
            with pytest.raises(StorageFull, match="for other jobs"):
                await open_archive(packed, second, lambda _: None)
            taken = sum(one.stat().st_size for one in second.directory.rglob("plain"))
            assert taken <= 16 * MIB
            (first.tmp / "layer").write_bytes(os.urandom(40 * MIB))
