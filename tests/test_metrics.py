"""Metrics: what Prometheus' own parser reads, over one process and over several."""

from __future__ import annotations

import hashlib
import signal
from collections.abc import Mapping
from pathlib import Path

import psutil
import pytest
import requests
from prometheus_client.parser import text_string_to_metric_families

from hooks import metrics
from hooks.steps import step_names
from server.errors import ServerError
from tests.conftest import Serve
from tests.live import LiveServer, free_port, run_tusboat, spawn_tusboat, wait_until
from tests.raw import OCTETS, TUS, Raw, ask, metadata
from tests.redis_servers import RedisServer, redis_server

__all__ = ["redis_server"]
ANYTHING = b"0123456789" * 100
Samples = Mapping[tuple[str, tuple[tuple[str, str], ...]], float]


def scrape(port: int) -> Samples:
    answer = requests.get(f"http://127.0.0.1:{port}/metrics", timeout=20)
    assert answer.status_code == 200
    assert answer.headers["Content-Type"] == metrics.CONTENT_TYPE
    families = text_string_to_metric_families(answer.text)
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in families
        for sample in family.samples
    }


def value(port: int, name: str, **labels: str) -> float:
    """One sample; `tusboat_` is put in front."""
    samples = scrape(port)
    key = (f"tusboat_{name}", tuple(sorted(labels.items())))
    # The parser gives every counter the ending that OpenMetrics wants.
    return samples[key] if key in samples else samples[(f"{key[0]}_total", key[1])]


@pytest.fixture
def scraped(serve: Serve) -> tuple[LiveServer, int]:
    port = free_port()
    return serve(metrics_port=port), port


def send(port: int, **extra: str) -> str:
    """One whole upload; its path."""
    created = ask(port, "POST", "/files/", {**TUS, "Upload-Length": str(len(ANYTHING)), **extra})
    path = created["Location"]
    ended = ask(port, "PATCH", path, {**TUS, **OCTETS, "Upload-Offset": "0"}, ANYTHING)
    assert ended.status == 204, ended
    return path


def test_an_upload_is_counted_under_the_names_of_tusd(scraped: tuple[LiveServer, int]) -> None:
    server, port = scraped
    send(server.port)
    other = ask(server.port, "POST", "/files/", {**TUS, "Upload-Length": "9"})["Location"]
    assert ask(server.port, "DELETE", other, TUS).status == 204
    assert ask(server.port, "HEAD", other, TUS).status in (404, 410)
    assert value(port, "requests_total", method="POST") == 2
    assert value(port, "requests_total", method="PATCH") == 1
    assert value(port, "requests_total", method="DELETE") == 1
    assert value(port, "bytes_received") == len(ANYTHING)
    assert value(port, "uploads_created") == 2
    assert value(port, "uploads_finished") == 1
    assert value(port, "uploads_terminated") == 1
    refused = [value(port, "errors_total", status=status) for status in ("404", "410")]
    assert sum(refused) == 1
    assert value(port, "free_bytes") > 0
    assert value(port, "redis_up") == 1
    assert value(port, "queue_waiting") + value(port, "queue_running") <= 1


def test_steps_lock_and_checksum_failures_are_counted(scraped: tuple[LiveServer, int]) -> None:
    server, port = scraped
    send(server.port)
    send(
        server.port,
        **metadata(md5=hashlib.md5(b"something else", usedforsecurity=False).hexdigest()),
    )

    def ended() -> bool:
        return value(port, "step_seconds_count", step="cleanup", outcome="done") == 2

    wait_until(ended, what="two jobs")
    assert value(port, "step_seconds_count", step="verify", outcome="skipped") == 1
    assert value(port, "step_seconds_count", step="verify", outcome="failed") == 1
    assert value(port, "step_seconds_bucket", step="verify", outcome="failed", le="+Inf") == 1
    assert value(port, "checksum_failures_total", of="archive") == 1
    path = ask(server.port, "POST", "/files/", {**TUS, "Upload-Length": "4"})["Location"]
    wrong = {"Upload-Checksum": "md5 rL0Y20zC+Fzt72VPzMSk2A=="}
    headers = {**TUS, **OCTETS, "Upload-Offset": "0", **wrong}
    assert ask(server.port, "PATCH", path, headers, b"1234").status == 460
    assert value(port, "checksum_failures_total", of="request") == 1
    assert value(port, "errors_total", status="460") == 1
    assert value(port, "lock_wait_seconds_count", outcome="taken") >= 3


def test_a_body_is_active_while_it_lasts_and_counts_at_its_end(
    scraped: tuple[LiveServer, int],
) -> None:
    server, port = scraped
    path = ask(server.port, "POST", "/files/", {**TUS, "Upload-Length": "8"})["Location"]
    with Raw(server.port) as sender:
        head = {**TUS, **OCTETS, "Upload-Offset": "0", "Content-Length": "8", "Host": "localhost"}
        lines = [f"PATCH {path} HTTP/1.1", *(f"{name}: {text}" for name, text in head.items())]
        sender.send("\r\n".join([*lines, "", ""]).encode() + b"1234")
        wait_until(lambda: value(port, "uploads_active") == 1, what="an active upload")
        assert value(port, "bytes_received") == 0
    wait_until(lambda: value(port, "uploads_active") == 0, what="its end")
    assert value(port, "bytes_received") == 4


def test_no_id_and_no_name_is_told(scraped: tuple[LiveServer, int]) -> None:
    server, port = scraped
    path = send(server.port, **metadata(filename="secret-name.tar"))
    ask(server.port, "PROPFIND", f"{path}/x", TUS)
    text = requests.get(f"http://127.0.0.1:{port}/metrics", timeout=20).text
    assert path.rpartition("/")[2] not in text
    assert "secret-name" not in text
    assert "PROPFIND" not in text
    assert value(port, "requests_total", method="other") == 1


def test_only_the_page_is_on_that_port_and_not_on_the_other(
    scraped: tuple[LiveServer, int],
) -> None:
    server, port = scraped
    assert requests.get(f"http://127.0.0.1:{port}/api/uploads", timeout=20).status_code == 404
    assert requests.get(f"{server.url}/metrics", timeout=20).status_code == 404


def test_several_processes_are_told_as_one_and_a_dead_one_is_not_forgotten(serve: Serve) -> None:
    port = free_port()
    server = serve(metrics_port=port, workers=3, run_worker=False)
    for _ in range(12):
        send(server.port)
    for _ in range(6):
        assert value(port, "uploads_created") == 12
        assert value(port, "bytes_received") == 12 * len(ANYTHING)
    children = psutil.Process(server.pid).children()
    victims = [one for one in children if "spawn_main" in " ".join(one.cmdline())]
    assert len(victims) == 3
    for victim in victims:
        victim.send_signal(signal.SIGKILL)
        victim.wait(20)
    wait_until(server.ready, what="new processes")
    assert value(port, "uploads_created") == 12
    send(server.port)
    assert value(port, "uploads_created") == 13


def test_a_server_whose_redis_is_away_still_tells_the_rest(
    serve: Serve, redis_server: RedisServer
) -> None:
    port = free_port()
    server = serve(metrics_port=port, redis_url=redis_server.url, run_worker=False)
    assert value(port, "redis_up") == 1
    redis_server.kill()
    send(server.port)
    samples = scrape(port)
    assert samples["tusboat_redis_up", ()] == 0
    assert ("tusboat_queue_waiting", ()) not in samples
    assert value(port, "uploads_finished") == 1


def test_a_worker_tells_its_steps_and_what_it_reclaims(
    serve: Serve, tmp_path: Path, redis_server: RedisServer
) -> None:
    port = free_port()
    server = serve(redis_url=redis_server.url, run_worker=False)
    path = ask(server.port, "POST", "/files/", {**TUS, "Upload-Length": "8"})["Location"]
    ask(server.port, "PATCH", path, {**TUS, **OCTETS, "Upload-Offset": "0"}, b"1234")
    send(server.port)
    soon = {"TUSBOAT_UNFINISHED_TTL_HOURS": "0.00001"}
    env = {**server.env, "TUSBOAT_METRICS_PORT": str(port), **soon}
    worker = spawn_tusboat(tmp_path, "worker", env=env)
    try:

        def done() -> bool:
            try:
                cleanups = value(port, "step_seconds_count", step="cleanup", outcome="done")
                return cleanups == 1 and value(port, "reclaimed_bytes_total") > 0
            except requests.ConnectionError:
                return False

        wait_until(done, what="a job and a sweep")
    finally:
        worker.send_signal(signal.SIGTERM)
        worker.communicate(timeout=60)
    assert worker.returncode == 0


def test_a_taken_port_is_said_in_a_line(tmp_path: Path, server: LiveServer) -> None:
    env = {"TUSBOAT_METRICS_PORT": str(server.port), "TUSBOAT_PORT": "0"}
    refused = run_tusboat(tmp_path, "serve", env=env)
    assert refused.code == 2
    assert f"listen on 127.0.0.1:{server.port}" in refused.stderr
    assert "Traceback" not in refused.stderr


# --- the metrics themselves ---


def test_every_step_and_every_status_of_an_error_has_a_series() -> None:
    steps = dict(metrics.STEP_SECONDS.labels)["step"]
    assert set(step_names(in_parts=True)) | {"build"} <= set(steps)
    statuses = dict(metrics.ERRORS.labels)["status"]
    kinds = [ServerError]
    for kind in kinds:
        assert str(int(kind.status)) in statuses, kind
        kinds += kind.__subclasses__()


def test_buckets_are_cumulative_and_unknown_values_count_as_other() -> None:
    def told(name: str, **labels: str) -> float:
        for family in text_string_to_metric_families(metrics.exposition()):
            for sample in family.samples:
                if sample.name == f"tusboat_{name}" and sample.labels == labels:
                    return sample.value
        raise AssertionError(name)

    series = {"step": "other", "outcome": "done"}
    before = told("step_seconds_count", **series)
    for seconds in (0.5, 4.0, 10_000.0):
        metrics.STEP_SECONDS.observe(seconds, "a new step", "done")
    assert told("step_seconds_count", **series) == before + 3
    assert told("step_seconds_bucket", le="1", **series) == before + 1
    assert told("step_seconds_bucket", le="5", **series) == before + 2
    assert told("step_seconds_bucket", le="3600", **series) == before + 2
    assert told("step_seconds_bucket", le="+Inf", **series) == before + 3
