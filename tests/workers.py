"""Workers on a directory of their own: in this process, or as a program that can be killed.

Knows: how the parts of `hooks` are put together over `tests/disk_uploads.py`.
Must not know: what a test wants to prove.

Run as `python -m tests.workers SETUP.json` it is that program.
"""

from __future__ import annotations

import json
import logging
import signal
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import anyio
import pytest

from buildah.registry import Registries, Registry
from buildah.workspace import sweep_workspaces
from hooks.admission import Admission
from hooks.attempt import Desk
from hooks.budget import Budget
from hooks.following import Following
from hooks.lifecycle import Lifecycle
from hooks.pipeline import Pipeline, Retry, Step
from hooks.queue import JobQueue
from hooks.record import Record
from hooks.redis import Keys, Leases, Signals, connect
from hooks.status import StatusStore
from hooks.steps import image_steps
from hooks.worker import Worker
from tests.disk_uploads import DiskUploads
from tests.redis_servers import EXECUTABLES, PASSWORD, RedisServer, free_port, until

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Setup:
    """Where a worker works, and how. `registries` are hosts, spoken to over plain HTTP."""

    directory: str
    redis_url: str
    registries: tuple[str, ...] = ()
    storage_driver: str = "overlay"
    concurrency: int = 2
    lease_seconds: float = 15.0
    grace_seconds: float = 5.0
    attempts: int = 6
    base_seconds: float = 0.2
    patience_seconds: float = 15.0

    @property
    def jobs_dir(self) -> Path:
        return Path(self.directory, "jobs")


class Bench:
    """The parts of `hooks` as one process has them, under a name of its own."""

    def __init__(self, setup: Setup, name: str) -> None:
        self.setup = setup
        self.uploads = DiskUploads(Path(setup.directory, "uploads"))
        self.redis = connect(setup.redis_url, patience_seconds=setup.patience_seconds)
        self.status = StatusStore(self.redis)
        self.queue = JobQueue(self.redis, name, lease_seconds=setup.lease_seconds)
        self.signals = Signals(self.redis)
        self.leases = Leases(self.redis, name)
        self.lifecycle = Lifecycle(self.status, self.queue, self.signals)
        self.budget = Budget(setup.storage_driver)
        self.admission = Admission(
            Registries(Registry(host, plain_http=True) for host in setup.registries),
            budget=self.budget,
        )
        setup.jobs_dir.mkdir(parents=True, exist_ok=True)

    def steps(self) -> tuple[Step, ...]:
        """The real ones."""
        return image_steps(
            self.uploads,
            self.leases,
            self.admission,
            jobs_dir=self.setup.jobs_dir,
            budget=self.budget,
        )

    def worker(self, *steps: Step) -> Worker:
        """A worker for these steps, by default the real ones."""
        retry = Retry(self.setup.attempts, self.setup.base_seconds)
        pipeline = Pipeline(steps or self.steps(), retry=retry)
        return Worker(
            Desk(self.uploads, self.queue, self.status, self.signals, pipeline),
            Following(self.uploads, self.leases),
            jobs_dir=self.setup.jobs_dir,
            concurrency=self.setup.concurrency,
            grace_seconds=self.setup.grace_seconds,
        )

    async def outcome(self, upload_id: str, seconds: float = 60.0) -> Record:
        """How the upload ended; it has to end within so long."""
        found: list[Record] = []

        async def ended() -> bool:
            record = await self.uploads.outcome(upload_id)
            found.extend([record] if record else [])
            return bool(found)

        await until(ended, seconds)
        return found[0]

    async def running(self, upload_id: str, step: str, seconds: float = 60.0) -> None:
        """Return once the status shows that the step has begun and moved."""

        async def moving() -> bool:
            record = await self.status.get(upload_id)
            steps = {one.name: one for one in record.steps} if record else {}
            return step in steps and steps[step].state == "running"

        await until(moving, seconds)

    async def events(self) -> list[dict[str, str]]:
        """Everything that was told, oldest first."""
        entries: Any = await self.redis.xrange(Keys.EVENTS)
        return [fields for _, fields in entries]

    @property
    def left_over(self) -> list[str]:
        """What jobs have left: directories, and mounts below them."""
        mounts = Path("/proc/self/mounts").read_text().splitlines()
        below = [line for line in mounts if str(self.setup.jobs_dir) in line]
        return [path.name for path in self.setup.jobs_dir.iterdir()] + below


@asynccontextmanager
async def bench(setup: Setup, name: str = "bench") -> AsyncIterator[Bench]:
    made = Bench(setup, name)
    try:
        yield made
    finally:
        with anyio.CancelScope(shield=True):
            await made.redis.aclose()


@asynccontextmanager
async def working(worker: Worker) -> AsyncIterator[anyio.Event]:
    """Run a worker beside the block; setting the event, or leaving, stops it in order."""
    stop = anyio.Event()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(worker.run, stop)
        try:
            yield stop
        finally:
            stop.set()


class WorkerProcess:
    """A worker as a program."""

    def __init__(self, setup: Setup, name: str) -> None:
        self.setup = setup
        description = Path(setup.directory, f"{name}.json")
        description.write_text(json.dumps({"name": name, **asdict(setup)}))
        self.log_path = description.with_suffix(".log")
        with self.log_path.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "tests.workers", str(description)],
                cwd=ROOT,
                env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": setup.directory},
                stdout=log,
                stderr=log,
            )

    def kill(self) -> None:
        """kill -9, of the worker alone: what it started is its own affair."""
        self.process.kill()
        self.process.wait()

    def terminate(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(30)


@contextmanager
def worker_process(setup: Setup, name: str) -> Iterator[WorkerProcess]:
    process = WorkerProcess(setup, name)
    try:
        yield process
    except BaseException:
        sys.stderr.write(process.log_path.read_text())
        raise
    finally:
        process.kill()


@pytest.fixture
def one_redis() -> Iterator[RedisServer]:
    """A redis-server of one version, the one that the program itself would take."""
    executable = next((path for find in EXECUTABLES.values() if (path := find())), None)
    if executable is None:
        pytest.skip("no redis-server on this machine")
    with tempfile.TemporaryDirectory(prefix="redis-") as directory:
        url = f"unix://{directory}/redis.sock?password={PASSWORD}"
        server = RedisServer(executable, Path(directory), free_port(), url)
        server.start()
        try:
            yield server
        finally:
            server.stop()


@pytest.fixture
def setup(tmp_path: Path, one_redis: RedisServer) -> Iterator[Setup]:
    """A directory, a Redis, and no registry."""
    made = Setup(str(tmp_path), one_redis.url)
    yield made
    # A test that failed may leave a mount, and nobody could remove its directory then.
    sweep_workspaces(made.jobs_dir)


async def _main(description: Path) -> None:
    given = json.loads(await anyio.Path(description).read_text())
    name = given.pop("name")
    stop = anyio.Event()
    async with bench(Setup(**given), name) as parts, anyio.create_task_group() as tasks:
        tasks.start_soon(parts.worker().run, stop)
        with anyio.open_signal_receiver(signal.SIGTERM) as signals:
            async for _ in signals:
                stop.set()
                return


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s")
    anyio.run(_main, Path(sys.argv[1]))
