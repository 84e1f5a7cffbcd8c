"""tus checksum and checksum-trailer: nothing counts before it is proven, and nothing else stays."""

from __future__ import annotations

import base64
import hashlib
import random
import time
import zlib
from pathlib import Path

import pytest

from tests.conftest import Serve
from tests.live import LiveServer, wait_until
from tests.raw import OCTETS, TUS, Raw, append, ask, create, offset, status

MIB = 2**20
ALGORITHMS = ["md5", "sha1", "sha256", "sha512", "crc32"]


def digest(algorithm: str, data: bytes) -> bytes:
    if algorithm == "crc32":
        return zlib.crc32(data).to_bytes(4, "big")
    return hashlib.new(algorithm, data, usedforsecurity=False).digest()


def checksum(algorithm: str, data: bytes) -> dict[str, str]:
    encoded = base64.b64encode(digest(algorithm, data)).decode()
    return {"Upload-Checksum": f"{algorithm} {encoded}"}


def stored(server: LiveServer, upload: str) -> Path:
    return server.data_dir / "uploads" / upload.rsplit("/", 1)[-1]


def test_options_names_the_algorithms(server: LiveServer) -> None:
    answer = ask(server.port, "OPTIONS", "/files/")
    assert answer["Tus-Checksum-Algorithm"].split(",") == ALGORITHMS
    assert {"checksum", "checksum-trailer"} <= set(answer["Tus-Extension"].split(","))


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_right_checksum_lets_the_bytes_in(server: LiveServer, algorithm: str) -> None:
    data = random.Random(5).randbytes(3 * MIB + 5)
    upload = create(server.port, len(data))
    for start in (0, MIB):
        piece = data[start : start + MIB] if start == 0 else data[start:]
        answer = append(server.port, upload, start, piece, checksum(algorithm, piece))
        assert (answer.status, answer["Upload-Offset"]) == (204, str(start + len(piece)))
    assert stored(server, upload).read_bytes() == data


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_wrong_checksum_keeps_nothing_of_the_request(server: LiveServer, algorithm: str) -> None:
    data = random.Random(6).randbytes(2 * MIB)
    upload = create(server.port, len(data))
    append(server.port, upload, 0, data[:MIB])
    answer = append(server.port, upload, MIB, data[MIB:], checksum(algorithm, b"other"))
    assert (answer.status, answer["Tus-Resumable"]) == (460, "1.0.0")
    assert answer.problem["code"] == "checksum_mismatch"
    assert digest(algorithm, data[MIB:]).hex() in answer.problem["detail"]
    assert offset(server.port, upload) == MIB
    assert stored(server, upload).stat().st_size == MIB
    assert status(server.port, upload)["status"] == "receiving"
    again = append(server.port, upload, MIB, data[MIB:], checksum(algorithm, data[MIB:]))
    assert again.status == 204
    assert stored(server, upload).read_bytes() == data


@pytest.mark.parametrize(
    "value", ["", "md5", "md5 !", "md5 YQ==", "md4 1B2M2Y8AsgTpgAmY7PhCfg==", "MD5", "sha1 "]
)
def test_a_checksum_that_cannot_be_read_is_400(server: LiveServer, value: str) -> None:
    upload = create(server.port, 4)
    answer = append(server.port, upload, 0, b"1234", {"Upload-Checksum": value})
    assert answer.status == 400
    assert offset(server.port, upload) == 0


def test_a_creation_with_a_checksum(server: LiveServer) -> None:
    headers = {**TUS, **OCTETS, "Upload-Length": "8"}
    right = ask(server.port, "POST", "/files/", {**headers, **checksum("md5", b"1234")}, b"1234")
    assert (right.status, right["Upload-Offset"]) == (201, "4")
    wrong = ask(server.port, "POST", "/files/", {**headers, **checksum("md5", b"x")}, b"1234")
    assert wrong.status == 460
    assert offset(server.port, wrong["Location"]) == 0


def test_a_body_that_breaks_off_is_not_proven(server: LiveServer) -> None:
    upload = create(server.port, 2 * MIB)
    with Raw(server.port) as raw:
        place = {"Upload-Offset": "0", "Content-Length": str(2 * MIB)}
        raw.head("PATCH", upload, {**TUS, **OCTETS, **place, **checksum("md5", bytes(2 * MIB))})
        raw.send(bytes(MIB))
        wait_until(lambda: stored(server, upload).stat().st_size == MIB, what="bytes on disk")
        # What is not proven is not seen by anyone meanwhile.
        assert status(server.port, upload)["offset"] == 0
    wait_until(lambda: stored(server, upload).stat().st_size == 0, what="they are gone")
    assert offset(server.port, upload) == 0


def test_a_kill_in_the_middle_keeps_nothing_unproven(serve: Serve) -> None:
    server = serve()
    data = random.Random(7).randbytes(4 * MIB)
    upload = create(server.port, len(data))
    append(server.port, upload, 0, data[:MIB])
    with Raw(server.port) as raw:
        rest = data[MIB:]
        place = {"Upload-Offset": str(MIB), "Content-Length": str(len(rest))}
        raw.head("PATCH", upload, {**TUS, **OCTETS, **place, **checksum("sha1", rest)})
        raw.send(rest[: 2 * MIB])
        wait_until(lambda: stored(server, upload).stat().st_size == 3 * MIB, what="on disk")
        server.kill()
    server.start()
    assert status(server.port, upload)["offset"] == MIB
    assert offset(server.port, upload) == MIB
    assert append(server.port, upload, 3 * MIB, b"x").status == 409
    assert append(server.port, upload, MIB, rest, checksum("sha1", rest)).status == 204
    assert stored(server, upload).read_bytes() == data
    wait_until(lambda: status(server.port, upload)["status"] == "done", what="done")
    found = status(server.port, upload)["digests"]["sha256"]
    assert found == hashlib.sha256(data).hexdigest()


def test_a_follower_never_reads_what_is_not_proven(server: LiveServer) -> None:
    """Wrong bytes come and go while the upload is followed; its digests are of the right ones."""
    data = random.Random(8).randbytes(6 * MIB)
    upload = create(server.port, len(data))
    for start in range(0, len(data), MIB):
        piece = data[start : start + MIB]
        wrong = append(server.port, upload, start, bytes(MIB), checksum("crc32", piece))
        assert wrong.status == 460
        time.sleep(0.05)
        assert append(server.port, upload, start, piece, checksum("crc32", piece)).status == 204
    wait_until(lambda: status(server.port, upload)["status"] == "done", what="done")
    found = status(server.port, upload)["digests"]
    assert found["md5"] == digest("md5", data).hex()


def test_proven_bytes_keep_the_digests_that_a_follower_left(serve: Serve) -> None:
    """A follower may be done the moment the last bytes count, before their request has ended."""
    server = serve(run_worker=False)
    data = random.Random(14).randbytes(MIB)
    upload = create(server.port, len(data))
    beside = stored(server, upload).with_suffix(".digest")
    with Raw(server.port) as raw:
        place = {"Upload-Offset": "0", "Content-Length": str(len(data))}
        raw.head("PATCH", upload, {**TUS, **OCTETS, **place, **checksum("md5", data)})
        raw.send(data[:-1])
        wait_until(lambda: stored(server, upload).stat().st_size > 0, what="bytes on disk")
        beside.write_text('{"length": 0, "md5": "", "sha256": ""}')
        raw.send(data[-1:])
        assert raw.answer("PATCH").status == 204
    assert beside.exists()


def send_with_trailer(raw: Raw, upload: str, body: bytes, trailer: str) -> None:
    announced = {"Trailer": "Upload-Checksum", "Transfer-Encoding": "chunked"}
    raw.head("PATCH", upload, {**TUS, **OCTETS, "Upload-Offset": "0", **announced})
    for start in range(0, len(body), 700_000):
        piece = body[start : start + 700_000]
        raw.send(b"%x\r\n" % len(piece) + piece + b"\r\n")
    raw.send(f"0\r\n{trailer}\r\n".encode())


def test_a_checksum_in_the_trailer(server: LiveServer) -> None:
    data = random.Random(9).randbytes(2 * MIB)
    value = checksum("sha1", data)["Upload-Checksum"]
    upload = create(server.port, len(data))
    with Raw(server.port) as raw:
        send_with_trailer(raw, upload, data, f"Upload-Checksum: {value}\r\n")
        assert raw.answer("PATCH").status == 204
        assert raw.request("OPTIONS", "/files/").status == 204
    assert stored(server, upload).read_bytes() == data


@pytest.mark.parametrize(
    ("trailer", "expected"),
    [
        ("Upload-Checksum: sha1 " + base64.b64encode(bytes(20)).decode() + "\r\n", 460),
        ("Upload-Checksum: nonsense\r\n", 400),
        ("", 400),
    ],
)
def test_a_wrong_trailer_keeps_nothing(server: LiveServer, trailer: str, expected: int) -> None:
    data = random.Random(10).randbytes(2 * MIB)
    upload = create(server.port, len(data))
    with Raw(server.port) as raw:
        send_with_trailer(raw, upload, data, trailer)
        assert raw.answer("PATCH").status == expected
    assert offset(server.port, upload) == 0
    assert stored(server, upload).stat().st_size == 0


def test_a_trailer_is_no_header(server: LiveServer) -> None:
    """What comes behind the body cannot change who is asking, or what for."""
    upload = create(server.port, 4)
    with Raw(server.port) as raw:
        raw.head(
            "PATCH", upload, {**TUS, **OCTETS, "Upload-Offset": "1", "Transfer-Encoding": "chunked"}
        )
        raw.send(b"4\r\n1234\r\n0\r\nUpload-Offset: 0\r\n\r\n")
        assert raw.answer("PATCH").status == 409
