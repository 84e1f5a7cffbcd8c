"""The main job on real parts: an archive goes in over tus, an image comes out in a registry."""

from __future__ import annotations

import hashlib
import http.client
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.archives import write_docker_archive, write_oci_archive
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
from tests.live import LiveServer, run_tusboat, wait_until
from tests.raw import TUS, append, ask, create, metadata, offset, status
from tests.registries import RunningRegistry, plain_registry, secure_registry, serving
from tests.uploading import documents

__all__ = ["plain_registry", "secure_registry"]


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningRegistry]:
    with serving(tmp_path_factory.mktemp("registry")) as running:
        yield running


@pytest.fixture(scope="module")
def wired(
    registry: RunningRegistry, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[LiveServer]:
    """A server that may push to the registry."""
    with LiveServer(tmp_path_factory.mktemp("server"), registries=[row(registry)]) as server:
        yield server


def test_docker_archive_by_tuspy(
    wired: LiveServer, registry: RunningRegistry, tmp_path: Path
) -> None:
    archive = write_docker_archive(tmp_path / "llm.tar", [3 * MIB, MIB, 4096])
    image = f"{registry.host}/team/llm:v1"
    upload = upload_by_tuspy(
        wired, archive.path, {"filename": "llm.tar", "image": image}, chunk_bytes=MIB
    )
    document = ended(wired, upload)
    assert_image(registry, archive, document)
    assert document["results"][0]["platforms"] == ["linux/amd64"]
    assert document["filename"] == "llm.tar"
    assert document["digests"]["sha256"] == hashlib.sha256(archive.path.read_bytes()).hexdigest()
    assert [step["name"] for step in document["steps"]] == ["verify", "load", "push", "cleanup"]
    for step in document["steps"][1:3]:
        assert step["state"] == "done"
        assert step["bytes_done"] == step["bytes_total"] > 0
        assert step["started_at"] <= step["finished_at"]
    assert nothing_left(wired)


def test_oci_archive_over_tls_with_a_password(
    serve: Serve, secure_registry: RunningRegistry, tmp_path: Path
) -> None:
    archive = write_oci_archive(tmp_path / "llm.tar", [MIB, 4096])
    server = serve(registries=[row(secure_registry)])
    image = f"{secure_registry.host}/team/llm:v1"
    upload = upload_by_tuspy(server, archive.path, {"image": image})
    assert_image(secure_registry, archive, ended(server, upload))
    assert "s3cret-of-the-registry" not in server.log_path.read_text()


def test_vfs_storage(serve: Serve, registry: RunningRegistry, tmp_path: Path) -> None:
    archive = write_docker_archive(tmp_path / "llm.tar", [MIB], seed="vfs")
    server = serve(registries=[row(registry)], storage_driver="vfs")
    upload = upload_by_tuspy(server, archive.path, {"image": f"{registry.host}/team/vfs"})
    assert_image(registry, archive, ended(server, upload))
    assert nothing_left(server)


def test_a_lost_last_204_does_not_cost_20_gb(
    wired: LiveServer, registry: RunningRegistry, tmp_path: Path
) -> None:
    """The archive was pushed and removed; the sender asks where it is, and may be content."""
    archive = write_docker_archive(tmp_path / "llm.tar", [MIB], seed="last 204")
    upload = upload_by_tuspy(wired, archive.path, {"image": f"{registry.host}/team/last"})
    ended(wired, upload)
    stored = wired.data_dir / "uploads" / upload.rsplit("/", 1)[-1]
    wait_until(lambda: not stored.exists(), what="the archive is removed")
    head = ask(wired.port, "HEAD", upload, TUS)
    assert (head.status, head["Upload-Offset"]) == (200, head["Upload-Length"])
    assert append(wired.port, upload, archive.size, b"").status == 204
    assert append(wired.port, upload, archive.size - 5, b"12345").status == 409


def test_many_uploads_at_once(wired: LiveServer, registry: RunningRegistry, tmp_path: Path) -> None:
    archives = [
        write_docker_archive(tmp_path / f"{number}.tar", [MIB], seed=f"many {number}")
        for number in range(4)
    ]
    uploads = [
        upload_by_tuspy(wired, archive.path, {"image": f"{registry.host}/many/{number}:x"})
        for number, archive in enumerate(archives)
    ]
    for archive, upload in zip(archives, uploads, strict=True):
        assert_image(registry, archive, ended(wired, upload))
    assert nothing_left(wired)


def test_the_list(wired: LiveServer) -> None:
    names = [f"listed-{number}.tar" for number in range(5)]
    for name in names:
        create(wired.port, 10, metadata(filename=name))
    seen: list[str] = []
    query = "/api/uploads?status=receiving&q=LISTED&limit=2"
    cursor = ""
    while True:
        page = ask(wired.port, "GET", query + cursor).problem
        assert page["total"] == 5
        seen += [one["filename"] for one in page["uploads"]]
        if page["next"] is None:
            break
        cursor = f"&cursor={page['next']}"
    assert seen == list(reversed(names))
    for wrong in ("status=odd", "limit=0", "limit=x", "cursor=nonsense"):
        assert ask(wired.port, "GET", f"/api/uploads?{wrong}").status == 400


def test_a_check_before_sending(
    wired: LiveServer, registry: RunningRegistry, tmp_path: Path
) -> None:
    def check(**question: object) -> dict[str, object]:
        answer = ask(wired.port, "POST", "/api/check", {}, json.dumps(question).encode())
        assert answer.status == 200, answer
        return answer.problem

    image = f"{registry.host}/team/checked:v1"
    before = check(image=image, length=1000)
    assert (before["allowed"], before["exists"]) == (True, False)
    archive = write_docker_archive(tmp_path / "llm.tar", [4096], seed="check")
    ended(wired, upload_by_tuspy(wired, archive.path, {"image": image}))
    assert check(image=image, length=1000)["exists"] is True
    refused = check(image="elsewhere.test/a/b", length=1)
    assert (refused["allowed"], refused["code"]) == (False, "registry_not_allowed")
    assert check(image="dir:/x")["code"] == "invalid_image"
    assert check(length=2**60)["code"] == "insufficient_storage"
    # What else an upload's metadata would say is judged, too.
    assert check(image=image, compression="zstd", allow_partial="true")["allowed"] is True
    assert check(image=image, compression="rar")["code"] == "invalid_compression"
    assert check(image=image, allow_partial="perhaps")["allowed"] is False
    assert ask(wired.port, "POST", "/api/check", {}, b"[1]").status == 400
    assert ask(wired.port, "POST", "/api/check", {}, b"{").status == 400


def test_a_tag_that_must_stay_what_it_is(
    serve: Serve, registry: RunningRegistry, tmp_path: Path
) -> None:
    server = serve(registries=[row(registry)], overwrite="refuse")
    image = f"{registry.host}/team/kept:v1"
    archive = write_docker_archive(tmp_path / "first.tar", [4096], seed="kept")
    assert_image(
        registry, archive, ended(server, upload_by_tuspy(server, archive.path, {"image": image}))
    )
    question = json.dumps({"image": image, "length": 1000}).encode()
    answer = ask(server.port, "POST", "/api/check", {}, question).problem
    assert (answer["allowed"], answer["exists"], answer["code"]) == (False, True, "tag_exists")
    assert answer["hint"]
    # The command line hears of it before it sends anything.
    other = write_docker_archive(tmp_path / "second.tar", [8192], seed="other")
    ran = run_tusboat(tmp_path, "upload", str(other.path), "--image", image, "--server", server.url)
    assert (ran.code, ran.stdout) == (1, "")
    assert "tag is in its registry already" in ran.stderr
    assert len(documents(server.url)) == 1
    # Whoever does not ask hears it before anything is loaded.
    document = ended(server, upload_by_tuspy(server, other.path, {"image": image}))
    assert (document["status"], document["error"]["code"]) == ("failed", "tag_exists")
    assert (document["error"]["step"], document["error"]["retryable"]) == ("load", False)
    assert registry.config_digest(image) == archive.image_id


@pytest.mark.parametrize(
    ("settings", "said", "expected"),
    [
        ({}, {}, "gzip"),
        ({"compression": "zstd", "compression_level": 3}, {}, "zstd"),
        ({}, {"compression": "zstd"}, "zstd"),
        ({"compression": "zstd", "compression_level": 19}, {"compression": "gzip"}, "gzip"),
    ],
)
def test_compression_of_layers(
    settings: dict[str, Any],
    said: dict[str, str],
    expected: str,
    serve: Serve,
    registry: RunningRegistry,
    tmp_path: Path,
) -> None:
    server = serve(registries=[row(registry)], **settings)
    name = f"pressed-{expected}-{len(settings)}-{len(said)}"
    archive = write_docker_archive(tmp_path / "llm.tar", [300_000], seed=name)
    image = f"{registry.host}/team/{name}:v1"
    document = ended(server, upload_by_tuspy(server, archive.path, {"image": image, **said}))
    assert document["status"] == "done", document
    kinds = {layer["mediaType"] for layer in registry.manifest(image)["layers"]}
    assert {kind.rpartition(".")[2].rpartition("+")[2] for kind in kinds} == {expected}


def test_a_compression_that_is_none(wired: LiveServer) -> None:
    said = metadata(compression="lz4")
    answer = ask(wired.port, "POST", "/files/", {**TUS, "Upload-Length": "1", **said})
    assert (answer.status, answer.problem["code"]) == (400, "invalid_compression")


class Stream:
    """Server-sent events of one URL."""

    def __init__(self, port: int, path: str, last_event_id: str | None = None) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        headers = {"Last-Event-ID": last_event_id} if last_event_id else {}
        self._connection.request("GET", path, headers=headers)
        self._answer = self._connection.getresponse()
        assert self._answer.status == 200
        assert self._answer.headers["Content-Type"].startswith("text/event-stream")
        assert self._answer.readline() == b": connected\n"

    def next(self) -> dict[str, str]:
        event: dict[str, str] = {}
        while True:
            line = self._answer.readline().decode().rstrip("\n")
            if line:
                name, _, value = line.partition(": ")
                event[name] = value
            elif "event" in event:
                return event

    def until(self, wanted: str) -> list[dict[str, str]]:
        events = []
        while True:
            event = self.next()
            events.append(event)
            if event["event"] == "status" and json.loads(event["data"])["status"] == wanted:
                return events

    def close(self) -> None:
        self._connection.close()


def test_events(wired: LiveServer, registry: RunningRegistry, tmp_path: Path) -> None:
    archive = write_docker_archive(tmp_path / "llm.tar", [MIB], seed="events")
    everything = Stream(wired.port, "/api/events")
    image = f"{registry.host}/team/events:v1"
    upload = upload_by_tuspy(wired, archive.path, {"image": image}, chunk_bytes=MIB // 2)
    identifier = upload.rsplit("/", 1)[-1]
    seen = everything.until("done")
    everything.close()
    documents = [json.loads(one["data"]) for one in seen if one["event"] == "status"]
    states = [one["status"] for one in documents if one["id"] == identifier]
    assert [
        state for number, state in enumerate(states) if states[number - 1 : number] != [state]
    ] == [
        "receiving",
        "queued",
        "running",
        "done",
    ]
    steps = [json.loads(one["data"])["step"]["name"] for one in seen if one["event"] == "step"]
    assert {"verify", "load", "push", "cleanup"} <= set(steps) | {
        step["name"] for step in documents[-1]["steps"]
    }
    # A page that comes back hears only what it missed, in the same order, without a gap.
    middle = len(seen) // 2
    again = Stream(wired.port, "/api/events", seen[middle]["id"])
    assert [one["id"] for one in again.until("done")] == [one["id"] for one in seen[middle + 1 :]]
    again.close()
    one = Stream(wired.port, f"/api/uploads/{identifier}/events")
    assert json.loads(one.next()["data"])["status"] == "done"
    one.close()
    # Who comes later reads what was said, under the ids of the events.
    log = ask(wired.port, "GET", f"/api/uploads/{identifier}/log").problem["lines"]
    heard = [one for one in seen if one["event"] == "log"]
    assert [(line["event"], line["step"], line["line"]) for line in log] == [
        (one["id"], *(json.loads(one["data"])[key] for key in ("step", "line"))) for one in heard
    ]
    assert "push" in {line["step"] for line in log}


def test_cancel_while_receiving(wired: LiveServer) -> None:
    upload = create(wired.port, 10)
    append(wired.port, upload, 0, b"123")
    identifier = upload.rsplit("/", 1)[-1]
    answer = ask(wired.port, "POST", f"/api/uploads/{identifier}/cancel")
    assert (answer.status, answer.problem["status"]) == (200, "canceled")
    assert ask(wired.port, "HEAD", upload, TUS).status == 410
    assert status(wired.port, upload)["status"] == "canceled"
    assert not (wired.data_dir / "uploads" / identifier).exists()
    assert ask(wired.port, "POST", f"/api/uploads/{identifier}/cancel").status == 409


def large(tmp_path: Path, seed: str) -> Path:
    """An archive whose load and push take seconds."""
    return write_docker_archive(tmp_path / "large.tar", [150 * MIB, 150 * MIB], seed=seed).path


@pytest.mark.parametrize("step", ["load", "push"])
@pytest.mark.parametrize("how", ["cancel", "delete"])
def test_stopping_a_running_job(
    wired: LiveServer, registry: RunningRegistry, tmp_path: Path, step: str, how: str
) -> None:
    path = large(tmp_path, f"{step} {how}")
    upload = upload_by_tuspy(
        wired, path, {"image": f"{registry.host}/stop/{step}-{how}"}, chunk_bytes=64 * MIB
    )
    identifier = upload.rsplit("/", 1)[-1]
    wait_until(lambda: running_step(wired, upload) == step, seconds=60, what=step)
    if how == "cancel":
        answer = ask(wired.port, "POST", f"/api/uploads/{identifier}/cancel")
        assert (answer.status, answer.problem["status"]) == (200, "canceled")
    else:
        assert ask(wired.port, "DELETE", upload, TUS).status == 204
    document = status(wired.port, upload)
    assert document["status"] == "canceled"
    states = {one["name"]: one["state"] for one in document["steps"]}
    assert states[step] == "canceled", states
    assert not (wired.data_dir / "uploads" / identifier).exists()
    assert nothing_left(wired)
    assert registry.tags(f"stop/{step}-{how}") == []


def test_delete_after_done_keeps_the_history_and_the_image(
    wired: LiveServer, registry: RunningRegistry, tmp_path: Path
) -> None:
    archive = write_docker_archive(tmp_path / "llm.tar", [4096], seed="delete done")
    upload = upload_by_tuspy(wired, archive.path, {"image": f"{registry.host}/team/kept:v1"})
    ended(wired, upload)
    assert ask(wired.port, "DELETE", upload, TUS).status == 204
    assert_image(registry, archive, status(wired.port, upload))


def test_without_image_it_is_verified_and_kept(wired: LiveServer, tmp_path: Path) -> None:
    path = tmp_path / "anything.bin"
    path.write_bytes(b"no archive at all" * 1000)
    upload = upload_by_tuspy(wired, path, {"filename": "anything.bin"})
    document = ended(wired, upload)
    assert (document["status"], document["results"]) == ("done", [])
    assert document["expires_at"] > document["updated_at"]
    stored = wired.data_dir / "uploads" / upload.rsplit("/", 1)[-1]
    assert stored.read_bytes() == path.read_bytes()
    assert ask(wired.port, "DELETE", upload, TUS).status == 204
    assert not stored.exists()
    assert offset(wired.port, upload) == path.stat().st_size
