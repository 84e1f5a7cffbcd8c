"""tus 1.0.0 over raw sockets: what is answered, and what is on the disk afterwards."""

from __future__ import annotations

import base64
import hashlib
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime

import pytest

from tests.conftest import Serve
from tests.live import LiveServer, wait_until
from tests.raw import OCTETS, TUS, Raw, append, ask, create, metadata, offset, status


@dataclass(frozen=True)
class Case:
    """One request, and the status and headers that the specification wants."""

    name: str
    spec: str
    method: str
    headers: Mapping[str, str]
    status: int
    answer: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""


LENGTH_5 = {"Upload-Length": "5"}
CREATIONS = [
    Case("plain", "Creation", "POST", {**TUS, **LENGTH_5}, 201),
    Case("zero", "Creation", "POST", {**TUS, "Upload-Length": "0"}, 201),
    Case("deferred", "Creation", "POST", {**TUS, "Upload-Defer-Length": "1"}, 201),
    Case("no version", "Tus-Resumable", "POST", LENGTH_5, 412, {"Tus-Version": "1.0.0"}),
    Case("old version", "Tus-Resumable", "POST", {"Tus-Resumable": "0.2.2", **LENGTH_5}, 412),
    Case("no length", "Creation", "POST", TUS, 400),
    Case("both lengths", "Creation", "POST", {**TUS, **LENGTH_5, "Upload-Defer-Length": "1"}, 400),
    Case("odd deferral", "Creation", "POST", {**TUS, "Upload-Defer-Length": "0"}, 400),
    Case("negative", "Upload-Length", "POST", {**TUS, "Upload-Length": "-1"}, 400),
    Case("signed", "Upload-Length", "POST", {**TUS, "Upload-Length": "+5"}, 400),
    Case("spaced", "Upload-Length", "POST", {**TUS, "Upload-Length": "5 0"}, 400),
    Case("fraction", "Upload-Length", "POST", {**TUS, "Upload-Length": "5.0"}, 400),
    Case("2^63", "Upload-Length", "POST", {**TUS, "Upload-Length": str(2**63)}, 400),
    Case("2^63 - 1", "Upload-Length", "POST", {**TUS, "Upload-Length": str(2**63 - 1)}, 507),
    Case("empty metadata", "tuspy", "POST", {**TUS, **LENGTH_5, "Upload-Metadata": ""}, 201),
    Case(
        "key without value",
        "Upload-Metadata",
        "POST",
        {**TUS, **LENGTH_5, "Upload-Metadata": "is_confidential,filename YQ=="},
        201,
    ),
    Case(
        "not base64",
        "Upload-Metadata",
        "POST",
        {**TUS, **LENGTH_5, "Upload-Metadata": "filename %%%"},
        400,
    ),
    Case(
        "key twice",
        "Upload-Metadata",
        "POST",
        {**TUS, **LENGTH_5, "Upload-Metadata": "a YQ==,a YQ=="},
        400,
    ),
    Case("md5 is no digest", "interfaces", "POST", {**TUS, **LENGTH_5, **metadata(md5="xyz")}, 400),
    Case(
        "image is no reference",
        "interfaces",
        "POST",
        {**TUS, **LENGTH_5, **metadata(image="dir:/tmp/x")},
        400,
    ),
    Case(
        "registry not allowed",
        "interfaces",
        "POST",
        {**TUS, **LENGTH_5, **metadata(image="registry.example/team/llm:v1")},
        403,
    ),
    Case(
        "body of another kind", "Creation With Upload", "POST", {**TUS, **LENGTH_5}, 415, {}, b"x"
    ),
    Case(
        "body over the length",
        "Creation With Upload",
        "POST",
        {**TUS, **OCTETS, **LENGTH_5},
        413,
        {},
        b"123456",
    ),
    Case(
        "options",
        "OPTIONS",
        "OPTIONS",
        {},
        204,
        {
            "Tus-Version": "1.0.0",
            "Tus-Extension": "creation,creation-with-upload,creation-defer-length,"
            "expiration,checksum,checksum-trailer,termination,concatenation,concatenation-unfinished",
        },
    ),
]


@pytest.mark.parametrize("case", CREATIONS, ids=lambda case: case.name)
def test_creation(server: LiveServer, case: Case) -> None:
    before = set(server.data_dir.joinpath("uploads").glob("*.info"))
    answer = ask(server.port, case.method, "/files/", case.headers, case.body)
    assert answer.status == case.status, answer
    assert answer["Tus-Resumable"] == "1.0.0"
    for name, value in case.answer.items():
        assert answer[name] == value
    if answer.status == 201:
        assert answer["Location"].startswith("/files/")
    else:
        assert set(server.data_dir.joinpath("uploads").glob("*.info")) == before, (
            "something was left"
        )
    if answer.status >= 400:
        assert answer["Content-Type"] == "application/problem+json"
        assert {"title", "detail", "status", "code", "hint"} <= answer.problem.keys()


PATCHES = [
    Case("no version", "Tus-Resumable", "PATCH", {**OCTETS, "Upload-Offset": "0"}, 412),
    Case("no offset", "PATCH", "PATCH", {**TUS, **OCTETS}, 400),
    Case("negative", "PATCH", "PATCH", {**TUS, **OCTETS, "Upload-Offset": "-1"}, 400),
    Case("other type", "PATCH", "PATCH", {**TUS, "Upload-Offset": "0"}, 415),
    Case(
        "type with parameter",
        "RFC 9110",
        "PATCH",
        {
            **TUS,
            "Upload-Offset": "0",
            "Content-Type": "Application/Offset+Octet-Stream; charset=binary",
        },
        204,
    ),
    Case(
        "ahead",
        "PATCH",
        "PATCH",
        {**TUS, **OCTETS, "Upload-Offset": "1"},
        409,
        {"Upload-Offset": "0"},
    ),
    Case(
        "another length",
        "Creation",
        "PATCH",
        {**TUS, **OCTETS, "Upload-Offset": "0", "Upload-Length": "7"},
        400,
    ),
    Case("right", "PATCH", "PATCH", {**TUS, **OCTETS, "Upload-Offset": "0"}, 204),
]


@pytest.mark.parametrize("case", PATCHES, ids=lambda case: case.name)
def test_patch_is_judged_before_its_body(server: LiveServer, case: Case) -> None:
    upload = create(server.port, 8)
    answer = ask(server.port, "PATCH", upload, case.headers, b"1234")
    assert answer.status == case.status, answer
    assert answer["Tus-Resumable"] == "1.0.0"
    for name, value in case.answer.items():
        assert answer[name] == value
    assert offset(server.port, upload) == (4 if case.status == 204 else 0)


def test_a_body_over_the_length_stores_nothing(server: LiveServer) -> None:
    upload = create(server.port, 4)
    assert append(server.port, upload, 0, b"12345").status == 413
    assert offset(server.port, upload) == 0
    assert append(server.port, upload, 0, b"1234").status == 204


def test_a_refused_body_is_not_waited_for(server: LiveServer) -> None:
    upload = create(server.port, 2**40 // 1024)
    with Raw(server.port) as raw:
        headers = {**TUS, **OCTETS, "Upload-Offset": "77", "Content-Length": str(2**30)}
        raw.head("PATCH", upload, headers)
        answer = raw.answer("PATCH")
    assert (answer.status, answer["Connection"]) == (409, "close")


def test_a_sender_that_does_not_listen_still_gets_its_answer(server: LiveServer) -> None:
    upload = create(server.port, 2**30)
    with Raw(server.port) as raw:
        length = 16 * 2**20
        headers = {**TUS, **OCTETS, "Upload-Offset": "9", "Content-Length": str(length)}
        raw.head("PATCH", upload, headers)
        raw.send(bytes(length))
        assert raw.answer("PATCH").status == 409


def test_an_upload_in_pieces_on_one_connection(server: LiveServer) -> None:
    data = bytes(range(256)) * 4096
    upload = create(server.port, len(data), metadata(filename="täst.tar"))
    with Raw(server.port) as raw:
        for start in range(0, len(data), 100_000):
            piece = data[start : start + 100_000]
            place = {**TUS, **OCTETS, "Upload-Offset": str(start)}
            answer = raw.request("PATCH", upload, place, piece)
            assert (answer.status, answer["Upload-Offset"]) == (204, str(start + len(piece)))
    path = server.data_dir / "uploads" / upload.rsplit("/", 1)[-1]
    assert path.read_bytes() == data


def test_head_says_all(server: LiveServer) -> None:
    described = metadata(filename="a b.tar", note="ä")
    upload = create(server.port, 9, described)
    append(server.port, upload, 0, b"123")
    answer = ask(server.port, "HEAD", upload, TUS)
    assert answer.status == 200
    assert answer["Upload-Offset"] == "3"
    assert answer["Upload-Length"] == "9"
    assert answer["Upload-Metadata"] == described["Upload-Metadata"]
    assert answer["Cache-Control"] == "no-store"
    expires = parsedate_to_datetime(answer["Upload-Expires"]).timestamp()
    assert abs(expires - time.time() - 6 * 3600) < 60


def test_head_of_what_does_not_exist(server: LiveServer) -> None:
    for path in ("/files/" + "0" * 32, "/files/nonsense", "/files/..%2f..%2fetc%2fpasswd"):
        assert ask(server.port, "HEAD", path, TUS).status == 404


def test_head_without_version(server: LiveServer) -> None:
    upload = create(server.port, 9)
    assert ask(server.port, "HEAD", upload).status == 412


def test_a_deferred_length_comes_with_a_patch(server: LiveServer) -> None:
    answer = ask(server.port, "POST", "/files/", {**TUS, "Upload-Defer-Length": "1"})
    upload = answer["Location"]
    assert append(server.port, upload, 0, b"12345").status == 204
    head = ask(server.port, "HEAD", upload, TUS)
    assert (head["Upload-Defer-Length"], "upload-length" in head.headers) == ("1", False)
    too_short = append(server.port, upload, 5, b"", {"Upload-Length": "3"})
    assert too_short.status == 400
    last = append(server.port, upload, 5, b"678", {"Upload-Length": "8"})
    assert (last.status, last["Upload-Offset"]) == (204, "8")
    wait_until(lambda: status(server.port, upload)["status"] == "done", what="done")


def test_a_deferred_length_may_be_said_by_an_empty_patch(server: LiveServer) -> None:
    answer = ask(server.port, "POST", "/files/", {**TUS, "Upload-Defer-Length": "1"})
    upload = answer["Location"]
    append(server.port, upload, 0, b"12345")
    assert append(server.port, upload, 5, b"", {"Upload-Length": "5"}).status == 204
    assert status(server.port, upload)["status"] != "receiving"


def test_creation_with_upload(server: LiveServer) -> None:
    headers = {**TUS, **OCTETS, "Upload-Length": "8"}
    answer = ask(server.port, "POST", "/files/", headers, b"1234")
    assert (answer.status, answer["Upload-Offset"]) == (201, "4")
    assert append(server.port, answer["Location"], 4, b"5678").status == 204
    whole = ask(server.port, "POST", "/files/", headers, b"12345678")
    assert (whole.status, whole["Upload-Offset"]) == (201, "8")


def test_an_empty_upload_is_finished_at_once(server: LiveServer) -> None:
    upload = create(server.port, 0)
    wait_until(lambda: status(server.port, upload)["status"] == "done", what="done")


def test_termination_while_receiving(server: LiveServer) -> None:
    upload = create(server.port, 9)
    append(server.port, upload, 0, b"123")
    assert ask(server.port, "DELETE", upload, TUS).status == 204
    assert ask(server.port, "HEAD", upload, TUS).status == 404
    assert append(server.port, upload, 3, b"456789").status == 404
    assert not list(server.data_dir.joinpath("uploads").glob(upload.rsplit("/", 1)[-1] + "*"))


def test_termination_stops_an_active_sender(server: LiveServer) -> None:
    upload = create(server.port, 2**30)
    with Raw(server.port) as raw:
        place = {**TUS, **OCTETS, "Upload-Offset": "0", "Content-Length": str(2**30)}
        raw.head("PATCH", upload, place)
        raw.send(bytes(2**20))
        wait_until(lambda: status(server.port, upload)["offset"] == 2**20, what="1 MiB")
        assert ask(server.port, "DELETE", upload, TUS).status == 204
        assert raw.answer("PATCH").status == 409


def test_method_override(server: LiveServer) -> None:
    upload = create(server.port, 4)
    place = {**TUS, **OCTETS, "Upload-Offset": "0", "X-HTTP-Method-Override": "PATCH"}
    assert ask(server.port, "POST", upload, place, b"1234").status == 204


def test_other_methods(server: LiveServer) -> None:
    upload = create(server.port, 4)
    answer = ask(server.port, "PUT", upload, TUS, b"1234")
    assert (answer.status, answer["Tus-Resumable"]) == (405, "1.0.0")


def digest_header(data: bytes, name: str = "md5") -> dict[str, str]:
    digest = hashlib.new(name.replace("-", ""), data).digest()
    return {"Repr-Digest": f"{name}=:{base64.b64encode(digest).decode()}:"}


def test_a_digest_may_be_promised_late(server: LiveServer) -> None:
    data = b"12345678"
    upload = create(server.port, 8)
    append(server.port, upload, 0, data[:4])
    answer = append(server.port, upload, 4, data[4:], digest_header(data))
    assert answer.status == 204
    wait_until(lambda: status(server.port, upload)["status"] == "done", what="done")
    document = status(server.port, upload)
    assert document["digests"]["md5"] == hashlib.md5(data, usedforsecurity=False).hexdigest()
    assert document["digests"]["sha256"] == hashlib.sha256(data).hexdigest()
    assert {step["name"]: step["state"] for step in document["steps"]} == {
        "verify": "done",
        "load": "skipped",
        "push": "skipped",
        "cleanup": "done",
    }


def test_a_promised_digest_cannot_change(server: LiveServer) -> None:
    upload = create(server.port, 8)
    assert append(server.port, upload, 0, b"12", digest_header(b"a", "sha-256")).status == 204
    same = append(server.port, upload, 2, b"34", digest_header(b"a", "sha-256"))
    assert same.status == 204
    other = append(server.port, upload, 4, b"56", digest_header(b"b", "sha-256"))
    assert (other.status, other.problem["code"]) == (400, "digest_conflict")
    assert offset(server.port, upload) == 4


def test_a_wrong_digest_fails_the_upload(server: LiveServer) -> None:
    data = b"12345678"
    upload = create(server.port, 8)
    append(server.port, upload, 0, data, digest_header(b"something else"))
    wait_until(lambda: status(server.port, upload)["status"] == "failed", what="failed")
    error = status(server.port, upload)["error"]
    assert (error["code"], error["step"], error["retryable"]) == (
        "digest_mismatch",
        "verify",
        False,
    )
    assert hashlib.md5(data, usedforsecurity=False).hexdigest() in error["message"]
    assert hashlib.md5(b"something else", usedforsecurity=False).hexdigest() in error["message"]


def test_max_size(serve: Serve) -> None:
    server = serve(max_size=10)
    options = ask(server.port, "OPTIONS", "/files/")
    assert options["Tus-Max-Size"] == "10"
    answer = ask(server.port, "POST", "/files/", {**TUS, "Upload-Length": "11"})
    assert answer.status == 413
    deferred = ask(server.port, "POST", "/files/", {**TUS, "Upload-Defer-Length": "1"})
    refused = append(server.port, deferred["Location"], 0, b"1", {"Upload-Length": "11"})
    assert refused.status == 413


def test_public_url(serve: Serve) -> None:
    server = serve(public_url="https://console.example/tusboat")
    location = create(server.port, 1)
    assert location.startswith("https://console.example/tusboat/files/")


def test_a_trusted_proxy_says_what_clients_see(serve: Serve) -> None:
    forwarded = {
        "X-Forwarded-Proto": "https",
        "X-Forwarded-Host": "console.example:8443, inner",
        "X-Forwarded-Prefix": "/tusboat/",
    }
    trusting = serve(trusted_proxies=["127.0.0.0/8"])
    location = create(trusting.port, 1, forwarded)
    assert location.startswith("https://console.example:8443/tusboat/files/")
    for odd in ({"X-Forwarded-Host": "a/b"}, {"X-Forwarded-Proto": "javascript"}):
        assert create(trusting.port, 1, {**forwarded, **odd}).startswith("/files/")
    other = serve(trusted_proxies=["10.0.0.0/8"], data_dir=trusting.data_dir / "other")
    assert create(other.port, 1, forwarded).startswith("/files/")


def test_downloads(serve: Serve) -> None:
    server = serve(downloads=True)
    upload = create(server.port, 8, metadata(filename='x"; evil="<b>.html', filetype="text/html"))
    assert ask(server.port, "GET", upload).status == 404
    append(server.port, upload, 0, b"12345678")
    whole = ask(server.port, "GET", upload)
    assert (whole.status, whole.body) == (200, b"12345678")
    assert whole["Content-Type"] == "application/octet-stream"
    assert whole["Content-Disposition"].startswith("attachment;")
    assert "<" not in whole["Content-Disposition"]
    part = ask(server.port, "GET", upload, {"Range": "bytes=2-4"})
    assert (part.status, part.body, part["Content-Range"]) == (206, b"345", "bytes 2-4/8")
    assert ask(server.port, "GET", upload, {"Range": "bytes=9-"}).status == 416
    wait_until(lambda: status(server.port, upload)["status"] == "done", what="done")
    ask(server.port, "DELETE", upload, TUS)
    assert ask(server.port, "GET", upload).status == 404


def test_no_downloads_by_default(server: LiveServer) -> None:
    upload = create(server.port, 0)
    assert ask(server.port, "GET", upload).status == 405


def test_expiry(serve: Serve) -> None:
    server = serve(unfinished_ttl_hours=1 / 3600)
    upload = create(server.port, 8)
    append(server.port, upload, 0, b"1234")
    wait_until(lambda: ask(server.port, "HEAD", upload, TUS).status == 410, what="410")
    assert append(server.port, upload, 4, b"5678").status == 410
    assert status(server.port, upload)["status"] == "expired"
