"""Callers: tokens, owners, and the rule about listening beyond loopback."""

from __future__ import annotations

import hashlib
import subprocess
from pathlib import Path

import pytest

from tests.conftest import Serve
from tests.live import COMMAND, LiveServer, environment
from tests.raw import OCTETS, TUS, Raw, ask, metadata

TOKENS = {"anna": "token-of-anna", "bert": "token-of-bert", "root": "token-of-root"}


def tokens_file(directory: Path) -> Path:
    rows = [
        f'[[token]]\nname = "{name}"\nsha256 = "{hashlib.sha256(token.encode()).hexdigest()}"\n'
        f'repositories = ["registry.test/{name}/*"]\nadmin = {str(name == "root").lower()}\n'
        for name, token in TOKENS.items()
    ]
    path = directory / "tokens.toml"
    path.write_text("\n".join(rows))
    return path


def bearer(name: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {TOKENS[name]}"}


@pytest.fixture
def guarded(serve: Serve, tmp_path: Path) -> LiveServer:
    return serve(
        tokens_file=tokens_file(tmp_path),
        registries=[{"host": "registry.test"}],
        preflight=False,
        run_worker=False,
    )


def test_every_route_wants_a_token(guarded: LiveServer) -> None:
    upload = ask(guarded.port, "POST", "/files/", {**TUS, "Upload-Length": "4", **bearer("anna")})[
        "Location"
    ]
    identifier = upload.rsplit("/", 1)[-1]
    routes = [
        ("POST", "/files/"),
        ("HEAD", upload),
        ("PATCH", upload),
        ("DELETE", upload),
        ("GET", "/api/uploads"),
        ("GET", f"/api/uploads/{identifier}"),
        ("GET", f"/api/uploads/{identifier}/events"),
        ("POST", f"/api/uploads/{identifier}/cancel"),
        ("POST", f"/api/uploads/{identifier}/retry"),
        ("GET", "/api/events"),
        ("POST", "/api/check"),
    ]
    headers = {**TUS, **OCTETS, "Upload-Length": "4", "Upload-Offset": "0"}
    for method, path in routes:
        body = b"" if method in ("HEAD", "GET", "DELETE") else b"1234"
        for authorization in (
            {},
            {"Authorization": "Bearer wrong"},
            {"Authorization": "Basic eA=="},
        ):
            answer = ask(guarded.port, method, path, {**headers, **authorization}, body)
            assert answer.status == 401, (method, path)
            assert answer["WWW-Authenticate"].startswith("Bearer")
    assert ask(guarded.port, "HEAD", upload, {**TUS, **bearer("anna")})["Upload-Offset"] == "0"
    assert ask(guarded.port, "GET", "/livez").status == 200


def test_a_token_is_judged_before_the_body(guarded: LiveServer) -> None:
    with Raw(guarded.port) as raw:
        raw.head("POST", "/files/", {**TUS, **OCTETS, "Upload-Length": "9", "Content-Length": "9"})
        assert raw.answer("POST").status == 401
    assert not list(guarded.data_dir.joinpath("uploads").iterdir())


def test_another_callers_upload_does_not_exist(guarded: LiveServer) -> None:
    headers = {**TUS, **OCTETS, "Upload-Offset": "0"}
    upload = ask(guarded.port, "POST", "/files/", {**TUS, "Upload-Length": "4", **bearer("anna")})[
        "Location"
    ]
    identifier = upload.rsplit("/", 1)[-1]
    for method, path in [
        ("HEAD", upload),
        ("PATCH", upload),
        ("DELETE", upload),
        ("GET", f"/api/uploads/{identifier}"),
        ("GET", f"/api/uploads/{identifier}/events"),
        ("GET", f"/api/uploads/{identifier}/log"),
        ("POST", f"/api/uploads/{identifier}/cancel"),
        ("POST", f"/api/uploads/{identifier}/retry"),
    ]:
        answer = ask(guarded.port, method, path, {**headers, **bearer("bert")})
        assert answer.status == 404, (method, path)
    listed = ask(guarded.port, "GET", "/api/uploads", bearer("bert")).problem
    assert listed["uploads"] == []
    everything = ask(guarded.port, "GET", "/api/uploads", bearer("root")).problem
    assert [row["id"] for row in everything["uploads"]] == [identifier]


def test_a_token_says_which_repositories_it_may_write(guarded: LiveServer) -> None:
    for image, expected in [
        ("registry.test/anna/llm:v1", 201),
        ("registry.test/bert/llm:v1", 403),
        ("registry.test/anna:v1", 403),
        ("elsewhere.test/anna/llm:v1", 403),
    ]:
        headers = {**TUS, "Upload-Length": "4", **metadata(image=image), **bearer("anna")}
        answer = ask(guarded.port, "POST", "/files/", headers)
        assert answer.status == expected, (image, answer)
        if expected == 403:
            assert (
                image.split(":")[0].split("/")[0]
                in answer.problem["detail"] + answer.problem["hint"]
            )


def test_two_authorizations_are_refused(guarded: LiveServer) -> None:
    with Raw(guarded.port) as raw:
        raw.send(
            b"GET /api/uploads HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer wrong\r\n"
            b"Authorization: Bearer token-of-anna\r\n\r\n"
        )
        assert raw.answer().status == 400


def refused(tmp_path: Path, *arguments: str, **variables: str) -> str:
    """What `tusboat serve` says when it refuses to start."""
    done = subprocess.run(
        [*COMMAND, "serve", "--data-dir", str(tmp_path / "data"), *arguments],
        env=environment(tmp_path, **variables),
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 2, done
    return done.stderr


def test_no_listening_beyond_loopback_without_callers(tmp_path: Path) -> None:
    said = refused(tmp_path, "--host", "0.0.0.0", "--port", "0")  # noqa: S104 - that is the point
    assert "tokens_file" in said
    assert "--insecure-no-auth" in said


def test_insecure_is_said_in_words(serve: Serve) -> None:
    server = serve(host="0.0.0.0", insecure_no_auth=True)  # noqa: S104 - that is the point
    assert "no authentication" in server.tail()


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "at least one"),
        ("[[token]]\nname = 1\n", "a row takes name"),
        ('[[token]]\nname = "a"\nsha256 = "abc"\n', "64 lower-case hex"),
        (f'[[token]]\nname = "a"\nsha256 = "{"0" * 64}"\nrole = "x"\n', "a row takes name"),
        ("not toml", "tokens_file"),
    ],
)
def test_a_wrong_tokens_file_is_refused(tmp_path: Path, text: str, complaint: str) -> None:
    path = tmp_path / "tokens.toml"
    path.write_text(text)
    assert complaint in refused(tmp_path, TUSBOAT_TOKENS_FILE=str(path))
