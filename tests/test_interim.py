"""Interim responses 104 (Upload Resumption Supported): on the wire, before the body came."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

from tests.live import LiveServer, wait_until
from tests.raw import OCTETS, TUS, Raw, ask
from tests.resumable import DONE, MIB, VERSIONS, ending, finished, speaking, stored


@pytest.fixture(scope="module")
def announcing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    with LiveServer(tmp_path_factory.mktemp("interim"), ietf_interim=True) as running:
        yield running


@pytest.mark.parametrize("version", VERSIONS)
def test_it_tells_the_location_before_the_body(announcing: LiveServer, version: int) -> None:
    with Raw(announcing.port) as raw:
        length = {"Content-Length": "8", "Expect": "100-continue"}
        asked = {**speaking(version), **ending(version, complete=True)}
        raw.head("POST", "/files/", {**asked, **length})
        first = raw.read().decode()
        assert first.startswith("HTTP/1.1 104 Upload Resumption Supported\r\n")
        assert f"Upload-Draft-Interop-Version: {version}\r\n" in first
        assert ("Upload-Limit" in first) is (version >= 6)
        upload = first.partition("Location: ")[2].partition("\r\n")[0]
        raw.send(b"1234")
        wait_until(lambda: stored(announcing, upload).stat().st_size == 4, what="4 bytes")
    head = ask(announcing.port, "HEAD", upload, speaking(version))
    assert (head["Upload-Offset"], head["Upload-Length"]) == ("4", "8")


def test_it_leaves_the_connection_as_it_was(announcing: LiveServer) -> None:
    data = random.Random(3).randbytes(3 * MIB)
    with Raw(announcing.port) as raw:
        for number in (1, 2):
            answer = raw.request("POST", "/files/", {**speaking(6), **DONE}, data)
            assert (answer.status, len(raw.interim)) == (201, number)
            assert raw.interim[-1]["Location"] == answer["Location"]
            finished(announcing, answer["Location"], data)


@pytest.mark.parametrize("headers", [{}, speaking(4), speaking(99), {**TUS, **speaking(6)}])
def test_it_is_not_for_everyone(announcing: LiveServer, headers: dict[str, str]) -> None:
    with Raw(announcing.port) as raw:
        tus = {**OCTETS, "Upload-Length": "4"} if "Tus-Resumable" in headers else {}
        assert raw.request("POST", "/files/", {**DONE, **tus, **headers}, b"1234").status == 201
        assert raw.interim == []


def test_it_is_off_by_default(server: LiveServer) -> None:
    with Raw(server.port) as raw:
        assert raw.request("POST", "/files/", {**speaking(6), **DONE}, b"1").status == 201
        assert raw.interim == []
