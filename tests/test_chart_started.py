"""The rendered command lines, environments and files of the chart, started on this machine."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis
import requests

from tests.charts import CHART, Object, objects, one, pod_spec
from tests.redis_servers import RedisServer, redis_server
from tests.registries import RunningRegistry, plain_registry
from tests.rendered_pods import Cluster

__all__ = ["plain_registry", "redis_server"]
STARTABLE = [
    "default",
    "userns",
    "rootful",
    "vfs",
    "httproute",
    "claim-scratch",
]
only_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can take rights away")
Render = Callable[..., Cluster]


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Render]:
    """Makes clusters; what runs in them is stopped at the end."""
    made: list[Cluster] = []

    def render(found: list[Object], **extra: object) -> Cluster:
        directory = tmp_path / f"cluster{len(made)}"
        directory.mkdir()
        made.append(Cluster(directory, found, **extra))  # type: ignore[arg-type]
        return made[-1]

    yield render
    for each in made:
        each.stop()


def ready(cluster: Cluster) -> bool:
    answer = requests.get(f"http://127.0.0.1:{cluster.ports['8080']}/readyz", timeout=10)
    return answer.status_code == 200 and answer.json() == {"status": "ready", "redis": "answers"}


@pytest.mark.parametrize("name", STARTABLE)
def test_a_pod_gets_ready_and_stops_in_order(name: str, cluster: Render) -> None:
    here = cluster(objects(CHART / "ci" / f"{name}-values.yaml"))
    here.start_pod(one(here.objects, "Deployment"))
    assert ready(here)
    asked = requests.get(f"http://127.0.0.1:{here.ports['8080']}/api/uploads", timeout=10)
    assert asked.status_code == 401
    assert here.stop() == [0]


def test_servers_workers_and_the_bundled_redis_find_each_other(cluster: Render) -> None:
    here = cluster(objects(CHART / "ci" / "split-values.yaml"))
    running = here.start_pod(one(here.objects, "StatefulSet"))
    password = here.secret("redis/redis-password")
    with redis.Redis(port=here.ports["6379"], password=password) as client:
        assert client.config_get("appendonly") == {"appendonly": "yes"}
    with redis.Redis(port=here.ports["6379"]) as stranger, pytest.raises(redis.AuthenticationError):
        stranger.ping()
    assert password not in Path(f"/proc/{running.pid}/cmdline").read_text()
    here.start_pod(one(here.objects, "Deployment", "tusboat"))
    here.start_pod(one(here.objects, "Deployment", "worker"))
    assert ready(here)
    helm_test(here)
    assert here.stop() == [0, 0, 0]


def test_an_external_redis_comes_from_its_secret(
    cluster: Render, redis_server: RedisServer
) -> None:
    found = objects(CHART / "ci" / "external-redis-values.yaml")
    here = cluster(found, others={"redis/redis-url": redis_server.url.encode()})
    here.start_pod(one(here.objects, "Deployment"))
    assert ready(here)
    assert redis_server.url.split("@", maxsplit=1)[0] not in here.log()


def test_without_root_no_test_of_rights_passes(
    cluster: Render, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever may drop nothing proves nothing: such a test is left out, which `.ci/run` minds."""
    here = cluster(objects(CHART / "ci" / "rootful-values.yaml"))
    (container,) = pod_spec(one(here.objects, "Deployment"))["containers"]
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(pytest.skip.Exception, match="only root"):
        here.start(container)
    assert here.running == []


def test_a_volume_that_does_not_do_keeps_the_pod_from_starting(cluster: Render) -> None:
    here = cluster(objects())
    (doctor,) = pod_spec(one(here.objects, "Deployment"))["initContainers"]
    assert here.run(doctor) == 0, here.log()
    (here.directory / "data").rmdir()
    (here.directory / "data").write_text("a file where a volume should be")
    assert here.run(doctor) == 1
    document = json.loads(here.said("doctor"))
    assert not document["ok"]
    broken = [row["name"] for row in document["checks"] if row["required"] and not row["ok"]]
    assert "data directory" in broken


def test_a_node_that_leaves_the_user_namespace_out_is_refused(cluster: Render) -> None:
    """`hostUsers: false` is dropped in silence there; then root in the pod is root of the node."""
    here = cluster(objects(CHART / "ci" / "userns-values.yaml"))
    (doctor,) = pod_spec(one(here.objects, "Deployment"))["initContainers"]
    assert here.run(doctor, host_users=False) == 0, here.log()
    assert here.run(doctor, host_users=True) == 1
    rows = {row["name"]: row for row in json.loads(here.said("doctor"))["checks"]}
    assert not rows["user namespace"]["ok"]
    assert "UserNamespacesSupport" in rows["user namespace"]["how_to_get"]


# --- from one end to the other ---


def helm_test(here: Cluster) -> str:
    """Run the pod of `helm test`; what it said."""
    (container,) = pod_spec(one(here.objects, "Pod"))["containers"]
    code = here.run(container, seconds=90)
    assert code == 0, here.log()
    return here.said("upload")


@pytest.mark.parametrize("mode", ["restricted", "userns", "rootful", "vfs"])
@only_root
def test_an_image_arrives_with_the_capabilities_of_the_mode_and_no_more(
    mode: str, cluster: Render, plain_registry: RunningRegistry
) -> None:
    found = objects(
        settings=(
            f"worker.mode={mode}",
            "worker.vfsForSmallImages=true",
            f"registries[0].host={plain_registry.host}",
            "registries[0].plainHttp=true",
            f"test.image={plain_registry.host}/helm/{mode}:test",
        )
    )
    here = cluster(found)
    here.start_pod(one(found, "Deployment"))
    said = helm_test(here)
    assert re.fullmatch(r"sha256:[0-9a-f]{64}", said.strip().splitlines()[-1])
    tags = requests.get(f"http://{plain_registry.host}/v2/helm/{mode}/tags/list", timeout=10)
    assert tags.json()["tags"] == ["test"]
    metrics = requests.get(f"http://127.0.0.1:{here.ports['9090']}/metrics", timeout=10).text
    assert 'tusboat_step_seconds_count{step="push",outcome="done"} 1' in metrics


@only_root
def test_a_context_is_built_with_the_capabilities_that_builds_add(
    cluster: Render, plain_registry: RunningRegistry
) -> None:
    found = objects(
        settings=(
            "worker.mode=rootful",
            "settings.builds=true",
            f"registries[0].host={plain_registry.host}",
            "registries[0].plainHttp=true",
        )
    )
    here = cluster(found)
    here.start_pod(one(found, "Deployment"))
    (container,) = pod_spec(one(found, "Pod"))["containers"]
    write_context(here.directory / "tmp" / "context.tar")
    image = f"{plain_registry.host}/helm/built:test"
    # Where it runs: the directory of the cluster.
    words = ["tusboat", "upload", "tmp/context.tar", "--image", image, "--state-home", "."]
    assert here.run({**container, "command": words}, seconds=90) == 0, here.log()
    assert "build: done" in here.said("upload")


def write_context(path: Path) -> None:
    """A build whose step runs a program: this machine's shell, with what it is linked to."""
    shell = Path("/bin/sh").resolve()
    linked = subprocess.run(["ldd", shell], capture_output=True, text=True, check=True).stdout
    files = {shell, *map(Path, re.findall(r"/\S+", linked))}
    step = f'FROM scratch\nCOPY root /\nRUN ["{shell}", "-c", "echo built > /made"]\n'
    with tarfile.open(path, "w") as archive:
        for name, data in (
            ("Containerfile", step.encode()),
            *((f"root{file}", file.read_bytes()) for file in sorted(files)),
        ):
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(data), 0o755
            archive.addfile(entry, io.BytesIO(data))
