"""What stands before a real registry and answers as Harbor does, for chosen requests.

Knows: HTTP/1.1 requests with a length or chunks; which bytes of which body went up.
Must not know: what a test wants to prove.

The bodies are Harbor's own words, of 2.x (goharbor/harbor: `src/server/middleware`).
"""

from __future__ import annotations

import http.client
import json
import re
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

_BLOCK_BYTES = 64 * 1024
_HOP = frozenset({"connection", "transfer-encoding", "keep-alive", "host", "content-length"})


@dataclass(frozen=True)
class Saying:
    """An answer for requests of this method whose path matches."""

    method: str
    path: str
    status: int
    body: str = ""
    headers: dict[str, str] = field(default_factory=dict)

    def fits(self, method: str, path: str) -> bool:
        """Whether it is the answer to that request."""
        return method == self.method and re.search(self.path, path) is not None


def harbor_error(code: str, message: str) -> str:
    """Harbor's and distribution's way to write an error."""
    return json.dumps({"errors": [{"code": code, "message": message}]})


BEGIN = r"/blobs/uploads/"
MANIFEST = r"/manifests/"

PROJECT_MISSING = Saying("POST", BEGIN, 404, harbor_error("NOT_FOUND", "project team not found"))
# Newer ones hide it behind 401, with an empty challenge.
PROJECT_MISSING_401 = Saying(
    "POST",
    BEGIN,
    401,
    harbor_error("UNAUTHORIZED", "project team not found: project team not found"),
    {"WWW-Authenticate": ""},
)
MAY_NOT_PUSH = Saying(
    "POST",
    BEGIN,
    401,
    harbor_error("UNAUTHORIZED", "unauthorized to access repository: team/app, action: push"),
    {"WWW-Authenticate": 'Basic realm="harbor"'},
)
READ_ONLY = Saying(
    "POST",
    BEGIN,
    403,
    harbor_error("DENIED", "The system is in read only mode. Any modification is prohibited."),
)
QUOTA = Saying(
    "PUT",
    BEGIN,
    403,
    harbor_error(
        "DENIED",
        "adding 29.0 MiB of storage resource, which when updated to current usage of 152.4 MiB "
        "will exceed the configured upper limit of 160.0 MiB.",
    ),
)
IMMUTABLE = Saying(
    "PUT",
    MANIFEST,
    412,
    harbor_error(
        "PRECONDITION", "Failed to process request due to 'app:v1' configured as immutable."
    ),
)


class Harbor:
    """Forwards to a registry on loopback, except where it has something to say itself.

    `body_bytes` counts bytes of bodies by method and path (without query). `answered` is called
    with method and path when the registry has answered, before the client hears it. When `cut` says
    so of method, path and the body's bytes so far, the connection ends there.
    """

    def __init__(self, target_port: int, *sayings: Saying) -> None:
        front = self
        self.sayings = list(sayings)
        self.requests: list[tuple[str, str]] = []
        self.authorizations: list[str] = []
        self.body_bytes: Counter[str] = Counter()
        self.answered: Callable[[str, str], None] = lambda _method, _path: None
        self.cut: Callable[[str, str, int], bool] = lambda _method, _path, _bytes: False
        self._target_port = target_port

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, format: str, *args: object) -> None:
                """Say nothing."""

            def carry(self) -> None:
                front.carry(self)

        for verb in ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"):
            setattr(Handler, f"do_{verb}", Handler.carry)
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever)

    @property
    def host(self) -> str:
        """`127.0.0.1:port`."""
        return f"127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Harbor:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def carry(self, client: BaseHTTPRequestHandler) -> None:
        """One request, there and back."""
        method, path = client.command, client.path
        self.requests.append((method, path))
        self.authorizations.append(client.headers.get("Authorization") or "")
        blocks = self._counted(client, method, path.partition("?")[0])
        for saying in self.sayings:
            if saying.fits(method, path):
                for _ in blocks:
                    pass
                _say(client, saying.status, saying.headers, saying.body.encode())
                return
        try:
            self._forward(client, blocks)
        except _CutError:
            client.close_connection = True

    def _forward(self, client: BaseHTTPRequestHandler, blocks: Iterator[bytes]) -> None:
        headers = {key: value for key, value in client.headers.items() if key.lower() not in _HOP}
        # As nginx does before Harbor: addresses that the registry makes lead here again.
        headers["Host"] = client.headers["Host"]
        chunked = "Transfer-Encoding" in client.headers
        if "Content-Length" in client.headers:
            headers["Content-Length"] = client.headers["Content-Length"]
        connection = http.client.HTTPConnection("127.0.0.1", self._target_port, timeout=60)
        try:
            has_body = chunked or int(client.headers.get("Content-Length") or 0) > 0
            body = blocks if has_body else None
            connection.request(client.command, client.path, body, headers, encode_chunked=chunked)
            response = connection.getresponse()
            answer = response.read()
        finally:
            connection.close()
        kept = {key: value for key, value in response.headers.items() if key.lower() not in _HOP}
        if client.command == "HEAD" and response.headers.get("Content-Length"):
            kept["Content-Length"] = response.headers["Content-Length"]
        self.answered(client.command, client.path)
        _say(client, response.status, kept, answer)

    def _counted(self, client: BaseHTTPRequestHandler, method: str, path: str) -> Iterator[bytes]:
        sent_bytes = 0
        for block in _body(client):
            sent_bytes += len(block)
            self.body_bytes[f"{method} {path}"] += len(block)
            yield block
            if self.cut(method, path, sent_bytes):
                raise _CutError


class _CutError(Exception):
    """The line is to be cut here."""


def _body(client: BaseHTTPRequestHandler) -> Iterator[bytes]:
    """The request's body in blocks."""
    if "chunked" in (client.headers.get("Transfer-Encoding") or ""):
        while size := int(client.rfile.readline().partition(b";")[0], 16):
            yield client.rfile.read(size)
            client.rfile.readline()
        client.rfile.readline()
        return
    left = int(client.headers.get("Content-Length") or 0)
    while left:
        block = client.rfile.read(min(left, _BLOCK_BYTES))
        if not block:
            return
        left -= len(block)
        yield block


def _say(client: BaseHTTPRequestHandler, status: int, headers: dict[str, str], body: bytes) -> None:
    client.send_response(status)
    for name, value in headers.items():
        client.send_header(name, value)
    if "Content-Length" not in headers:
        client.send_header("Content-Length", str(len(body)))
    client.end_headers()
    if client.command != "HEAD":
        client.wfile.write(body)
