"""The four old endpoints as an old page speaks them.

Knows: forms, the fields of each dialect, how a file is cut.
Must not know: what a test wants to prove.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from tests.live import LiveServer
from tests.raw import Answer, ask

MIB = 2**20
BASE = "/api/image-upload"
BOUNDARY = "----WebKitFormBoundary7MA4YWxkTrZu0gW"
FORM = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}


def md5(data: bytes) -> str:
    return hashlib.md5(data, usedforsecurity=False).hexdigest()


def form(*parts: tuple[str, str | bytes]) -> bytes:
    """A form of these parts in this order; bytes are a file."""
    body = b""
    for name, value in parts:
        is_file = isinstance(value, bytes)
        extra = '; filename="blob"\r\nContent-Type: application/octet-stream' if is_file else ""
        data = value if isinstance(value, bytes) else value.encode()
        head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"{extra}\r\n\r\n'
        body += head.encode() + data + b"\r\n"
    return body + f"--{BOUNDARY}--\r\n".encode()


@dataclass(frozen=True)
class OldFile:
    """A file that an old page sends: its name, bytes and chunk size."""

    name: str
    data: bytes
    chunk_bytes: int = MIB

    @classmethod
    def of(cls, name: str, size: int, chunk_bytes: int = MIB) -> OldFile:
        return cls(name, random.Random(name).randbytes(size), chunk_bytes)

    @property
    def count(self) -> int:
        return max(1, -(-len(self.data) // self.chunk_bytes))

    def piece(self, index: int) -> bytes:
        return self.data[index * self.chunk_bytes : (index + 1) * self.chunk_bytes]

    @property
    def named(self) -> dict[str, str]:
        """What names the file in every request."""
        return {"fileName": self.name, "fileMd5": md5(self.data)}

    @property
    def cut(self) -> dict[str, str]:
        return {
            "totalSize": str(len(self.data)),
            "chunkSize": str(self.chunk_bytes),
            "totalChunks": str(self.count),
        }

    def fields(self, index: int, **changes: str | None) -> dict[str, str]:
        """Everything that goes with one chunk; None leaves a field out."""
        fields: dict[str, str | None] = {
            **self.named,
            **self.cut,
            "chunkIndex": str(index),
            "chunkMd5": md5(self.piece(index)),
            **changes,
        }
        return {name: value for name, value in fields.items() if value is not None}


def get(port: int, path: str, fields: Mapping[str, str], **headers: str) -> Answer:
    return ask(port, "GET", f"{path}?{urlencode(fields)}", headers)


def post_form(
    port: int, path: str, parts: Sequence[tuple[str, str | bytes]], **headers: str
) -> Answer:
    return ask(port, "POST", path, {**FORM, **headers}, form(*parts))


def post_json(port: int, path: str, document: Any, **headers: str) -> Answer:
    body = json.dumps(document).encode()
    return ask(port, "POST", path, {"Content-Type": "application/json", **headers}, body)


def check(port: int, file: OldFile, **more: str) -> dict[str, Any]:
    """Endpoint 1's data."""
    answer = get(port, f"{BASE}/chunks", {**file.named, **file.cut, **more})
    assert answer.status == 200, answer
    data: dict[str, Any] = answer.problem["data"]
    return data


def send(
    port: int, file: OldFile, index: int, data: bytes | None = None, **changes: str | None
) -> Answer:
    """Endpoint 2, fields first."""
    parts: list[tuple[str, str | bytes]] = list(file.fields(index, **changes).items())
    return post_form(
        port, f"{BASE}/chunks", [*parts, ("file", file.piece(index) if data is None else data)]
    )


def send_all(port: int, file: OldFile, **changes: str | None) -> None:
    for index in range(file.count):
        answer = send(port, file, index, **changes)
        assert answer.status == 200, answer


def merge(port: int, file: OldFile, **more: str) -> Answer:
    """Endpoint 3."""
    return post_json(port, f"{BASE}/merge", {**file.named, **more})


def uploaded(data: Mapping[str, Any]) -> list[int]:
    return [entry["index"] for entry in data["uploaded"]]


def stored(server: LiveServer, upload_id: str) -> Path:
    return server.data_dir / "uploads" / upload_id


def journal_chunks(server: LiveServer, upload_id: str) -> Iterator[tuple[int, int, str]]:
    """Offset, size and md5 of every chunk that the journal counts."""
    path = server.data_dir / "uploads" / f"{upload_id}.chunks"
    for line in path.read_bytes().split(b"\n")[:-1]:
        words = line.decode().split(" ")
        if words[0] == "chunk":
            yield int(words[1]), int(words[2]), words[3]
