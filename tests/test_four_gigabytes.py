"""Gigabytes through a running server: the disk that was budgeted, and a worker that stays small."""

from __future__ import annotations

import os
import shutil
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psutil  # type: ignore[import-untyped]
import pytest

from hooks.budget import Budget
from tests.archives import GIB, MIB, Archive, write_docker_archive, write_oci_archive
from tests.journeys import assert_image, ended, nothing_left, row, upload_by_tuspy
from tests.live import LiveServer
from tests.registries import RunningRegistry, plain_registry

__all__ = ["plain_registry"]

LAYERS = [2 * GIB, 3 * GIB // 2, GIB // 2]
# The archive, what the server keeps of it, three times that for the job, and the registry's.
NEEDED_BYTES = 6 * 4 * GIB
WORKER_BYTES = 200 * MIB
# Directories, notes of the storage, and the unused ends of last blocks.
SLACK_BYTES = 64 * MIB
SAMPLE_SECONDS = 0.1


@dataclass
class Measured:
    """What a job takes below a directory, at its peak, as the disk counts it."""

    directory: Path
    server_pid: int
    peak_bytes: int = 0
    samples: int = 0
    _stop: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> Measured:
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(SAMPLE_SECONDS):
            self.peak_bytes = max(self.peak_bytes, self._now())
            self.samples += 1

    def _now(self) -> int:
        # By device and number: links are one file, and mounts show a file twice.
        found: dict[tuple[int, int], int] = {}
        for one in [*_files(str(self.directory)), *self._deleted()]:
            found[one.st_dev, one.st_ino] = one.st_blocks * 512
        return sum(found.values())

    def _deleted(self) -> Iterator[os.stat_result]:
        """Files that have no name any more, and are still open in a program that we started."""
        below = f"{self.directory}/"
        for process in _family(self.server_pid):
            try:
                for descriptor in Path(f"/proc/{process.pid}/fd").iterdir():
                    target = str(descriptor.readlink())
                    if target.startswith(below) and target.endswith(" (deleted)"):
                        yield descriptor.stat()
            except OSError:
                continue


def _files(directory: str) -> Iterator[os.stat_result]:
    """Every file and directory below; what goes away meanwhile is not there."""
    try:
        for entry in os.scandir(directory):
            try:
                yield entry.stat(follow_symlinks=False)
                if entry.is_dir(follow_symlinks=False):
                    yield from _files(entry.path)
            except OSError:
                continue
    except OSError:
        return


def _family(pid: int) -> list[psutil.Process]:
    try:
        server = psutil.Process(pid)
        return [server, *server.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def peak_memory_bytes(pid: int) -> int:
    """The most that the process ever had in memory (VmHWM)."""
    status = Path(f"/proc/{pid}/status").read_text()
    [line] = [line for line in status.splitlines() if line.startswith("VmHWM:")]
    return int(line.split()[1]) * 1024


def written(path: Path, form: str) -> Archive:
    write = write_docker_archive if form == "docker" else write_oci_archive
    return write(path, LAYERS, seed=f"four gigabytes, {form}")


@pytest.mark.slow
@pytest.mark.timeout(1500)
@pytest.mark.parametrize("form", ["docker", "oci"])
@pytest.mark.parametrize("engine", ["buildah", "skopeo"])
def test_four_gigabytes_in_three_layers(
    engine: str,
    form: str,
    plain_registry: RunningRegistry,
    tmp_path: Path,
) -> None:
    free_bytes = shutil.disk_usage(tmp_path).free
    assert free_bytes > NEEDED_BYTES, f"{free_bytes} bytes free, {NEEDED_BYTES} are needed"
    archive = written(tmp_path / "a", form)
    with LiveServer(tmp_path, registries=[row(plain_registry)], engine=engine) as server:
        with Measured(server.data_dir / "jobs", server.pid) as measured:
            image = f"{plain_registry.host}/team/four:v1"
            began = time.monotonic()
            upload = upload_by_tuspy(server, archive.path, {"image": image}, chunk_bytes=64 * MIB)
            sent = time.monotonic()
            document = ended(server, upload, seconds=900)
        done = time.monotonic()
        memory_bytes = peak_memory_bytes(server.pid)
        assert_image(plain_registry, archive, document)
        assert nothing_left(server)
    budget = Budget(loads=engine == "buildah").needed_bytes(archive.size, layout=form == "oci")
    print(
        f"\n{engine}, {form}: archive {archive.size / GIB:.2f} GiB, sent in {sent - began:.0f} s, "
        f"in the registry {done - sent:.0f} s later; jobs at most "
        f"{measured.peak_bytes / GIB:.2f} GiB (budget {budget / GIB:.2f}), process at most "
        f"{memory_bytes / MIB:.0f} MiB; {measured.samples} samples"
    )
    assert measured.samples > 10
    assert measured.peak_bytes <= budget + SLACK_BYTES
    assert memory_bytes < WORKER_BYTES
