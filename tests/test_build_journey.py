"""Build contexts on real parts: a tar goes in over tus, a built image comes out in a registry."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from buildah.removal import mounts
from tests.conftest import Serve
from tests.contexts import (
    base_archive,
    files_of_image,
    push_base_image,
    sleepers,
    write_context,
)
from tests.journeys import TERMINAL, ended, nothing_left, row, running_step, upload_by_tuspy
from tests.live import LiveServer, run_tusboat, wait_until
from tests.raw import TUS, ask, metadata, status
from tests.registries import RunningRegistry, needs_containers, serving

__all__ = ["base_archive"]

pytestmark = needs_containers

STEPS = ["verify", "load", "build", "push", "cleanup"]
LASTING = "RUN echo it runs; (setsid sleep 1000 &); sleep 1000\n"


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningRegistry]:
    with serving(tmp_path_factory.mktemp("registry")) as running:
        yield running


@pytest.fixture(scope="module")
def base(registry: RunningRegistry, base_archive: Path) -> str:
    return push_base_image(registry, base_archive, "library/base:1")


@pytest.fixture
def builder(serve: Serve, registry: RunningRegistry) -> LiveServer:
    return serve(registries=[row(registry)], builds=True)


def upload_id_of(upload: str) -> str:
    return upload.rsplit("/", 1)[-1]


def told(answer: requests.Response, upload: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """What a stream of events tells of an upload, until its end: (type, data)."""
    kind = ""
    for line in answer.iter_lines(decode_unicode=True):
        name, _, value = line.partition(": ")
        if name == "event":
            kind = value
        elif name == "data":
            data = json.loads(value)
            if data["id"] == upload_id_of(upload):
                yield kind, data
                if kind == "status" and data["status"] in TERMINAL:
                    return


def nothing_of_it(server: LiveServer) -> None:
    wait_until(lambda: not sleepers(), what="no process of the build runs")
    wait_until(lambda: nothing_left(server), what="no job directory is left")
    assert [one for one in mounts() if one.path.is_relative_to(server.data_dir)] == []


@pytest.mark.parametrize("compression", ["", "gz"])
def test_a_context_arrives_as_an_image(
    builder: LiveServer, registry: RunningRegistry, base: str, tmp_path: Path, compression: str
) -> None:
    archive = write_context(
        tmp_path / "context",
        {
            "Containerfile": f"FROM {base} AS made\nRUN echo said by a step; echo made > /f\n"
            "FROM scratch\nCOPY --from=made /f /f\nCOPY g /\n",
            "g": "kept",
        },
        compression=compression,
    )
    image = f"{registry.host}/team/built:{compression or 'plain'}"
    with requests.get(f"{builder.url}/api/events", stream=True, timeout=60) as stream:
        upload = upload_by_tuspy(builder, archive, {"filename": "context.tar", "image": image})
        events = list(told(stream, upload))
    document = ended(builder, upload)

    assert document["status"] == "done", document
    assert [(step["name"], step["state"]) for step in document["steps"]] == [
        ("verify", "skipped"),
        *((name, "done") for name in STEPS[1:]),
    ]
    [result] = document["results"]
    assert result["image"] == image
    assert result["platforms"] == ["linux/amd64"]
    found = files_of_image(registry, image, tmp_path / "pulled")
    assert found == {"f": b"made\n", "g": b"kept"}
    lines = [data["line"] for kind, data in events if kind == "log" and data["step"] == "build"]
    assert "said by a step" in lines
    assert any(line.startswith("[1/2] STEP 2/2: RUN ") for line in lines)
    nothing_of_it(builder)


def test_the_client_builds_for_platforms(
    builder: LiveServer, registry: RunningRegistry, tmp_path: Path
) -> None:
    archive = write_context(
        tmp_path / "context.tar", {"Dockerfile": "FROM scratch\nCOPY f /\n", "f": "x"}
    )
    image = f"{registry.host}/team/many:1"
    platforms = ["linux/amd64", "linux/arm64"]
    ran = run_tusboat(
        tmp_path,
        *("upload", str(archive), "--server", builder.url, "--image", image),
        *(word for platform in platforms for word in ("--platform", platform)),
    )
    assert ran.code == 0, ran
    index = registry.manifest(image)
    found = [one["platform"] for one in index["manifests"]]
    assert sorted(f"{one['os']}/{one['architecture']}" for one in found) == platforms
    by_digest = f"{image.rpartition(':')[0]}@{ran.stdout.split()[-1]}"
    assert registry.manifest(by_digest) == index


NO_PLATFORMS = [
    *("amd64", "linux/amd64,", "-x/y", "linux/a/b/c", "linux/amd64;x"),
    ",".join(f"linux/a{number}" for number in range(17)),
]


@pytest.mark.parametrize("platforms", NO_PLATFORMS)
def test_platforms_that_are_none_are_refused_at_creation(
    server: LiveServer, platforms: str
) -> None:
    headers = {**TUS, "Upload-Length": "1", **metadata(platforms=platforms)}
    answer = ask(server.port, "POST", "/files/", headers)
    assert answer.status == 400
    assert answer.problem["code"] == "invalid_platforms"


def test_where_builds_are_off_a_context_is_refused(
    serve: Serve, registry: RunningRegistry, tmp_path: Path
) -> None:
    server = serve(registries=[row(registry)])
    archive = write_context(tmp_path / "c.tar", {"Dockerfile": "FROM scratch\nCOPY . /\n"})
    upload = upload_by_tuspy(server, archive, {"image": f"{registry.host}/team/off:1"})
    document = ended(server, upload)
    assert document["status"] == "failed"
    assert document["error"]["code"] == "builds_off"
    assert document["error"]["step"] == "load"
    assert "`builds`" in document["error"]["hint"]
    assert [step["name"] for step in document["steps"]] == ["verify", "load", "push", "cleanup"]


def test_a_context_without_a_destination_is_kept_and_says_so(
    builder: LiveServer, tmp_path: Path
) -> None:
    archive = write_context(tmp_path / "c.tar", {"Dockerfile": "FROM scratch\nCOPY . /\n"})
    document = ended(builder, upload_by_tuspy(builder, archive, {}))
    assert document["status"] == "done"
    assert {step["name"]: step["state"] for step in document["steps"]}["load"] == "skipped"


def test_a_step_that_fails_fails_the_upload(
    builder: LiveServer, registry: RunningRegistry, base: str, tmp_path: Path
) -> None:
    text = f"FROM {base}\nRUN echo for a reason; exit 7\n"
    archive = write_context(tmp_path / "c.tar", {"Dockerfile": text})
    upload = upload_by_tuspy(builder, archive, {"image": f"{registry.host}/team/failed:1"})
    document = ended(builder, upload)
    assert document["status"] == "failed"
    assert document["error"]["code"] == "build_failed"
    assert document["error"]["step"] == "build"
    assert not document["error"]["retryable"]
    assert "exit 7" in document["error"]["message"]
    assert "for a reason" in document["error"]["message"]
    assert [(step["name"], step["state"]) for step in document["steps"]] == [
        *(("verify", "skipped"), ("load", "done"), ("build", "failed")),
        *(("push", "skipped"), ("cleanup", "done")),
    ]
    nothing_of_it(builder)


def building(server: LiveServer, upload: str) -> None:
    """Wait until the step that lasts runs."""
    wait_until(lambda: running_step(server, upload) == "build", seconds=60, what="a build")
    wait_until(lambda: len(sleepers()) == 2, seconds=60, what="the step")


def test_cancel_ends_a_build(
    builder: LiveServer, registry: RunningRegistry, base: str, tmp_path: Path
) -> None:
    archive = write_context(tmp_path / "c.tar", {"Dockerfile": f"FROM {base}\n{LASTING}"})
    upload = upload_by_tuspy(builder, archive, {"image": f"{registry.host}/team/canceled:1"})
    building(builder, upload)
    url = f"{builder.url}/api/uploads/{upload_id_of(upload)}/cancel"
    assert requests.post(url, timeout=20).ok
    document = ended(builder, upload)
    assert document["status"] == "canceled"
    assert {step["name"]: step["state"] for step in document["steps"]} == {
        **{"verify": "skipped", "load": "done"},
        **dict.fromkeys(("build", "push", "cleanup"), "canceled"),
    }
    nothing_of_it(builder)


def test_a_killed_server_leaves_no_build_and_builds_again(
    builder: LiveServer, registry: RunningRegistry, base: str, tmp_path: Path
) -> None:
    archive = write_context(tmp_path / "c.tar", {"Dockerfile": f"FROM {base}\n{LASTING}"})
    upload = upload_by_tuspy(builder, archive, {"image": f"{registry.host}/team/killed:1"})
    building(builder, upload)
    first = sleepers()
    builder.kill()
    wait_until(lambda: not sleepers(), what="no process of the build runs")
    assert [one for one in mounts() if one.path.is_relative_to(builder.data_dir)] == []
    builder.start()
    building(builder, upload)
    assert not set(first) & set(sleepers())
    assert requests.delete(f"{builder.url}{upload}", headers=TUS, timeout=20).status_code == 204
    nothing_of_it(builder)


def test_a_registry_that_is_away_for_a_while_is_waited_for(
    serve: Serve, base_archive: Path, tmp_path: Path
) -> None:
    with serving(tmp_path / "registry") as away:
        base = push_base_image(away, base_archive, "library/base:1")
        server = serve(registries=[row(away)], builds=True)
        away.stop()
        text = f"FROM {base}\nRUN echo again\n"
        archive = write_context(tmp_path / "c.tar", {"Dockerfile": text})
        upload = upload_by_tuspy(server, archive, {"image": f"{away.host}/team/waited:1"})

        def is_tried_again() -> bool:
            steps = {step["name"]: step for step in status(server.port, upload)["steps"]}
            return "build" in steps and "trying again" in steps["build"]["message"]

        wait_until(is_tried_again, seconds=60, what="a second attempt")
        away.start()
        assert ended(server, upload)["status"] == "done"
        nothing_of_it(server)


def test_two_builds_at_once(
    builder: LiveServer, registry: RunningRegistry, base: str, tmp_path: Path
) -> None:
    # Each waits for a moment, writes to the same place and looks whom it sees there.
    step = "echo $0 > /tmp/who; sleep 3; cat /tmp/who > /seen; ls -d /proc/[0-9]* | wc -w >> /seen"
    uploads = {}
    for name in ("a", "b"):
        text = f"FROM {base} AS one\nRUN {step.replace('$0', name)}\n"
        text += "FROM scratch\nCOPY --from=one /seen /seen\n"
        archive = write_context(tmp_path / f"{name}.tar", {"Dockerfile": text})
        image = f"{registry.host}/team/at-once:{name}"
        uploads[name] = upload_by_tuspy(builder, archive, {"image": image})
    for name, upload in uploads.items():
        assert ended(builder, upload)["status"] == "done"
        image = f"{registry.host}/team/at-once:{name}"
        seen = files_of_image(registry, image, tmp_path / f"pulled-{name}")["seen"]
        who, processes = seen.decode().split()
        assert who == name
        assert int(processes) < 15
    nothing_of_it(builder)


def test_a_build_that_takes_too_long_fails_the_upload(
    serve: Serve, registry: RunningRegistry, base: str, tmp_path: Path
) -> None:
    server = serve(registries=[row(registry)], builds=True, build_timeout_minutes=0.05)
    archive = write_context(tmp_path / "c.tar", {"Dockerfile": f"FROM {base}\n{LASTING}"})
    upload = upload_by_tuspy(server, archive, {"image": f"{registry.host}/team/late:1"})
    document = ended(server, upload)
    assert document["error"]["code"] == "build_timed_out"
    assert status(server.port, upload)["status"] == "failed"
    nothing_of_it(server)


def test_base_images_are_those_of_the_setting(
    serve: Serve, registry: RunningRegistry, base: str, tmp_path: Path
) -> None:
    patterns = [f"{registry.host}/other/*"]
    server = serve(registries=[row(registry)], builds=True, build_base_images=patterns)
    archive = write_context(tmp_path / "c.tar", {"Dockerfile": f"FROM {base}\n"})
    document = ended(
        server, upload_by_tuspy(server, archive, {"image": f"{registry.host}/team/base:1"})
    )
    assert document["error"]["code"] == "base_image_refused"
    assert "build_base_images" in document["error"]["hint"]


def test_the_engine_makes_no_difference_to_a_build(
    serve: Serve, registry: RunningRegistry, base: str, tmp_path: Path
) -> None:
    server = serve(registries=[row(registry)], builds=True, engine="skopeo")
    text = f"FROM {base}\nRUN echo made > /made\n"
    archive = write_context(tmp_path / "c.tar", {"Dockerfile": text})
    image = f"{registry.host}/team/engine:1"
    document = ended(server, upload_by_tuspy(server, archive, {"image": image}))
    assert document["status"] == "done", document
    assert files_of_image(registry, image, tmp_path / "pulled")["made"] == b"made\n"
    nothing_of_it(server)


def test_a_tag_that_must_stay_is_said_before_anything_is_built(
    serve: Serve, registry: RunningRegistry, base: str, tmp_path: Path
) -> None:
    server = serve(registries=[row(registry)], builds=True, overwrite="refuse")
    archive = write_context(tmp_path / "c.tar", {"Dockerfile": f"FROM {base}\nRUN exit 1\n"})
    document = ended(server, upload_by_tuspy(server, archive, {"image": base}))
    assert document["error"]["code"] == "tag_exists"
    assert document["error"]["step"] == "load"


def test_an_archive_of_an_image_sees_no_build(
    builder: LiveServer, registry: RunningRegistry, base_archive: Path
) -> None:
    upload = upload_by_tuspy(builder, base_archive, {"image": f"{registry.host}/team/image:1"})
    document = ended(builder, upload)
    assert document["status"] == "done", document
    assert [step["name"] for step in document["steps"]] == ["verify", "load", "push", "cleanup"]
