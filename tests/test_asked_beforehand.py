"""Where the images of an archive would go, and whether that may be, is said before it is sent."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.archives import (
    MIB,
    without_tags,
    write_docker_archive,
    write_oci_archive,
    write_several_images,
    write_several_oci_images,
)
from tests.conftest import Serve
from tests.journeys import ended, row, upload_by_tuspy
from tests.live import LiveServer, Ran, run_tusboat
from tests.raw import ask
from tests.registries import RunningRegistry, serving
from tests.uploading import documents

Check = Callable[..., Any]
ID = f"sha256:{'ab' * 32}"


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningRegistry]:
    with serving(tmp_path_factory.mktemp("registry")) as running:
        yield running


@pytest.fixture(scope="module")
def strict(
    registry: RunningRegistry, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[LiveServer]:
    """A server that moves no tag, and knows where images go that nobody names a place for."""
    with LiveServer(
        tmp_path_factory.mktemp("server"),
        registries=[row(registry)],
        overwrite="refuse",
        default_repository=f"{registry.host}/own",
    ) as server:
        for image in ("team/app:latest", "team/app:2", "own/a/x:1"):
            archive = write_docker_archive(tmp_path_factory.mktemp("archives") / "a", [4096])
            wanted = {"image": f"{registry.host}/{image}"}
            assert ended(server, upload_by_tuspy(server, archive.path, wanted))["status"] == "done"
        yield server


def test_a_registry_that_says_nothing_keeps_nobody_waiting(serve: Serve) -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=64) as silent:
        host = f"127.0.0.1:{silent.getsockname()[1]}"
        rows = [{"host": host, "plain_http": True}]
        server = serve(registries=rows, overwrite="refuse", preflight=False)
        images = [{"tags": [f"a:{number}"]} for number in range(20)]
        question = {"image": f"{host}/team", "length": 1, "images": images}
        # Far from the 60 s after which clients give up; one after another they would take longer.
        body = json.dumps(question).encode()
        answer = requests.post(f"{server.url}/api/check", data=body, timeout=30).json()
        assert (answer["allowed"], answer["exists"]) == (True, None)


def test_what_is_beyond_reason_costs_nothing(serve: Serve) -> None:
    server = serve(overwrite="refuse")
    length = f'{{"length": {"9" * 4300}}}'.encode()
    answer = requests.post(f"{server.url}/api/check", data=length, timeout=10)
    assert (answer.status_code, answer.json()["code"]) == (400, "bad_request")
    names = [{"tags": ["q"] * 20_000}]
    question = {"image": "a.example/b:1", "ref": f"{'a' * 130_000}/x", "images": names}
    # It was half a minute, of all that the server does.
    answer = requests.post(f"{server.url}/api/check", json=question, timeout=10)
    assert answer.status_code == 200, answer.text


@pytest.fixture
def check(strict: LiveServer) -> Check:
    def check(**question: object) -> Any:
        answer = ask(strict.port, "POST", "/api/check", {}, json.dumps(question).encode())
        assert answer.status == 200, answer
        return answer.problem

    return check


def named(*tags: str) -> list[dict[str, object]]:
    return [{"tags": [tag]} for tag in tags]


def test_of_several_images_each_tag_is_looked_at(check: Check, registry: RunningRegistry) -> None:
    image = f"{registry.host}/team/app"
    free = check(image=image, images=named("x:1", "y:3"))
    assert (free["allowed"], free["exists"]) == (True, False)
    taken = check(image=image, images=named("x:1", "y:2"))
    assert (taken["allowed"], taken["exists"], taken["code"]) == (False, True, "tag_exists")
    assert f"{image}:2" in taken["reason"]
    # One goes where it is sent, whatever it is called.
    assert check(image=image, images=named("y:3"))["code"] == "tag_exists"
    assert check(image=f"{image}:9", images=named("y:2"))["allowed"] is True
    assert check(image=f"{image}:9", images=named("x:1", "y:2"), ref="y:2")["allowed"] is True
    assert check(image=image, images=[{"tags": [], "id": ID}, *named("x:1")])["allowed"] is True
    twice = check(image=image, images=named("x:1", "y:1"))
    assert (twice["allowed"], twice["code"]) == (False, "archive_not_chosen")
    assert check(image=image, images=named("x:1", "y:3"), ref="z")["code"] == "archive_not_chosen"


def test_without_image_it_is_their_own_names_that_count(check: Check) -> None:
    assert check(images=named("quay.io/a/y:1"))["exists"] is False
    assert check(images=named("quay.io/a/x:1"))["code"] == "tag_exists"
    assert check(images=[{"tags": [], "id": ID}])["code"] == "archive_not_chosen"
    assert check(images=named("quay.io/A b:1"))["code"] == "invalid_reference"
    assert check()["exists"] is None


def test_of_very_many_not_every_tag_is_asked_for(check: Check, registry: RunningRegistry) -> None:
    many = [f"x:a{number}" for number in range(1000)]
    answer = check(image=f"{registry.host}/team/many", images=named(*many))
    assert (answer["allowed"], answer["exists"]) == (True, False)


@pytest.mark.parametrize(
    "images",
    [
        "x:1",
        {"tags": ["x:1"]},
        ["x:1"],
        [{}],
        [{"tags": "x:1"}],
        [{"tags": [1]}],
        [{"tags": []}],
        [{"tags": [], "id": "sha256:1"}],
        [{"tags": ["x:1"], "id": 1}],
    ],
    ids=str,
)
def test_images_that_are_none(strict: LiveServer, images: object) -> None:
    question = json.dumps({"image": None, "images": images}).encode()
    answer = ask(strict.port, "POST", "/api/check", {}, question)
    assert answer.status == 400
    assert answer.problem["hint"] or answer.problem["detail"]


@pytest.mark.parametrize("tag", ["\ud800:1", "a\n:1", "\x1b[31m", "x" * 5000, "@", ":", "/", "::"])
def test_what_a_stranger_calls_an_image(check: Check, registry: RunningRegistry, tag: str) -> None:
    for place in ({}, {"image": f"{registry.host}/team/odd"}):
        answer = check(**place, images=named(tag, "x:1"))
        assert answer["reason"].isprintable()
        assert answer["hint"].isprintable()


@pytest.mark.parametrize("write", [write_several_images, write_several_oci_images])
@pytest.mark.parametrize("parallel", ["1", "2"])
def test_the_command_line_asks_for_what_it_found(
    strict: LiveServer, registry: RunningRegistry, tmp_path: Path, write: Any, parallel: str
) -> None:
    def upload(archive: Path, *arguments: str) -> Ran:
        to_it = ("--server", strict.url, "--parallel", parallel)
        return run_tusboat(tmp_path, "upload", str(archive), *arguments, *to_it)

    before = len(documents(strict.url))
    taken = write(tmp_path / "taken.tar", ["a/x:1", "b/y:2"], sizes=[2 * MIB]).path
    image = ("--image", f"{registry.host}/team/app")
    refused = upload(taken, *image)
    assert (refused.code, refused.stdout) == (1, "")
    assert "team/app:2: the tag is in its registry already" in refused.stderr
    assert upload(taken).code == 1
    assert len(documents(strict.url)) == before
    # Its `latest` is there, and not in their way.
    free = write(
        tmp_path / "free.tar",
        [f"a/x:{write.__name__}.{parallel}", f"b/y:{write.__name__}-{parallel}"],
        sizes=[2 * MIB],
    ).path
    assert upload(free, *image).code == 0
    one = ("--image", f"{registry.host}/one/{write.__name__}:{parallel}", "--ref", "b/y:2")
    assert upload(taken, *one).code == 0


def test_an_image_without_a_place_to_go_is_not_sent(strict: LiveServer, tmp_path: Path) -> None:
    before = len(documents(strict.url))
    named_ = write_docker_archive(tmp_path / "named.tar", [MIB], tag="a/x:1").path
    archive = without_tags(tmp_path / "untagged.tar", named_)
    ran = run_tusboat(tmp_path, "upload", str(archive), "--server", strict.url)
    assert (ran.code, ran.stdout) == (1, "")
    assert "no name of its own" in ran.stderr
    assert "--image" in ran.stderr
    assert len(documents(strict.url)) == before


def test_an_oci_archive_of_one_image(
    strict: LiveServer, registry: RunningRegistry, tmp_path: Path
) -> None:
    archive = write_oci_archive(tmp_path / "oci.tar", [MIB], tag="v1").path
    taken = ("--image", f"{registry.host}/team/app:2", "--server", strict.url)
    assert run_tusboat(tmp_path, "upload", str(archive), *taken).code == 1
    free = ("--image", f"{registry.host}/team/oci:v1", "--server", strict.url)
    assert run_tusboat(tmp_path, "upload", str(archive), *free).code == 0
