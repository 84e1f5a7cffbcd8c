"""The traps that were measured in tuspyserver 4.4.3: each is a row, and a test that we pass it.

It is a dependency (its storage contract and its sidecar); its router is not on our data path. Most
rows are shown where their subject is tested; what no other file shows is in this one.
"""

from __future__ import annotations

import hashlib
import os
import random
import resource
import select
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import Final

import pytest
from tusclient.client import TusClient

from tests.conformance.case import BEARER, TOKEN
from tests.conftest import Serve
from tests.failures import tiny_disk
from tests.journeys import ended
from tests.live import ROOT, LiveServer, wait_until
from tests.raw import OCTETS, TUS, Raw, append, ask, create, offset, status
from tests.test_intake import peak_mib

MIB = 2**20
HERE: Final = "tests/test_tuspyserver_traps.py"

# What went wrong there: where we show that it goes right here.
SHOWN: Final[Mapping[str, tuple[str, ...]]] = {
    "kill -9 in mid PATCH, then resume: 8 MiB declared, 11 MiB stored, and the finish hook": (
        "tests/faults/test_kills.py::test_a_kill_in_mid_patch_leaves_a_true_offset",
        "tests/test_every_protocol.py::test_a_kill_in_mid_append_loses_nothing_acknowledged",
    ),
    "SIGTERM in mid PATCH: the same": (
        "tests/faults/test_kills.py::test_sigterm_ends_bodies_with_true_offsets",
    ),
    "a body over the length is refused, but its bytes stay": (
        "tests/test_tus.py::test_a_body_over_the_length_stores_nothing",
        "tests/test_intake.py::test_an_overlong_chunked_body_never_completes_the_upload",
    ),
    "a full disk: offset 0, 4 MiB stored, 12 MiB after the resume": (
        f"{HERE}::test_a_disk_that_was_full_ends_with_the_right_file",
        "tests/test_intake.py::test_a_disk_that_fills_up_says_so_and_keeps_the_truth",
    ),
    "a write error: 204 with the full offset, half the file, and the finish hook": (
        f"{HERE}::test_a_write_error_is_no_success",
    ),
    "two PATCHes on one upload stop everybody's requests for 30 s": (
        f"{HERE}::test_two_senders_of_one_upload_hold_nobody_else_up",
    ),
    "a lock whose file is removed while others wait for it": (
        "tests/test_store.py::test_a_lock_on_a_removed_file_protects_nothing",
        "tests/test_takeover.py::test_many_contenders_make_one_right_file",
    ),
    "401 after the body was stored": (
        f"{HERE}::test_nothing_of_a_stranger_s_body_is_stored",
        "tests/test_callers.py::test_a_token_is_judged_before_the_body",
    ),
    "a wrong version or type is refused after the body was stored": (
        "tests/test_tus.py::test_patch_is_judged_before_its_body",
        "tests/conformance/test_conformance.py::test_a_refusal_does_not_wait_for_the_body",
    ),
    "a chunked PATCH is stored, then refused": (
        "tests/test_intake.py::test_bytes_arrive_whole",
        "tests/conformance/test_conformance.py::test_row",
    ),
    "creation with upload: held in memory, its length not checked, never finished": (
        f"{HERE}::test_a_creation_with_all_its_bytes_is_finished_in_little_memory",
        "tests/test_tus.py::test_creation",
    ),
    "Upload-Length negative, absent or over the limit is 201": (
        "tests/test_tus.py::test_creation",
        "tests/test_tus.py::test_max_size",
    ),
    "HEAD without filename and filetype is 400, and tuspy cannot resume": (
        f"{HERE}::test_tuspy_resumes_what_has_no_metadata",
    ),
    "only filename and filetype of the metadata come back": (
        "tests/test_tus.py::test_head_says_all",
    ),
    "errors have no Tus-Resumable": (
        "tests/test_tus.py::test_creation",
        "tests/conformance/test_conformance.py::test_row",
    ),
    "no checksums": ("tests/test_checksum.py::test_a_wrong_checksum_keeps_nothing_of_the_request",),
    "the finish hook for each partial": ("tests/test_concatenation.py::test_partials_are_no_jobs",),
    "4.1 GiB of memory for a PATCH of 2 GiB": (
        "tests/test_intake.py::test_memory_while_receiving",
    ),
}


@pytest.mark.parametrize("trap", SHOWN)
def test_each_trap_has_its_test(trap: str) -> None:
    for shown in SHOWN[trap]:
        path, _, name = shown.partition("::")
        assert f"\ndef {name}(" in (ROOT / path).read_text().replace("\nasync def", "\ndef"), shown


def stored(server: LiveServer, upload: str) -> Path:
    return server.data_dir / "uploads" / upload.rsplit("/", 1)[-1]


def send_until_refused(port: int, upload: str, data: bytes) -> int:
    """The status of a PATCH of all the bytes, which is answered before its end."""
    with Raw(port, timeout_seconds=60) as raw:
        place = {"Upload-Offset": "0", "Content-Length": str(len(data))}
        raw.head("PATCH", upload, {**TUS, **OCTETS, **place})
        try:
            for begin in range(0, len(data), MIB):
                raw.send(data[begin : begin + MIB])
        except OSError:
            pass  # the answer came before the body's end
        return raw.answer("PATCH").status


def resumes(server: LiveServer, upload: str, data: bytes, headers: Mapping[str, str]) -> None:
    """From where HEAD says to the end, and the file is the file."""
    at = offset(server.port, upload)
    assert at == stored(server, upload).stat().st_size < len(data)
    assert stored(server, upload).read_bytes() == data[:at]
    assert status(server.port, upload)["status"] == "receiving"
    answer = append(server.port, upload, at, data[at:], headers)
    assert (answer.status, answer["Upload-Offset"]) == (204, str(len(data)))
    document = ended(server, upload)
    assert document["status"] == "done", document
    assert document["digests"]["sha256"] == hashlib.sha256(data).hexdigest()
    assert stored(server, upload).stat().st_size == len(data)


def test_a_disk_that_was_full_ends_with_the_right_file(serve: Serve, tmp_path: Path) -> None:
    data = random.Random(21).randbytes(30 * MIB)
    with tiny_disk(tmp_path / "disk", "48m") as disk:
        server = serve(data_dir=disk / "data")
        deferred = {**TUS, "Upload-Defer-Length": "1"}
        upload = ask(server.port, "POST", "/files/", deferred)["Location"]
        filler = disk / "filler"
        filler.write_bytes(bytes(30 * MIB))
        assert send_until_refused(server.port, upload, data) == 507
        filler.unlink()
        resumes(server, upload, data, {"Upload-Length": str(len(data))})
        server.stop()


def test_a_write_error_is_no_success(serve: Serve) -> None:
    """The kernel lets the server write no file over 2 MiB, in the middle of a body."""
    data = random.Random(22).randbytes(8 * MIB)
    server = serve()
    upload = create(server.port, len(data))
    unlimited = resource.prlimit(server.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(server.pid, resource.RLIMIT_FSIZE, (2 * MIB, unlimited[1]))
    try:
        answered = send_until_refused(server.port, upload, data)
        assert answered >= 500
        assert offset(server.port, upload) == 2 * MIB
    finally:
        resource.prlimit(server.pid, resource.RLIMIT_FSIZE, unlimited)
    resumes(server, upload, data, {})


def test_two_senders_of_one_upload_hold_nobody_else_up(serve: Serve) -> None:
    server = serve(lock_wait_seconds=60, idle_release_ms=60_000, run_worker=False)
    contended = create(server.port, 8)
    place = {**TUS, **OCTETS, "Upload-Offset": "0", "Content-Length": "8"}
    with Raw(server.port) as holder, Raw(server.port) as waiting:
        holder.head("PATCH", contended, place)
        holder.send(b"1234")
        wait_until(lambda: status(server.port, contended)["offset"] == 4, what="4 bytes")
        waiting.head("PATCH", contended, {**place, "Upload-Offset": "4", "Content-Length": "4"})
        waiting.send(b"5678")
        for _ in range(5):
            other = create(server.port, 4)
            assert append(server.port, other, 0, b"1234").status == 204
            assert offset(server.port, other) == 4
        readable, _, _ = select.select([holder.socket, waiting.socket], [], [], 0)
        assert readable == [], "the others were served while these two were open"
        holder.send(b"5678")
        assert holder.answer("PATCH").status == 204
        # It waited for its turn, and then its bytes were there already.
        late = waiting.answer("PATCH")
        assert (late.status, late["Upload-Offset"]) == (409, "8")
    assert stored(server, contended).read_bytes() == b"12345678"


def test_nothing_of_a_stranger_s_body_is_stored(serve: Serve, tmp_path: Path) -> None:
    digest = hashlib.sha256(TOKEN.encode()).hexdigest()
    (tmp_path / "tokens.toml").write_text(f'[[token]]\nname = "anna"\nsha256 = "{digest}"\n')
    server = serve(tokens_file=tmp_path / "tokens.toml", run_worker=False)
    upload = create(server.port, 4 * MIB, BEARER)
    assert send_until_refused(server.port, upload, os.urandom(4 * MIB)) == 401
    assert stored(server, upload).read_bytes() == b""
    answer = append(server.port, upload, 0, b"1234", BEARER)
    assert (answer.status, stored(server, upload).read_bytes()) == (204, b"1234")


def test_a_creation_with_all_its_bytes_is_finished_in_little_memory(serve: Serve) -> None:
    block = random.Random(23).randbytes(MIB)
    digest = hashlib.sha256()
    server = serve()
    before = peak_mib(server.pid)
    with Raw(server.port, timeout_seconds=60) as raw:
        length = {"Upload-Length": str(256 * MIB), "Content-Length": str(256 * MIB)}
        raw.head("POST", "/files/", {**TUS, **OCTETS, **length})
        for _ in range(256):
            raw.send(block)
            digest.update(block)
        answer = raw.answer("POST")
    assert (answer.status, answer["Upload-Offset"]) == (201, str(256 * MIB))
    document = ended(server, answer["Location"])
    assert document["status"] == "done", document
    assert document["digests"]["sha256"] == digest.hexdigest()
    assert peak_mib(server.pid) - before < 64


def test_tuspy_resumes_what_has_no_metadata(server: LiveServer) -> None:
    data = random.Random(24).randbytes(3 * MIB)
    client = TusClient(f"{server.url}/files/")
    begun = client.uploader(file_stream=BytesIO(data), chunk_size=MIB)
    begun.upload(stop_at=MIB)
    assert begun.url is not None
    upload = str(begun.url).removeprefix(server.url)
    assert offset(server.port, upload) == MIB
    resumed = client.uploader(file_stream=BytesIO(data), chunk_size=MIB, url=begun.url)
    assert resumed.offset == MIB
    resumed.upload()
    assert ended(server, upload)["digests"]["sha256"] == hashlib.sha256(data).hexdigest()
