"""Real clients through Debian's nginx: with and without its buffering, also below a prefix."""

from __future__ import annotations

import hashlib
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tusclient.client import TusClient

from tests.clients.tus_js import interrupted, send
from tests.live import LiveServer
from tests.nginx import Nginx
from tests.proxy import CuttingProxy
from tests.raw import TUS, ask, status
from tests.resumable import finished, stored
from tests.uploading import documents, write_archive

MIB = 2**20
SIZE = 8 * MIB
ODD = 3 * MIB + 4711
CHUNKED = {"chunkSize": MIB}
PROTOCOLS = ["tus-v1", "ietf-draft-03", "ietf-draft-05"]


@pytest.fixture(scope="module")
def trusting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    """A server that believes what the proxy says about itself."""
    directory = tmp_path_factory.mktemp("server")
    with LiveServer(directory, trusted_proxies=["127.0.0.1/32"]) as server:
        yield server


@pytest.fixture(scope="module")
def streaming(trusting: LiveServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nginx]:
    """A body is passed on as it comes."""
    with Nginx(tmp_path_factory.mktemp("nginx"), trusting.port, prefix="/tusboat") as nginx:
        yield nginx


@pytest.fixture(scope="module")
def buffering(trusting: LiveServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nginx]:
    """A body is passed on once it is complete, which is what nginx does if nobody says more."""
    with Nginx(tmp_path_factory.mktemp("nginx"), trusting.port, buffered=True) as nginx:
        yield nginx


@pytest.fixture(params=["streaming", "buffering"])
def nginx(request: pytest.FixtureRequest) -> Nginx:
    found: Nginx = request.getfixturevalue(request.param)
    return found


def assert_arrived(server: LiveServer, url: str, path: Path) -> None:
    """The server has exactly these bytes."""
    data = path.read_bytes()
    finished(server, url, data)
    assert stored(server, url).read_bytes() == data


@pytest.mark.parametrize(
    "options",
    [
        {},
        CHUNKED,
        {"uploadDataDuringCreation": True},
        {"overridePatchMethod": True},
        {"protocol": "ietf-draft-03"},
        {"protocol": "ietf-draft-05"},
        {"protocol": "ietf-draft-05", **CHUNKED},
    ],
    ids=["default", "chunks", "with creation", "override", "draft-03", "draft-05", "05, chunks"],
)
def test_tus_js_client(
    trusting: LiveServer, nginx: Nginx, tmp_path: Path, options: dict[str, Any]
) -> None:
    path = write_archive(tmp_path / "llm.tar", ODD)
    sent = send(tmp_path, path, f"{nginx.url}/files/", options=options)
    assert sent.succeeded, sent
    assert_arrived(trusting, sent.url, path)
    assert sent.url.startswith(f"{nginx.url}/files/")
    assert {request["url"] for request in sent.requests[1:]} <= {sent.url}
    upload = sent.url.removeprefix(f"http://127.0.0.1:{nginx.port}")
    through = [line for line in nginx.served() if upload in line]
    assert len(through) == len(sent.requests) - 1, "the server is reached through nginx only"


def test_parts_in_parallel_become_one_upload(
    trusting: LiveServer, nginx: Nginx, tmp_path: Path
) -> None:
    """The final request names its parts as nginx's clients see them: by URL, below the prefix."""
    path = write_archive(tmp_path / "parallel.tar", ODD)
    sent = send(tmp_path, path, f"{nginx.url}/files/", options={"parallelUploads": 4})
    assert sent.succeeded, sent
    assert f" {nginx.url}/files/" in sent.requests[-1]["headers"]["Upload-Concat"]
    finished(trusting, sent.url, path.read_bytes())


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_aborted_and_resumed_without_buffering(
    trusting: LiveServer, streaming: Nginx, tmp_path: Path, protocol: str
) -> None:
    """What nginx had of the one request is on the server, and is not sent again."""
    path = write_archive(tmp_path / f"{protocol}.tar", SIZE)
    order = {"options": {"protocol": protocol}, "urlStorage": str(tmp_path / "urls.json")}
    with CuttingProxy(streaming.port) as line:
        endpoint = f"{line.url}{streaming.prefix}/files/"
        first = interrupted(
            line,
            3 * MIB,
            lambda: int(documents(trusting.url)[0]["offset"]) > MIB,
            tmp_path,
            path,
            endpoint,
            **order,
        )
        second = send(tmp_path, path, endpoint, resume=True, **order)
    assert second.succeeded, second
    assert second.url == first.url
    assert second.methods == ["HEAD", "PATCH"]
    assert MIB < int(second.requests[1]["headers"]["Upload-Offset"]) < 3 * MIB
    assert_arrived(trusting, second.url, path)


@pytest.mark.parametrize(
    ("options", "kept"), [({}, 0), (CHUNKED, 2 * MIB)], ids=["one request", "chunks"]
)
def test_aborted_and_resumed_with_buffering(
    trusting: LiveServer, buffering: Nginx, tmp_path: Path, options: dict[str, Any], kept: int
) -> None:
    """What nginx had of an unfinished request is lost; what helps there are chunks."""
    path = write_archive(tmp_path / "llm.tar", SIZE)
    order = {"options": options, "urlStorage": str(tmp_path / "urls.json")}
    with CuttingProxy(buffering.port) as line:
        endpoint = f"{line.url}/files/"
        # In the third chunk, whose last byte comes after the headers of all three.
        first = interrupted(line, 3 * MIB, lambda: True, tmp_path, path, endpoint, **order)
        assert status(trusting.port, first.url)["offset"] == kept
        second = send(tmp_path, path, endpoint, resume=True, **order)
    assert second.succeeded, second
    assert (second.url, second.methods[0]) == (first.url, "HEAD")
    assert int(second.requests[1]["headers"]["Upload-Offset"]) == kept
    assert_arrived(trusting, second.url, path)


def test_termination(trusting: LiveServer, nginx: Nginx, tmp_path: Path) -> None:
    path = write_archive(tmp_path / "unwanted.tar", SIZE)
    order = {"options": CHUNKED, "abortAfterBytes": 3 * MIB, "terminate": True}
    sent = send(tmp_path, path, f"{nginx.url}/files/", **order)
    assert (sent.requests[-1]["method"], sent.requests[-1]["status"]) == ("DELETE", 204)
    gone = ask(trusting.port, "HEAD", f"/files/{sent.url.rsplit('/', 1)[-1]}", TUS)
    assert gone.status == 404


def test_tuspy_with_checksums(trusting: LiveServer, nginx: Nginx, tmp_path: Path) -> None:
    path = write_archive(tmp_path / "llm.tar", ODD)
    with path.open("rb") as stream:
        client = TusClient(f"{nginx.url}/files/")
        uploader = client.uploader(file_stream=stream, chunk_size=MIB, upload_checksum=True)
        uploader.upload()
    assert str(uploader.url).startswith(f"{nginx.url}/files/")
    assert_arrived(trusting, str(uploader.url), path)


def test_curl_puts_a_file(trusting: LiveServer, nginx: Nginx, tmp_path: Path) -> None:
    path = write_archive(tmp_path / "llm.tar", ODD)
    command = ["curl", "--silent", "--show-error", "--fail", "-T", str(path)]
    ran = subprocess.run([*command, f"{nginx.url}/files/"], capture_output=True, check=True)
    document = json.loads(ran.stdout)
    assert document["digests"]["sha256"] in (None, hashlib.sha256(path.read_bytes()).hexdigest())
    assert_arrived(trusting, document["id"], path)
