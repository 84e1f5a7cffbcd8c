"""curl as a tus client and as an IETF one, by hand. (Plain uploads: `test_plain_uploads.py`.)"""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.live import LiveServer, wait_until
from tests.raw import OCTETS, TUS, Answer, status
from tests.resumable import MORE, finished, is_complete, speaking
from tests.uploading import write_archive

MIB = 2**20
SIZE = 5 * MIB + 4711


def command(url: str, headers: Mapping[str, str], *arguments: str) -> list[str]:
    named = [part for name, value in headers.items() for part in ("-H", f"{name}: {value}")]
    return ["curl", "--silent", "--show-error", "--include", *named, *arguments, url]


def curl(
    url: str, headers: Mapping[str, str], *arguments: str, stdin: bytes | None = None
) -> Answer:
    """The final answer to curl; interim ones (100 Continue) are left out."""
    ran = subprocess.run(
        command(url, headers, *arguments),
        input=stdin or b"",
        capture_output=True,
        timeout=60,
        check=True,
    )
    head, body = b"HTTP/1.1 100", ran.stdout
    while head.startswith(b"HTTP/1.1 1"):
        head, _, body = body.partition(b"\r\n\r\n")
    line, *rows = head.decode("latin-1").split("\r\n")
    pairs = (row.partition(":") for row in rows)
    return Answer(
        int(line.split(" ")[1]),
        {name.lower(): value.strip() for name, _, value in pairs},
        body,
    )


@pytest.mark.parametrize("how", ["--data-binary", "-T"])
def test_tus_in_two_requests(server: LiveServer, tmp_path: Path, how: str) -> None:
    path = write_archive(tmp_path / "llm.tar", SIZE)
    created = curl(f"{server.url}/files/", {**TUS, "Upload-Length": str(SIZE)}, "--request", "POST")
    assert created.status == 201
    body = ("-T", str(path)) if how == "-T" else (how, f"@{path}")
    headers = {**TUS, **OCTETS, "Upload-Offset": "0"}
    sent = curl(f"{server.url}{created['Location']}", headers, "--request", "PATCH", *body)
    assert (sent.status, sent["Upload-Offset"]) == (204, str(SIZE))
    finished(server, created["Location"], path.read_bytes())


def test_tus_killed_in_the_middle_and_resumed(server: LiveServer, tmp_path: Path) -> None:
    path = write_archive(tmp_path / "llm.tar", SIZE)
    data = path.read_bytes()
    created = curl(f"{server.url}/files/", {**TUS, "Upload-Length": str(SIZE)}, "--request", "POST")
    upload = created["Location"]
    url = f"{server.url}{upload}"
    start = {**TUS, **OCTETS, "Upload-Offset": "0"}
    slow = ("--request", "PATCH", "--limit-rate", "1M", "-T", str(path))
    with subprocess.Popen(command(url, start, *slow), stdout=subprocess.DEVNULL) as sending:
        try:
            wait_until(lambda: status(server.port, upload)["offset"] >= MIB, what="1 MiB")
        finally:
            sending.kill()

    asked = curl(url, TUS, "--head")
    offset = int(asked["Upload-Offset"])
    assert (asked.status, asked["Upload-Length"]) == (200, str(SIZE))
    assert MIB <= offset < SIZE
    rest = {**TUS, **OCTETS, "Upload-Offset": str(offset)}
    sent = curl(url, rest, "--request", "PATCH", "--data-binary", "@-", stdin=data[offset:])
    assert (sent.status, sent["Upload-Offset"]) == (204, str(SIZE))
    finished(server, upload, data)


@pytest.mark.parametrize("version", [3, 5, 6, 7, 8, 9])
def test_ietf_in_two_parts(server: LiveServer, tmp_path: Path, version: int) -> None:
    """The first part is a whole request as curl makes it of a pipe: in chunked coding."""
    data = write_archive(tmp_path / "llm.tar", SIZE).read_bytes()
    half, speaks = SIZE // 2, speaking(version)
    more, done = (
        ({"Upload-Incomplete": "?1"}, {"Upload-Incomplete": "?0"})
        if version == 3
        else (
            MORE,
            {"Upload-Complete": "?1"},
        )
    )
    url = f"{server.url}/files/llm.tar"
    created = curl(url, {**speaks, **more}, "-T", "-", stdin=data[:half])
    assert (created.status, created["Upload-Offset"]) == (201, str(half))
    upload = created["Location"]

    rest = {
        **speaks,
        **done,
        "Upload-Offset": str(half),
        "Content-Type": "application/partial-upload",
    }
    sent = curl(
        f"{server.url}{upload}",
        rest,
        "--request",
        "PATCH",
        "--data-binary",
        "@-",
        stdin=data[half:],
    )
    assert is_complete(version, sent)
    finished(server, upload, data)
