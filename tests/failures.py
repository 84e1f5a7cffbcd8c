"""Ways to fail, and what an error has to look like: a tiny disk, a sick registry."""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from buildah.errors import BuildahError


@contextmanager
def tiny_disk(directory: Path, size: str) -> Iterator[Path]:
    directory.mkdir(parents=True)
    options = ["-t", "tmpfs", "-o", f"size={size}", "tmpfs"]
    subprocess.run(["mount", *options, str(directory)], check=True)
    try:
        yield directory
    finally:
        subprocess.run(["umount", "--lazy", str(directory)], check=True)


def check_words(error: BuildahError, start: str) -> None:
    """Operation, subject and cause in one printable line, and something to do."""
    assert error.message.startswith(start)
    assert error.message.endswith(".")
    assert error.message.isprintable()
    assert len(error.message) < 700
    assert error.hint


class SickRegistry:
    """Answers as a registry does when something before or behind it is sick."""

    def __init__(self, status: int, body: str, *, at: str, token: bool = False) -> None:
        sick = self
        self.seen: list[str] = []

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, format: str, *args: object) -> None:
                """Say nothing."""

            def answer(self) -> None:
                self.rfile.read(int(self.headers.get("Content-Length") or 0))
                sick.seen.append(self.command)
                if token and self.path.startswith("/token"):
                    self.say(200, '{"token": "let-me-in"}')
                elif token and "let-me-in" not in (self.headers.get("Authorization") or ""):
                    self.say(401, "", challenge=True)
                elif self.path == "/v2/":
                    self.say(200, "{}")
                elif self.command == at:
                    self.say(status, body)
                elif self.command in ("HEAD", "GET"):
                    self.say(404, "")
                else:
                    self.say(202, "")

            def say(self, code: int, text: str, *, challenge: bool = False) -> None:
                self.send_response(code)
                self.send_header("Content-Length", str(len(text)))
                if code == 202:
                    self.send_header("Location", "/v2/team/app/blobs/uploads/1")
                if challenge:
                    realm = f"http://{sick.host}/token"
                    self.send_header(
                        "WWW-Authenticate", f'Bearer realm="{realm}",service="s",scope="x"'
                    )
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(text.encode())

        for verb in ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"):
            setattr(Handler, f"do_{verb}", Handler.answer)
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever)

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> SickRegistry:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
