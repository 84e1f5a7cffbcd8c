"""What the client makes of answers that a healthy server of ours never gives, or gives rarely."""

from __future__ import annotations

import contextlib
import datetime
import ipaddress
import json
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from server.client import connection as connection_module
from server.client.connection import Connection, is_server_address
from server.client.errors import ClientError, Refused, TryAgain, UploadLost
from tests.live import free_port

MIB = 2**20
PROBLEM = {"Content-Type": "application/problem+json"}


@dataclass
class Answer:
    """What the scripted server says to every request."""

    status: int
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""


class ScriptedServer:
    """A real HTTP server whose answer is set by the test; it keeps what it was sent."""

    def __init__(self) -> None:
        self.answer = Answer(200)
        self.seen: list[tuple[str, str, dict[str, str]]] = []
        script = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def _reply(self) -> None:
                script.seen.append((self.command, self.path, dict(self.headers)))
                self.rfile.read(int(self.headers.get("Content-Length", 0)))
                answer = script.answer
                self.send_response(answer.status)
                for name, value in answer.headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(answer.body)))
                self.end_headers()
                if self.command != "HEAD":
                    # A client that has read enough may have gone.
                    with contextlib.suppress(ConnectionError):
                        self.wfile.write(answer.body)

            do_GET = do_POST = do_HEAD = do_PATCH = do_DELETE = _reply  # noqa: N815 - http.server looks for these names

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.socket = self._server.socket
        self.port = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()

    def use_tls(self, context: ssl.SSLContext) -> None:
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True)

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@pytest.fixture
def script() -> Iterator[ScriptedServer]:
    server = ScriptedServer()
    yield server
    server.close()


@pytest.fixture
def connection(script: ScriptedServer) -> Iterator[Connection]:
    with Connection(f"http://127.0.0.1:{script.port}/base/", "secret") as connection:
        yield connection


def problem(status: int, **fields: str) -> Answer:
    return Answer(status, PROBLEM, json.dumps({"status": status, **fields}).encode())


@dataclass(frozen=True)
class Case:
    """One answer, and what it has to become."""

    name: str
    method: str
    answer: Answer
    error: type[ClientError]
    words: str = ""
    hint: str = ""


CASES = [
    Case(
        "the server's own words on a full disk",
        "POST",
        problem(507, detail="needs 20 GiB, free are 3 GiB", hint="free space", code="disk_full"),
        Refused,
        "needs 20 GiB, free are 3 GiB",
        "free space",
    ),
    Case("no such upload", "HEAD", Answer(404, {"Tus-Resumable": "1.0.0"}), UploadLost),
    Case("expired upload", "HEAD", Answer(410, {"Tus-Resumable": "1.0.0"}), UploadLost),
    Case("no such upload, in words", "PATCH", problem(404, detail="no such upload"), UploadLost),
    Case("a proxy's own 404 on HEAD", "HEAD", Answer(404), TryAgain),
    Case("not Tusboat", "POST", Answer(404, {}, b"nope"), Refused, "nope", "is this the address"),
    Case("not Tusboat either", "POST", Answer(405), Refused, "", "is this the address"),
    Case("held by another request", "PATCH", problem(423, detail="locked"), TryAgain, "locked"),
    Case("elsewhere", "PATCH", problem(409, detail="offset"), TryAgain),
    Case("conflict at creation", "POST", problem(409, detail="exists"), Refused, "exists"),
    Case("too many requests", "POST", Answer(429), TryAgain),
    Case("checksum mismatch", "PATCH", Answer(460), TryAgain),
    Case("internal error", "PATCH", Answer(500), TryAgain, "500"),
    Case("bad gateway page", "PATCH", Answer(502, {}, b"<html>x</html>"), TryAgain, "Bad Gateway"),
    Case("bad request", "PATCH", problem(400, detail="digest"), Refused, "digest"),
    Case("no token", "POST", Answer(401), Refused, "401", "TUSBOAT_TOKEN"),
    Case("not allowed", "POST", problem(403, detail="registry x", hint="ask"), Refused, "x", "ask"),
    Case("proxy's limit", "PATCH", Answer(413, {}, b"<html>"), Refused, "413", "--chunk-size"),
    Case("not implemented", "PATCH", Answer(501), Refused),
    Case(
        "redirect",
        "PATCH",
        Answer(308, {"Location": "https://there.example/"}),
        Refused,
        "https://there.example/",
        "--server",
    ),
    Case("odd redirect", "POST", Answer(300), Refused),
    Case("not modified", "POST", Answer(304), Refused),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_an_answer_becomes_the_right_error(
    case: Case, script: ScriptedServer, connection: Connection
) -> None:
    script.answer = case.answer
    with pytest.raises(ClientError) as caught:
        connection.ask(case.method, f"{connection.files_url}abc")
    assert type(caught.value) is case.error
    assert case.words in caught.value.message
    assert case.hint in caught.value.hint
    assert len(script.seen) == 1


def test_the_server_says_how_long_to_wait_within_reason(
    script: ScriptedServer, connection: Connection
) -> None:
    for text, seconds in (("7", 7), ("86400", 60), ("Wed, 21 Oct 2026 07:28:00 GMT", 0)):
        script.answer = Answer(503, {"Retry-After": text})
        with pytest.raises(TryAgain) as caught:
            connection.ask("GET", connection.server)
        assert caught.value.retry_after_seconds == seconds


def test_a_path_in_the_address_is_kept_and_the_token_is_sent(
    script: ScriptedServer, connection: Connection, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login someone password else\n")
    monkeypatch.setenv("HOME", str(tmp_path))
    connection.ask("POST", connection.files_url)
    with Connection(f"http://127.0.0.1:{script.port}", None) as nobody:
        nobody.ask("POST", nobody.files_url)
    (_, first_path, first), (_, second_path, second) = script.seen
    assert (first_path, second_path) == ("/base/files/", "/files/")
    assert first["Authorization"] == "Bearer secret"
    assert "Authorization" not in second


def test_what_is_not_an_object_is_not_a_document(
    script: ScriptedServer, connection: Connection
) -> None:
    for body in (b"<html>", b"[]", b"", b"\xff\xfe"):
        script.answer = Answer(200, {}, body)
        with pytest.raises(Refused, match="JSON object"):
            connection.document("GET", "/api/uploads")


def test_an_answer_that_breaks_off_is_worth_another_try() -> None:
    def answer_half(listener: socket.socket) -> None:
        peer, _ = listener.accept()
        with peer:
            peer.recv(2**16)
            peer.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{")

    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        Connection(f"http://127.0.0.1:{listener.getsockname()[1]}", None) as connection,
    ):
        thread = threading.Thread(target=answer_half, args=(listener,))
        thread.start()
        with pytest.raises(TryAgain):
            connection.document("GET", "/api/uploads")
        thread.join()


def test_nobody_listens() -> None:
    with (
        Connection(f"http://127.0.0.1:{free_port()}", None) as connection,
        pytest.raises(TryAgain, match="Connection refused"),
    ):
        connection.ask("GET", connection.server)


def test_a_host_without_an_address_is_worth_another_try() -> None:
    with (
        Connection("http://nowhere.invalid", None) as connection,
        pytest.raises(TryAgain, match=r"nowhere\.invalid"),
    ):
        connection.ask("GET", connection.server)


def test_an_answer_that_never_comes_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection_module, "STALL_SECONDS", 0.3)
    with (
        socket.create_server(("127.0.0.1", 0)) as silent,
        Connection(f"http://127.0.0.1:{silent.getsockname()[1]}", None) as connection,
    ):
        start = time.monotonic()
        with pytest.raises(TryAgain, match="does not answer"):
            connection.ask("GET", connection.server)
        assert time.monotonic() - start < 5


def test_a_body_that_nobody_takes_is_noticed_and_a_slow_one_is_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A piece may take longer than a connection may take to open: the line is slow, not dead."""
    monkeypatch.setattr(connection_module, "CONNECT_SECONDS", 0.2)
    monkeypatch.setattr(connection_module, "STALL_SECONDS", 2.0)
    size = 8 * MIB

    def take_slowly(listener: socket.socket) -> None:
        peer, _ = listener.accept()
        with peer:
            for _ in range(2):
                time.sleep(0.7)
                taken = b""
                while len(taken) - taken.find(b"\r\n\r\n") - 4 < size:
                    taken += peer.recv(MIB)
                peer.sendall(b"HTTP/1.1 204 No Content\r\n\r\n")
            closed.wait(10)

    closed = threading.Event()
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        Connection(f"http://127.0.0.1:{listener.getsockname()[1]}", None) as connection,
    ):
        thread = threading.Thread(target=take_slowly, args=(listener,))
        thread.start()
        connection.ask("PATCH", connection.server, body=Pieces(size))
        connection.ask("PATCH", connection.server, body=Pieces(size))
        start = time.monotonic()
        with pytest.raises(TryAgain, match="does not answer"):
            connection.ask("PATCH", connection.server, body=Pieces(64 * MIB))
        assert 1.5 < time.monotonic() - start < 10
        closed.set()
        thread.join()


class Pieces:
    """A body of zeroes with a length."""

    def __init__(self, length: int) -> None:
        self._length = length

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[bytes]:
        for _ in range(self._length // 2**16):
            yield bytes(2**16)


def test_an_exception_of_the_body_comes_out_unchanged(connection: Connection) -> None:
    class Broken(Pieces):
        def __iter__(self) -> Iterator[bytes]:
            yield bytes(10)
            raise Refused("the disk")

    with pytest.raises(Refused, match="the disk"):
        connection.ask("PATCH", connection.files_url, body=Broken(100))


def test_a_certificate_of_an_unknown_authority_is_final(
    script: ScriptedServer, tmp_path: Path
) -> None:
    script.use_tls(self_signed(tmp_path))
    with (
        Connection(f"https://127.0.0.1:{script.port}", "secret") as connection,
        pytest.raises(Refused, match="not trusted") as caught,
    ):
        connection.ask("GET", connection.server)
    assert "REQUESTS_CA_BUNDLE" in caught.value.hint


def self_signed(directory: Path) -> ssl.SSLContext:
    """A server context with a certificate that nobody trusts."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False
        )
        .sign(key, hashes.SHA256())
    )
    path = directory / "server.pem"
    path.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        + certificate.public_bytes(serialization.Encoding.PEM)
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(path)
    return context


@pytest.mark.parametrize(
    ("text", "good"),
    [
        ("http://127.0.0.1:8080", True),
        ("https://tusboat.example/base/", True),
        ("http://[::1]:8080", True),
        ("tusboat.example", False),
        ("ftp://tusboat.example", False),
        ("http://", False),
        ("http://host:99999", False),
        ("http://host:port", False),
        ("", False),
    ],
)
def test_what_may_be_given_as_server(text: str, good: bool) -> None:
    assert is_server_address(text) is good
