"""The four old endpoints: what is there, one chunk, merge, status; in their own words."""

from __future__ import annotations

import hashlib
import os
import random
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from urllib.parse import urlencode

import pytest

from tests.archives import write_docker_archive
from tests.conftest import Serve
from tests.failures import tiny_disk
from tests.journeys import assert_image, ended, row
from tests.live import LiveServer, free_port, wait_until
from tests.old_pages import (
    BASE,
    FORM,
    MIB,
    OldFile,
    check,
    form,
    get,
    journal_chunks,
    md5,
    merge,
    post_form,
    post_json,
    send,
    send_all,
    stored,
    uploaded,
)
from tests.raw import OCTETS, TUS, Answer, Raw, append, ask, create, metadata, offset, status
from tests.registries import RunningRegistry, plain_registry
from tests.resumable import chunks, finished

__all__ = ["plain_registry"]

KIB = 2**10
HOUR_SECONDS = 3600
CHUNKS = f"{BASE}/chunks"


@pytest.fixture
def file(request: pytest.FixtureRequest) -> OldFile:
    """A file of each test's own: three chunks and a bit."""
    return OldFile.of(f"{request.node.name}.tar", 3 * 64 * KIB + 77, 64 * KIB)


def data_of(answer: Answer) -> dict[str, object]:
    assert answer.status in (200, 202), answer
    document = answer.problem
    assert (document["code"], document["message"]) == (0, "ok")
    found: dict[str, object] = document["data"]
    return found


def refused(answer: Answer, status_code: int, error: str = "") -> dict[str, object]:
    """An error has the right status, a code that is not 0, words and a hint."""
    document = answer.problem
    assert answer.status == status_code, document
    assert document["code"] == status_code
    assert document["message"]
    assert document["hint"]
    assert error in ("", document["error"]), document
    return document


def upload_of(server: LiveServer, file: OldFile) -> str:
    return str(check(server.port, file)["uploadId"])


# --- the way of a file ---


def test_a_file_in_any_order(server: LiveServer, file: OldFile) -> None:
    nothing = {"uploadId": None, "uploaded": [], "offset": 0, "finished": False}
    assert check(server.port, file) == nothing
    assert check(server.port, file) == nothing, "the question creates nothing"
    for index in (2, 0, 3):
        assert data_of(send(server.port, file, index))["complete"] is False
    there = check(server.port, file)
    assert uploaded(there) == [0, 2, 3]
    assert there["offset"] == file.chunk_bytes
    assert there["uploaded"][1] == {
        "index": 2,
        "offset": 2 * file.chunk_bytes,
        "size": file.chunk_bytes,
        "md5": md5(file.piece(2)),
    }
    upload_id = str(there["uploadId"])
    document = status(server.port, upload_id)
    assert (document["protocol"], document["status"]) == ("legacy", "receiving")
    assert (document["filename"], document["length"]) == (file.name, len(file.data))
    assert document["expires_at"]

    missing = refused(merge(server.port, file), 409, "chunks_missing")
    assert missing["data"]["missing"] == [1]  # type: ignore[index]
    assert data_of(send(server.port, file, 1))["complete"] is True
    assert status(server.port, upload_id)["status"] == "receiving", "nobody said that it is whole"

    answer = merge(server.port, file)
    assert answer.status == 202
    task = data_of(answer)
    assert (task["taskId"], task["uploadId"]) == (upload_id, upload_id)
    assert data_of(merge(server.port, file))["taskId"] == upload_id
    finished(server, upload_id, file.data)
    assert stored(server, upload_id).read_bytes() == file.data
    states = {step["name"]: step["state"] for step in status(server.port, upload_id)["steps"]}
    assert states["verify"] == "done", "the md5 of the whole was promised"
    assert data_of(merge(server.port, file))["taskId"] == upload_id
    said = data_of(get(server.port, f"{BASE}/status", {"taskId": upload_id}))
    assert (said["status"], said["progress"], said["taskId"]) == ("done", 100, upload_id)


def test_cut_by_offset_and_length(server: LiveServer, file: OldFile) -> None:
    pieces = [(100_000, len(file.data)), (0, 33_333), (33_333, 100_000)]
    for start, end in pieces:
        piece = file.data[start:end]
        place = {"offset": str(start), "length": str(len(piece)), "chunkMd5": md5(piece)}
        fields = {**file.named, "totalSize": str(len(file.data)), **place}
        answer = post_form(server.port, CHUNKS, [*fields.items(), ("file", piece)])
        assert data_of(answer)["index"] is None
    there = data_of(get(server.port, CHUNKS, file.named))
    assert [(one["offset"], one["size"]) for one in there["uploaded"]] == sorted(  # type: ignore[attr-defined]
        (start, end - start) for start, end in pieces
    )
    upload_id = str(data_of(merge(server.port, file))["taskId"])
    finished(server, upload_id, file.data)


def test_the_body_as_it_is(server: LiveServer, file: OldFile) -> None:
    for index in range(file.count):
        fields = file.fields(index, chunkMd5=None)
        piece = file.piece(index)
        sha256 = {"chunkSha256": hashlib.sha256(piece).hexdigest()}
        path = f"{CHUNKS}?{urlencode({**fields, **sha256})}"
        assert ask(server.port, "POST", path, OCTETS, piece).status == 200
        wrong = f"{CHUNKS}?{urlencode({**fields, 'chunkSha256': '0' * 64})}"
        refused(ask(server.port, "POST", wrong, {}, piece), 422, "wrong_chunk")
    finished(server, str(data_of(merge(server.port, file))["taskId"]), file.data)


def test_a_size_that_only_the_last_chunk_tells(server: LiveServer, file: OldFile) -> None:
    for index in (3, 1, 0):
        assert send(server.port, file, index, totalSize=None).status == 200
    fields = {**file.named, **file.cut}
    del fields["totalSize"]
    there = data_of(get(server.port, CHUNKS, fields))
    assert uploaded(there) == [0, 1, 3]
    assert status(server.port, str(there["uploadId"]))["length"] is None
    refused(merge(server.port, file), 400, "inconsistent_length")
    merging = {**fields, "totalSize": str(len(file.data))}
    refused(post_json(server.port, f"{BASE}/merge", merging), 409, "chunks_missing")
    assert send(server.port, file, 2, totalSize=None).status == 200
    answer = post_json(server.port, f"{BASE}/merge", merging)
    finished(server, str(data_of(answer)["taskId"]), file.data)


def test_fields_behind_the_file_still_count(server: LiveServer, file: OldFile) -> None:
    """The place before, the md5 behind; then everything behind."""
    for index in range(2):
        fields = file.fields(index)
        wrong = {**fields, "chunkMd5": "0" * 32}
        late = wrong.pop("chunkMd5")
        parts = [*wrong.items(), ("file", file.piece(index)), ("chunkMd5", late)]
        refused(post_form(server.port, CHUNKS, parts), 422, "wrong_chunk")
        parts[-1] = ("chunkMd5", fields["chunkMd5"])
        assert post_form(server.port, CHUNKS, parts).status == 200
    for index in range(2, 4):
        parts = [("file", file.piece(index)), *file.fields(index, chunkMd5="0" * 32).items()]
        refused(post_form(server.port, CHUNKS, parts), 422, "wrong_chunk")
        parts = [("file", file.piece(index)), *file.fields(index).items()]
        assert post_form(server.port, CHUNKS, parts).status == 200
    finished(server, str(data_of(merge(server.port, file))["taskId"]), file.data)


def test_post_without_a_chunk_begins_the_upload(server: LiveServer, file: OldFile) -> None:
    begun = data_of(post_form(server.port, CHUNKS, [*file.named.items(), *file.cut.items()]))
    assert check(server.port, file)["uploadId"] == begun["uploadId"]
    assert status(server.port, str(begun["uploadId"]))["length"] == len(file.data)


def test_an_empty_file(server: LiveServer) -> None:
    file = OldFile("empty.tar", b"")
    assert send(server.port, file, 0).status == 200
    finished(server, str(data_of(merge(server.port, file))["taskId"]), b"")


def test_a_form_of_undeclared_size(server: LiveServer, file: OldFile) -> None:
    """In chunks of the transfer coding, as a proxy may send it."""
    body = form(*file.fields(0).items(), ("file", file.piece(0)))
    for name, data, code in (("a", body, 200), ("b", body[:-40], 400)):
        with Raw(server.port) as raw:
            raw.head("POST", f"{CHUNKS}?ref={name}", {**FORM, "Transfer-Encoding": "chunked"})
            raw.send(chunks(data[:100], data[100:5000], data[5000:]))
            assert raw.answer("POST").status == code
    assert uploaded(check(server.port, file)) == [0]


# --- which upload ---


def test_a_digest_said_only_at_the_end(server: LiveServer, file: OldFile) -> None:
    send_all(server.port, file, fileMd5=None)
    upload_id = str(data_of(merge(server.port, file))["taskId"])
    finished(server, upload_id, file.data)
    verify = status(server.port, upload_id)["steps"][0]
    assert (verify["name"], verify["state"]) == ("verify", "done")


def test_a_wrong_digest_of_the_whole(server: LiveServer, file: OldFile) -> None:
    send_all(server.port, file, fileMd5=None)
    upload_id = upload_of(server, file)
    lie = {"uploadId": upload_id, "fileMd5": "0" * 32}
    assert post_json(server.port, f"{BASE}/merge", lie).status == 202
    document = ended(server, upload_id)
    assert document["error"]["code"] == "digest_mismatch"
    said = data_of(get(server.port, f"{BASE}/status", {"taskId": upload_id}))
    assert said["status"] == "failed"
    assert said["error"]["code"] == "digest_mismatch"  # type: ignore[index]


def test_another_digest_than_was_said(server: LiveServer, file: OldFile) -> None:
    send_all(server.port, file)
    lie = {"uploadId": upload_of(server, file), "fileMd5": "0" * 32}
    refused(post_json(server.port, f"{BASE}/merge", lie), 400, "digest_conflict")
    finished(server, str(data_of(merge(server.port, file))["taskId"]), file.data)


def test_a_failed_file_may_be_sent_again(server: LiveServer, file: OldFile) -> None:
    wrong = OldFile(file.name, file.data[:-1] + b"?", file.chunk_bytes)
    for index in range(file.count):
        assert send(server.port, file, index, wrong.piece(index), chunkMd5=None).status == 200
    first = str(data_of(merge(server.port, file))["taskId"])
    assert ended(server, first)["status"] == "failed"
    assert check(server.port, file)["uploaded"] == [], "what failed is not resumed"
    send_all(server.port, file)
    second = str(data_of(merge(server.port, file))["taskId"])
    assert second != first
    finished(server, second, file.data)


def test_the_same_name_and_size_of_two_files(server: LiveServer, file: OldFile) -> None:
    """Without a digest, only the sender's own word tells them apart."""
    other = OldFile(file.name, bytes(len(file.data)), file.chunk_bytes)
    assert send(server.port, file, 0, fileMd5=None).status == 200
    refused(send(server.port, other, 0, fileMd5=None), 422, "wrong_chunk")
    assert send(server.port, other, 0).status == 200, "its digest makes it another one"


def test_another_size_for_the_same_digest(server: LiveServer, file: OldFile) -> None:
    assert send(server.port, file, 0).status == 200
    lie = send(server.port, file, 1, totalSize=str(len(file.data) + 1))
    refused(lie, 400, "inconsistent_length")


# --- chunks that are not what they say ---


def test_a_wrong_md5_counts_nothing(server: LiveServer, file: OldFile) -> None:
    assert send(server.port, file, 0).status == 200
    refused(send(server.port, file, 1, bytes(file.chunk_bytes)), 422, "wrong_chunk")
    assert uploaded(check(server.port, file)) == [0]
    assert send(server.port, file, 1).status == 200


def test_a_proven_chunk_stays(server: LiveServer, file: OldFile) -> None:
    assert send(server.port, file, 0).status == 200
    upload_id = upload_of(server, file)
    journal = list(journal_chunks(server, upload_id))
    assert send(server.port, file, 0).status == 200, "again is harmless"
    refused(send(server.port, file, 0, bytes(file.chunk_bytes)), 422, "wrong_chunk")
    other = bytes(file.chunk_bytes)
    refused(send(server.port, file, 0, other, chunkMd5=md5(other)), 422, "wrong_chunk")
    refused(send(server.port, file, 0, other, chunkMd5=None), 422, "wrong_chunk")
    assert stored(server, upload_id).read_bytes() == file.piece(0)
    assert list(journal_chunks(server, upload_id)) == journal


def test_a_chunk_that_overlaps_a_proven_one(server: LiveServer, file: OldFile) -> None:
    """Resumed with other chunks: what is proven is compared, what is missing is written."""
    assert send(server.port, file, 1).status == 200
    start, end = file.chunk_bytes // 2, 3 * file.chunk_bytes
    place = {"offset": str(start), "length": str(end - start), "totalSize": str(len(file.data))}
    said = [*file.named.items(), *place.items()]
    lie = bytearray(file.data[start:end])
    lie[file.chunk_bytes] ^= 1
    refused(post_form(server.port, CHUNKS, [*said, ("file", bytes(lie))]), 422, "wrong_chunk")
    assert uploaded(check(server.port, file)) == [1]
    right = post_form(server.port, CHUNKS, [*said, ("file", file.data[start:end])])
    assert right.status == 200
    assert uploaded(check(server.port, file)) == [1, 2]
    for index in (0, 3):
        assert send(server.port, file, index).status == 200
    finished(server, str(data_of(merge(server.port, file))["taskId"]), file.data)


SIZES = [
    ("shorter than said", 0, -1, {}, 400, "chunk_size"),
    ("longer than said", 0, 1, {}, 400, "chunk_size"),
    ("the last one longer", 3, 1, {}, 400, "chunk_size"),
    ("the last one shorter", 3, -1, {}, 400, "chunk_size"),
    ("a length that does not fit", 0, 0, {"length": "5"}, 400, "chunk_size"),
    ("an index too large", 4, 0, {}, 400, "chunk_place"),
    ("a huge index", 2**62, 0, {}, 400, "chunk_place"),
    ("a huge chunk size", 1, 0, {"chunkSize": str(2**62)}, 413, "too_large"),
    ("a chunk size of 0", 0, 0, {"chunkSize": "0"}, 400, ""),
    ("a negative index", -1, 0, {}, 400, ""),
    ("no number", 0, 0, {"totalSize": "many"}, 400, ""),
    ("larger than any file", 0, 0, {"totalSize": str(2**63)}, 400, ""),
    ("too many chunks", 0, 0, {"totalChunks": str(10**9)}, 400, ""),
    ("index and offset", 1, 0, {"offset": "3"}, 400, "chunk_place"),
    ("no md5", 0, 0, {"chunkMd5": "abc"}, 400, ""),
    ("no place", 0, 0, {"chunkIndex": None}, 400, ""),
    ("no chunk size", 0, 0, {"chunkSize": None}, 400, ""),
    ("no file", 0, 0, {"fileName": None}, 400, "unnamed"),
    ("no id", 0, 0, {"uploadId": "../../etc/passwd"}, 400, ""),
    ("an id of nobody", 0, 0, {"uploadId": "0" * 32}, 404, "not_found"),
]


@pytest.mark.parametrize(
    ("index", "more", "changes", "code", "error"),
    [row[1:] for row in SIZES],
    ids=[row[0] for row in SIZES],
)
def test_numbers_that_lie(
    server: LiveServer,
    file: OldFile,
    index: int,
    more: int,
    changes: dict[str, str | None],
    code: int,
    error: str,
) -> None:
    piece = file.piece(index if 0 <= index < file.count else 0)
    data = piece[:more] if more < 0 else piece + bytes(more)
    said = {"chunkIndex": str(index), "chunkMd5": md5(data), **changes}
    refused(send(server.port, file, 0, data, **said), code, error)
    assert check(server.port, file)["uploaded"] == []


def test_behind_the_end_of_the_file(server: LiveServer, file: OldFile) -> None:
    total = len(file.data)
    for start, size in ((total, 1), (total - 1, 2), (total + 1, 1), (2**62, 1)):
        place = {"offset": str(start), "length": str(size), "totalSize": str(total)}
        parts = [*file.named.items(), *place.items(), ("file", bytes(size))]
        refused(post_form(server.port, CHUNKS, parts), 413, "too_large")
    assert check(server.port, file)["uploaded"] == []


BROKEN = [
    ("no boundary", {"Content-Type": "multipart/form-data"}, b"x" * 1000),
    ("nonsense", FORM, b"\x00\xff" * 5000),
    ("no end", FORM, form(("fileName", "a"), ("chunkIndex", "0"), ("file", b"abc"))[:-9]),
    ("empty", FORM, b""),
    ("a part without a name", FORM, form(("fileName", "a")).replace(b'name="fileName"', b"x=1")),
    ("two files", FORM, form(("file", b"a"), ("file", b"b"))),
    ("a field twice", FORM, form(("fileName", "a"), ("fileName", "b"), ("file", b"b"))),
    ("no UTF-8", FORM, form(("fileName", "a"), ("file", b"b")).replace(b"\r\na\r", b"\r\n\xff\r")),
    ("a huge field", FORM, form(("fileName", "a" * 100_000), ("file", b"b"))),
    ("a thousand fields", FORM, form(*((f"f{n}", "x") for n in range(1000)))),
    ("a huge header", FORM, form(("a" * 100_000, "a"))),
]


@pytest.mark.parametrize(
    ("headers", "body"), [row[1:] for row in BROKEN], ids=[row[0] for row in BROKEN]
)
def test_forms_that_are_none(server: LiveServer, headers: dict[str, str], body: bytes) -> None:
    refused(ask(server.port, "POST", CHUNKS, headers, body), 400)
    refused(ask(server.port, "POST", f"{BASE}/merge", headers, body), 400)


def test_random_forms_never_break_the_server(server: LiveServer, file: OldFile) -> None:
    chance = random.Random(17)
    whole = form(*file.fields(0).items(), ("file", file.piece(0)[:3000]))
    for _ in range(60):
        body = bytearray(whole)
        for _ in range(chance.randrange(1, 12)):
            at = chance.randrange(len(body))
            body[at : at + chance.randrange(3)] = chance.randbytes(chance.randrange(3))
        assert ask(server.port, "POST", CHUNKS, FORM, bytes(body)).status in (200, 400, 413, 422)
    assert ask(server.port, "GET", "/livez").status == 200


NAMES = ["../../../../etc/passwd", "/etc/passwd", "..", "a\0b", "a\nb", "ü ∂.tar", ".." * 200]


@pytest.mark.parametrize("name", NAMES)
def test_names_are_words_and_no_paths(server: LiveServer, name: str) -> None:
    before = {path.name.split(".")[0] for path in server.data_dir.rglob("*")}
    file = OldFile(name, random.Random(name).randbytes(5000), 5000)
    answer = send(server.port, file, 0)
    upload_id = str(data_of(answer)["uploadId"])
    new = {path.name.split(".")[0] for path in server.data_dir.rglob("*")} - before
    assert new == {upload_id}
    assert status(server.port, upload_id)["filename"] == name


# --- several at once ---


def test_eight_senders_begin_one_upload(server: LiveServer) -> None:
    file = OldFile.of("eight at once.tar", 32 * 16 * KIB, 16 * KIB)
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda index: send(server.port, file, index), range(file.count)))
    assert {answer.status for answer in answers} == {200}, answers
    assert len({str(data_of(answer)["uploadId"]) for answer in answers}) == 1
    assert uploaded(check(server.port, file)) == list(range(file.count))
    with ThreadPoolExecutor(8) as pool:
        tasks = list(pool.map(lambda _: data_of(merge(server.port, file))["taskId"], range(8)))
    assert len(set(tasks)) == 1
    finished(server, str(tasks[0]), file.data)


def test_one_file_is_one_upload_however_many_begin_it(server: LiveServer) -> None:
    chance = random.Random(29)

    def later(file: OldFile, index: int) -> Answer:
        # Not all at the same moment: one is just done when another looks.
        time.sleep(chance.uniform(0, 0.03))
        return send(server.port, file, index)

    with ThreadPoolExecutor(8) as pool:
        for number in range(40):
            file = OldFile.of(f"begun {number}.tar", 8 * 100, 100)
            answers = list(pool.map(partial(later, file), range(8)))
            assert {answer.status for answer in answers} == {200}, answers
            assert len({str(data_of(answer)["uploadId"]) for answer in answers}) == 1
            assert check(server.port, file)["offset"] == 800


class Slow:
    """A chunk whose sender has stopped in the middle."""

    def __init__(self, port: int, file: OldFile, index: int, data: bytes | None = None) -> None:
        piece = file.piece(index) if data is None else data
        self._body = form(*file.fields(index).items(), ("file", piece))
        self._sent = len(self._body) - len(piece) // 2
        self.raw = Raw(port)
        self.raw.head("POST", CHUNKS, {**FORM, "Content-Length": str(len(self._body))})
        self.raw.send(self._body[: self._sent])

    def finish(self) -> Answer:
        self.raw.send(self._body[self._sent :])
        return self.raw.answer("POST")

    def __enter__(self) -> Slow:
        return self

    def __exit__(self, *_: object) -> None:
        self.raw.socket.close()


def held(server: LiveServer, upload_id: str, size: int) -> bool:
    path = stored(server, upload_id)
    return path.exists() and path.stat().st_size > size


def test_senders_of_other_chunks_do_not_wait(server: LiveServer, file: OldFile) -> None:
    assert send(server.port, file, 0).status == 200
    upload_id = upload_of(server, file)
    with Slow(server.port, file, 3) as slow:
        wait_until(lambda: held(server, upload_id, 3 * file.chunk_bytes), what="bytes of chunk 3")
        for index in (1, 2):
            assert send(server.port, file, index).status == 200
        assert slow.finish().status == 200, "nobody asked it to go"
    finished(server, str(data_of(merge(server.port, file))["taskId"]), file.data)


def test_a_newcomer_passes_a_dead_sender_of_the_same_chunk(
    server: LiveServer, file: OldFile
) -> None:
    assert send(server.port, file, 0).status == 200
    upload_id = upload_of(server, file)
    with Slow(server.port, file, 3, bytes(len(file.piece(3)))) as slow:
        wait_until(lambda: held(server, upload_id, 3 * file.chunk_bytes), what="bytes of chunk 3")
        assert send(server.port, file, 3).status == 200
        refused(slow.raw.answer("POST"), 409, "evicted")
    assert uploaded(check(server.port, file)) == [0, 3]
    assert stored(server, upload_id).read_bytes()[3 * file.chunk_bytes :] == file.piece(3)


def test_good_and_bad_senders_of_one_chunk_at_once(server: LiveServer, tmp_path: Path) -> None:
    """Over two processes, too: what is in the journal is what is in the file."""
    chance = random.Random(23)
    with LiveServer(
        tmp_path,
        data_dir=server.data_dir,
        run_worker=False,
        port=free_port(),
    ) as other:
        for round_number in range(6):
            file = OldFile.of(f"contended {round_number}.tar", 256 * KIB, 128 * KIB)
            bad = chance.randbytes(128 * KIB)
            work = [(port, good) for port in (server.port, other.port) for good in (1, 0, 1, 0)]

            def one(way: tuple[int, int], file: OldFile = file, bad: bytes = bad) -> int:
                port, good = way
                return send(port, file, 1, file.piece(1) if good else bad).status

            with ThreadPoolExecutor(8) as pool:
                said = list(pool.map(one, work))
            assert {said[at] for at in range(8) if not work[at][1]} <= {422, 423, 409}
            upload_id = upload_of(server, file)
            data = stored(server, upload_id).read_bytes()
            counted = list(journal_chunks(server, upload_id))
            assert counted == [(128 * KIB, 128 * KIB, md5(file.piece(1)))]
            assert data[128 * KIB :] == file.piece(1)


def test_several_server_processes(serve: Serve) -> None:
    server = serve(workers=2)
    file = OldFile.of("two processes.tar", 40 * 64 * KIB, 64 * KIB)
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda index: send(server.port, file, index), range(file.count)))
        assert {answer.status for answer in answers} == {200}, answers
        tasks = list(pool.map(lambda _: data_of(merge(server.port, file))["taskId"], range(8)))
    assert len(set(tasks)) == 1
    finished(server, str(tasks[0]), file.data)


def test_sigterm_ends_chunks_that_do_not_count(serve: Serve, file: OldFile) -> None:
    server = serve()
    assert send(server.port, file, 0).status == 200
    upload_id = upload_of(server, file)
    with Slow(server.port, file, 3) as slow:
        wait_until(lambda: held(server, upload_id, 3 * file.chunk_bytes), what="bytes of chunk 3")
        os.kill(server.pid, signal.SIGTERM)
        answer = slow.raw.answer("POST")
        refused(answer, 503, "unavailable")
        assert answer["Retry-After"]
    server.stop()
    server.start()
    assert uploaded(check(server.port, file)) == [0]


def test_merge_while_chunks_arrive(server: LiveServer, file: OldFile) -> None:
    for index in range(3):
        assert send(server.port, file, index).status == 200
    upload_id = upload_of(server, file)
    with Slow(server.port, file, 3) as slow:
        wait_until(lambda: held(server, upload_id, 3 * file.chunk_bytes), what="bytes of chunk 3")
        missing = refused(merge(server.port, file), 409, "chunks_missing")
        assert missing["data"]["missing"] == [3]  # type: ignore[index]
        assert slow.finish().status == 200
    # Somebody sends a chunk once more, and stops in the middle.
    with Slow(server.port, file, 3) as slow:
        task = data_of(merge(server.port, file))["taskId"]
        finished(server, str(task), file.data)
        assert slow.finish().status in (200, 409)


@pytest.mark.parametrize("end", ["delete", "cancel"])
def test_ended_in_the_middle_of_chunks(server: LiveServer, file: OldFile, end: str) -> None:
    """Eight senders that never stop do not keep it out."""
    big = OldFile.of(file.name, 256 * 32 * KIB, 32 * KIB)
    assert send(server.port, big, 0).status == 200
    upload_id = upload_of(server, big)
    stop = threading.Event()
    said: list[int] = []

    def keep_sending(first: int) -> None:
        for index in range(first, 10**6):
            if stop.is_set():
                return
            fields = {**big.fields(index % big.count), "uploadId": upload_id}
            parts = [*fields.items(), ("file", big.piece(index % big.count))]
            said.append(post_form(server.port, CHUNKS, parts).status)

    threads = [threading.Thread(target=keep_sending, args=(first * 32,)) for first in range(8)]
    for thread in threads:
        thread.start()
    try:
        wait_until(lambda: len(uploaded(check(server.port, big))) > 16, what="chunks")
        if end == "delete":
            assert ask(server.port, "DELETE", f"/files/{upload_id}", TUS).status == 204
        else:
            assert ask(server.port, "POST", f"/api/uploads/{upload_id}/cancel").status == 200
        wait_until(lambda: said[-1] in (404, 410), what="the senders hear of it")
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert set(said) <= {200, 404, 409, 410, 423}
    assert not stored(server, upload_id).exists()
    left = sorted(path.name for path in server.data_dir.joinpath("uploads").glob(f"{upload_id}*"))
    if end == "delete":
        assert left == []
    assert check(server.port, big)["uploaded"] == [], "sent again, it begins anew"


def test_expired_in_the_middle(server: LiveServer, file: OldFile) -> None:
    """The file's own time is set back, instead of waiting six hours."""
    assert send(server.port, file, 0).status == 200
    upload_id = upload_of(server, file)
    then = time.time() - 7 * HOUR_SECONDS
    os.utime(stored(server, upload_id), (then, then))
    assert status(server.port, upload_id)["status"] == "expired"
    refused(send(server.port, file, 1, uploadId=upload_id), 410, "gone")
    assert check(server.port, file)["uploaded"] == []
    send_all(server.port, file)
    task = str(data_of(merge(server.port, file))["taskId"])
    assert task != upload_id
    finished(server, task, file.data)


def test_whole_and_never_merged_expires_all_the_same(server: LiveServer, file: OldFile) -> None:
    send_all(server.port, file)
    upload_id = upload_of(server, file)
    then = time.time() - 7 * HOUR_SECONDS
    os.utime(stored(server, upload_id), (then, then))
    assert status(server.port, upload_id)["status"] == "expired"


def test_a_full_disk_loses_nothing(serve: Serve, tmp_path: Path) -> None:
    file = OldFile.of("large.tar", 40 * MIB, 4 * MIB)
    with tiny_disk(tmp_path / "disk", 24 * MIB) as disk:
        server = serve(data_dir=disk / "data")
        refused(send(server.port, file, 0), 507, "insufficient_storage")
        # Nobody said the size, so nothing could be reserved.
        said = {"totalSize": None, "fileMd5": None}
        answers = [send(server.port, file, index, **said) for index in range(file.count)]
        assert {answer.status for answer in answers} == {200, 507}
        full = next(answer for answer in answers if answer.status == 507)
        refused(full, 507, "insufficient_storage")
        fields = {"fileName": file.name, **file.cut}
        del fields["totalSize"]
        there = data_of(get(server.port, CHUNKS, fields))
        assert uploaded(there) == [at for at in range(file.count) if answers[at].status == 200]
        data = stored(server, str(there["uploadId"])).read_bytes()
        for start, size, digest in journal_chunks(server, str(there["uploadId"])):
            assert md5(data[start : start + size]) == digest
        server.stop()


def test_an_upload_over_the_limit(serve: Serve, file: OldFile) -> None:
    server = serve(max_size=len(file.data) - 1)
    refused(send(server.port, file, 0), 413, "too_large")
    assert send(server.port, file, 0, totalSize=None).status == 200
    path = f"{BASE}/merge"
    for index in range(1, file.count):
        send(server.port, file, index, totalSize=None)
    said = {**file.named, "totalSize": str(len(file.data))}
    refused(post_json(server.port, path, said), 413, "too_large")


# --- with tus ---


def test_begun_in_chunks_ended_over_tus(server: LiveServer, file: OldFile) -> None:
    for index in (0, 1):
        assert send(server.port, file, index).status == 200
    path = f"/files/{upload_of(server, file)}"
    head = ask(server.port, "HEAD", path, TUS)
    assert head["Upload-Offset"] == str(2 * file.chunk_bytes)
    assert head["Upload-Length"] == str(len(file.data))
    assert head["Upload-Metadata"]
    at = 2 * file.chunk_bytes
    assert append(server.port, path, at, file.data[at : at + 1000]).status == 204
    assert offset(server.port, path) == at + 1000
    # And chunks again: what came in order is proven.
    assert send(server.port, file, 3).status == 200
    assert offset(server.port, path) == at + 1000
    behind = append(server.port, path, at + 1000, b"x")
    assert (behind.status, behind.problem["code"]) == (409, "chunks_behind")
    assert send(server.port, file, 2).status == 200
    finished(server, str(data_of(merge(server.port, file))["taskId"]), file.data)


def test_the_last_byte_over_tus_ends_it(server: LiveServer, file: OldFile) -> None:
    for index in (0, 1):
        assert send(server.port, file, index).status == 200
    path = f"/files/{upload_of(server, file)}"
    at = 2 * file.chunk_bytes
    wrong = {"Upload-Checksum": "md5 AAAAAAAAAAAAAAAAAAAAAA=="}
    assert append(server.port, path, at, file.data[at:], wrong).status == 460
    assert offset(server.port, path) == at
    assert append(server.port, path, at, file.data[at:]).status == 204
    finished(server, path, file.data)
    assert check(server.port, file)["uploaded"] == [], "its image is nowhere"


def test_begun_over_tus_ended_in_chunks(server: LiveServer, file: OldFile) -> None:
    size = file.chunk_bytes + 500
    path = create(server.port, len(file.data), metadata(filename="other.tar"))
    assert append(server.port, path, 0, file.data[:size]).status == 204
    upload_id = path.rsplit("/", 1)[-1]
    assert send(server.port, file, 3, uploadId=upload_id).status == 200
    there = data_of(get(server.port, CHUNKS, {"uploadId": upload_id, **file.cut}))
    assert (uploaded(there), there["offset"]) == ([0, 3], size)
    assert status(server.port, path)["offset"] == size
    for index in (1, 2):
        assert send(server.port, file, index, uploadId=upload_id).status == 200
    answer = post_json(server.port, f"{BASE}/merge", {"uploadId": upload_id})
    assert data_of(answer)["taskId"] == upload_id
    finished(server, path, file.data)


def test_a_partial_upload_takes_no_chunks(server: LiveServer, file: OldFile) -> None:
    path = create(server.port, len(file.data), {"Upload-Concat": "partial"})
    refused(send(server.port, file, 0, uploadId=path.rsplit("/", 1)[-1]), 409)


# --- images and callers ---


TOKENS = {"anna": "anna's", "bert": "bert's"}


@pytest.fixture
def guarded(serve: Serve, plain_registry: RunningRegistry, tmp_path: Path) -> LiveServer:
    rows = ""
    for name, token in TOKENS.items():
        digest = hashlib.sha256(token.encode()).hexdigest()
        allowed = f'repositories = ["{plain_registry.host}/{name}/*"]'
        rows += f'[[token]]\nname = "{name}"\nsha256 = "{digest}"\n{allowed}\n'
    tokens = tmp_path / "tokens.toml"
    tokens.write_text(rows)
    return serve(registries=[row(plain_registry)], tokens_file=tokens)


def login(name: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {TOKENS[name]}"}


def test_images_and_callers(
    guarded: LiveServer, plain_registry: RunningRegistry, tmp_path: Path
) -> None:
    port = guarded.port
    archive = write_docker_archive(tmp_path / "llm.tar", [300_000], seed="legacy")
    file = OldFile("llm.tar", archive.path.read_bytes(), 128 * KIB)
    image = f"{plain_registry.host}/anna/llm:v1"

    def post(index: int, name: str, **more: str) -> Answer:
        parts = [*file.fields(index, **more).items(), ("file", file.piece(index))]
        return post_form(port, CHUNKS, parts, **login(name))

    assert ask(port, "GET", f"{CHUNKS}?fileName=x").status == 401
    assert ask(port, "POST", CHUNKS, FORM, form(("file", b"x"))).status == 401
    refused(post(0, "bert", image=image), 403, "caller_not_allowed")
    for index in range(file.count):
        assert post(index, "anna", image=image).status == 200
    said = {**file.named, **file.cut, "image": image}
    there = data_of(get(port, CHUNKS, said, **login("anna")))
    upload_id = str(there["uploadId"])

    # Another caller's upload does not exist.
    other = get(port, CHUNKS, {**file.named, **file.cut}, **login("bert"))
    assert data_of(other)["uploadId"] is None
    for answer in (
        get(port, CHUNKS, {"uploadId": upload_id}, **login("bert")),
        get(port, f"{BASE}/status", {"taskId": upload_id}, **login("bert")),
        post_json(port, f"{BASE}/merge", {"uploadId": upload_id}, **login("bert")),
        post(0, "bert", uploadId=upload_id),
    ):
        refused(answer, 404, "not_found")

    conflict = {"uploadId": upload_id, "image": image + "2"}
    refused(post_json(port, f"{BASE}/merge", conflict, **login("anna")), 409, "image_conflict")
    assert post_json(port, f"{BASE}/merge", said, **login("anna")).status == 202

    def done() -> bool:
        answer = get(port, f"{BASE}/status", {"taskId": upload_id}, **login("anna"))
        state = data_of(answer)["status"]
        assert state in ("merging", "loading", "pushing", "done"), answer.problem
        return state == "done"

    wait_until(done, seconds=60, what="done")
    document = ask(port, "GET", f"/api/uploads/{upload_id}", login("anna")).problem
    assert_image(plain_registry, archive, document)

    # The same file again is said to be there at once: for this image, and to this caller.
    again = data_of(get(port, CHUNKS, said, **login("anna")))
    assert (again["finished"], again["uploadId"]) == (True, upload_id)
    assert uploaded(again) == list(range(file.count))
    assert post(0, "anna", image=image).status == 200
    merged = post_json(port, f"{BASE}/merge", said, **login("anna"))
    assert data_of(merged)["status"] == "done"
    elsewhere = {**said, "image": image + "2"}
    assert data_of(get(port, CHUNKS, elsewhere, **login("anna")))["finished"] is False
    stranger = data_of(get(port, CHUNKS, said, **login("bert")))
    assert (stranger["finished"], stranger["uploadId"]) == (False, None)


def test_a_destination_said_only_at_the_end(
    serve: Serve, plain_registry: RunningRegistry, tmp_path: Path
) -> None:
    server = serve(registries=[row(plain_registry)])
    archive = write_docker_archive(tmp_path / "llm.tar", [300_000], seed="late")
    file = OldFile("llm.tar", archive.path.read_bytes(), 128 * KIB)
    send_all(server.port, file)
    refused(merge(server.port, file, image="not allowed/UPPER:v1"), 400, "invalid_image")
    refused(merge(server.port, file, image="elsewhere.example/a:v1"), 403, "registry_not_allowed")
    answer = merge(server.port, file, image=f"{plain_registry.host}/late/llm:v1")
    assert_image(plain_registry, archive, ended(server, str(data_of(answer)["taskId"])))


def test_a_page_of_another_origin_may_not_send(server: LiveServer, file: OldFile) -> None:
    """A form needs no preflight: any page could make a browser send one."""
    parts = [*file.fields(0).items(), ("file", file.piece(0))]
    refused(post_form(server.port, CHUNKS, parts, Origin="https://evil.example"), 403, "forbidden")
    evil = {"Origin": "https://evil.example"}
    refused(post_json(server.port, f"{BASE}/merge", file.named, **evil), 403, "forbidden")
    here = {"Host": f"127.0.0.1:{server.port}", "Origin": server.url}
    assert post_form(server.port, CHUNKS, parts, **here).status == 200


def test_methods_that_are_none(server: LiveServer) -> None:
    for method, path in (("PUT", CHUNKS), ("GET", f"{BASE}/merge"), ("POST", f"{BASE}/status")):
        assert ask(server.port, method, path).status == 405
    refused(get(server.port, f"{BASE}/status", {"taskId": "0" * 32}), 404, "not_found")
    refused(get(server.port, f"{BASE}/status", {}), 400, "unnamed")
