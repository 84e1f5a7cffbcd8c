"""How the console is served and shipped: its policy, what may be kept, and a server without it."""

from __future__ import annotations

import re
import subprocess
import sys
import zipfile
from pathlib import Path

import anyio
import pytest
from starlette.responses import Response

from buildah import errors
from server.page import Page
from tests.conftest import Serve
from tests.live import ROOT, LiveServer
from tests.raw import ask
from tests.uploading import MIB

CONSOLE = ROOT / "server" / "console"
STRICT = {
    "default-src": "'none'",
    "script-src": "'self'",
    "style-src": "'self'",
    "connect-src": "'self'",
    "worker-src": "'self'",
    "img-src": "'self' data:",
    "base-uri": "'none'",
    "form-action": "'none'",
    "frame-ancestors": "'none'",
}


def policy(text: str) -> dict[str, str]:
    rows = (row.strip().partition(" ") for row in text.split(";"))
    return {name: value for name, _, value in rows}


def names_in(document: bytes) -> list[str]:
    """The files that the page asks for first."""
    found = re.findall(r'(?:src|href)="\./([^"]+)"', document.decode())
    assert len(found) > 2, "built by .ci/setup"
    return found


def test_the_page_is_strict_and_is_asked_for_each_time(server: LiveServer) -> None:
    answer = ask(server.port, "GET", "/")
    assert (answer.status, answer["Content-Type"]) == (200, "text/html; charset=utf-8")
    assert policy(answer["Content-Security-Policy"]) == STRICT
    assert answer["X-Content-Type-Options"] == "nosniff"
    assert answer["Cache-Control"] == "no-store"
    document = answer.body.decode()
    assert "<script>" not in document
    assert "style=" not in document
    assert "//" not in re.sub(r"<!.*?>|http://www.w3.org/\S+", "", document), "no other host"


def test_its_files_are_kept_where_their_names_say_what_is_in_them(server: LiveServer) -> None:
    for name in names_in(ask(server.port, "GET", "/").body):
        answer = ask(server.port, "GET", f"/{name}")
        assert answer.status == 200, name
        assert answer["X-Content-Type-Options"] == "nosniff"
        assert policy(answer["Content-Security-Policy"]) == STRICT
        kept = "immutable" in answer["Cache-Control"]
        assert kept == name.startswith("assets/"), name
        expected = {"js": "text/javascript", "css": "text/css", "svg": "image/svg+xml"}
        assert answer["Content-Type"].startswith(expected[name.rpartition(".")[2]])


def test_only_the_worker_may_compile(server: LiveServer) -> None:
    [worker] = (CONSOLE / "dist" / "assets").glob("digest.worker-*.js")
    answer = ask(server.port, "GET", f"/assets/{worker.name}")
    scripts = {"script-src": "'self' 'wasm-unsafe-eval'"}
    assert policy(answer["Content-Security-Policy"]) == STRICT | scripts


@pytest.mark.parametrize(
    "path", ["/.stamp", "/assets/", "/assets/../index.html", "/../page.py", "/%2e%2e/page.py", "/x"]
)
def test_nothing_but_the_build_is_there(server: LiveServer, path: str) -> None:
    answer = ask(server.port, "GET", path)
    assert (answer.status, answer.problem["code"]) == (404, "not_found")


def test_the_page_is_told_what_the_operator_decided(server: LiveServer, serve: Serve) -> None:
    usual = {"uploads_at_once": 3, "chunk_bytes": 64 * MIB}
    assert ask(server.port, "GET", "/api/console").problem == usual
    other = serve(console_uploads=1, console_chunk_size=MIB)
    decided = {"uploads_at_once": 1, "chunk_bytes": MIB}
    assert ask(other.port, "GET", "/api/console").problem == decided


def test_every_way_to_fail_is_said_in_chinese() -> None:
    text = (CONSOLE / "src" / "words" / "codes.zh.ts").read_text()
    known = set(re.findall(r"^  (\w+): \[", text, re.MULTILINE))
    kinds = [one for one in vars(errors).values() if isinstance(one, type)]
    ours = [one for one in kinds if issubclass(one, errors.BuildahError)]
    codes = {one.code for one in ours if hasattr(one, "code")}
    # Of the other direction, and of what a worker tells nobody.
    others = {"target_taken", "target_unusable", "workspace_busy"}
    assert len(codes) > 30
    assert codes - others - known == set()


def test_without_a_build_it_says_how_to_make_one(tmp_path: Path) -> None:
    index, _ = Page(3, MIB, tmp_path / "absent").routes()
    answer: Response = anyio.run(index.endpoint, None)
    assert (index.path, answer.status_code) == ("/", 503)
    assert b"make setup" in bytes(answer.body)
    assert policy(answer.headers["Content-Security-Policy"]) == STRICT


def test_the_wheel_carries_the_build_and_no_sources(tmp_path: Path) -> None:
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", tmp_path],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    [wheel] = tmp_path.glob("*.whl")
    carried = {
        name.removeprefix("server/console/dist/")
        for name in zipfile.ZipFile(wheel).namelist()
        if name.startswith("server/console/")
    }
    dist = CONSOLE / "dist"
    built = {path.relative_to(dist).as_posix() for path in dist.rglob("*") if path.is_file()}
    assert carried == built - {".stamp"}
