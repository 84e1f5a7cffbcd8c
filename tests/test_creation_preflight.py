"""A registry that would refuse the push is said at creation, before a byte is sent."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http import HTTPStatus
from pathlib import Path

import pytest

from tests.archives import write_docker_archive
from tests.conftest import Serve
from tests.harbor import MAY_NOT_PUSH, PROJECT_MISSING, READ_ONLY, Harbor, Saying
from tests.journeys import ended, row, upload_by_tuspy
from tests.live import LiveServer, run_tusboat, wait_until
from tests.raw import TUS, Answer, Raw, append, ask, create, metadata
from tests.registries import (
    RunningRegistry,
    free_port,
    plain_registry,
    secure_registry,
    write_authfile,
)
from tests.token_server import TokenServer, serving_with_tokens

__all__ = ["plain_registry", "secure_registry"]

WRONG = "not-the-password"


def tus(server: LiveServer, image: str, length: int = 10) -> Answer:
    headers = {**TUS, "Upload-Length": str(length), **metadata(image=image)}
    return ask(server.port, "POST", "/files/", headers)


def check(server: LiveServer, image: str) -> dict[str, object]:
    body = json.dumps({"image": image, "length": 10}).encode()
    answer = ask(server.port, "POST", "/api/check", {"Content-Type": "application/json"}, body)
    assert answer.status == HTTPStatus.OK
    return answer.problem


def uploads(server: LiveServer) -> list[str]:
    return [path.name for path in (server.data_dir / "uploads").iterdir()]


@pytest.fixture
def unlucky(serve: Serve, secure_registry: RunningRegistry, tmp_path: Path) -> LiveServer:
    """A server that has the wrong password of its registry."""
    authfile = write_authfile(tmp_path / "wrong.json", secure_registry.host, password=WRONG)
    return serve(registries=[row(secure_registry, authfile=authfile)], run_worker=False)


def test_a_wrong_password_is_said_before_the_first_byte(
    unlucky: LiveServer, secure_registry: RunningRegistry
) -> None:
    image = f"{secure_registry.host}/team/app:v1"
    plain = {"Content-Length": "1000000"}
    resumable = {**plain, "Upload-Complete": "?0", "Upload-Draft-Interop-Version": "8"}
    with_body = {**TUS, **plain, "Upload-Length": "1000000", **metadata(image=image)}
    with_body["Content-Type"] = "application/offset+octet-stream"
    for path, headers in (
        ("/files/", with_body),
        (f"/files/?image={image}", resumable),
        (f"/files/?image={image}", plain),
    ):
        with Raw(unlucky.port) as raw:
            raw.head("POST", path, headers)
            answer = raw.answer("POST")
        assert answer.status == HTTPStatus.FAILED_DEPENDENCY, (path, answer)
        assert answer["Content-Type"] == "application/problem+json"
        assert answer.problem["code"] == "registry_unauthorized"
        assert "authfile" in answer.problem["hint"]
        assert f"{secure_registry.host}/team/app" in answer.problem["detail"]
    assert uploads(unlucky) == []
    asked = check(unlucky, image)
    assert (asked["allowed"], asked["code"]) == (False, "registry_unauthorized")
    assert WRONG not in unlucky.log_path.read_text()


def test_an_upload_without_image_is_asked_for_where_it_would_go(
    serve: Serve, secure_registry: RunningRegistry, tmp_path: Path
) -> None:
    authfile = write_authfile(tmp_path / "wrong.json", secure_registry.host, password=WRONG)
    server = serve(
        registries=[row(secure_registry, authfile=authfile)],
        default_repository=f"{secure_registry.host}/team",
        run_worker=False,
    )
    answer = ask(server.port, "POST", "/files/", {**TUS, "Upload-Length": "10"})
    assert answer.status == HTTPStatus.FAILED_DEPENDENCY
    assert answer.problem["code"] == "registry_unauthorized"


def test_a_final_upload_is_asked_for_too(
    unlucky: LiveServer, secure_registry: RunningRegistry
) -> None:
    partial = create(unlucky.port, 4, {"Upload-Concat": "partial"})
    append(unlucky.port, partial, 0, b"abcd")
    final = {
        **TUS,
        "Upload-Concat": f"final;{partial}",
        **metadata(image=f"{secure_registry.host}/team/app:v1"),
    }
    answer = ask(unlucky.port, "POST", "/files/", final)
    assert answer.status == HTTPStatus.FAILED_DEPENDENCY
    assert answer.problem["code"] == "registry_unauthorized"


def test_the_command_ends_at_once_with_cause_and_hint(
    unlucky: LiveServer, secure_registry: RunningRegistry, tmp_path: Path
) -> None:
    archive = write_docker_archive(tmp_path / "llm.tar")
    image = f"{secure_registry.host}/team/app:v1"
    ran = run_tusboat(
        tmp_path, "upload", str(archive.path), "--image", image, "--server", unlucky.url
    )
    assert (ran.code, ran.stdout) == (1, "")
    assert "HTTP 424" in ran.stderr
    assert "hint: Check the user and the password" in ran.stderr


def test_by_a_setting_nobody_is_asked(
    serve: Serve, secure_registry: RunningRegistry, tmp_path: Path
) -> None:
    authfile = write_authfile(tmp_path / "wrong.json", secure_registry.host, password=WRONG)
    server = serve(
        registries=[row(secure_registry, authfile=authfile)], preflight=False, run_worker=False
    )
    assert tus(server, f"{secure_registry.host}/team/app:v1").status == HTTPStatus.CREATED


@pytest.mark.parametrize("saying", [PROJECT_MISSING, MAY_NOT_PUSH], ids=["project", "rights"])
def test_a_place_where_nobody_may_push_is_forbidden(
    serve: Serve, plain_registry: RunningRegistry, saying: Saying, tmp_path: Path
) -> None:
    with Harbor(plain_registry.port, saying) as front:
        authfile = write_authfile(tmp_path / "auth.json", front.host)
        rows = [{"host": front.host, "plain_http": True, "authfile": str(authfile)}]
        server = serve(registries=rows, run_worker=False)
        answer = tus(server, f"{front.host}/team/app:v1")
    assert answer.status == HTTPStatus.FORBIDDEN
    code = "registry_project_missing" if saying is PROJECT_MISSING else "registry_forbidden"
    assert answer.problem["code"] == code


def test_what_passes_by_itself_refuses_nothing(
    serve: Serve, plain_registry: RunningRegistry
) -> None:
    down = f"127.0.0.1:{free_port()}"
    with Harbor(plain_registry.port, READ_ONLY) as front:
        rows = [{"host": host, "plain_http": True} for host in (down, front.host)]
        server = serve(registries=rows, run_worker=False)
        for host, code in ((down, "registry_unreachable"), (front.host, "registry_read_only")):
            assert tus(server, f"{host}/team/app:v1").status == HTTPStatus.CREATED
            assert code in server.log_path.read_text()
            assert check(server, f"{host}/team/app:v1")["allowed"] is True


@pytest.fixture
def silent() -> Iterator[socket.socket]:
    """Takes every connection and never says a word."""
    with socket.create_server(("127.0.0.1", 0), backlog=100) as listener:
        listener.settimeout(60)
        yield listener


def test_a_registry_that_hangs_holds_up_nobody_else(serve: Serve, silent: socket.socket) -> None:
    host = f"127.0.0.1:{silent.getsockname()[1]}"
    server = serve(registries=[{"host": host, "plain_http": True}], run_worker=False)
    with ThreadPoolExecutor() as threads:
        creations = [threads.submit(tus, server, f"{host}/team/app-{n}:v1") for n in range(20)]
        client, _ = silent.accept()
        assert ask(server.port, "GET", "/livez").status == HTTPStatus.OK
        assert not any(creation.done() for creation in creations)
        assert {creation.result(60).status for creation in creations} == {HTTPStatus.CREATED}
        client.close()


def test_many_creations_ask_once(serve: Serve, plain_registry: RunningRegistry) -> None:
    with Harbor(plain_registry.port) as front:
        rows = [{"host": front.host, "plain_http": True}]
        server = serve(registries=rows, run_worker=False)
        with ThreadPoolExecutor(20) as threads:
            images = [f"{front.host}/team/app:v{n}" for n in range(20)]
            answers = list(threads.map(lambda image: tus(server, image), images))
        assert {answer.status for answer in answers} == {HTTPStatus.CREATED}
        asked = [path for method, path in front.requests if method == "POST"]
        assert asked == ["/v2/team/app/blobs/uploads/"]


def test_a_repaired_password_is_found_within_seconds(
    unlucky: LiveServer, secure_registry: RunningRegistry, tmp_path: Path
) -> None:
    image = f"{secure_registry.host}/team/app:v1"
    assert tus(unlucky, image).status == HTTPStatus.FAILED_DEPENDENCY
    write_authfile(tmp_path / "wrong.json", secure_registry.host)
    wait_until(lambda: tus(unlucky, image).status == HTTPStatus.CREATED, seconds=60)


def test_a_token_server_is_asked_only_where_it_is_allowed(serve: Serve, tmp_path: Path) -> None:
    archive = write_docker_archive(tmp_path / "llm.tar")
    with (
        TokenServer() as tokens,
        serving_with_tokens(tmp_path / "registry", tokens) as registry,
    ):
        image = f"{registry.host}/team/app:v1"
        strict = serve(registries=[row(registry)], run_worker=False)
        answer = tus(strict, image)
        assert answer.status == HTTPStatus.FAILED_DEPENDENCY
        assert answer.problem["code"] == "registry_redirects_elsewhere"
        assert "trusted_hosts" in answer.problem["hint"]
        assert tokens.asked == []
        strict.stop()
        server = serve(registries=[row(registry, trusted_hosts=(tokens.host,))])
        document = ended(server, upload_by_tuspy(server, archive.path, {"image": image}))
        assert document["status"] == "done", document
        assert document["results"][0]["image"] == image
