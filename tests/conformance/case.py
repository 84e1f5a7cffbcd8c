"""A row of the conformance table, and how it is played against a running server.

Knows: how an upload is brought into a state, how a request is written exactly as the row says it,
and what is compared afterwards: the answer, every byte on the disk, and HEAD.
Must not know: what the specification wants; that is in the tables.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from pathlib import Path

from tests.live import LiveServer
from tests.raw import OCTETS, TUS, Answer, Raw, ask

HOUR_SECONDS = 3600
TOKEN = "a token of this table"
BEARER = {"Authorization": f"Bearer {TOKEN}"}
UNKNOWN = "/files/" + "0" * 32

# What a header's value must be: exactly this, matching this, so; None: the header is absent.
Expected = str | re.Pattern[str] | Callable[[str, "Scene"], bool] | None
Headers = Mapping[str, str | tuple[str, ...]]


@dataclass(frozen=True)
class Before:
    """The state of the upload before the request.

    `parts` are partial uploads (length, bytes sent), each with metadata of its own; with `final`
    the upload is made of these. `end` is how it ended: `removed` or `canceled`. The last byte came
    `aged_hours` ago.
    """

    length: int | None = 8
    sent: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    parts: tuple[tuple[int, bytes], ...] = ()
    final: bool = False
    end: str = ""
    aged_hours: float = 0


@dataclass(frozen=True)
class Case:
    """One request, and what the specification wants of the answer and of what stays.

    `spec` is a section of the table in README.md. A header with a tuple is sent once for each
    value. In `path` and in headers `{upload}`, `{part0}`, `{part1}`, `{plain}` and `{origin}` stand
    for URLs of this row. `after` is the content of the upload afterwards (None: nothing on the disk
    has changed); `then` are headers of a HEAD afterwards. A refusal is `late` where only the body
    can tell.
    """

    name: str
    spec: str
    before: Before | None
    method: str
    headers: Headers
    status: int
    answer: Mapping[str, Expected] = field(default_factory=dict)
    body: bytes = b""
    after: bytes | None = None
    then: Mapping[str, Expected] = field(default_factory=dict)
    path: str = ""
    chunked: bool = False
    trailers: Mapping[str, str] = field(default_factory=dict)
    server: str = "plain"
    late: bool = False
    removes: bool = False

    @property
    def refused(self) -> bool:
        """Whether the answer is an error."""
        return self.status >= 400


class Scene:
    """The uploads of one row on its server."""

    def __init__(self, server: LiveServer, case: Case) -> None:
        """Bring everything into the state that the row begins with."""
        self.server = server
        self._case = case
        self._login = BEARER if case.server == "guarded" else {}
        self.urls: dict[str, str] = {"origin": server.url, "unknown": UNKNOWN}
        self.expires_before = 0.0
        if case.before is not None:
            self._prepare(case.before)
        self._disk_before = self.disk()
        self._offset_before = self.head().headers.get("upload-offset")

    def _prepare(self, before: Before) -> None:
        for number, (length, sent) in enumerate(before.parts):
            said = {"Upload-Concat": "partial", "Upload-Metadata": "part cGFydA=="}
            self.urls[f"part{number}"] = self._send({**said, "Upload-Length": str(length)}, sent)
        if before.parts:
            self.urls["plain"] = self._send({"Upload-Length": "3"}, b"abc")
        extra = {name: value.format_map(self.urls) for name, value in before.headers.items()}
        if not before.final:
            size = {"Upload-Defer-Length": "1"}
            if before.length is not None:
                size = {"Upload-Length": str(before.length)}
            extra = {**size, **extra}
        if before.final or not before.parts:
            self.urls["upload"] = self._send(extra, before.sent)
        if before.aged_hours:
            then = time.time() - before.aged_hours * HOUR_SECONDS
            for url in [url for name, url in self.urls.items() if name != "unknown"]:
                if self.stored(url).exists():
                    os.utime(self.stored(url), (then, then))
        self._end(before.end)
        expires = self.head().headers.get("upload-expires")
        self.expires_before = parsedate_to_datetime(expires).timestamp() if expires else 0.0

    def _send(self, headers: Mapping[str, str], sent: bytes) -> str:
        created = ask(self.server.port, "POST", "/files/", {**TUS, **self._login, **headers})
        assert created.status == 201, created
        url = created["Location"]
        if sent:
            place = {**TUS, **OCTETS, "Upload-Offset": "0", **self._login}
            assert ask(self.server.port, "PATCH", url, place, sent).status == 204
        return url

    def _end(self, end: str) -> None:
        port, upload = self.server.port, self.urls.get("upload", "")
        if end == "removed":
            assert ask(port, "DELETE", upload, {**TUS, **self._login}).status == 204
        elif end == "canceled":
            cancel = f"/api/uploads/{self.stored(upload).name}/cancel"
            assert ask(port, "POST", cancel, self._login).status == 200

    def stored(self, url: str) -> Path:
        """The data file of an upload."""
        return self.server.data_dir / "uploads" / url.rsplit("/", 1)[-1]

    def disk(self) -> dict[str, bytes]:
        """Every file of the row's uploads with its bytes, and the names of all others."""
        own = {url.rsplit("/", 1)[-1] for url in self.urls.values()}
        return {
            path.name: path.read_bytes() if path.name.split(".")[0] in own else b""
            for path in (self.server.data_dir / "uploads").iterdir()
        }

    def head(self) -> Answer:
        """HEAD of the row's upload; of one that never was where there is none."""
        url = self.urls.get("upload", UNKNOWN)
        return ask(self.server.port, "HEAD", url, {**TUS, **self._login})

    def write(self, raw: Raw, *, hold_body: bool = False) -> None:
        """The request, exactly as the row says it; with `hold_body` without its last bytes."""
        case = self._case
        path = (case.path or ("{upload}" if "upload" in self.urls else "/files/")).format_map(
            self.urls
        )
        lines = [f"{case.method} {path} HTTP/1.1", "Host: 127.0.0.1"]
        for name, values in case.headers.items():
            for value in (values,) if isinstance(values, str) else values:
                lines.append(f"{name}: {value.format_map(self.urls)}")
        if case.chunked:
            lines.append("Transfer-Encoding: chunked")
        elif case.body or case.method in ("POST", "PATCH"):
            lines.append(f"Content-Length: {len(case.body)}")
        raw.send("\r\n".join([*lines, "", ""]).encode("latin-1"))
        body = case.body
        if case.chunked:
            half = len(body) // 2
            pieces = [piece for piece in (body[:half], body[half:]) if piece]
            body = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces)
            body += b"0\r\n"
            body += b"".join(f"{name}: {v}\r\n".encode() for name, v in case.trailers.items())
            body += b"\r\n"
        raw.send(body[:1] if hold_body else body)

    def judge(self, answer: Answer) -> None:
        """Compare answer, disk and HEAD with the row.

        Raises:
            AssertionError: something differs.
        """
        case = self._case
        assert answer.status == case.status, answer
        assert answer["Tus-Resumable"] == "1.0.0", answer
        self._compare(answer, case.answer)
        if case.refused:
            assert case.after is None, "a refusal changes nothing"
            if answer.body:
                assert answer["Content-Type"] == "application/problem+json"
                assert answer.problem["hint"], answer.problem
        if answer.status == 201:
            self.urls["upload"] = answer["Location"].removeprefix(self.server.url)
        if case.after is None and not case.removes:
            if answer.status != 201:
                assert self.disk() == self._disk_before, "something on the disk has changed"
                assert self.head().headers.get("upload-offset") == self._offset_before
        elif case.removes:
            # What is known of a whole upload's end may stay; its bytes may not.
            assert not self.stored(self.urls["upload"]).exists()
            assert self.head().status in (404, 410)
        else:
            assert self.stored(self.urls["upload"]).read_bytes() == case.after
            assert self.head()["Upload-Offset"] == str(len(case.after or b""))
        if case.then:
            self._compare(self.head(), case.then)

    def _compare(self, answer: Answer, wanted: Mapping[str, Expected]) -> None:
        for name, expected in wanted.items():
            value = answer.headers.get(name.lower())
            if expected is None:
                assert value is None, (name, value)
                continue
            assert value is not None, f"{name} is absent: {answer}"
            if isinstance(expected, str):
                assert value == expected.format_map(self.urls), name
            elif isinstance(expected, re.Pattern):
                assert expected.fullmatch(value), (name, value)
            else:
                assert expected(value, self), (name, value)


def play(server: LiveServer, case: Case, *, hold_body: bool = False) -> None:
    """Play a row on this server, and compare.

    Raises:
        AssertionError: the answer or what stays is not as the row says.
    """
    scene = Scene(server, case)
    with Raw(server.port, timeout_seconds=30) as raw:
        scene.write(raw, hold_body=hold_body)
        scene.judge(raw.answer(case.method))


# Values that are not known beforehand.

IMF_DATE = re.compile(
    r"(Mon|Tue|Wed|Thu|Fri|Sat|Sun), [0-9]{2} (Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec) "
    r"[0-9]{4} [0-9]{2}:[0-9]{2}:[0-9]{2} GMT"
)
PATH = re.compile(r"/files/[0-9a-f]{32}")


def later(value: str, scene: Scene) -> bool:
    """Whether this date is well after the one that HEAD told before the request."""
    return parsedate_to_datetime(value).timestamp() > scene.expires_before + HOUR_SECONDS / 2


def listing(*wanted: str) -> Callable[[str, Scene], bool]:
    """Whether all of these are in the comma-separated list, without spaces or repetition."""

    def holds(value: str, scene: Scene) -> bool:
        found = value.split(",")
        return set(wanted) <= set(found) and len(found) == len(set(found)) and " " not in value

    return holds
