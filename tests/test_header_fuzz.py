"""Nothing that a sender writes makes a parser fall over, a 500, or a file that stays."""

from __future__ import annotations

import base64
import hashlib
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from starlette.datastructures import Headers

from server.protocols import headers as h
from tests.fuzz import headers as fuzz
from tests.live import LiveServer, wait_until
from tests.raw import OCTETS, TUS, Raw, append, ask, create, offset
from tests.resumable import part, speaking, stored

reproducible = settings(
    derandomize=True, database=None, deadline=None, suppress_health_check=list(HealthCheck)
)


# --- the parsers ---


@settings(reproducible, max_examples=1500)
@given(fuzz.cases())
def test_a_parser_returns_a_value_or_refuses(
    case: tuple[str, list[tuple[str, str]], bytes],
) -> None:
    fuzz.judge(*case)


@pytest.mark.parametrize("name", sorted(fuzz.PARSERS))
@pytest.mark.parametrize("filling", ["a", "9", ",", ";a=", "a=:", "é", " ", "'", "*0*=", "%", "("])
def test_a_long_value_costs_no_time(name: str, filling: str) -> None:
    """As long as the largest head that the server takes; `judge` looks at the clock."""
    for header in fuzz.PARSERS[name].reads:
        for start in (*fuzz.SEEDS[header], ""):
            long = start + filling * (60_000 // len(filling))
            fuzz.judge(name, [(header, long)], b"")


KEYS = st.text(
    st.characters(min_codepoint=33, max_codepoint=126, exclude_characters=","), min_size=1
)


@settings(reproducible, max_examples=300)
@given(st.dictionaries(KEYS, st.text(st.characters(exclude_categories=["Cs"])), min_size=1))
def test_metadata_comes_back_as_it_was_sent(pairs: dict[str, str]) -> None:
    raw = ",".join(
        f"{key} {base64.b64encode(value.encode()).decode()}" for key, value in pairs.items()
    )
    assert h.metadata(Headers({h.UPLOAD_METADATA: raw})) == (raw, pairs)


@settings(reproducible, max_examples=300)
@given(st.integers(0, 2**34), st.floats(0, 0.999))
def test_an_http_date_says_its_second(second: int, fraction: float) -> None:
    said = parsedate_to_datetime(h.http_date(second + fraction))
    assert said == datetime.fromtimestamp(second, UTC)


@settings(reproducible, max_examples=200)
@given(st.sampled_from(["md5", "sha256"]), st.binary(), st.booleans())
def test_a_digest_is_the_same_in_hex_and_base64(name: str, data: bytes, upper: bool) -> None:
    value = hashlib.new(name, data)
    text = value.hexdigest().upper() if upper else value.hexdigest()
    coded = base64.b64encode(value.digest()).decode()
    member = {"md5": "md5", "sha256": "sha-256"}[name]
    assert h.digest(name, text, header=h.REPR_DIGEST) == value.hexdigest()
    assert h.digest(name, coded, header=h.REPR_DIGEST) == value.hexdigest()
    field = Headers({h.REPR_DIGEST: f"{member}=:{coded}:"})
    assert h.repr_digest(field) == {name: value.hexdigest()}


@settings(reproducible, max_examples=200)
@given(st.sampled_from(sorted(h.CHECKSUM_BYTES)), st.data())
def test_a_checksum_comes_back_as_it_was_sent(name: str, data: st.DataObject) -> None:
    digest = data.draw(st.binary(min_size=h.CHECKSUM_BYTES[name], max_size=h.CHECKSUM_BYTES[name]))
    assert h.checksum(f"{name} {base64.b64encode(digest).decode()}") == (name, digest)


@settings(reproducible, max_examples=200)
@given(st.integers(0, 2**64))
def test_a_size_comes_back_or_is_too_large(number: int) -> None:
    fields = Headers({h.UPLOAD_LENGTH: str(number)})
    if number <= h.LARGEST_LENGTH:
        assert h.size(fields, h.UPLOAD_LENGTH) == number
    else:
        with pytest.raises(h.BadRequest):
            h.size(fields, h.UPLOAD_LENGTH)


def test_the_fuzzer_runs_by_itself(capsys: pytest.CaptureFixture[str]) -> None:
    assert fuzz.main(["--seconds", "1", "--seed", "1"]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0] == "seed 1"
    assert int(said[1].split()[0]) >= fuzz.BATCH


def test_the_fuzzer_finds_a_parser_that_falls_over(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = fuzz.Parser(lambda asked: int(asked.headers[h.UPLOAD_OFFSET]), (h.UPLOAD_OFFSET,))
    monkeypatch.setattr(fuzz, "PARSERS", {"broken": broken})
    assert fuzz.main(["--seconds", "20", "--seed", "1"]) == 1
    said = capsys.readouterr()
    assert "ValueError: invalid literal for int()" in said.err
    assert "('broken', [('Upload-Offset', '" in said.err


# --- a running server ---


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    with LiveServer(tmp_path_factory.mktemp("target"), run_worker=False) as running:
        yield running


def files(server: LiveServer) -> set[Path]:
    """Everything that an upload may have left."""
    return set(server.data_dir.joinpath("uploads").iterdir())


def still_works(server: LiveServer) -> None:
    # It stays unfinished: of a finished one the history would be kept.
    upload = create(server.port, 9)
    assert append(server.port, upload, 0, b"1234").status == 204
    assert append(server.port, upload, 4, b"5678").status == 204
    assert stored(server, upload).read_bytes() == b"12345678"
    assert ask(server.port, "DELETE", upload, TUS).status == 204


# What frames a request must stay right here; wrong framing has a test of its own.
FRAMING = (h.CONTENT_LENGTH, h.TRAILER)
FUZZED = [
    tuple(name for name in parser.reads if name not in FRAMING) for parser in fuzz.PARSERS.values()
]


# Requests that are right by themselves, for an upload of 12 bytes at 4: wild headers come on top.
RIGHT: list[tuple[str, bool, dict[str, str]]] = [
    ("POST", False, {}),
    ("POST", False, {**TUS, h.UPLOAD_LENGTH: "12"}),
    ("POST", False, {**TUS, **OCTETS, h.UPLOAD_LENGTH: "12"}),
    ("POST", False, {**speaking(9), h.UPLOAD_COMPLETE: "?0"}),
    ("PUT", False, {}),
    ("PATCH", True, {**TUS, **OCTETS, h.UPLOAD_OFFSET: "4"}),
    ("PATCH", True, part(9, 4, complete=False)),
    ("HEAD", True, TUS),
    ("HEAD", True, speaking(9)),
    ("DELETE", True, TUS),
]


@st.composite
def requests(draw: st.DrawFn) -> tuple[str, bool, dict[str, str], bytes]:
    """A method, whether it is for an upload, its headers, its body."""
    method, to_upload, right = draw(st.sampled_from(RIGHT))
    read = draw(st.sampled_from([names for names in FUZZED if names]))
    wild = {
        name: "".join(c for c in value.strip() if c >= " " and c != "\x7f")
        for name, value in draw(fuzz.heads(read))
    }
    body = b"" if method in ("HEAD", "DELETE") else draw(st.binary(max_size=8))
    return method, to_upload, {**right, **wild}, body


@settings(reproducible, max_examples=200)
@given(requests())
def test_wild_headers_are_answered_and_leave_nothing(
    target: LiveServer, asked: tuple[str, bool, dict[str, str], bytes]
) -> None:
    method, to_upload, fields, body = asked
    upload = create(target.port, 12)
    append(target.port, upload, 0, b"1234")
    before = files(target)
    answer = ask(target.port, method, upload if to_upload else "/files/", fields, body)
    # 507: there is no disk for 2^63 - 1 bytes.
    assert answer.status < 500 or answer.status == 507, answer
    if answer.status >= 400 and "location" not in answer.headers:
        assert files(target) == before, answer
        if to_upload:
            assert ask(target.port, "HEAD", upload, TUS)["Upload-Offset"] >= "4"
    for path in {upload, answer.headers.get("location", upload)}:
        assert ask(target.port, "DELETE", path, TUS).status in (204, 404), path


def request_line(method: str = "PATCH", path: str = "/files/", *lines: str) -> bytes:
    head = [f"{method} {path} HTTP/1.1", "Host: 127.0.0.1", "Tus-Resumable: 1.0.0", *lines]
    return "\r\n".join([*head, "", ""]).encode("latin-1")


def patch(upload: str, *lines: str) -> bytes:
    kind = "Content-Type: application/offset+octet-stream"
    return request_line("PATCH", upload, "Upload-Offset: 0", kind, *lines)


CHUNKED = "Transfer-Encoding: chunked"


@dataclass(frozen=True)
class Garbage:
    """What is sent for an upload of 8 bytes, and the answer (None: the server waits for more).

    `kept` is how many bytes of it may count.
    """

    name: str
    make: Callable[[str], bytes]
    status: int | None = 400
    kept: int = 0


def with_lines(*lines: str, body: bytes = b"") -> Callable[[str], bytes]:
    return lambda upload: patch(upload, *lines) + body


EIGHT = b"12345678"
ONE_CHUNK = b"8\r\n12345678\r\n0\r\n\r\n"
GARBAGE = [
    Garbage("random bytes", lambda upload: random.Random(1).randbytes(5000)),
    Garbage("empty lines", lambda upload: b"\r\n" * 3, None),
    Garbage("half a request line", lambda upload: b"PATCH /fil", None),
    Garbage("half a head", lambda upload: patch(upload, "Content-Length: 8")[:-2], None),
    Garbage("a head of 1 MiB", with_lines("X-A: " + "a" * 2**20), 431),
    Garbage("100000 headers", with_lines(*["X-A: a"] * 100_000), 431),
    Garbage("NUL in a header", with_lines("X-A: a\x00b", "Content-Length: 8", body=EIGHT)),
    Garbage("NUL in the path", lambda upload: request_line("HEAD", upload + "\x00")),
    Garbage("a space before the colon", with_lines("Content-Length : 8", body=EIGHT)),
    Garbage("a folded header", with_lines("X-A: a\r\n b", "Content-Length: 8", body=EIGHT)),
    Garbage("a length in words", with_lines("Content-Length: eight", body=EIGHT)),
    Garbage("a negative length", with_lines("Content-Length: -8", body=EIGHT)),
    Garbage("a length with a sign", with_lines("Content-Length: +8", body=EIGHT)),
    Garbage("a huge length", with_lines("Content-Length: " + "9" * 30, body=EIGHT)),
    Garbage("two lengths", with_lines("Content-Length: 4", "Content-Length: 8", body=EIGHT)),
    Garbage("length and chunks", with_lines("Content-Length: 8", CHUNKED, body=ONE_CHUNK)),
    Garbage("chunked twice", with_lines(CHUNKED, CHUNKED, body=ONE_CHUNK)),
    Garbage("another coding", with_lines("Transfer-Encoding: gzip", body=EIGHT)),
    Garbage("chunked not last", with_lines("Transfer-Encoding: chunked, gzip", body=ONE_CHUNK)),
    Garbage("a chunk size in words", with_lines(CHUNKED, body=b"xyz\r\n12345678")),
    Garbage("a negative chunk", with_lines(CHUNKED, body=b"-8\r\n12345678\r\n")),
    Garbage("a huge chunk", with_lines(CHUNKED, body=b"f" * 17 + b"\r\n12345678")),
    Garbage("a chunk that goes on", with_lines(CHUNKED, body=b"4\r\n12345678\r\n"), kept=4),
    Garbage("HTTP/2", lambda upload: b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
    Garbage("TLS", lambda upload: b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500)),
    Garbage("HTTP/9.9", lambda upload: patch(upload).replace(b"HTTP/1.1", b"HTTP/9.9")),
    Garbage("another method", lambda upload: request_line("BREW", upload)),
    # Odd, but right.
    Garbage("a chunk extension", with_lines(CHUNKED, body=b'8;a="b;c"' + ONE_CHUNK[1:]), 204, 8),
    Garbage(
        "an absolute URL", lambda upload: request_line("HEAD", f"http://127.0.0.1{upload}"), 200
    ),
]


@pytest.mark.parametrize("garbage", GARBAGE, ids=lambda garbage: garbage.name)
def test_garbage_harms_nothing(target: LiveServer, garbage: Garbage) -> None:
    upload = create(target.port, 8)
    before = files(target)
    with Raw(target.port) as raw:
        try:
            raw.send(garbage.make(upload))
            said = raw.answer("HEAD").status if garbage.status else None
        except ConnectionError:
            # A refused head is not read to its end, so the answer may drown in a reset.
            assert garbage.status == 431
            said = 431
        assert said == garbage.status
        still_works(target)
    assert files(target) == before

    def resumed() -> bool:
        came = offset(target.port, upload)
        assert came <= garbage.kept
        return append(target.port, upload, came, EIGHT[came:]).status == 204

    # What was cut in mid body may still be on its way to the disk.
    wait_until(resumed, what="the upload goes on")
    assert stored(target, upload).read_bytes() == EIGHT
    assert ask(target.port, "DELETE", upload, TUS).status == 204


@settings(reproducible, max_examples=60)
@given(st.binary(max_size=300).filter(lambda noise: b"\n" not in noise), st.integers(0, 300))
def test_a_head_that_turns_into_noise_makes_nothing(
    target: LiveServer, noise: bytes, cut: int
) -> None:
    before = files(target)
    head = request_line("POST", "/files/", "Upload-Length: 8", "Upload-Metadata: a YQ==")
    with Raw(target.port) as raw:
        raw.send(head[: min(cut, len(head) - 4)] + noise)
        still_works(target)
    assert files(target) == before


def test_the_server_works_after_all_that(target: LiveServer) -> None:
    still_works(target)
    assert "Traceback" not in target.log_path.read_text()
