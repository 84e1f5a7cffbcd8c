"""HTTP over a bare socket: exactly the bytes a test wants, and the answer taken apart.

Knows: HTTP/1.1 framing, and nothing that a helpful client would add or repair.
Must not know: Tusboat.
"""

from __future__ import annotations

import base64
import json
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

TUS = {"Tus-Resumable": "1.0.0"}
OCTETS = {"Content-Type": "application/offset+octet-stream"}


@dataclass(frozen=True)
class Answer:
    """Status, headers by lower-case name, body."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def problem(self) -> dict[str, Any]:
        """The body as JSON."""
        document: dict[str, Any] = json.loads(self.body)
        return document

    def __getitem__(self, name: str) -> str:
        return self.headers[name.lower()]


class Raw:
    """One connection."""

    def __init__(self, port: int, *, timeout_seconds: float = 20) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout_seconds)
        # Interim answers (1xx) that came so far.
        self.interim: list[Answer] = []
        self._rest = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.socket.close()

    def send(self, data: bytes) -> None:
        """Send bytes as they are."""
        self.socket.sendall(data)

    def head(self, method: str, path: str, headers: Mapping[str, str]) -> None:
        """Send a request line and headers, and nothing after them."""
        lines = [f"{method} {path} HTTP/1.1"]
        if "Host" not in headers:
            lines.append("Host: 127.0.0.1")
        lines += [f"{name}: {value}" for name, value in headers.items()]
        self.send("\r\n".join([*lines, "", ""]).encode("latin-1"))

    def request(
        self, method: str, path: str, headers: Mapping[str, str] | None = None, body: bytes = b""
    ) -> Answer:
        """Send a whole request with Content-Length, and read its answer."""
        length = {"Content-Length": str(len(body))} if body or method in ("POST", "PATCH") else {}
        self.head(method, path, {**length, **(headers or {})})
        if body:
            self.send(body)
        return self.answer(method)

    def answer(self, method: str = "GET") -> Answer:
        """Read one final answer; interim ones before it are put aside in `interim`."""
        while True:
            head = self._until(b"\r\n\r\n").decode("latin-1").split("\r\n")
            status = int(head[0].split(" ")[1])
            headers = {
                name.lower(): value.strip()
                for name, _, value in (line.partition(":") for line in head[1:] if line)
            }
            if status >= 200:
                break
            self.interim.append(Answer(status, headers, b""))
        return Answer(status, headers, self._body(method, status, headers))

    def _body(self, method: str, status: int, headers: Mapping[str, str]) -> bytes:
        if method == "HEAD" or status in (204, 304):
            return b""
        if headers.get("transfer-encoding") == "chunked":
            body = b""
            while size := int(self._until(b"\r\n"), 16):
                body += self._exactly(size + 2)[:-2]
            self._exactly(2)
            return body
        return self._exactly(int(headers.get("content-length", "0")))

    def read(self) -> bytes:
        """Whatever comes next; empty when the peer closed."""
        if self._rest:
            rest, self._rest = self._rest, b""
            return rest
        return self.socket.recv(65536)

    def _until(self, mark: bytes) -> bytes:
        while mark not in self._rest:
            more = self.socket.recv(65536)
            if not more:
                raise ConnectionError(f"closed after {self._rest!r}")
            self._rest += more
        head, _, self._rest = self._rest.partition(mark)
        return head

    def _exactly(self, count: int) -> bytes:
        while len(self._rest) < count:
            more = self.socket.recv(65536)
            if not more:
                raise ConnectionError(f"closed {count - len(self._rest)} bytes early")
            self._rest += more
        body, self._rest = self._rest[:count], self._rest[count:]
        return body


def ask(
    port: int,
    method: str,
    path: str,
    headers: Mapping[str, str] | None = None,
    body: bytes = b"",
) -> Answer:
    """One request on a connection of its own."""
    with Raw(port) as raw:
        return raw.request(method, path, headers, body)


def metadata(**pairs: str) -> dict[str, str]:
    """The Upload-Metadata header of these pairs."""
    coded = (f"{key} {base64.b64encode(value.encode()).decode()}" for key, value in pairs.items())
    return {"Upload-Metadata": ",".join(coded)}


def create(port: int, length: int, headers: Mapping[str, str] | None = None) -> str:
    """The path of a new upload."""
    answer = ask(port, "POST", "/files/", {**TUS, "Upload-Length": str(length), **(headers or {})})
    assert answer.status == 201, answer
    return answer["Location"]


def append(
    port: int, path: str, offset: int, body: bytes, headers: Mapping[str, str] | None = None
) -> Answer:
    """One PATCH."""
    place = {"Upload-Offset": str(offset)}
    return ask(port, "PATCH", path, {**TUS, **OCTETS, **place, **(headers or {})}, body)


def offset(port: int, path: str) -> int:
    """Where the upload is, by HEAD."""
    answer = ask(port, "HEAD", path, TUS)
    assert answer.status == 200, answer
    return int(answer["Upload-Offset"])


def status(port: int, path: str) -> dict[str, Any]:
    """The status document of the upload at `/files/ID`."""
    answer = ask(port, "GET", f"/api/uploads/{path.rsplit('/', 1)[-1]}")
    assert answer.status == 200, answer
    return answer.problem
