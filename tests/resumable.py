"""IETF resumable uploads as a client of each interop version would send them.

Knows: the drafts' headers, chunked coding, what is on the server's disk.
Must not know: what a test wants to prove.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from pathlib import Path

from tests.live import LiveServer, wait_until
from tests.raw import Answer, Raw, ask, status

MIB = 2**20
VERSIONS = (3, 5, 6, 7, 8, 9)
PARTIAL = {"Content-Type": "application/partial-upload"}
DONE, MORE = {"Upload-Complete": "?1"}, {"Upload-Complete": "?0"}
CHUNKED = {"Transfer-Encoding": "chunked"}
PROBLEMS = "https://iana.org/assignments/http-problem-types#"


def speaking(version: int) -> dict[str, str]:
    return {"Upload-Draft-Interop-Version": str(version)}


def ending(version: int, *, complete: bool) -> dict[str, str]:
    """The header that says whether the body ends the upload."""
    if version == 3:
        return {"Upload-Incomplete": "?0" if complete else "?1"}
    return {"Upload-Complete": "?1" if complete else "?0"}


def is_complete(version: int, answer: Answer) -> bool:
    name, complete = ("Upload-Incomplete", "?0") if version == 3 else ("Upload-Complete", "?1")
    return answer[name] == complete


def part(version: int, start: int, *, complete: bool) -> dict[str, str]:
    """The headers of a right append."""
    kind = PARTIAL if version >= 6 else {}
    place = {"Upload-Offset": str(start)}
    return {**speaking(version), **kind, **place, **ending(version, complete=complete)}


def begin(port: int, version: int = 9, headers: Mapping[str, str] | None = None) -> str:
    """The path of a new upload, still empty."""
    asked = {**speaking(version), **ending(version, complete=False), **(headers or {})}
    answer = ask(port, "POST", "/files/", asked)
    assert answer.status == 201, answer
    return answer["Location"]


def chunks(*pieces: bytes, end: bytes = b"0\r\n\r\n") -> bytes:
    return b"".join(b"%x\r\n" % len(piece) + piece + b"\r\n" for piece in pieces if piece) + end


def ask_chunked(
    port: int, method: str, path: str, headers: Mapping[str, str], coded: bytes
) -> Answer:
    with Raw(port) as raw:
        raw.head(method, path, {**headers, **CHUNKED})
        raw.send(coded)
        return raw.answer(method)


def stored(server: LiveServer, upload: str) -> Path:
    return server.data_dir / "uploads" / upload.rsplit("/", 1)[-1]


def finished(server: LiveServer, upload: str, data: bytes) -> None:
    """What follows an upload ran over exactly these bytes."""
    wait_until(lambda: status(server.port, upload)["status"] == "done", what="done")
    assert status(server.port, upload)["digests"]["sha256"] == hashlib.sha256(data).hexdigest()


def content_digest(data: bytes, name: str = "sha-256") -> dict[str, str]:
    digest = hashlib.new(name.replace("-", ""), data).digest()
    return {"Content-Digest": f"{name}=:{base64.b64encode(digest).decode()}:"}
