"""A Debian archive that keeps snapshots, of which each is what the mirror has today.

Knows: debootstrap, `make image`, `buildah mount`, namespaces, where this machine has packages from.
Must not know: what asks here.
"""

from __future__ import annotations

import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Self

PATH = re.compile(r"/archive/debian(-security)?/(\d{8}T\d{6}Z)/(.+)")


class Snapshots:
    """`http://127.0.0.1:port/archive/debian/SNAPSHOT/...`, and `debian-security` beside it."""

    def __init__(self, mirror: str) -> None:
        """`mirror`: where today's packages are, `.../debian`, with the updates beside it."""
        self.asked: list[str] = []
        """Every path that was asked for."""
        asked = self.asked

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                asked.append(self.path)
                found = PATH.fullmatch(self.path)
                self.send_response(302 if found else 404)
                if found:
                    self.send_header("Location", f"{mirror}{found[1] or ''}/{found[3]}")
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:
                """Not on the tests' stderr."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever)

    @property
    def mirror(self) -> str:
        """What APT_MIRROR is to say."""
        return f"http://127.0.0.1:{self._server.server_port}/archive/debian"

    def __enter__(self) -> Self:
        """Listen."""
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop."""
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
