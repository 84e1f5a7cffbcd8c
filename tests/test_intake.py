"""How bytes come in: the fast path and the portable one keep the same promises."""

from __future__ import annotations

import os
import random
import socket
import struct
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from tests.conftest import Serve
from tests.live import LiveServer, wait_until
from tests.raw import OCTETS, TUS, Answer, Raw, append, ask, create, offset, status

MIB = 2**20
GIB = 2**30
Send = Callable[[Raw, str, int, bytes], None]


def _patch_head(raw: Raw, upload: str, start: int, framing: Mapping[str, str]) -> None:
    raw.head("PATCH", upload, {**TUS, **OCTETS, "Upload-Offset": str(start), **framing})


def send_plain(raw: Raw, upload: str, start: int, body: bytes) -> None:
    """Content-Length: the fast path."""
    _patch_head(raw, upload, start, {"Content-Length": str(len(body))})
    raw.send(body)


def send_chunked(raw: Raw, upload: str, start: int, body: bytes) -> None:
    """Chunked transfer coding: the portable path."""
    _patch_head(raw, upload, start, {"Transfer-Encoding": "chunked"})
    for begin in range(0, len(body), 700_001):
        piece = body[begin : begin + 700_001]
        raw.send(b"%x\r\n" % len(piece) + piece + b"\r\n")
    raw.send(b"0\r\n\r\n")


BOTH = pytest.mark.parametrize("send", [send_plain, send_chunked], ids=["fast", "portable"])


def stored(server: LiveServer, upload: str) -> Path:
    return server.data_dir / "uploads" / upload.rsplit("/", 1)[-1]


@BOTH
def test_bytes_arrive_whole(server: LiveServer, send: Send) -> None:
    data = random.Random(1).randbytes(9 * MIB + 17)
    upload = create(server.port, len(data))
    with Raw(server.port) as raw:
        send(raw, upload, 0, data)
        answer = raw.answer("PATCH")
        assert (answer.status, answer["Upload-Offset"]) == (204, str(len(data)))
        # The connection goes on with the next request.
        assert raw.request("OPTIONS", "/files/").status == 204
    assert stored(server, upload).read_bytes() == data


@BOTH
def test_a_broken_connection_keeps_what_came(server: LiveServer, send: Send) -> None:
    data = random.Random(2).randbytes(3 * MIB)
    upload = create(server.port, len(data))
    framing = "Content-Length" if send is send_plain else "Transfer-Encoding"
    with Raw(server.port) as raw:
        value = str(len(data)) if send is send_plain else "chunked"
        _patch_head(raw, upload, 0, {framing: value})
        piece = data[: 2 * MIB]
        raw.send(piece if send is send_plain else b"%x\r\n" % len(piece) + piece + b"\r\n")
        wait_until(lambda: stored(server, upload).stat().st_size > 0, what="bytes on disk")
    wait_until(lambda: offset(server.port, upload) == 2 * MIB, what="2 MiB")
    assert stored(server, upload).read_bytes() == data[: 2 * MIB]
    answer = append(server.port, upload, 2 * MIB, data[2 * MIB :])
    assert answer.status == 204
    assert stored(server, upload).read_bytes() == data


def test_a_reset_connection_keeps_what_came(server: LiveServer) -> None:
    upload = create(server.port, 3 * MIB)
    raw = Raw(server.port)
    _patch_head(raw, upload, 0, {"Content-Length": str(3 * MIB)})
    raw.send(bytes(MIB))
    wait_until(lambda: stored(server, upload).stat().st_size == MIB, what="1 MiB")
    raw.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    raw.socket.close()
    assert offset(server.port, upload) == MIB


@BOTH
def test_a_silent_body_is_cut(serve: Serve, send: Send) -> None:
    server = serve(body_idle_seconds=0.5)
    upload = create(server.port, 10)
    with Raw(server.port) as raw:
        if send is send_plain:
            _patch_head(raw, upload, 0, {"Content-Length": "10"})
            raw.send(b"1234")
        else:
            _patch_head(raw, upload, 0, {"Transfer-Encoding": "chunked"})
            raw.send(b"4\r\n1234\r\n")
        begun = time.monotonic()
        answer = raw.answer("PATCH")
        assert (answer.status, answer["Upload-Offset"]) == (408, "4")
        assert 0.3 < time.monotonic() - begun < 5
    assert offset(server.port, upload) == 4


def test_an_overlong_chunked_body_never_completes_the_upload(server: LiveServer) -> None:
    upload = create(server.port, 10)
    with Raw(server.port) as raw:
        send_chunked(raw, upload, 0, b"12345678901")
        assert raw.answer("PATCH").status == 413
    assert offset(server.port, upload) < 10
    assert status(server.port, upload)["status"] == "receiving"


def test_a_chunked_body_that_breaks_off_at_the_length_does_not_complete_it(
    server: LiveServer,
) -> None:
    """All bytes came, but not the end of the body: who knows whether more was to come."""
    upload = create(server.port, 10)
    with Raw(server.port) as raw:
        _patch_head(raw, upload, 0, {"Transfer-Encoding": "chunked"})
        raw.send(b"a\r\n1234567890\r\n")
        time.sleep(0.1)
        assert status(server.port, upload)["status"] == "receiving"
        raw.send(b"0\r\n\r\n")
        assert raw.answer("PATCH").status == 204


def test_expect_100_continue(server: LiveServer) -> None:
    upload = create(server.port, 4)
    with Raw(server.port) as raw:
        _patch_head(raw, upload, 0, {"Content-Length": "4", "Expect": "100-continue"})
        assert raw.read().startswith(b"HTTP/1.1 100 Continue\r\n\r\n")
        raw.send(b"1234")
        assert raw.answer("PATCH").status == 204


def test_a_refusal_comes_instead_of_100_continue(server: LiveServer) -> None:
    upload = create(server.port, 4)
    with Raw(server.port) as raw:
        _patch_head(raw, upload, 3, {"Content-Length": "1", "Expect": "100-continue"})
        assert raw.read().startswith(b"HTTP/1.1 409 ")


def test_pipelined_requests(server: LiveServer) -> None:
    """Bodies and requests in one segment: nothing is taken for something else."""
    uploads = [create(server.port, 6) for _ in range(3)]
    with Raw(server.port) as raw:
        text = b""
        for number, upload in enumerate(uploads):
            text += (
                f"PATCH {upload} HTTP/1.1\r\nHost: 127.0.0.1\r\nTus-Resumable: 1.0.0\r\n"
                "Content-Type: application/offset+octet-stream\r\nUpload-Offset: 0\r\n"
                f"Content-Length: 6\r\n\r\nbody-{number}"
            ).encode()
        raw.send(text)
        answers = [raw.answer("PATCH") for _ in uploads]
    assert [answer.status for answer in answers] == [204, 204, 204]
    for number, upload in enumerate(uploads):
        assert stored(server, upload).read_bytes() == f"body-{number}".encode()


def test_a_pipelined_body_may_come_in_drips(server: LiveServer) -> None:
    first, second = create(server.port, 4), create(server.port, 2 * MIB)
    data = random.Random(3).randbytes(2 * MIB)
    with Raw(server.port) as raw:
        send_plain(raw, first, 0, b"1234")
        _patch_head(raw, second, 0, {"Content-Length": str(len(data))})
        for begin in range(0, len(data), 300_000):
            raw.send(data[begin : begin + 300_000])
            time.sleep(0.01)
        assert [raw.answer("PATCH").status for _ in range(2)] == [204, 204]
    assert stored(server, second).read_bytes() == data


SMUGGLED = [
    "Content-Length: 4\r\nTransfer-Encoding: chunked",
    "Content-Length: 4\r\nContent-Length: 5",
    "Content-Length: +4",
    "Content-Length: 4, 4",
    "Transfer-Encoding: chunked, identity",
]


@pytest.mark.parametrize("framing", SMUGGLED)
def test_framing_that_can_be_read_in_two_ways_is_refused(server: LiveServer, framing: str) -> None:
    """OWASP and RFC 9112, section 6.3: smuggling begins where two parsers disagree."""
    upload = create(server.port, 4)
    with Raw(server.port) as raw:
        raw.send(
            f"PATCH {upload} HTTP/1.1\r\nHost: 127.0.0.1\r\nTus-Resumable: 1.0.0\r\n"
            "Content-Type: application/offset+octet-stream\r\nUpload-Offset: 0\r\n"
            f"{framing}\r\n\r\n1234".encode()
        )
        assert raw.answer("PATCH").status >= 400
    assert offset(server.port, upload) == 0


def test_a_disk_that_fills_up_says_so_and_keeps_the_truth(serve: Serve, tiny_disk: Path) -> None:
    server = serve(data_dir=tiny_disk / "data")
    refused = ask(server.port, "POST", "/files/", {**TUS, "Upload-Length": str(200 * MIB)})
    assert refused.status == 507
    assert str(200 * MIB) in refused.problem["detail"]
    assert "free" in refused.problem["detail"]
    upload = ask(server.port, "POST", "/files/", {**TUS, "Upload-Defer-Length": "1"})["Location"]
    filler = tiny_disk / "filler"
    filler.write_bytes(bytes(20 * MIB))
    answer = _send_until_full(server.port, upload)
    assert answer.status == 507, answer
    kept = offset(server.port, upload)
    assert int(answer["Upload-Offset"]) == kept == stored(server, upload).stat().st_size
    filler.unlink()
    last = append(server.port, upload, kept, b"end", {"Upload-Length": str(kept + 3)})
    assert last.status == 204


def _send_until_full(port: int, upload: str) -> Answer:
    with Raw(port) as raw:
        _patch_head(raw, upload, 0, {"Content-Length": str(300 * MIB)})
        try:
            for _ in range(300):
                raw.send(bytes(MIB))
        except OSError:
            pass  # the answer came before the body's end
        return raw.answer("PATCH")


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 MiB."""
    if os.geteuid() != 0:
        pytest.skip("mounting a tmpfs needs root")
    disk = tmp_path / "disk"
    disk.mkdir()
    mount(disk, "64m")
    yield disk
    unmount(disk)


def mount(directory: Path, size: str) -> None:
    run("mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(directory))


def unmount(directory: Path) -> None:
    run("umount", "--lazy", str(directory))


def run(*argv: str) -> None:
    subprocess.run(argv, check=True)


def receive(server: LiveServer, size: int) -> str:
    """One PATCH of `size` bytes; the path of the upload."""
    block = random.Random(4).randbytes(MIB)
    upload = create(server.port, size)
    with Raw(server.port, timeout_seconds=120) as raw:
        _patch_head(raw, upload, 0, {"Content-Length": str(size)})
        for _ in range(size // MIB):
            raw.send(block)
        assert raw.answer("PATCH").status == 204
    with stored(server, upload).open("rb") as file:
        while piece := file.read(MIB):
            assert piece == block
    return upload


def test_memory_while_receiving(serve: Serve) -> None:
    """2 GiB in one PATCH: the server's memory stays what it was."""
    server = serve(run_worker=False)
    upload = receive(server, 2 * GIB)
    assert peak_mib(server.pid) < 120
    ask(server.port, "DELETE", upload, TUS)


@pytest.mark.slow
def test_memory_while_receiving_and_hashing(serve: Serve) -> None:
    """5 GiB in one PATCH, with the worker and its follower in the same process."""
    server = serve()
    upload = receive(server, 5 * GIB)
    wait_until(lambda: status(server.port, upload)["status"] == "done", seconds=120, what="done")
    assert peak_mib(server.pid) < 120
    ask(server.port, "DELETE", upload, TUS)


def peak_mib(pid: int) -> float:
    """The process's largest resident set so far."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) / 1024
    raise AssertionError("no VmHWM")
