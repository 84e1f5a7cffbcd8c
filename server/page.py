"""The console: the built files of `server/console/`, served at `/` under a strict policy.

Knows: where the build is, which file may be kept for how long, what a page may do in a browser,
what the operator decided for it.
Must not know: what the page shows, uploads, callers (the page itself is no secret).
"""

from __future__ import annotations

import mimetypes
from collections.abc import Mapping
from http import HTTPStatus
from pathlib import Path
from typing import Final

from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from server.protocols.headers import CACHE_CONTROL

BUILD_DIR: Final = Path(__file__).parent / "console" / "dist"

_INDEX: Final = "index.html"
# Their names carry a hash of what is in them.
_HASHED: Final = "assets/"
_POLICY: Final = (
    "default-src 'none'; script-src 'self'{more}; style-src 'self'; connect-src 'self'; "
    "worker-src 'self'; img-src 'self' data:; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)
# A worker has the policy of its own file. The one that computes md5 compiles WebAssembly, which
# the page itself may not.
_WORKER_PREFIX: Final = "assets/digest.worker"
_COMMON: Final = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}
_UNBUILT: Final = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<title>Tusboat</title>
<h1>Tusboat runs, without its page</h1>
<p>The console has not been built on this machine. In a checkout: <code>make setup</code> (it needs
Node 20.19 or later, or a network), then start the server again.</p>
<p>Everything else works: <code>tusboat upload</code>, any tus client at <code>/files/</code>, the
status at <code>/api/uploads</code>.</p>
</html>
"""


class Page:
    """The files of one build. What there is is looked up once: no request names a path on disk."""

    def __init__(self, uploads_at_once: int, chunk_bytes: int, directory: Path = BUILD_DIR) -> None:
        """Take the build that is in this directory now, if there is one."""
        self._decided = {"uploads_at_once": uploads_at_once, "chunk_bytes": chunk_bytes}
        self._files: Mapping[str, Path] = {
            path.relative_to(directory).as_posix(): path
            for path in sorted(directory.rglob("*"))
            if path.is_file() and not path.name.startswith(".")
        }

    def routes(self) -> list[Route]:
        """`/`, every file of the build, and `/api/console`: what was decided for the page."""
        asked = Route("/api/console", self._console)
        return [
            Route("/", self._index),
            asked,
            *(Route(f"/{name}", self._file) for name in self._files),
        ]

    async def _index(self, _: Request) -> Response:
        """The page; where it was not built, how to build it."""
        found = self._files.get(_INDEX)
        if found is None:
            return HTMLResponse(_UNBUILT, HTTPStatus.SERVICE_UNAVAILABLE, _headers(_INDEX))
        return _answer(_INDEX, found)

    async def _console(self, _: Request) -> Response:
        """`GET /api/console`: how the page is to send."""
        return JSONResponse(self._decided)

    async def _file(self, request: Request) -> Response:
        """A script, a style or an icon."""
        name = request.url.path.removeprefix("/")
        return _answer(name, self._files[name])


def _answer(name: str, path: Path) -> Response:
    kind, _ = mimetypes.guess_type(name)
    # At most some hundred kilobytes, which the system has in memory.
    return Response(path.read_bytes(), HTTPStatus.OK, _headers(name), kind or "text/plain")


def _headers(name: str) -> dict[str, str]:
    kept = "public, max-age=31536000, immutable" if name.startswith(_HASHED) else "no-store"
    more = " 'wasm-unsafe-eval'" if name.startswith(_WORKER_PREFIX) else ""
    policy = _POLICY.format(more=more)
    return {**_COMMON, CACHE_CONTROL: kept, "Content-Security-Policy": policy}
