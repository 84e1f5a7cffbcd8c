"""kill -9 of server, worker and Redis at any moment: after a restart everything goes on."""

from __future__ import annotations

import contextlib
import hashlib
import os
import random
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import redis

from tests.archives import write_docker_archive
from tests.conftest import Serve
from tests.journeys import (
    MIB,
    assert_image,
    ended,
    nothing_left,
    row,
    running_step,
    upload_by_tuspy,
)
from tests.live import COMMAND, LiveServer, free_port, wait_until
from tests.raw import OCTETS, TUS, Raw, append, ask, create, metadata, offset, status
from tests.registries import RunningRegistry, plain_registry

__all__ = ["plain_registry"]


def stored(server: LiveServer, upload: str) -> Path:
    return server.data_dir / "uploads" / upload.rsplit("/", 1)[-1]


def processes_of(server: LiveServer) -> list[psutil.Process]:
    """Every process that works on this data directory."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            words = [*process.cmdline(), *process.environ().values(), process.cwd()]
            if any(str(server.data_dir) in word for word in words) and process.pid != os.getpid():
                found.append(process)
    return found


def redis_of(server: LiveServer) -> redis.Redis:
    return redis.Redis(unix_socket_path=str(server.data_dir / "redis" / "redis.sock"))


def mounts_below(directory: Path) -> list[str]:
    return [
        line
        for line in Path("/proc/self/mountinfo").read_text().splitlines()
        if str(directory) in line
    ]


def send_and_kill(server: LiveServer, upload: str, data: bytes, chance: random.Random) -> None:
    """A PATCH of all that is left; the server dies at some byte of it."""
    start = offset(server.port, upload)
    victim = threading.Timer(chance.uniform(0.0, 0.12), server.kill)
    with Raw(server.port) as raw, contextlib.suppress(OSError):
        place = {"Upload-Offset": str(start), "Content-Length": str(len(data) - start)}
        raw.head("PATCH", upload, {**TUS, **OCTETS, **place})
        victim.start()
        # Slower than the line, so that the kill comes in the middle.
        for begin in range(start, len(data), 256 * 1024):
            raw.send(data[begin : begin + 256 * 1024])
            time.sleep(0.001)
        raw.answer("PATCH")
    victim.join()


@pytest.mark.slow
def test_fifty_kills_in_mid_patch(serve: Serve) -> None:
    chance = random.Random(11)
    server = serve(run_worker=False)
    for round_number in range(5):
        data = chance.randbytes(48 * MIB)
        upload = create(server.port, len(data), metadata(filename=f"{round_number}.tar"))
        for _ in range(10):
            send_and_kill(server, upload, data, chance)
            kept = stored(server, upload).stat().st_size
            assert stored(server, upload).read_bytes() == data[:kept]
            server.start()
            assert offset(server.port, upload) == kept, "the offset is the file's size"
        last = offset(server.port, upload)
        if last < len(data):
            assert append(server.port, upload, last, data[last:]).status == 204
        assert stored(server, upload).read_bytes() == data
        assert status(server.port, upload)["status"] == "queued"


def test_a_kill_in_mid_patch_leaves_a_true_offset(serve: Serve) -> None:
    chance = random.Random(12)
    data = chance.randbytes(16 * MIB)
    server = serve()
    upload = create(server.port, len(data))
    for _ in range(3):
        send_and_kill(server, upload, data, chance)
        server.start()
    last = offset(server.port, upload)
    assert append(server.port, upload, last, data[last:]).status == 204
    document = ended(server, upload)
    assert document["digests"]["sha256"] == hashlib.sha256(data).hexdigest()


@contextlib.contextmanager
def worker_beside(server: LiveServer) -> Iterator[subprocess.Popen[bytes]]:
    """`tusboat worker` on the server's data directory."""
    with server.log_path.open("ab") as log:
        process = subprocess.Popen([*COMMAND, "worker"], env=server.env, stdout=log, stderr=log)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize("step", ["load", "push"])
def test_a_killed_worker_leaves_nothing_and_another_goes_on(
    serve: Serve, plain_registry: RunningRegistry, tmp_path: Path, step: str
) -> None:
    server = serve(registries=[row(plain_registry)], run_worker=False)
    archive = write_docker_archive(tmp_path / "llm.tar", [100 * MIB, 100 * MIB], seed=step)
    with worker_beside(server) as worker:
        upload = upload_by_tuspy(
            server, archive.path, {"image": f"{plain_registry.host}/killed/{step}:v1"}
        )
        wait_until(lambda: running_step(server, upload) == step, seconds=60, what=step)
        worker.kill()
        worker.wait()
    wait_until(
        lambda: not [one for one in processes_of(server) if "buildah" in one.name()],
        seconds=5,
        what="buildah is gone",
    )
    with worker_beside(server):
        assert_image(plain_registry, archive, ended(server, upload))
        wait_until(lambda: nothing_left(server), what="no job directory")
    assert mounts_below(server.data_dir) == []


def test_a_killed_server_with_its_worker_inside(
    serve: Serve, plain_registry: RunningRegistry, tmp_path: Path
) -> None:
    server = serve(registries=[row(plain_registry)])
    archive = write_docker_archive(tmp_path / "llm.tar", [100 * MIB, 100 * MIB], seed="inside")
    upload = upload_by_tuspy(server, archive.path, {"image": f"{plain_registry.host}/killed/in:v1"})
    wait_until(lambda: running_step(server, upload) == "load", seconds=60, what="load")
    server.kill()
    wait_until(lambda: processes_of(server) == [], seconds=5, what="nothing outlives its parent")
    server.start()
    assert_image(plain_registry, archive, ended(server, upload))
    assert nothing_left(server)
    assert mounts_below(server.data_dir) == []


def test_a_killed_redis_is_started_again_and_nothing_is_lost(
    serve: Serve, plain_registry: RunningRegistry, tmp_path: Path
) -> None:
    server = serve(registries=[row(plain_registry)])
    archive = write_docker_archive(tmp_path / "llm.tar", [60 * MIB], seed="redis")
    upload = upload_by_tuspy(server, archive.path, {"image": f"{plain_registry.host}/redis/llm:v1"})
    for _ in range(3):
        for process in processes_of(server):
            if "redis-server" in process.name():
                process.kill()
        time.sleep(0.3)
        # Receiving does not wait for Redis.
        other = create(server.port, 4)
        assert append(server.port, other, 0, b"1234").status == 204
    assert_image(plain_registry, archive, ended(server, upload))
    wait_until(lambda: status(server.port, other)["status"] == "done", what="the other one, too")
    assert len([one for one in processes_of(server) if "redis-server" in one.name()]) == 1


@pytest.mark.parametrize("moment", ["receiving", "load", "after the end"])
def test_flushall(
    serve: Serve, plain_registry: RunningRegistry, tmp_path: Path, moment: str
) -> None:
    """Losing Redis entirely loses no upload, no job and no history."""
    server = serve(registries=[row(plain_registry)])
    archive = write_docker_archive(tmp_path / "llm.tar", [80 * MIB], seed=moment)
    image = f"{plain_registry.host}/flushed/llm:v1"
    data = archive.path.read_bytes()
    upload = create(server.port, len(data), metadata(filename="llm.tar", image=image))
    append(server.port, upload, 0, data[:MIB])
    if moment == "receiving":
        redis_of(server).flushall()
    assert append(server.port, upload, MIB, data[MIB:]).status == 204
    if moment == "load":
        wait_until(lambda: running_step(server, upload) == "load", what="load")
        redis_of(server).flushall()
    document = ended(server, upload)
    assert_image(plain_registry, archive, document)
    if moment == "after the end":
        redis_of(server).flushall()
        assert status(server.port, upload) == document
        listed = ask(server.port, "GET", "/api/uploads").problem["uploads"]
        assert [one["id"] for one in listed] == [document["id"]]
        server.stop()
        server.start()
        assert status(server.port, upload) == document
    assert nothing_left(server)


def test_sigterm_ends_bodies_with_true_offsets(serve: Serve) -> None:
    server = serve()
    upload = create(server.port, 100 * MIB)
    with Raw(server.port) as raw:
        place = {"Upload-Offset": "0", "Content-Length": str(100 * MIB)}
        raw.head("PATCH", upload, {**TUS, **OCTETS, **place})
        raw.send(bytes(3 * MIB))
        wait_until(lambda: stored(server, upload).stat().st_size == 3 * MIB, what="3 MiB")
        begun = time.monotonic()
        os.kill(server.pid, signal.SIGTERM)
        answer = raw.answer("PATCH")
        assert (answer.status, answer["Upload-Offset"]) == (503, str(3 * MIB))
    assert server.stop() in (0, 143, -15)
    assert time.monotonic() - begun < 10
    assert processes_of(server) == []
    server.start()
    assert offset(server.port, upload) == 3 * MIB


def test_sigterm_in_the_middle_of_a_job(
    serve: Serve, plain_registry: RunningRegistry, tmp_path: Path
) -> None:
    server = serve(registries=[row(plain_registry)])
    archive = write_docker_archive(tmp_path / "llm.tar", [200 * MIB, 100 * MIB], seed="term")
    upload = upload_by_tuspy(server, archive.path, {"image": f"{plain_registry.host}/term/llm:v1"})
    wait_until(lambda: running_step(server, upload) == "load", seconds=60, what="load")
    begun = time.monotonic()
    assert server.stop() in (0, 143, -15)
    assert time.monotonic() - begun < 10
    assert processes_of(server) == []
    server.start()
    assert_image(plain_registry, archive, ended(server, upload))


def test_several_server_processes(
    serve: Serve, plain_registry: RunningRegistry, tmp_path: Path
) -> None:
    """One data directory, one Redis, one elected worker; what is killed is replaced."""
    server = serve(registries=[row(plain_registry)], workers=3)
    archive = write_docker_archive(tmp_path / "llm.tar", [30 * MIB], seed="several")
    upload = upload_by_tuspy(
        server, archive.path, {"image": f"{plain_registry.host}/several/llm:v1"}, chunk_bytes=MIB
    )
    assert_image(plain_registry, archive, ended(server, upload))
    assert len([one for one in processes_of(server) if "redis-server" in one.name()]) == 1
    children = psutil.Process(server.pid).children()
    victims = [child for child in children if "spawn_main" in " ".join(child.cmdline())]
    assert len(victims) == 3
    for victim in victims:
        victim.kill()
        upload = upload_by_tuspy(server, archive.path, {"filename": "again"}, chunk_bytes=8 * MIB)
        assert ended(server, upload)["status"] == "done"
    server.kill()
    wait_until(lambda: processes_of(server) == [], seconds=10, what="children go with their parent")


def test_several_processes_where_the_path_is_too_long_for_a_socket(
    serve: Serve, tmp_path: Path
) -> None:
    server = serve(workers=2, data_dir=tmp_path / ("deep-" * 30) / "data")
    upload = create(server.port, 4)
    assert append(server.port, upload, 0, b"1234").status == 204
    assert ended(server, upload)["status"] == "done"


def test_two_servers_on_one_directory(
    serve: Serve, plain_registry: RunningRegistry, tmp_path: Path
) -> None:
    """One upload through two processes, chunk by chunk in turns; and the first one dies."""
    first = serve(registries=[row(plain_registry)])
    second = serve(registries=[row(plain_registry)], data_dir=first.data_dir, port=free_port())
    archive = write_docker_archive(tmp_path / "llm.tar", [20 * MIB], seed="two servers")
    data = archive.path.read_bytes()
    image = f"{plain_registry.host}/two/llm:v1"
    upload = create(first.port, len(data), metadata(image=image))
    for number, start in enumerate(range(0, len(data), 3 * MIB)):
        port = (first, second)[number % 2].port
        assert append(port, upload, start, data[start : start + 3 * MIB]).status == 204
        if number == 3:
            first.kill()
            first = second
    assert_image(plain_registry, archive, ended(second, upload, seconds=120))
