from __future__ import annotations

import bz2
import lzma
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import anyio
import psutil  # type: ignore[import-untyped]
import pytest

from buildah import compression
from buildah.errors import ArchiveCorrupt, ArchiveInvalid, ArchiveTruncated, WorkspaceBusy
from buildah.push import StoredImage
from buildah.pushed import PushedImage
from buildah.reference import ImageReference
from buildah.registry import resolve
from buildah.removal import mounts
from buildah.workspace import Workspace, sweep_workspaces
from tests.archives import (
    KIB,
    MIB,
    PLATFORM,
    Archive,
    write_docker_archive,
    write_gzipped,
    write_oci_archive,
)
from tests.live import wait_until
from tests.moving import load, push
from tests.registries import (
    PASSWORD,
    RunningRegistry,
    missing_programs,
    needs_containers,
    plain_registry,
    secure_registry,
)

__all__ = ["plain_registry", "secure_registry"]

pytestmark = [needs_containers, pytest.mark.anyio]

JOB = "0123456789abcdef0123456789abcdef"
ROOT = Path(__file__).resolve().parent.parent
DRIVERS = ["overlay", "vfs"]


class Seen:
    """What a run told: progress and lines."""

    def __init__(self) -> None:
        self.steps: list[tuple[int, int]] = []
        self.lines: list[str] = []

    def progress(self, done: int, total: int) -> None:
        self.steps.append((done, total))

    def check_progress(self, total: int) -> None:
        done = [step for step, _ in self.steps]
        assert done == sorted(set(done)), "it grows"
        assert {row for _, row in self.steps} == {total}
        assert done[-1] == total


@pytest.fixture(params=DRIVERS)
def workspace(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Workspace]:
    with Workspace.open(tmp_path / "jobs", JOB, storage_driver=request.param) as opened:
        yield opened
    nothing_left(tmp_path / "jobs")


@pytest.fixture
def overlay(tmp_path: Path) -> Iterator[Workspace]:
    with Workspace.open(tmp_path / "jobs", JOB, storage_driver="overlay") as opened:
        yield opened
    nothing_left(tmp_path / "jobs")


def nothing_left(jobs: Path) -> None:
    assert list(jobs.iterdir()) == []
    assert [row for row in mounts() if row.path.is_relative_to(jobs)] == []


async def load_it(archive: Path, workspace: Workspace, seen: Seen | None = None) -> StoredImage:
    seen = seen or Seen()
    return await load(archive, workspace, progress=seen.progress, log=seen.lines.append)


async def push_it(
    image: StoredImage,
    server: RunningRegistry,
    workspace: Workspace,
    seen: Seen | None = None,
    name: str = "team/app:v1",
) -> PushedImage:
    seen = seen or Seen()
    return await push(
        image,
        ImageReference.parse(f"{server.host}/{name}"),
        server.registry(),
        workspace,
        progress=seen.progress,
        log=seen.lines.append,
    )


ARCHIVES: dict[str, Callable[[Path], Archive]] = {
    "docker": lambda path: write_docker_archive(path, [3 * MIB, 0, 5 * KIB]),
    "oci": lambda path: write_oci_archive(path, [3 * MIB, 0, 5 * KIB]),
    "oci-gzipped-layers": lambda path: write_oci_archive(path, [3 * MIB, 5 * KIB], gzipped=True),
}


@pytest.mark.parametrize("kind", ARCHIVES)
@pytest.mark.parametrize("fixture", ["plain_registry", "secure_registry"])
async def test_an_image_arrives_as_it_was_saved(
    kind: str, fixture: str, workspace: Workspace, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    server: RunningRegistry = request.getfixturevalue(fixture)
    archive = ARCHIVES[kind](tmp_path / "archive")
    destination = ImageReference.parse(f"{server.host}/team/app:v1")
    registry = server.registry()
    assert await resolve(destination, registry) is None

    loading, pushing = Seen(), Seen()
    image = await load_it(archive.path, workspace, loading)
    assert image == StoredImage(archive.image_id, PLATFORM)
    pushed = await push_it(image, server, workspace, pushing)

    assert server.config_digest(str(destination)) == archive.image_id
    assert await resolve(destination, registry) == pushed.digest
    assert pushed.platforms == (PLATFORM,)
    loading.check_progress(archive.size)
    pushing.check_progress(pushing.steps[-1][1])
    assert pushing.steps[-1][1] >= 3 * MIB
    assert any("Writing manifest" in line for line in pushing.lines)
    # The password was in a file for a moment, and is nowhere.
    kept = [entry for entry in workspace.home.rglob("*") if entry.is_file()]
    assert not [entry for entry in kept if PASSWORD in entry.read_text(errors="replace")]


async def test_progress_is_told_all_along(
    workspace: Workspace, plain_registry: RunningRegistry, tmp_path: Path
) -> None:
    archive = write_docker_archive(tmp_path / "archive", [150 * MIB, 100 * MIB], seed="progress")
    loading, pushing = Seen(), Seen()
    image = await load_it(archive.path, workspace, loading)
    await push_it(image, plain_registry, workspace, pushing)
    loading.check_progress(archive.size)
    total = pushing.steps[-1][1]
    pushing.check_progress(total)
    assert 250 * MIB < total < 251 * MIB
    for seen in (loading, pushing):
        shares = [done / total for done, total in seen.steps]
        assert len([share for share in shares if 0.05 < share < 0.95]) >= 2, shares


@pytest.mark.parametrize(
    "pack",
    [
        lambda source, target: write_gzipped(target, source),
        lambda source, target: target.write_bytes(lzma.compress(source.read_bytes())),
        lambda source, target: target.write_bytes(bz2.compress(source.read_bytes())),
    ],
    ids=["gzip", "xz", "bzip2"],
)
@pytest.mark.parametrize("write", [write_docker_archive, write_oci_archive])
async def test_an_archive_compressed_as_a_whole(
    pack: Callable[[Path, Path], object],
    write: Callable[[Path], Archive],
    overlay: Workspace,
    tmp_path: Path,
) -> None:
    archive = write(tmp_path / "archive")
    pack(archive.path, tmp_path / "packed")
    seen = Seen()
    image = await load_it(tmp_path / "packed", overlay, seen)
    assert image.image_id == archive.image_id
    seen.check_progress((tmp_path / "packed").stat().st_size)


@pytest.mark.skipif(bool(missing_programs("zstd")), reason="needs zstd")
async def test_a_docker_archive_compressed_by_zstd(overlay: Workspace, tmp_path: Path) -> None:
    archive = write_docker_archive(tmp_path / "archive")
    await anyio.run_process(["zstd", "-q", str(archive.path), "-o", str(tmp_path / "packed")])
    assert (await load_it(tmp_path / "packed", overlay)).image_id == archive.image_id


async def test_two_gzips_one_after_the_other_are_one_archive(
    overlay: Workspace, tmp_path: Path
) -> None:
    """This is what parallel compressors write."""
    archive = write_docker_archive(tmp_path / "archive", [MIB])
    whole = archive.path.read_bytes()
    parts = []
    for number, part in enumerate((whole[:700_000], whole[700_000:])):
        (tmp_path / "part").write_bytes(part)
        parts.append(write_gzipped(tmp_path / f"part{number}", tmp_path / "part").read_bytes())
    (tmp_path / "packed").write_bytes(b"".join(parts))
    assert (await load_it(tmp_path / "packed", overlay)).image_id == archive.image_id


async def test_a_damaged_gzip(overlay: Workspace, tmp_path: Path) -> None:
    archive = write_docker_archive(tmp_path / "archive", [MIB])
    packed = write_gzipped(tmp_path / "packed", archive.path)
    whole = packed.read_bytes()
    packed.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ArchiveTruncated, match="ends too early"):
        await load_it(packed, overlay)
    packed.write_bytes(whole[:-6] + bytes(6))
    with pytest.raises(ArchiveCorrupt, match="damaged"):
        await load_it(packed, overlay)


async def test_a_bomb_is_refused_before_it_fills_the_disk(
    overlay: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compression, "_FREE_BYTES", 16 * MIB)
    big = tmp_path / "big"
    with big.open("wb") as out:
        out.truncate(150 * MIB)
    packed = write_gzipped(tmp_path / "packed", big)
    assert packed.stat().st_size < MIB
    with pytest.raises(ArchiveInvalid, match="grow to more than") as refused:
        await load_it(packed, overlay)
    assert "uncompressed" in refused.value.hint
    unpacked = sum(entry.stat().st_size for entry in (overlay.directory / "source").iterdir())
    assert unpacked <= 200 * packed.stat().st_size + MIB < 150 * MIB


@pytest.mark.parametrize("kind", ["gzip", "oci"])
async def test_cancelling_while_an_archive_is_unpacked(
    kind: str, overlay: Workspace, tmp_path: Path
) -> None:
    archive = tmp_path / "packed"
    if kind == "gzip":
        write_gzipped(archive, write_docker_archive(tmp_path / "a", [300 * MIB]).path)
    else:
        write_oci_archive(archive, [1500 * MIB])
    cancelled_at = 0.0

    def cancel(done: int, _total: int) -> None:
        nonlocal cancelled_at
        if done > 0 and not cancelled_at:
            cancelled_at = time.monotonic()
            scope.cancel()

    with anyio.CancelScope() as scope:
        await load(archive, overlay, progress=cancel, log=print)
    assert scope.cancelled_caught
    assert time.monotonic() - cancelled_at < 2
    assert not overlay.root.exists(), "buildah was never started"


async def test_a_colon_in_a_path(plain_registry: RunningRegistry, tmp_path: Path) -> None:
    directory = tmp_path / "a:b c"
    directory.mkdir()
    for write in (write_docker_archive, write_oci_archive):
        archive = write(directory / "archive:1")
        with Workspace.open(directory / "jobs", JOB, storage_driver="vfs") as workspace:
            image = await load_it(archive.path, workspace)
            await push_it(image, plain_registry, workspace)
        assert plain_registry.config_digest(f"{plain_registry.host}/team/app:v1") == image.image_id


async def test_once_more_in_the_same_workspace_is_the_same(
    workspace: Workspace, plain_registry: RunningRegistry, tmp_path: Path
) -> None:
    archive = write_docker_archive(tmp_path / "archive", [MIB, MIB])
    seen = Seen()
    image = await load_it(archive.path, workspace)
    pushed = await push_it(image, plain_registry, workspace)
    assert await load_it(archive.path, workspace) == image
    assert await push_it(image, plain_registry, workspace, seen) == pushed
    assert seen.steps[-1][0] == seen.steps[-1][1] > 2 * MIB


async def test_four_jobs_at_once(plain_registry: RunningRegistry, tmp_path: Path) -> None:
    async def one(number: int) -> None:
        archive = write_docker_archive(tmp_path / f"archive{number}", [2 * MIB], seed=str(number))
        with Workspace.open(tmp_path / "jobs", f"job{number}", storage_driver="overlay") as mine:
            image = await load_it(archive.path, mine)
            await push_it(image, plain_registry, mine, name=f"team/app:{number}")
        found = plain_registry.config_digest(f"{plain_registry.host}/team/app:{number}")
        assert found == archive.image_id

    async with anyio.create_task_group() as tasks:
        for number in range(4):
            tasks.start_soon(one, number)
    nothing_left(tmp_path / "jobs")


async def test_nothing_is_written_outside_the_workspace(
    workspace: Workspace, plain_registry: RunningRegistry, tmp_path: Path
) -> None:
    """Debian 12's buildah would unpack an OCI archive into /var/tmp."""
    before = left_by_tools()
    archive = write_oci_archive(tmp_path / "archive", [MIB])
    await push_it(await load_it(archive.path, workspace), plain_registry, workspace)
    assert left_by_tools() <= before


def left_by_tools() -> set[Path]:
    """What the programs leave in the places where they put things when nobody tells them."""
    shared = [Path("/var/tmp"), Path("/tmp"), Path("/run")]  # noqa: S108
    patterns = ("oci[0-9]*", "storage[0-9]*", "docker-tar*", "containers*", "buildah*")
    found = {path for place in shared for pattern in patterns for path in place.glob(pattern)}
    return found | set(Path("/var/lib/containers").glob("storage/*"))


def descendants(pid: int | None = None) -> list[psutil.Process]:
    """Children, and theirs, of a process, or of this one."""
    found: list[psutil.Process] = psutil.Process(pid).children(recursive=True)
    return found


def alive(processes: list[psutil.Process]) -> list[psutil.Process]:
    found = []
    for process in processes:
        try:
            if process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.NoSuchProcess:
            continue
    return found


@pytest.mark.parametrize("step", ["load", "push"])
async def test_cancelling_leaves_no_process_and_a_workspace_that_closes(
    step: str, workspace: Workspace, plain_registry: RunningRegistry, tmp_path: Path
) -> None:
    archive = write_docker_archive(tmp_path / "archive", [300 * MIB], seed=f"cancel-{step}")
    image = None if step == "load" else await load_it(archive.path, workspace)
    before = descendants()
    started: list[psutil.Process] = []

    def cancel(done: int, _total: int) -> None:
        if done > 0:
            started.extend(process for process in descendants() if process not in before)
            scope.cancel()

    with anyio.CancelScope() as scope:
        if image is None:
            await load(archive.path, workspace, progress=cancel, log=print)
        else:
            destination = ImageReference.parse(f"{plain_registry.host}/team/app:v1")
            registry = plain_registry.registry()
            await push(image, destination, registry, workspace, progress=cancel, log=print)
    assert scope.cancelled_caught
    assert started, "something ran"
    assert alive(started) == []
    assert plain_registry.tags("team/app") == []


WORKER = """
import sys
from pathlib import Path
import anyio
from tests.moving import load, push
from buildah.reference import ImageReference
from buildah.registry import Registry
from buildah.workspace import Workspace

jobs, job, driver, archive, host = sys.argv[1:]
workspace = Workspace.open(Path(jobs), job, storage_driver=driver)

def show(step):
    return lambda done, total: print(step, done, flush=True)

async def work():
    image = await load(Path(archive), workspace, progress=show("load"), log=lambda line: None)
    destination = ImageReference.parse(f"{host}/team/app:v1")
    registry = Registry(host, plain_http=True)
    await push(image, destination, registry, workspace, progress=show("push"), log=print)

anyio.run(work)
print("done", flush=True)
"""


def start_worker(jobs: Path, driver: str, archive: Path, host: str) -> subprocess.Popen[str]:
    arguments = [str(jobs), JOB, driver, str(archive), host]
    return subprocess.Popen(
        [sys.executable, "-c", WORKER, *arguments], stdout=subprocess.PIPE, text=True, cwd=ROOT
    )


def kill_and_sweep(worker: subprocess.Popen[str], jobs: Path) -> None:
    """Kill -9; soon nothing it started runs; a sweep leaves nothing.

    A process that waits for the disk dies when the disk answers: hence not one second, as in
    test_command.py, but five.
    """
    started = descendants(worker.pid)
    worker.kill()
    worker.wait()
    wait_until(lambda: not alive(started), seconds=5.0, what="its programs are gone")
    assert sweep_workspaces(jobs) == [JOB]
    nothing_left(jobs)


@pytest.mark.parametrize("driver", DRIVERS)
@pytest.mark.parametrize("step", ["load", "push"])
def test_kill_9_of_the_parent_leaves_nothing(
    step: str, driver: str, plain_registry: RunningRegistry, tmp_path: Path
) -> None:
    jobs = tmp_path / "jobs"
    archive = write_docker_archive(tmp_path / "archive", [300 * MIB], seed=f"kill-{step}-{driver}")
    with start_worker(jobs, driver, archive.path, plain_registry.host) as worker:
        assert worker.stdout
        for line in worker.stdout:
            if line.startswith(step):
                break
        else:
            pytest.fail("it ended before")
        with pytest.raises(WorkspaceBusy):
            Workspace.open(jobs, JOB, storage_driver=driver)
        assert sweep_workspaces(jobs) == []
        assert descendants(worker.pid)
        kill_and_sweep(worker, jobs)
    assert plain_registry.tags("team/app") == []


@pytest.mark.slow
@pytest.mark.parametrize("driver", DRIVERS)
@pytest.mark.parametrize("write", [write_docker_archive, write_oci_archive])
def test_kill_9_at_any_moment_leaves_nothing_and_the_next_run_ends_well(
    write: Callable[..., Archive],
    driver: str,
    plain_registry: RunningRegistry,
    tmp_path: Path,
) -> None:
    jobs = tmp_path / "jobs"
    archive = write(tmp_path / "archive", [150 * MIB, 50 * MIB], seed=f"{write.__name__}{driver}")
    chance = random.Random(driver)
    before = left_by_tools()
    for _ in range(12):
        with start_worker(jobs, driver, archive.path, plain_registry.host) as worker:
            try:
                worker.wait(chance.uniform(0.1, 5.0))
            except subprocess.TimeoutExpired:
                started = descendants(worker.pid)
                worker.kill()
                worker.wait()
                wait_until(lambda s=started: not alive(s), seconds=5.0, what="all gone")  # type: ignore[misc]
            sweep_workspaces(jobs)
            if jobs.exists():
                nothing_left(jobs)
    with start_worker(jobs, driver, archive.path, plain_registry.host) as worker:
        assert worker.wait(100) == 0
    assert plain_registry.config_digest(f"{plain_registry.host}/team/app:v1") == archive.image_id
    assert left_by_tools() <= before
