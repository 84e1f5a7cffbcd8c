"""Jobs that workers run: archives, their uploads in the queue, and what has to be true afterwards.

Knows: a bench with a registry, what a finished job leaves and what it must not leave.
Must not know: what happens to a worker meanwhile.
"""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import anyio
import anyio.to_thread
import pytest

from hooks.events import UploadFinished
from hooks.pipeline import StepContext
from hooks.record import Record, Status
from tests.archives import MIB, Archive, write_docker_archive
from tests.redis_servers import until
from tests.registries import RunningRegistry
from tests.workers import (
    Bench,
    Setup,
    WorkerProcess,
    bench,
)


@pytest.fixture
def place(setup: Setup, plain_registry: RunningRegistry) -> Setup:
    """The setup, with a registry."""
    return replace(setup, registries=(plain_registry.host,))


@pytest.fixture
async def parts(place: Setup) -> AsyncIterator[Bench]:
    async with bench(place) as made:
        yield made


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Archive:
    return write_docker_archive(tmp_path_factory.mktemp("small") / "a.tar")


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Archive:
    """Large enough to be caught in the middle of a step."""
    return write_docker_archive(tmp_path_factory.mktemp("large") / "a.tar", [100 * MIB, 100 * MIB])


def digests(path: Path) -> dict[str, str]:
    data = path.read_bytes()
    md5 = hashlib.md5(data, usedforsecurity=False).hexdigest()
    return {"md5": md5, "sha256": hashlib.sha256(data).hexdigest()}


async def finished(parts: Bench, archive: Path, **metadata: str) -> str:
    """A whole upload that waits in the queue."""
    upload_id = await anyio.to_thread.run_sync(lambda: parts.uploads.add(archive, **metadata))
    upload = await parts.uploads.get(upload_id)
    assert upload
    await parts.lifecycle.handle(UploadFinished(upload.record))
    return upload_id


def image_in(registry: RunningRegistry, name: str = "team/app:1") -> str:
    return f"{registry.host}/{name}"


def states(record: Record) -> dict[str, str]:
    return {step.name: step.state.value for step in record.steps}


ALL_DONE = {name: "done" for name in ("verify", "load", "push", "cleanup")}


async def assert_pushed(
    parts: Bench, registry: RunningRegistry, archive: Archive, upload_id: str, name: str
) -> Record:
    """The image is there, the archive and every trace of the job are not."""
    outcome = await parts.outcome(upload_id)
    assert outcome.error is None
    assert outcome.status is Status.DONE
    image = image_in(registry, name)
    found = await anyio.to_thread.run_sync(registry.config_digest, image)
    assert found == archive.image_id
    [result] = outcome.results
    assert result.image == image
    assert result.digest == await parts.admission.exists(image)

    async def told() -> bool:
        return await parts.status.get(upload_id) == outcome

    await until(told)
    assert not parts.uploads.data(upload_id).exists()
    assert (await parts.queue.depth()).running == 0
    assert parts.left_over == []
    return outcome


def children_of(process: WorkerProcess) -> list[int]:
    """Processes in whose environment the worker's jobs directory stands: buildah, and its guard."""
    jobs = str(process.setup.jobs_dir).encode()
    found = []
    for directory in Path("/proc").glob("[0-9]*"):
        try:
            environment = (directory / "environ").read_bytes()
            command = (directory / "cmdline").read_bytes()
        except OSError:
            # Gone meanwhile, or another user's.
            continue
        if jobs in environment or jobs in command:
            found.append(int(directory.name))
    return found


class Endless:
    """A step that runs until somebody ends it; how it ended is remembered."""

    name = "load"
    after_failure = False

    def __init__(self) -> None:
        self.began = 0
        self.cancelled = 0

    async def run(self, context: StepContext) -> None:
        self.began += 1
        try:
            await anyio.sleep_forever()
        finally:
            self.cancelled += 1
