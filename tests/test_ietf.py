"""IETF resumable uploads over raw sockets: every interop version, and tus on the same uploads."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.conftest import Serve
from tests.live import LiveServer, wait_until
from tests.raw import OCTETS, TUS, Raw, append, ask, create, metadata, offset, status
from tests.resumable import (
    CHUNKED,
    DONE,
    MIB,
    MORE,
    PARTIAL,
    PROBLEMS,
    VERSIONS,
    ask_chunked,
    begin,
    chunks,
    content_digest,
    ending,
    finished,
    is_complete,
    part,
    speaking,
    stored,
)
from tests.test_callers import bearer, tokens_file


@pytest.mark.parametrize("version", VERSIONS)
def test_a_whole_upload_in_one_request(server: LiveServer, version: int) -> None:
    data = random.Random(version).randbytes(100_000)
    headers = {**speaking(version), **ending(version, complete=True)}
    answer = ask(server.port, "POST", "/files/", headers, data)
    assert answer.status == 201
    assert answer["Upload-Offset"] == str(len(data))
    assert is_complete(version, answer)
    assert answer["Upload-Draft-Interop-Version"] == str(version)
    assert "tus-resumable" not in answer.headers
    assert status(server.port, answer["Location"])["protocol"] == "ietf"
    finished(server, answer["Location"], data)


@pytest.mark.parametrize("version", VERSIONS)
def test_an_upload_in_parts_of_unknown_length(server: LiveServer, version: int) -> None:
    upload = begin(server.port, version)
    first = ask(server.port, "PATCH", upload, part(version, 0, complete=False), b"1234")
    assert (first.status, first["Upload-Offset"]) == (201 if version <= 6 else 204, "4")
    assert not is_complete(version, first)
    head = ask(server.port, "HEAD", upload, speaking(version))
    assert (head.status, head["Upload-Offset"], head["Cache-Control"]) == (204, "4", "no-store")
    assert not is_complete(version, head)
    assert "upload-length" not in head.headers
    limit = head.headers.get("upload-limit", "")
    assert limit.startswith({3: "", 5: "", 6: "min-size=0, expires="}.get(version, "min-size=0, m"))
    last = ask(server.port, "PATCH", upload, part(version, 4, complete=True), b"5678")
    assert (last.status, last["Upload-Offset"]) == (201, "8")
    assert is_complete(version, last)
    head = ask(server.port, "HEAD", upload, speaking(version))
    assert (head["Upload-Offset"], head["Upload-Length"]) == ("8", "8")
    assert is_complete(version, head)
    finished(server, upload, b"12345678")


@pytest.mark.parametrize("version", VERSIONS)
def test_resumed_after_a_cut(server: LiveServer, version: int) -> None:
    data = random.Random(version).randbytes(2 * MIB)
    upload = begin(server.port, version, {"Upload-Length": str(len(data))})
    with Raw(server.port) as raw:
        length = {"Content-Length": str(len(data))}
        raw.head("PATCH", upload, {**part(version, 0, complete=True), **length})
        raw.send(data[:MIB])
        wait_until(lambda: stored(server, upload).stat().st_size == MIB, what="1 MiB")
    head = ask(server.port, "HEAD", upload, speaking(version))
    assert (head["Upload-Offset"], head["Upload-Length"]) == (str(MIB), str(len(data)))
    rest = ask(server.port, "PATCH", upload, part(version, MIB, complete=True), data[MIB:])
    assert rest.status == 201
    finished(server, upload, data)


@dataclass(frozen=True)
class Case:
    """One request to an upload of 8 bytes that has 4, and its answer."""

    name: str
    version: int
    method: str
    headers: Mapping[str, str]
    status: int
    answer: Mapping[str, str] = field(default_factory=dict)
    type: str = "about:blank"
    body: bytes = b"5678"


AT_4 = {"Upload-Offset": "4"}
AT_7 = {"Upload-Offset": "7"}
MISMATCH = PROBLEMS + "mismatching-upload-offset"
LENGTHS = PROBLEMS + "inconsistent-upload-length"
AT = {"Upload-Offset": "4"}
ACCEPTED = {"Accept-Patch": "application/partial-upload"}
LENGTH_9 = {"Upload-Length": "9"}
ODD_BUT_RIGHT = {"Upload-Offset": "4;a=b", "Upload-Complete": "?1; c"}
OVERRIDDEN = {"X-HTTP-Method-Override": "PATCH"}
OVER = b"56789"
CASES = [
    # -01 says nothing of media types, and takes silence for the end.
    Case("silence is the end", 3, "PATCH", AT_4, 201, {"Upload-Incomplete": "?0"}),
    Case("other offset", 3, "PATCH", AT_7, 409, {**AT, "Upload-Incomplete": "?1"}),
    Case("HEAD with offset", 3, "HEAD", AT_4, 400, body=b""),
    Case("DELETE with offset", 3, "DELETE", AT_4, 400, body=b""),
    # -03
    Case("silence is not the end", 5, "PATCH", AT_4, 201, MORE, body=b"56"),
    Case("other offset", 5, "PATCH", {**AT_7, **MORE}, 409, {**AT, **MORE}),
    Case("short of the length", 5, "PATCH", {**AT_4, **DONE}, 400, body=b"567"),
    # -04, -05
    Case("no media type", 6, "PATCH", {**AT_4, **DONE}, 415, ACCEPTED),
    Case("other offset", 6, "PATCH", {**PARTIAL, **AT_7, **MORE}, 409, {**AT, **MORE}, MISMATCH),
    Case("past the length", 6, "PATCH", {**PARTIAL, **AT_4, **MORE}, 400, body=b"56789"),
    Case("overridden", 6, "POST", {**PARTIAL, **AT_4, **DONE, **OVERRIDDEN}, 201, DONE),
    Case("HEAD with length", 6, "HEAD", {"Upload-Length": "8"}, 400, body=b""),
    # -06 to -08
    Case("silence", 7, "PATCH", {**PARTIAL, **AT_4}, 400, MORE),
    Case("other offset", 7, "PATCH", {**PARTIAL, **AT_7, **MORE}, 409, {**AT, **MORE}, MISMATCH),
    Case("short", 7, "PATCH", {**PARTIAL, **AT_4, **DONE}, 400, MORE, LENGTHS, b"567"),
    Case("HEAD with offset", 7, "HEAD", AT_4, 204, body=b""),
    # -09 to -11
    Case("past the length", 8, "PATCH", {**PARTIAL, **AT_4, **MORE}, 400, MORE, LENGTHS, OVER),
    Case("other length", 8, "PATCH", {**PARTIAL, **AT_4, **MORE, **LENGTH_9}, 400, MORE, LENGTHS),
    # -12
    Case("right", 9, "PATCH", {**PARTIAL, **AT_4, **DONE}, 201, DONE),
    Case("parameters", 9, "PATCH", {**PARTIAL, **ODD_BUT_RIGHT}, 201),
    Case("GET asks, too", 9, "GET", {}, 204, {"Upload-Length": "8", **AT, **MORE}, body=b""),
    Case("no offset", 9, "PATCH", {**PARTIAL, **DONE}, 400),
    Case("negative", 9, "PATCH", {**PARTIAL, **DONE, "Upload-Offset": "-4"}, 400),
    Case("16 digits", 9, "PATCH", {**PARTIAL, **DONE, "Upload-Offset": "0" * 15 + "4"}, 400),
    Case("no Boolean", 9, "PATCH", {**PARTIAL, **AT_4, "Upload-Complete": "true"}, 400),
    Case("PUT of an upload", 9, "PUT", DONE, 405),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.version} {case.name}")
def test_requests_to_an_upload(server: LiveServer, case: Case) -> None:
    upload = create(server.port, 8)
    append(server.port, upload, 0, b"1234")
    answer = ask(
        server.port, case.method, upload, {**speaking(case.version), **case.headers}, case.body
    )
    assert answer.status == case.status, answer
    for name, value in case.answer.items():
        assert answer[name] == value
    if case.status >= 400:
        assert offset(server.port, upload) == 4
        assert answer["Upload-Draft-Interop-Version"] == str(case.version)
    if case.status in (400, 409) and case.method == "PATCH":
        assert answer.problem["type"] == case.type
    if case.type == MISMATCH:
        assert (answer.problem["expected-offset"], answer.problem["provided-offset"]) == (4, 7)


CREATIONS = [
    ("two lengths", {**DONE, "Upload-Length": "5"}, b"1234", 400),
    ("more than the length", {**MORE, "Upload-Length": "3"}, b"1234", 400),
    ("an offset", {**MORE, "Upload-Offset": "0"}, b"", 400),
    ("no Boolean", {"Upload-Complete": "1"}, b"1234", 400),
    ("whole and empty", DONE, b"", 201),
    ("unknown version", {**DONE, "Upload-Draft-Interop-Version": "99"}, b"1234", 201),
    ("image is no reference", {**DONE, **metadata(image="dir:/tmp/x")}, b"1234", 400),
]


@pytest.mark.parametrize(
    ("name", "headers", "body", "expected"),
    CREATIONS,
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_creation(
    server: LiveServer, name: str, headers: dict[str, str], body: bytes, expected: int
) -> None:
    before = set(server.data_dir.joinpath("uploads").glob("*.info"))
    answer = ask(server.port, "POST", "/files/", headers, body)
    assert answer.status == expected, name
    if expected == 201:
        assert answer["Upload-Complete"] == "?1"
        finished(server, answer["Location"], body)
    else:
        assert set(server.data_dir.joinpath("uploads").glob("*.info")) == before
        assert "tus-resumable" not in answer.headers


@pytest.mark.parametrize(
    ("version", "problem"),
    [(5, "about:blank"), (6, PROBLEMS + "completed-upload"), (8, LENGTHS), (9, LENGTHS)],
)
def test_a_complete_upload_takes_no_more(server: LiveServer, version: int, problem: str) -> None:
    headers = {**speaking(version), **ending(version, complete=True)}
    upload = ask(server.port, "POST", "/files/", headers, b"1234")["Location"]
    right = part(version, 4, complete=True)
    more = ask(server.port, "PATCH", upload, right, b"5")
    assert (more.status, more["Upload-Offset"], more.problem["type"]) == (400, "4", problem)
    assert ask_chunked(server.port, "PATCH", upload, right, chunks(b"5")).status == 400
    # Whoever lost the last answer may say once more that this was all.
    again = ask(server.port, "PATCH", upload, right)
    assert (again.status, again["Upload-Complete"]) == (201, "?1")
    assert ask_chunked(server.port, "PATCH", upload, right, chunks()).status == 201
    finished(server, upload, b"1234")


def test_the_length_alone_completes_an_upload(server: LiveServer) -> None:
    upload = begin(server.port, 6, {"Upload-Length": "4"})
    answer = ask(server.port, "PATCH", upload, part(6, 0, complete=False), b"1234")
    assert (answer.status, answer["Upload-Complete"]) == (201, "?1")
    assert ask(server.port, "PATCH", upload, part(6, 4, complete=True)).status == 201


def test_the_end_may_be_said_by_an_empty_append(server: LiveServer) -> None:
    upload = begin(server.port)
    ask(server.port, "PATCH", upload, part(9, 0, complete=False), b"1234")
    answer = ask(server.port, "PATCH", upload, part(9, 4, complete=True))
    assert (answer.status, answer["Upload-Complete"]) == (201, "?1")
    finished(server, upload, b"1234")


def test_a_chunked_last_append_fixes_the_length(server: LiveServer) -> None:
    data = random.Random(1).randbytes(3 * MIB)
    upload = begin(server.port)
    ask(server.port, "PATCH", upload, part(9, 0, complete=False), data[:MIB])
    pieces = [data[start : start + 700_000] for start in range(MIB, len(data), 700_000)]
    last = part(9, MIB, complete=True)
    answer = ask_chunked(server.port, "PATCH", upload, last, chunks(*pieces))
    assert (answer.status, answer["Upload-Offset"]) == (201, str(len(data)))
    assert ask(server.port, "HEAD", upload, TUS)["Upload-Length"] == str(len(data))
    # What was reserved ahead of the unknown end is given back.
    assert stored(server, upload).stat().st_blocks * 512 < len(data) + MIB
    finished(server, upload, data)


def test_a_chunked_last_append_that_breaks_off_does_not(server: LiveServer) -> None:
    upload = begin(server.port)
    data = random.Random(5).randbytes(2 * MIB)
    with Raw(server.port) as raw:
        raw.head("PATCH", upload, {**part(9, 0, complete=True), **CHUNKED})
        raw.send(chunks(data, end=b""))
        wait_until(lambda: stored(server, upload).stat().st_size >= MIB, what="1 MiB")
    head = ask(server.port, "HEAD", upload, speaking(9))
    assert (head["Upload-Complete"], "upload-length" in head.headers) == ("?0", False)
    came = int(head["Upload-Offset"])
    last = part(9, came, complete=True)
    answer = ask_chunked(server.port, "PATCH", upload, last, chunks(data[came:], b"end"))
    assert answer["Upload-Offset"] == str(len(data) + 3)
    finished(server, upload, data + b"end")


def test_a_chunked_last_append_short_of_the_length_is_refused(server: LiveServer) -> None:
    upload = begin(server.port, 9, {"Upload-Length": "8"})
    short = ask_chunked(server.port, "PATCH", upload, part(9, 0, complete=True), chunks(b"1234"))
    assert (short.status, short["Upload-Offset"], short.problem["type"]) == (400, "4", LENGTHS)
    long = ask_chunked(server.port, "PATCH", upload, part(9, 4, complete=True), chunks(b"56789"))
    assert (long.status, long.problem["type"]) == (400, LENGTHS)
    assert ask(server.port, "HEAD", upload, speaking(9))["Upload-Complete"] == "?0"


def test_begun_over_ietf_ended_over_tus(server: LiveServer) -> None:
    described = metadata(filename="a b.tar", note="ä")
    upload = begin(server.port, 6, {"Upload-Length": "8", **described})
    ask(server.port, "PATCH", upload, part(6, 0, complete=False), b"1234")
    head = ask(server.port, "HEAD", upload, TUS)
    assert (head["Upload-Offset"], head["Upload-Length"]) == ("4", "8")
    assert head["Upload-Metadata"] == described["Upload-Metadata"]
    assert append(server.port, upload, 4, b"5678").status == 204
    assert ask(server.port, "HEAD", upload, speaking(6))["Upload-Complete"] == "?1"
    finished(server, upload, b"12345678")
    assert status(server.port, upload)["protocol"] == "ietf"


@pytest.mark.parametrize("length", [{"Upload-Length": "8"}, {"Upload-Defer-Length": "1"}])
def test_begun_over_tus_ended_over_ietf(server: LiveServer, length: dict[str, str]) -> None:
    upload = ask(server.port, "POST", "/files/", {**TUS, **length})["Location"]
    append(server.port, upload, 0, b"1234")
    head = ask(server.port, "HEAD", upload, speaking(8))
    assert (head["Upload-Offset"], head["Upload-Complete"]) == ("4", "?0")
    assert ask(server.port, "PATCH", upload, part(8, 4, complete=True), b"5678").status == 201
    assert offset(server.port, upload) == 8
    finished(server, upload, b"12345678")
    assert status(server.port, upload)["protocol"] == "tus"


def test_a_newer_request_takes_over_from_the_other_protocol(server: LiveServer) -> None:
    upload = create(server.port, 8)
    with Raw(server.port) as old:
        old.head("PATCH", upload, {**TUS, **OCTETS, "Upload-Offset": "0", "Content-Length": "8"})
        old.send(b"1234")
        wait_until(lambda: stored(server, upload).stat().st_size == 4, what="4 bytes")
        wait_until(lambda: patched(server, upload) == 201, seconds=5, what="the newcomer is in")
        assert old.answer("PATCH").status == 409
    finished(server, upload, b"12345678")


def patched(server: LiveServer, upload: str) -> int:
    return ask(server.port, "PATCH", upload, part(9, 4, complete=True), b"5678").status


def test_cancellation(server: LiveServer) -> None:
    upload = begin(server.port, 3)
    assert ask(server.port, "DELETE", upload, speaking(3)).status == 204
    for version in VERSIONS:
        assert ask(server.port, "HEAD", upload, speaking(version)).status == 404


def test_what_ended_is_404_where_the_draft_has_no_410(serve: Serve) -> None:
    server = serve(unfinished_ttl_hours=1 / 3600)
    upload = begin(server.port)
    wait_until(lambda: ask(server.port, "HEAD", upload, speaking(9)).status == 410, what="410")
    assert ask(server.port, "HEAD", upload, speaking(6)).status == 404


def test_discovery(server: LiveServer) -> None:
    age = f"{6 * 3600}"
    expected = {6: f"min-size=0, expires={age}", 9: f"min-size=0, max-age={age}"}
    for version, limit in expected.items():
        for path in ("/files/", "/files/" + "0" * 32):
            answer = ask(server.port, "OPTIONS", path, speaking(version))
            assert (answer.status, answer["Upload-Limit"]) == (204, limit)
            assert answer["Accept-Patch"] == "application/partial-upload"
            assert "tus-version" not in answer.headers
    both = ask(server.port, "OPTIONS", "/files/")
    assert (both["Tus-Version"], both["Upload-Limit"]) == ("1.0.0", expected[9])
    assert "upload-limit" not in ask(server.port, "OPTIONS", "/files/", TUS).headers


def test_max_size(serve: Serve) -> None:
    server = serve(max_size=6)
    limit = ask(server.port, "OPTIONS", "/files/", speaking(9))["Upload-Limit"]
    assert limit.startswith("min-size=0, max-size=6, max-age=")
    for headers in (DONE, {**MORE, "Upload-Length": "7"}):
        answer = ask(server.port, "POST", "/files/", headers, b"1234567")
        assert (answer.status, answer["Upload-Limit"]) == (413, limit)
    upload = begin(server.port)
    ask(server.port, "PATCH", upload, part(9, 0, complete=False), b"1234")
    for last in (part(9, 4, complete=True), part(9, 4, complete=False)):
        assert ask(server.port, "PATCH", upload, last, b"567").status == 413
        assert ask_chunked(server.port, "PATCH", upload, last, chunks(b"567")).status == 413
    with Raw(server.port) as raw:
        # Refused by what it declares, before the body.
        raw.head("PATCH", upload, {**part(9, 4, complete=False), "Content-Length": "3"})
        assert raw.answer("PATCH").status == 413
    tus = {**TUS, **OCTETS, "Upload-Offset": "4"}
    assert ask(server.port, "PATCH", upload, tus, b"567").status == 413
    assert ask_chunked(server.port, "PATCH", upload, tus, chunks(b"567")).status == 413
    assert ask(server.port, "PATCH", upload, part(9, 4, complete=True), b"56").status == 201


def test_callers_are_asked_before_a_byte_is_read(serve: Serve, tmp_path: Path) -> None:
    server = serve(tokens_file=tokens_file(tmp_path), run_worker=False)
    for method, path, headers in (
        ("POST", "/files/", DONE),
        ("POST", "/files/", {}),
        ("PUT", "/files/llm.tar", {}),
        ("PATCH", "/files/" + "0" * 32, part(9, 0, complete=True)),
    ):
        with Raw(server.port) as raw:
            raw.head(method, path, {**headers, "Content-Length": str(MIB)})
            assert raw.answer(method).status == 401
    upload = begin(server.port, 9, bearer("anna"))
    for method in ("HEAD", "GET", "DELETE"):
        assert ask(server.port, method, upload, {**speaking(9), **bearer("bert")}).status == 404
    right = {**part(9, 0, complete=True), **bearer("bert")}
    assert ask(server.port, "PATCH", upload, right, b"1234").status == 404


@pytest.mark.parametrize("name", ["md5", "sha-256", "sha-512"])
def test_a_wrong_content_digest_keeps_nothing(server: LiveServer, name: str) -> None:
    upload = begin(server.port)
    wrong = {**part(9, 0, complete=True), **content_digest(b"other", name)}
    for answer in (
        ask(server.port, "PATCH", upload, wrong, b"1234"),
        ask_chunked(server.port, "PATCH", upload, wrong, chunks(b"1234")),
    ):
        assert (answer.status, answer["Upload-Complete"]) == (400, "?0")
        assert answer.problem["type"] == PROBLEMS + "digest-mismatching-values"
    head = ask(server.port, "HEAD", upload, speaking(9))
    assert (head["Upload-Offset"], head["Upload-Complete"]) == ("0", "?0")
    right = {**part(9, 0, complete=True), **content_digest(b"1234", name)}
    assert ask(server.port, "PATCH", upload, right, b"1234").status == 201


@pytest.mark.parametrize(
    ("trailer", "expected"),
    [(b"1234", 201), (b"other", 400), (b"", 400)],
    ids=["right", "wrong", "none"],
)
def test_a_content_digest_in_the_trailer(server: LiveServer, trailer: bytes, expected: int) -> None:
    upload = begin(server.port)
    value = content_digest(trailer)["Content-Digest"]
    line = f"Content-Digest: {value}\r\n".encode() if trailer else b""
    announced = {**part(9, 0, complete=True), "Trailer": "Content-Digest"}
    end = b"0\r\n" + line + b"\r\n"
    answer = ask_chunked(server.port, "PATCH", upload, announced, chunks(b"1234", end=end))
    assert answer.status == expected
    assert offset(server.port, upload) == (4 if expected == 201 else 0)


def test_digests_of_the_whole_file(server: LiveServer) -> None:
    data = b"12345678"
    wrong = {"Repr-Digest": content_digest(b"other")["Content-Digest"]}
    upload = ask(server.port, "POST", "/files/", {**DONE, **wrong}, data)["Location"]
    wait_until(lambda: status(server.port, upload)["status"] == "failed", what="failed")
    right = content_digest(data)["Content-Digest"]
    upload = ask(server.port, "POST", "/files/", {**DONE, "Repr-Digest": right}, data)["Location"]
    finished(server, upload, data)
    wanted = {**speaking(9), "Want-Repr-Digest": "sha-512=10, md5=0, sha-256=3"}
    assert ask(server.port, "HEAD", upload, wanted)["Repr-Digest"] == right
    assert "repr-digest" not in ask(server.port, "HEAD", upload, speaking(9)).headers
