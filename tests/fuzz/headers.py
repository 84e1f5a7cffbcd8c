"""Random header values against every parser of the server: `python -m tests.fuzz.headers`.

    python -m tests.fuzz.headers --seconds 60 [--seed N]

Runs each parser on inputs that are arbitrary, or valid ones with something changed, until the time
is over. A parser may return a value or refuse with a 4xx of ours; anything else is printed, with
the input made as small as it will get, and the exit code is 1. The seed is the time, and is printed
first, so that a run can be repeated.

Knows: what valid values look like, and how each parser is called.
Must not know: sockets, a running server.
"""

from __future__ import annotations

import argparse
import base64
import json
import re
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import ip_network
from string import ascii_letters, digits
from typing import Final

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import seed as seeded
from hypothesis import strategies as st
from starlette.requests import Request

from server.auth import LOCAL
from server.errors import ServerError
from server.protocols import headers as h
from server.protocols import terms
from server.protocols.digests import content_proof, wanted_digest
from server.protocols.ietf import creation, dialect
from server.protocols.location import Locations, upload_id_of

EMPTY_MD5: Final = "1B2M2Y8AsgTpgAmY7PhCfg=="
EMPTY_MD5_HEX: Final = base64.b64decode(EMPTY_MD5).hex()
NULL_SHA256: Final = base64.b64encode(bytes(32)).decode()
BATCH: Final = 300
# Of the processor, for one small input: a hundred times what any parser needs.
LONG_SECONDS: Final = 1.0
PLAIN: Final = frozenset(ascii_letters + digits + "/:.[]_~-")

# Valid values, from which the mutated ones are made.
SEEDS: Final[Mapping[str, Sequence[str]]] = {
    h.UPLOAD_OFFSET: ("0", "4", str(h.LARGEST_LENGTH), "4;a=b"),
    h.UPLOAD_LENGTH: ("0", "4", str(h.LARGEST_LENGTH), "999999999999999"),
    h.UPLOAD_DEFER_LENGTH: ("1",),
    h.UPLOAD_METADATA: (
        "filename YS50YXI=,note w6Q=,empty",
        f"md5 {base64.b64encode(EMPTY_MD5_HEX.encode()).decode()}",
        "",
    ),
    h.UPLOAD_CHECKSUM: (f"md5 {EMPTY_MD5}", f"sha256 {NULL_SHA256}", "crc32 AAAAAA=="),
    h.UPLOAD_CONCAT: ("partial", "final;/files/a /files/b"),
    h.REPR_DIGEST: (f"md5=:{EMPTY_MD5}:, sha-256=:{NULL_SHA256}:", "unixsum=:AAAA:"),
    h.CONTENT_DIGEST: (f"sha-256=:{NULL_SHA256}:", f"md5=:{EMPTY_MD5}:"),
    h.WANT_REPR_DIGEST: ("sha-256=10, md5=0", "md5=3"),
    h.UPLOAD_COMPLETE: ("?1", "?0", "?1; a=b"),
    h.UPLOAD_INCOMPLETE: ("?1", "?0"),
    h.INTEROP_VERSION: ("3", "6", "9", "99"),
    h.METHOD_OVERRIDE: ("PATCH", "HEAD", "DELETE"),
    h.CONTENT_TYPE: (h.OFFSET_OCTET_STREAM, h.PARTIAL_UPLOAD, "a/b; charset=x"),
    h.CONTENT_LENGTH: ("0", "4"),
    h.CONTENT_DISPOSITION: (
        'attachment; filename="a b.tar"',
        "attachment; filename*=utf-8''%c3%a4.tar",
        "attachment; filename*=unicode_escape''%5Cu00e4",
        "attachment; filename*0=a; filename*1*=%20b",
    ),
    h.TRAILER: ("Content-Digest, Upload-Checksum",),
    "X-Forwarded-Proto": ("https",),
    "X-Forwarded-Host": ("a.example:80", "[::1]:80"),
    "X-Forwarded-Prefix": ("/a/b",),
}


# What has a meaning somewhere: separators, long numbers, names of odd encodings.
TOKENS: Final = (
    *",;=:'\"%*-?& \t\xe9",
    *("9" * 20, "9" * 5000, "''", "%ff", "%5Cud800"),
    *("idna", "undefined", "unicode_escape", "utf-16", "utf-8"),
)

# What a header's value may be once HTTP has let it through.
TEXT: Final = st.text(
    st.characters(codec="latin-1", exclude_characters="\x00\r\n", exclude_categories=()),
    max_size=60,
)


@st.composite
def mutated(draw: st.DrawFn, values: Sequence[str]) -> str:
    """A valid value of which a part was replaced, doubled, or cut off."""
    value = draw(st.sampled_from(values))
    # At the borders of words much more often than inside of them.
    borders = [found.start() for found in re.finditer(r"\b|$", value)]
    start = draw(st.one_of(st.sampled_from(borders), st.integers(0, len(value))))
    ends = [border for border in borders if border >= start]
    end = draw(st.one_of(st.just(start), st.sampled_from(ends)))
    patch = draw(
        st.one_of(
            st.just(""),
            TEXT,
            st.sampled_from(TOKENS),
            st.just(value[start:end] * 2),
        )
    )
    return value[:start] + patch + value[end:]


# Also what is no UTF-8, and what only looks encoded.
QUERIES: Final = st.one_of(
    st.binary(max_size=40),
    mutated(("filename=a%20b&image=r.example/a/b&md5=&sha256=", "md5=" + EMPTY_MD5_HEX)).map(
        lambda text: text.encode("latin-1")
    ),
)


def values(name: str) -> st.SearchStrategy[str]:
    """Values of one header: right, nearly right, anything."""
    seeds = SEEDS[name]
    return st.one_of(st.sampled_from(seeds), mutated(seeds), TEXT)


@st.composite
def heads(draw: st.DrawFn, names: Sequence[str] = tuple(SEEDS)) -> list[tuple[str, str]]:
    """Some of these headers, now and then one of them twice."""
    asked = draw(st.lists(st.sampled_from(names), min_size=1, max_size=4))
    return [(name, draw(values(name))) for name in asked]


def request(fields: Sequence[tuple[str, str]], query: bytes = b"") -> Request:
    """The request that the parsers would see."""
    raw = [(name.lower().encode(), value.encode("latin-1")) for name, value in fields]
    return Request(
        {
            "type": "http",
            "method": "POST",
            "path": "/files/",
            "query_string": query,
            "headers": raw,
            "client": ("127.0.0.1", 1),
        }
    )


def _created(asked: Request, *, plain: bool) -> object:
    """All that an IETF or plain creation reads, down to the form that goes to the disk."""
    complete = creation.check_plain(asked)
    upload = creation.new_upload(asked, LOCAL, "a.tar", complete=complete, plain=plain)
    return json.dumps(upload.to_sidecar()).encode()


def _metadata(asked: Request) -> object:
    _, pairs = h.metadata(asked.headers)
    return pairs, h.promised_digests(pairs)


def _checksum(asked: Request) -> object:
    return [h.checksum(value) for value in asked.headers.getlist(h.UPLOAD_CHECKSUM)]


def _concatenation(asked: Request) -> object:
    _, urls = h.concatenation(asked.headers) or ("", [])
    return [upload_id_of(url) for url in urls]


def _dialect(asked: Request) -> object:
    spoken = dialect.dialect_of(asked.headers)
    return spoken.completes(asked.headers), spoken.completes_append(asked.headers)


def _sizes(asked: Request) -> object:
    return [h.size(asked.headers, name) for name in (h.UPLOAD_OFFSET, h.UPLOAD_LENGTH)]


def _integers(asked: Request) -> object:
    return [dialect.integer(asked.headers, name) for name in (h.UPLOAD_OFFSET, h.UPLOAD_LENGTH)]


def _location(asked: Request) -> object:
    made = Locations("", [ip_network("127.0.0.0/8")]).of(asked, "0" * 32)
    assert made.endswith("/files/" + "0" * 32), made
    assert not set(made) - PLAIN, f"a proxy's words came through unchecked: {made!r}"
    return made


@dataclass(frozen=True)
class Parser:
    """One way from headers to a value, and which headers it reads."""

    run: Callable[[Request], object]
    reads: tuple[str, ...]


_CREATION: Final = (
    h.CONTENT_DISPOSITION,
    h.CONTENT_LENGTH,
    h.CONTENT_TYPE,
    h.REPR_DIGEST,
    h.UPLOAD_LENGTH,
    h.UPLOAD_METADATA,
)
_FORWARDED: Final = ("X-Forwarded-Host", "X-Forwarded-Prefix", "X-Forwarded-Proto")
PARSERS: Final[Mapping[str, Parser]] = {
    "announced trailer": Parser(
        lambda asked: h.announces(asked.headers, h.UPLOAD_CHECKSUM), (h.TRAILER,)
    ),
    "body": Parser(
        lambda asked: (h.has_body(asked.headers), creation.declared_bytes(asked)),
        (h.CONTENT_LENGTH,),
    ),
    "checksum": Parser(_checksum, (h.UPLOAD_CHECKSUM,)),
    "completeness": Parser(_dialect, (h.INTEROP_VERSION, h.UPLOAD_COMPLETE, h.UPLOAD_INCOMPLETE)),
    "concatenation": Parser(_concatenation, (h.UPLOAD_CONCAT,)),
    "content digest": Parser(content_proof, (h.CONTENT_DIGEST, h.TRAILER)),
    "creation": Parser(lambda asked: _created(asked, plain=False), _CREATION),
    "filename": Parser(lambda asked: _created(asked, plain=True), (h.CONTENT_DISPOSITION,)),
    "integers": Parser(_integers, (h.UPLOAD_LENGTH, h.UPLOAD_OFFSET)),
    "location": Parser(_location, _FORWARDED),
    "media type": Parser(lambda asked: h.media_type(asked.headers), (h.CONTENT_TYPE,)),
    "metadata": Parser(_metadata, (h.UPLOAD_METADATA,)),
    "method": Parser(terms.method, (h.METHOD_OVERRIDE,)),
    "plain upload": Parser(lambda asked: _created(asked, plain=True), _CREATION),
    "promised digests": Parser(lambda asked: h.repr_digest(asked.headers), (h.REPR_DIGEST,)),
    "sizes": Parser(_sizes, (h.UPLOAD_LENGTH, h.UPLOAD_OFFSET)),
    "wanted digest": Parser(
        lambda asked: wanted_digest(asked, {"md5": EMPTY_MD5_HEX}), (h.WANT_REPR_DIGEST,)
    ),
}


@st.composite
def cases(draw: st.DrawFn) -> tuple[str, list[tuple[str, str]], bytes]:
    """A parser, headers that it reads, and a query."""
    name = draw(st.sampled_from(sorted(PARSERS)))
    return name, draw(heads(PARSERS[name].reads)), draw(st.one_of(st.just(b""), QUERIES))


def judge(name: str, fields: Sequence[tuple[str, str]], query: bytes) -> None:
    """Run one parser.

    Raises:
        Exception: whatever it let out besides a refusal with a 4xx.
        AssertionError: it took long.
    """
    begun = time.process_time()
    try:
        PARSERS[name].run(request(fields, query))
    except ServerError as error:
        if not 400 <= error.status < 500:
            raise
    took_seconds = time.process_time() - begun
    assert took_seconds < LONG_SECONDS, f"{name} took {took_seconds:g} s"


def run(seconds: float, number: int) -> int:
    """Fuzz until the time is over; how many inputs were judged.

    Raises:
        Exception: as `judge`; its notes hold the input.
    """
    deadline, judged = time.monotonic() + seconds, 0
    while time.monotonic() < deadline:

        @seeded(number)
        @settings(
            max_examples=BATCH,
            deadline=None,
            database=None,
            phases=(Phase.generate, Phase.shrink),
            suppress_health_check=list(HealthCheck),
        )
        @given(cases())
        def batch(case: tuple[str, list[tuple[str, str]], bytes]) -> None:
            nonlocal judged
            judged += 1
            judge(*case)

        batch()
        number += 1
    return judged


def main(arguments: Sequence[str] | None = None) -> int:
    """The program."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz.headers")
    parser.add_argument("--seconds", type=float, default=60, help="for how long")
    parser.add_argument("--seed", type=int, default=int(time.time()), help="the time, if not given")
    asked = parser.parse_args(arguments)
    print(f"seed {asked.seed}", flush=True)
    try:
        judged = run(asked.seconds, asked.seed)
    except Exception:
        traceback.print_exc()
        return 1
    print(f"{judged} inputs, and each parser took or refused them")
    return 0


if __name__ == "__main__":
    sys.exit(main())
