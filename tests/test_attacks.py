"""What a careless or hostile client, or an unlucky moment, must not be able to do."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import random
import struct
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import anyio
import pytest

from hooks.events import UploadEvent, UploadRemoved
from server.relay import Relay
from tests.archives import write_random
from tests.conftest import Serve
from tests.failures import tiny_disk
from tests.journeys import ended, upload_by_tuspy
from tests.live import LiveServer, wait_until
from tests.raw import OCTETS, TUS, Answer, Raw, append, ask, create, metadata, offset, status
from tests.registries import RunningRegistry, plain_registry

__all__ = ["plain_registry"]

KIB, MIB = 2**10, 2**20


def identifier(upload: str) -> str:
    return upload.rsplit("/", 1)[-1]


def stored(server: LiveServer, upload: str) -> Path:
    return server.data_dir / "uploads" / identifier(upload)


def test_a_deferred_length_is_no_way_around_max_size(serve: Serve) -> None:
    server = serve(max_size=1000)
    deferred = {**TUS, "Upload-Defer-Length": "1"}
    upload = ask(server.port, "POST", "/files/", deferred)["Location"]
    assert append(server.port, upload, 0, bytes(1001)).status == 413
    with Raw(server.port) as raw:
        chunked = {"Upload-Offset": "0", "Transfer-Encoding": "chunked"}
        raw.head("PATCH", upload, {**TUS, **OCTETS, **chunked})
        raw.send(b"3e9\r\n" + bytes(1001) + b"\r\n0\r\n\r\n")
        assert raw.answer("PATCH").status == 413
    assert stored(server, upload).stat().st_size <= 1000


def test_what_was_reserved_ahead_is_given_back(server: LiveServer) -> None:
    deferred = {**TUS, "Upload-Defer-Length": "1"}
    upload = ask(server.port, "POST", "/files/", deferred)["Location"]
    append(server.port, upload, 0, bytes(1000))
    assert stored(server, upload).stat().st_blocks * 512 < MIB


def test_a_late_length_is_judged_as_an_early_one(serve: Serve) -> None:
    server = serve(registries=[{"host": "r.test"}], preflight=False)
    image = metadata(image="r.test/a/b")
    huge = str(2**50)
    early = ask(server.port, "POST", "/files/", {**TUS, "Upload-Length": huge, **image})
    deferred = {**TUS, "Upload-Defer-Length": "1", **image}
    upload = ask(server.port, "POST", "/files/", deferred)["Location"]
    late = append(server.port, upload, 0, b"1", {"Upload-Length": huge})
    assert (early.status, late.status) == (507, 507)
    assert offset(server.port, upload) == 0


@pytest.mark.parametrize(
    ("uploads", "jobs", "works", "answer"),
    [("32m", "1g", True, 201), ("1g", "32m", True, 507), ("1g", "32m", False, 201)],
    ids=["room for the work", "no room for the work", "the work is another's"],
)
def test_what_follows_takes_its_space_where_jobs_are(
    uploads: str, jobs: str, works: bool, answer: int, serve: Serve, tmp_path: Path
) -> None:
    with ExitStack() as disks:
        disks.enter_context(tiny_disk(tmp_path / "disk", uploads))
        disks.enter_context(tiny_disk(tmp_path / "disk/jobs", jobs))
        server = serve(
            data_dir=tmp_path / "disk",
            registries=[{"host": "r.test"}],
            preflight=False,
            run_worker=works,
        )
        image = metadata(image="r.test/a/b")
        sent = ask(server.port, "POST", "/files/", {**TUS, "Upload-Length": str(16 * MIB), **image})
        assert sent.status == answer
        if answer == 507:
            assert f"{3 * 16 * MIB} bytes needed to load and push it" in sent.body.decode()
        server.stop()


@pytest.mark.parametrize("where", ["url", "one header", "many headers", "trailers"])
def test_a_head_has_a_limit(server: LiveServer, where: str) -> None:
    upload = create(server.port, 10)
    with Raw(server.port) as raw, contextlib.suppress(OSError):
        if where == "url":
            raw.send(b"GET /" + b"a" * MIB)
        elif where == "one header":
            raw.send(b"GET /livez HTTP/1.1\r\nHost: 127.0.0.1\r\nX-A: " + b"a" * MIB)
        elif where == "many headers":
            raw.send(b"GET /livez HTTP/1.1\r\nHost: 127.0.0.1\r\n" + b"X-A: a\r\n" * 200_000)
        else:
            chunked = {"Upload-Offset": "0", "Transfer-Encoding": "chunked"}
            raw.head("PATCH", upload, {**TUS, **OCTETS, **chunked})
            raw.send(b"1\r\nx\r\n0\r\n" + b"X-A: a\r\n" * 200_000)
        answer = b""
        while more := raw.read():
            answer += more
        assert answer == b"" or answer.startswith((b"HTTP/1.1 431", b"HTTP/1.1 400")), answer[:90]
    assert ask(server.port, "GET", "/livez").status == 200


def test_a_head_of_ordinary_size_may_come_in_drips(server: LiveServer) -> None:
    with Raw(server.port) as raw:
        for byte in b"GET /livez HTTP/1.1\r\nHost: 127.0.0.1\r\nX-A: " + b"a" * 100 + b"\r\n\r\n":
            raw.send(bytes([byte]))
        assert raw.answer().status == 200


def test_only_post_creates(server: LiveServer) -> None:
    for method in ("GET", "HEAD", "PATCH", "DELETE", "PUT"):
        answer = ask(server.port, method, "/files/", {**TUS, "Upload-Length": "5"})
        assert answer.status == 405, method


def test_a_digest_after_the_last_byte_is_not_swallowed(server: LiveServer) -> None:
    upload = create(server.port, 4)
    append(server.port, upload, 0, b"1234")
    late = {"Repr-Digest": "md5=:1B2M2Y8AsgTpgAmY7PhCfg==:"}
    assert append(server.port, upload, 4, b"", late).status == 409
    assert append(server.port, upload, 4, b"").status == 204


def test_an_empty_image_is_no_image_at_all(server: LiveServer) -> None:
    headers = {**TUS, "Upload-Length": "4", "Upload-Metadata": "image "}
    assert ask(server.port, "POST", "/files/", headers).status == 400


def test_another_host_name_is_not_served_without_callers(serve: Serve) -> None:
    """A web page that has its own name resolved to 127.0.0.1 reaches nothing."""
    server = serve(public_url="https://console.example")
    for host, expected in [
        ("evil.example", 400),
        ("127.0.0.1.evil.example", 400),
        (f"localhost:{server.port}", 200),
        (f"[::1]:{server.port}", 200),
        ("console.example", 200),
    ]:
        assert ask(server.port, "GET", "/api/uploads", {"Host": host}).status == expected, host


def test_a_cancel_that_was_cut_short_is_still_a_cancel(server: LiveServer) -> None:
    upload = create(server.port, 8)
    append(server.port, upload, 0, b"1234")
    (server.data_dir / "uploads" / f"{identifier(upload)}.cancel").write_text("{}")
    assert ask(server.port, "HEAD", upload, TUS).status == 410
    assert append(server.port, upload, 4, b"5678").status == 410


def test_slow_proven_bodies_do_not_hold_the_server_up(server: LiveServer) -> None:
    checksum = {"Upload-Checksum": "md5 1B2M2Y8AsgTpgAmY7PhCfg=="}
    with contextlib.ExitStack() as open_now:
        for _ in range(50):
            upload = create(server.port, 1000)
            raw = open_now.enter_context(Raw(server.port))
            place = {"Upload-Offset": "0", "Content-Length": "1000"}
            raw.head("PATCH", upload, {**TUS, **OCTETS, **place, **checksum})
            raw.send(b"x")
        begun = time.monotonic()
        other = create(server.port, 4)
        assert append(server.port, other, 0, b"1234").status == 204
        assert time.monotonic() - begun < 5


def test_a_slow_chunked_sender_is_not_an_idle_one(server: LiveServer) -> None:
    upload = create(server.port, 100 * KIB)
    with Raw(server.port) as raw:
        chunked = {"Upload-Offset": "0", "Transfer-Encoding": "chunked"}
        raw.head("PATCH", upload, {**TUS, **OCTETS, **chunked})
        for _ in range(20):
            raw.send(b"1400\r\n" + bytes(5 * KIB) + b"\r\n")
            time.sleep(0.05)
            offset(server.port, upload)
        assert offset(server.port, upload) > 50 * KIB
        raw.send(b"0\r\n\r\n")
        assert raw.answer("PATCH").status == 204


def test_digests_of_a_file_that_lost_its_end_count_for_nothing(serve: Serve) -> None:
    """A power cut took bytes that were hashed already; others came in their place."""
    server = serve(run_worker=False)
    data = b"0123456789"
    upload = create(server.port, len(data))
    append(server.port, upload, 0, data[:5])
    digest = {
        "length": len(data),
        "md5": hashlib.md5(data, usedforsecurity=False).hexdigest(),
        "sha256": hashlib.sha256(data).hexdigest(),
    }
    beside = server.data_dir / "uploads" / f"{identifier(upload)}.digest"
    beside.write_text(json.dumps(digest))
    assert append(server.port, upload, 5, b"OTHER").status == 204
    assert not beside.exists()


def test_an_outcome_of_a_later_version_breaks_nothing(serve: Serve) -> None:
    server = serve()
    known, unknown = create(server.port, 0), create(server.port, 0)
    for upload in (known, unknown):
        ended(server, upload)
    folder = server.data_dir / "uploads"
    document = json.loads((folder / f"{identifier(known)}.outcome").read_text())
    (folder / f"{identifier(known)}.outcome").write_text(json.dumps({**document, "new": 1}))
    (folder / f"{identifier(unknown)}.outcome").write_text('{"status": "odd"}')
    assert status(server.port, known)["status"] == "done"
    assert status(server.port, unknown)["error"]["code"] == "outcome_unreadable"
    assert len(ask(server.port, "GET", "/api/uploads").problem["uploads"]) == 2
    third = create(server.port, 0)
    assert ended(server, third)["status"] == "done"


def test_retry_against_delete_leaves_no_undead_upload(
    serve: Serve, plain_registry: RunningRegistry, tmp_path: Path
) -> None:
    server = serve(registries=[{"host": plain_registry.host, "plain_http": True}])
    path = write_random(tmp_path / "bad.tar", 1000)
    chance = random.Random(13)
    for _ in range(6):
        upload = upload_by_tuspy(server, path, {"image": f"{plain_registry.host}/a/b"})
        ended(server, upload)
        answers: list[Answer] = []

        def retry(upload: str = upload, answers: list[Answer] = answers) -> None:
            time.sleep(chance.uniform(0, 0.01))
            action = f"/api/uploads/{identifier(upload)}/retry"
            answers.append(ask(server.port, "POST", action))

        thread = threading.Thread(target=retry)
        thread.start()
        time.sleep(chance.uniform(0, 0.01))
        removed = ask(server.port, "DELETE", upload, TUS)
        thread.join()
        assert removed.status in (204, 423)
        assert answers[0].status in (202, 409, 423)
        # However it went, it ended, and can be told.
        wait_until(
            lambda upload=upload: (
                status(server.port, upload)["status"] in ("failed", "canceled", "done")
            ),
            what="an end",
        )


@pytest.mark.anyio
async def test_an_event_that_cannot_be_told_does_not_keep_the_next() -> None:
    told: list[UploadEvent] = []

    async def tell(event: UploadEvent) -> None:
        if not told:
            told.append(event)
            raise RuntimeError("nobody foresaw this")
        told.append(event)

    relay = Relay(tell)
    for number in ("1", "2"):
        relay.emit(UploadRemoved(number, "anna"))
    with anyio.fail_after(5):
        await relay.drain()
    assert [event.upload_id for event in told if isinstance(event, UploadRemoved)] == ["1", "2"]


NO_TEXT = [
    ("Upload-Metadata", "filename \xe9"),
    ("Upload-Checksum", "md5 \xe9"),
    ("Content-Disposition", "attachment; filename*=undefined''a"),
    ("Content-Disposition", "attachment; filename*=idna''a"),
    ("Content-Disposition", "attachment; filename*=unicode_escape''%5Cud800"),
    ("Content-Disposition", "attachment; filename*" + "9" * 5000 + "=a"),
    ("Content-Disposition", "attachment; filename*; filename*0"),
]


@pytest.mark.parametrize(("name", "value"), NO_TEXT)
def test_a_value_that_is_no_text_is_refused(server: LiveServer, name: str, value: str) -> None:
    before = set(server.data_dir.joinpath("uploads").iterdir())
    headers = {name: value}
    if name != "Content-Disposition":
        headers |= {**TUS, **OCTETS, "Upload-Length": "1"}
    assert ask(server.port, "POST", "/files/", headers, b"x").status == 400
    assert set(server.data_dir.joinpath("uploads").iterdir()) == before


def test_a_head_that_comes_all_at_once_has_the_same_limit(server: LiveServer) -> None:
    with Raw(server.port) as raw, contextlib.suppress(ConnectionError):
        raw.send(b"GET /livez HTTP/1.1\r\nHost: 127.0.0.1\r\nX-A: " + b"a" * 120_000 + b"\r\n\r\n")
        assert raw.answer().status == 431


@pytest.mark.parametrize(
    ("head", "status_code", "code"),
    [
        (b"PATCH /files/x HTTP/1.1\r\nContent-Length: x\r\n\r\n", 400, "invalid_http"),
        (b"nonsense\r\n\r\n", 400, "invalid_http"),
        (b"HEAD /files/x HTTP/1.1\r\nX-A: " + b"a" * 70_000 + b"\r\n\r\n", 431, "head_too_large"),
    ],
)
def test_what_is_no_http_is_answered_like_every_error(
    server: LiveServer, head: bytes, status_code: int, code: str
) -> None:
    with Raw(server.port) as raw:
        raw.send(head)
        answer = raw.answer()
    assert (answer.status, answer["Tus-Resumable"]) == (status_code, "1.0.0")
    assert (answer["Content-Type"], answer.problem["code"]) == ("application/problem+json", code)
    assert answer.problem["hint"]


def test_delete_while_the_archive_goes_by_itself_is_a_delete(
    server: LiveServer, tmp_path: Path
) -> None:
    """A worker removes the archive a moment after the outcome is there, under the upload's lock."""
    path = tmp_path / "kept"
    path.write_bytes(b"anything")
    upload = upload_by_tuspy(server, path, {"filename": "kept"})
    ended(server, upload)
    data = server.data_dir / "uploads" / upload.rsplit("/", 1)[-1]
    wait_until(data.exists)
    with data.open("r+b") as held, ThreadPoolExecutor(1) as other:
        whole = struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
        fcntl.fcntl(held, fcntl.F_OFD_SETLK, whole)
        deleting = other.submit(ask, server.port, "DELETE", upload, TUS)
        time.sleep(0.5)
        assert not deleting.done(), "it waits for the lock"
        data.unlink()
        held.close()
        assert deleting.result(20).status == 204
    assert status(server.port, upload)["status"] == "done"
