"""One plain request is a whole upload: curl, and whatever else can send a file."""

from __future__ import annotations

import hashlib
import json
import random
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.live import LiveServer, wait_until
from tests.raw import TUS, Raw, ask, metadata, status
from tests.uploading import document, write_archive

MIB = 2**20


def curl(*arguments: str, stdin: bytes = b"") -> dict[str, Any]:
    """What the server answered to curl, as the status document that it is."""
    ran = subprocess.run(
        ["curl", "--silent", "--show-error", "--fail", *arguments],
        input=stdin,
        capture_output=True,
        timeout=60,
        check=True,
    )
    found: dict[str, Any] = json.loads(ran.stdout)
    return found


def assert_kept(server: LiveServer, answered: dict[str, Any], data: bytes, filename: str) -> None:
    identifier = str(answered["id"])
    wait_until(lambda: document(server.url, identifier)["status"] == "done", what="done")
    found = document(server.url, identifier)
    assert (found["protocol"], found["length"]) == ("http", len(data))
    assert found["digests"]["sha256"] == hashlib.sha256(data).hexdigest()
    assert found["filename"] == (filename or identifier)


@pytest.mark.parametrize("size", [0, 1, 5 * MIB])
def test_curl_puts_a_file(server: LiveServer, tmp_path: Path, size: int) -> None:
    archive = write_archive(tmp_path / "llm v1.tar", size)
    answered = curl("-T", str(archive), f"{server.url}/files/")
    assert_kept(server, answered, archive.read_bytes(), "llm v1.tar")


def test_curl_puts_what_it_reads(server: LiveServer) -> None:
    data = random.Random(2).randbytes(5 * MIB)
    answered = curl("-T", "-", f"{server.url}/files/piped.tar", stdin=data)
    assert_kept(server, answered, data, "piped.tar")


def test_curl_posts_a_file(server: LiveServer, tmp_path: Path) -> None:
    archive = write_archive(tmp_path / "llm.tar", 3 * MIB)
    url = f"{server.url}/files/?filename=a%20b.tar"
    answered = curl("--data-binary", f"@{archive}", url)
    assert_kept(server, answered, archive.read_bytes(), "a b.tar")


def test_the_query_is_metadata_for_every_protocol(server: LiveServer) -> None:
    data = b"12345678"
    md5 = hashlib.md5(data, usedforsecurity=False).hexdigest()
    answer = ask(server.port, "PUT", f"/files/llm.tar?md5={md5}", {}, data)
    assert answer.status == 201
    head = ask(server.port, "HEAD", answer["Location"], TUS)
    assert head["Upload-Metadata"] == metadata(md5=md5, filename="llm.tar")["Upload-Metadata"]
    wait_until(lambda: status(server.port, answer["Location"])["status"] == "done", what="done")
    steps = status(server.port, answer["Location"])["steps"]
    assert {step["name"]: step["state"] for step in steps}["verify"] == "done"


@pytest.mark.parametrize(
    ("disposition", "filename"),
    [
        ("inline; filename=\"x y\"; filename*=UTF-8''t%C3%A4st.tar", "täst.tar"),
        ('attachment; filename="x y.tar"', "x y.tar"),
        ("inline", "from-url.tar"),
    ],
)
def test_the_filename_of_the_disposition(
    server: LiveServer, disposition: str, filename: str
) -> None:
    named = {"Content-Disposition": disposition}
    answer = ask(server.port, "PUT", "/files/from-url.tar", named, b"1234")
    assert status(server.port, answer["Location"])["filename"] == filename


@pytest.mark.parametrize(
    ("path", "headers", "expected"),
    [
        ("/files/?img=a", {}, 400),
        ("/files/?image=dir:/tmp/x", {}, 400),
        ("/files/?image=registry.example/team/llm:v1", {}, 403),
        ("/files/?filename=a&filename=b", {}, 400),
        ("/files/?md5=xyz", {}, 400),
        ("/files/?filename=b", metadata(filename="a"), 400),
        ("/files/", {"Content-Type": "multipart/form-data; boundary=x"}, 415),
        ("/files/", {"Content-Range": "bytes 4-7/8"}, 400),
        ("/files/", {"Origin": "https://elsewhere.example"}, 403),
        ("/files/" + "0" * 32, {}, 405),
    ],
)
def test_refused(server: LiveServer, path: str, headers: dict[str, str], expected: int) -> None:
    before = set(server.data_dir.joinpath("uploads").glob("*.info"))
    for method in ("POST", "PUT"):
        with Raw(server.port) as raw:
            raw.head(method, path, {**headers, "Content-Length": str(MIB)})
            answer = raw.answer(method)
        assert (answer.status, answer["Connection"]) == (expected, "close")
    assert set(server.data_dir.joinpath("uploads").glob("*.info")) == before


def test_an_empty_post_is_no_upload(server: LiveServer) -> None:
    assert ask(server.port, "POST", "/files/").status == 412


def test_a_body_that_breaks_off_is_no_upload(server: LiveServer) -> None:
    with Raw(server.port) as raw:
        raw.head("PUT", "/files/broken.tar", {"Content-Length": "8"})
        raw.send(b"1234")
        wait_until(lambda: broken(server) == 4, what="4 bytes")
    row = ask(server.port, "GET", "/api/uploads?q=broken.tar").problem["uploads"][0]
    assert (row["status"], row["length"]) == ("receiving", 8)


def broken(server: LiveServer) -> int:
    rows = ask(server.port, "GET", "/api/uploads?q=broken.tar").problem["uploads"]
    return int(rows[0]["offset"]) if rows else 0
