"""tus-js-client, unmodified, in Node: all its ways of sending, cut lines, a killed server."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.clients.tus_js import Sent, finish, interrupted, send, start
from tests.live import LiveServer, wait_until
from tests.proxy import CuttingProxy
from tests.raw import TUS, ask, status
from tests.resumable import finished, stored
from tests.uploading import documents, write_archive

pytest_plugins = ("tests.client_fixtures",)

MIB = 2**20
SIZE = 8 * MIB
# No multiple of a chunk.
ODD = 3 * MIB + 4711
# A client that goes on for a minute: so long may a server take to come back on a busy machine.
PATIENT = {"retryDelays": [200] * 300}

DRAFTS = {"ietf-draft-03": "5", "ietf-draft-05": "6"}
PROTOCOLS = ["tus-v1", *DRAFTS]


@dataclass(frozen=True)
class Way:
    """Options of the client, and what its requests then look like: methods, and headers of one."""

    name: str
    options: Mapping[str, Any]
    methods: list[str]
    headers: Mapping[str, str] = field(default_factory=dict)
    size: int = ODD
    of: int = -1
    # With `uploadLengthDeferred` the client never notices the last chunk of a file, and waits for
    # the rest; of a bare stream it does, unless that ends together with a chunk.
    stream: bool = False


CHUNKED = {"chunkSize": MIB}
DEFERRED = {"uploadLengthDeferred": True, **CHUNKED}
WAYS = [
    Way("default", {}, ["POST", "PATCH"], {"Upload-Offset": "0", "Tus-Resumable": "1.0.0"}),
    Way("chunks", CHUNKED, ["POST", *["PATCH"] * 4], {"Upload-Offset": str(3 * MIB)}),
    Way("whole chunks", CHUNKED, ["POST", *["PATCH"] * 3], size=3 * MIB),
    Way("one byte", CHUNKED, ["POST", "PATCH"], size=1),
    Way("empty", {}, ["POST"], {"Upload-Length": "0"}, size=0),
    Way("with creation", {"uploadDataDuringCreation": True}, ["POST"]),
    Way(
        "chunks with creation",
        {"uploadDataDuringCreation": True, **CHUNKED},
        ["POST", *["PATCH"] * 3],
    ),
    Way(
        "stream, deferred length",
        DEFERRED,
        ["POST", *["PATCH"] * 4],
        {"Upload-Length": str(ODD), "Upload-Offset": str(3 * MIB)},
        stream=True,
    ),
    Way(
        "stream, deferred length at creation",
        DEFERRED,
        ["POST", *["PATCH"] * 4],
        {"Upload-Defer-Length": "1"},
        of=0,
        stream=True,
    ),
    Way(
        "stream, deferred length, ietf-draft-05",
        {"protocol": "ietf-draft-05", **DEFERRED},
        ["POST", *["PATCH"] * 4],
        {"Upload-Draft-Interop-Version": "6", "Upload-Offset": str(3 * MIB)},
        stream=True,
    ),
    Way(
        "method override",
        {"overridePatchMethod": True},
        ["POST", "POST"],
        {"X-HTTP-Method-Override": "PATCH"},
    ),
    *(
        Way(
            name,
            {"protocol": protocol, **options},
            methods,
            {"Upload-Draft-Interop-Version": version},
        )
        for protocol, version in DRAFTS.items()
        for name, options, methods in (
            (protocol, {}, ["POST", "PATCH"]),
            (f"{protocol}, chunks", CHUNKED, ["POST", *["PATCH"] * 4]),
        )
    ),
]


def assert_arrived(server: LiveServer, sent: Sent, path: Path) -> None:
    """The client is content, and the server has exactly these bytes under that name."""
    assert sent.succeeded, sent
    data = path.read_bytes()
    finished(server, sent.url, data)
    assert stored(server, sent.url).read_bytes() == data
    assert status(server.port, sent.url)["filename"] == path.name


def offset_of(server: LiveServer, url: str) -> int:
    return int(status(server.port, url)["offset"])


def received_more(server: LiveServer, size: int) -> bool:
    """Whether the server has more than this of the newest upload."""
    return int(documents(server.url)[0]["offset"]) > size


def files(of: LiveServer | CuttingProxy) -> str:
    return f"{of.url}/files/"


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.name)
def test_ways_of_sending(server: LiveServer, tmp_path: Path, way: Way) -> None:
    path = write_archive(tmp_path / "llm.tar", way.size)
    sent = send(tmp_path, path, files(server), options=way.options, stream=way.stream)
    assert_arrived(server, sent, path)
    assert sent.methods == way.methods
    headers = sent.requests[way.of]["headers"]
    assert {name: headers.get(name) for name in way.headers} == way.headers


def test_every_request_may_have_a_number(server: LiveServer, tmp_path: Path) -> None:
    path = write_archive(tmp_path / "llm.tar", ODD)
    sent = send(tmp_path, path, files(server), options={"addRequestId": True, **CHUNKED})
    assert_arrived(server, sent, path)
    assert len({request["headers"]["X-Request-ID"] for request in sent.requests}) == 5


def test_parts_in_parallel_become_one_upload(server: LiveServer, tmp_path: Path) -> None:
    path = write_archive(tmp_path / "parallel.tar", ODD)
    before = {document["id"] for document in documents(server.url)}
    sent = send(tmp_path, path, files(server), options={"parallelUploads": 4})
    assert sent.succeeded, sent
    assert sorted(sent.methods) == [*["PATCH"] * 4, *["POST"] * 5]
    final = sent.requests[-1]
    assert (final["method"], final["headers"]["Upload-Concat"][:6]) == ("POST", "final;")
    finished(server, sent.url, path.read_bytes())
    document = status(server.port, sent.url)
    assert (document["filename"], document["length"]) == (path.name, ODD)
    [new] = {document["id"] for document in documents(server.url)} - before
    assert new == document["id"], "the parts are no uploads of their own"


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_aborted_in_the_middle_of_a_request_and_resumed(
    server: LiveServer, line: CuttingProxy, tmp_path: Path, protocol: str
) -> None:
    path = write_archive(tmp_path / f"{protocol}.tar", SIZE)
    order = {"options": {"protocol": protocol}, "urlStorage": str(tmp_path / "urls.json")}
    something = partial(received_more, server, MIB)
    first = interrupted(line, 3 * MIB, something, tmp_path, path, files(line), **order)
    assert first.methods == ["POST"]

    second = send(tmp_path, path, files(line), resume=True, **order)
    assert_arrived(server, second, path)
    assert second.url == first.url
    assert second.methods == ["HEAD", "PATCH"]
    assert MIB < int(second.requests[1]["headers"]["Upload-Offset"]) < 3 * MIB


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_aborted_between_chunks_and_resumed_by_its_url(
    server: LiveServer, tmp_path: Path, protocol: str
) -> None:
    path = write_archive(tmp_path / f"{protocol}.tar", SIZE)
    options = {"protocol": protocol, **CHUNKED}
    first = send(tmp_path, path, files(server), options=options, abortAfterBytes=3 * MIB)
    assert first.all("aborted")
    assert 2 * MIB <= offset_of(server, first.url) < SIZE

    second = send(tmp_path, path, files(server), options={**options, "uploadUrl": first.url})
    assert_arrived(server, second, path)
    assert second.methods[:2] == ["HEAD", "PATCH"]
    assert "POST" not in second.methods


@pytest.mark.parametrize("options", [{}, CHUNKED], ids=["one request", "chunks"])
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_cut_line_is_gone_on_with(
    server: LiveServer,
    line: CuttingProxy,
    tmp_path: Path,
    protocol: str,
    options: dict[str, Any],
) -> None:
    path = write_archive(tmp_path / f"{protocol}.tar", SIZE)
    line.cut_after(2 * MIB, 5 * MIB, 7 * MIB)
    order = {"protocol": protocol, **PATIENT, **options}
    sent = send(tmp_path, path, files(line), options=order)
    assert_arrived(server, sent, path)
    assert sent.methods.count("POST") == 1, "never from the beginning"
    # Each cut costs a question; one more may be lost when a cut hits the question itself.
    assert sent.methods.count("HEAD") >= 2


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_the_server_is_killed_and_comes_back(tmp_path: Path, protocol: str) -> None:
    path = write_archive(tmp_path / f"{protocol}.tar", SIZE)
    with LiveServer(tmp_path) as server, CuttingProxy(server.port) as proxy:
        killed = threading.Event()

        def kill() -> None:
            wait_until(lambda: received_more(server, MIB))
            server.kill()
            killed.set()

        proxy.at(4 * MIB, kill)
        order = {"protocol": protocol, **PATIENT}
        process = start(tmp_path, path, files(proxy), options=order)
        assert killed.wait(60)
        server.start()
        sent = finish(process)
        assert_arrived(server, sent, path)
        assert sent.methods.count("POST") == 1, "never from the beginning"
        assert int(sent.requests[-1]["headers"]["Upload-Offset"]) > MIB


def test_termination(server: LiveServer, tmp_path: Path) -> None:
    path = write_archive(tmp_path / "unwanted.tar", SIZE)
    sent = send(
        tmp_path,
        path,
        files(server),
        options=CHUNKED,
        abortAfterBytes=3 * MIB,
        terminate=True,
    )
    assert sent.all("aborted")
    assert (sent.requests[-1]["method"], sent.requests[-1]["status"]) == ("DELETE", 204)
    assert ask(server.port, "HEAD", f"/files/{sent.url.rsplit('/', 1)[-1]}", TUS).status == 404
    assert not stored(server, sent.url).exists()


def test_a_refusal_reaches_the_user_of_the_client(server: LiveServer, tmp_path: Path) -> None:
    path = write_archive(tmp_path / "llm.tar", 1000)
    options = {"metadata": {"image": "registry.example/team/llm:v1"}}
    sent = send(tmp_path, path, files(server), options=options)
    [error] = sent.all("error")
    assert (sent.code, error["status"]) == (1, 403)
    assert "registry.example" in error["message"], "the answer's own words"
