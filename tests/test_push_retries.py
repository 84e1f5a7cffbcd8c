"""What a push does whose token ends, or whose line breaks; and what is sent once more."""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from buildah import errors
from buildah.registry import Registry
from buildah.workspace import Workspace
from tests.archives import KIB, MIB, write_docker_archive
from tests.harbor import Harbor
from tests.jobs import finished
from tests.live import ROOT
from tests.pushing import ENGINE_NAMES, JOB, Pusher, workspace
from tests.redis_servers import until
from tests.registries import (
    RunningRegistry,
    needs_containers,
    plain_registry,
    write_authfile,
)
from tests.token_server import TokenServer, serving_with_tokens
from tests.workers import Setup, bench, one_redis, setup, worker_process

__all__ = ["one_redis", "plain_registry", "setup", "workspace"]

pytestmark = [needs_containers, pytest.mark.anyio]


@pytest.fixture
def tokens() -> Iterator[TokenServer]:
    with TokenServer() as running:
        yield running


@pytest.fixture
def front(tokens: TokenServer, tmp_path: Path) -> Iterator[Harbor]:
    """A proxy before a registry that wants tokens; `tmp_path/auth.json` has the password for it."""
    with (
        serving_with_tokens(tmp_path / "registry", tokens) as registry,
        Harbor(registry.port) as running,
    ):
        write_authfile(tmp_path / "auth.json", running.host)
        yield running


def expire_once(front: Harbor, tokens: TokenServer) -> None:
    """When the bytes of the first blob are there, and before it is closed, its token ends."""
    waited: list[str] = []

    def wait(method: str, path: str) -> None:
        if method == "PATCH" and not waited:
            waited.append(path)
            tokens.wait_until_expired()

    front.answered = wait


def behind(front: Harbor, tokens: TokenServer, tmp_path: Path) -> Registry:
    return Registry(
        front.host,
        plain_http=True,
        authfile=tmp_path / "auth.json",
        trusted_hosts=(tokens.host,),
    )


@pytest.mark.parametrize("engine", ENGINE_NAMES)
async def test_a_token_that_ends_in_the_middle_is_tried_again(
    engine: str, tokens: TokenServer, front: Harbor, workspace: Workspace, tmp_path: Path
) -> None:
    """The server says that it is good for minutes, and it is not."""
    tokens.lifetime_seconds = 3
    expire_once(front, tokens)
    pusher = Pusher(workspace, behind(front, tokens, tmp_path), engine=engine)
    archive = write_docker_archive(tmp_path / "a", [64 * KIB])
    image = await pusher.load(archive)
    error = await pusher.fail(image)
    assert type(error) is errors.RegistryTokenExpired
    assert error.retryable
    tokens.lifetime_seconds = 300
    assert (await pusher.push(image)).digest


@pytest.mark.parametrize("engine", ENGINE_NAMES)
async def test_a_token_that_is_known_to_end_is_renewed_by_the_program(
    engine: str, tokens: TokenServer, front: Harbor, workspace: Workspace, tmp_path: Path
) -> None:
    """A program believes in no less than 60 s; this token was given 57 s ago, so it says."""
    tokens.lifetime_seconds = 3
    tokens.said_seconds, tokens.said_age_seconds = 60, 57
    pusher = Pusher(workspace, behind(front, tokens, tmp_path), engine=engine)
    image = await pusher.load(write_docker_archive(tmp_path / "a", [64 * KIB]))
    expire_once(front, tokens)
    assert (await pusher.push(image)).digest


class BrokenLine:
    """Lets one layer through whole, and cuts every other one in the middle, until it is mended."""

    def __init__(self, front: Harbor) -> None:
        self._front = front
        self._lucky: str | None = None
        self._stored = threading.Event()
        self._lock = threading.Lock()
        front.cut = self._cut
        front.answered = self._answered

    def mend(self) -> None:
        """From now on everything passes, and is counted anew."""
        self._front.cut = lambda _method, _path, _bytes: False
        self._front.body_bytes.clear()
        self._front.requests.clear()

    def _cut(self, method: str, path: str, sent_bytes: int) -> bool:
        if method != "PATCH":
            return False
        with self._lock:
            self._lucky = self._lucky or path
        if path == self._lucky or sent_bytes < MIB:
            return False
        assert self._stored.wait(60)
        return True

    def _answered(self, method: str, path: str) -> None:
        if method == "PUT" and path.partition("?")[0] == self._lucky:
            self._stored.set()


@pytest.mark.parametrize("engine", ENGINE_NAMES)
@pytest.mark.parametrize("where", ["in the same job", "in another workspace"])
async def test_a_retry_sends_only_what_the_registry_lacks(
    where: str, engine: str, plain_registry: RunningRegistry, workspace: Workspace, tmp_path: Path
) -> None:
    """Another workspace: as after a kill -9 of the worker."""
    # Random, so that no compression makes them smaller; and never pushed from here before.
    seed = secrets.token_hex(8)
    archive = write_docker_archive(tmp_path / "a", [8 * MIB] * 3, seed=seed)
    with Harbor(plain_registry.port) as front:
        row = Registry(front.host, plain_http=True)
        pusher = Pusher(workspace, row, engine=engine)
        line = BrokenLine(front)
        image = await pusher.load(archive)
        error = await pusher.fail(image)
        assert (type(error), error.retryable) == (errors.RegistryError, True)
        line.mend()
        if where == "in the same job":
            await pusher.push(image)
        else:
            with Workspace.open(tmp_path / "other", JOB, storage_driver="overlay") as fresh:
                other = Pusher(fresh, row, engine=engine)
                await other.push(await other.load(archive))
        sent_bytes = front.body_bytes.total()
    assert 16 * MIB <= sent_bytes < 17 * MIB, "two layers of three"
    assert plain_registry.config_digest(f"{plain_registry.host}/team/app:v1") == archive.image_id


async def test_after_a_kill_the_next_worker_sends_only_what_the_registry_lacks(
    setup: Setup, plain_registry: RunningRegistry, tmp_path: Path
) -> None:
    archive = write_docker_archive(tmp_path / "a", [8 * MIB] * 3, seed=secrets.token_hex(8))
    with Harbor(plain_registry.port) as front:
        line = BrokenLine(front)
        place = replace(setup, registries=(front.host,))
        async with bench(place) as parts:
            # Its wait before the second attempt is so long that it is killed meanwhile.
            with worker_process(replace(place, base_seconds=600), "first") as first:
                image = f"{front.host}/team/app:v1"
                upload_id = await finished(parts, archive.path, image=image)

                async def broken() -> bool:
                    record = await parts.status.get(upload_id)
                    return record is not None and "trying again" in str(record.steps)

                await until(broken, 60)
                first.kill()
            line.mend()
            with worker_process(place, "second"):
                outcome = await parts.outcome(upload_id)
        sent_bytes = front.body_bytes.total()
    assert outcome.error is None
    assert 16 * MIB <= sent_bytes < 17 * MIB, "two layers of three"


WITHOUT_ROOT = """
import os, subprocess, sys
from pathlib import Path
from buildah.workspace import Workspace
os.setgroups([]); os.setgid(65534); os.setuid(65534)
jobs, archive, destination, name = sys.argv[1:]
with Workspace.open(Path(jobs), name, storage_driver="vfs") as workspace:
    copy = ("skopeo", "copy", "--dest-tls-verify=false", f"--tmpdir={workspace.tmp}")
    subprocess.run([*copy, f"docker-archive:{archive}", destination], env=workspace.env, check=True)
"""


def test_without_root_too_what_was_sent_is_not_sent_again(
    plain_registry: RunningRegistry,
) -> None:
    """skopeo, as it needs no sub-ids; the list of blobs is one for both."""
    top = Path(tempfile.mkdtemp(dir="/tmp"))
    sent_bytes: list[int] = []
    try:
        archive = write_docker_archive(top / "a", [2 * MIB], seed="nobody")
        top.chmod(0o755)
        os.chown(top, 65534, 65534)
        with Harbor(plain_registry.port) as front:
            for name in ("one", "two"):
                arguments = (str(top / "jobs"), str(archive.path))
                destination = f"docker://{front.host}/team/app:v1"
                subprocess.run(
                    [sys.executable, "-c", WITHOUT_ROOT, *arguments, destination, name],
                    cwd=ROOT,
                    check=True,
                )
                sent_bytes.append(front.body_bytes.total())
                front.body_bytes.clear()
        assert [path.name for path in (top / "jobs").iterdir()] == [".known"]
    finally:
        shutil.rmtree(top)
    assert sent_bytes[0] > 2 * MIB
    assert sent_bytes[1] < MIB
