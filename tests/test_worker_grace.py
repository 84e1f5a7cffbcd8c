"""`worker_grace_seconds`: a worker that was told to stop lets its jobs end, if they do in time."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import Serve
from tests.live import ROOT, run_tusboat, spawn_tusboat, wait_until
from tests.redis_servers import RedisServer, redis_server
from tests.registries import RunningRegistry, needs_containers, prepare
from tests.uploading import document, documents

__all__ = ["redis_server"]
pytestmark = needs_containers


@pytest.mark.parametrize(("grace_seconds", "status"), [("60", "done"), ("0.2", "queued")])
def test_a_job_that_ends_within_the_grace_is_not_given_back(
    grace_seconds: str, status: str, serve: Serve, tmp_path: Path, redis_server: RedisServer
) -> None:
    registry = prepare(tmp_path / "registry")
    row = {"host": registry.host, "plain_http": True}
    server = serve(redis_url=redis_server.url, run_worker=False, registries=[row], engine="skopeo")
    script = ROOT / "helm" / "tusboat" / "files" / "archive.py"
    archive = tmp_path / "tiny.tar"
    subprocess.run([sys.executable, script, archive], check=True)
    words = ("--server", server.url, "--image", f"{registry.host}/a/b:1", "--no-wait")
    assert run_tusboat(tmp_path, "upload", str(archive), *words).code == 0
    (waiting,) = documents(server.url)
    log = tmp_path / "worker.log"
    with log.open("wb") as stderr:
        env = {**server.env, "TUSBOAT_WORKER_GRACE_SECONDS": grace_seconds}
        worker = spawn_tusboat(tmp_path, "worker", env=env, stderr=stderr.fileno())
    try:
        # The registry is away, so the push is tried again and again.
        wait_until(lambda: "step_retried" in log.read_text(), seconds=60, what="a retry")
        worker.send_signal(signal.SIGTERM)
        end(worker, registry, status)
    finally:
        worker.kill()
        worker.communicate()
        registry.stop()
    assert document(server.url, waiting["id"])["status"] == status, log.read_text()


def end(worker: subprocess.Popen[str], registry: RunningRegistry, status: str) -> None:
    """Let the job end where it is to; the worker ends by itself in both cases."""
    if status == "done":
        registry.start()
    assert worker.wait(60) == 0
