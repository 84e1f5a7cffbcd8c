"""Uploads in parts, over bare sockets.

Knows: how partials and final uploads are asked for.
Must not know: what a test wants to prove.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path

from tests.live import LiveServer
from tests.raw import TUS, Answer, append, ask, create

PARTIAL = {"Upload-Concat": "partial"}


def pieces_of(data: bytes, count: int) -> list[bytes]:
    """The data in so many pieces, the last one the longest."""
    size = len(data) // count
    cuts = [size * number for number in range(count)] + [len(data)]
    return [data[begin:end] for begin, end in pairwise(cuts)]


def send_parts(port: int, pieces: Sequence[bytes]) -> list[str]:
    """Whole partial uploads with these bytes; their paths."""
    parts = [create(port, len(piece), PARTIAL) for piece in pieces]
    for part, piece in zip(parts, pieces, strict=True):
        if piece:
            assert append(port, part, 0, piece).status == 204
    return parts


def concatenate(
    port: int, parts: Sequence[str], headers: Mapping[str, str] | None = None
) -> Answer:
    """Ask for the final upload of these parts."""
    wanted = {"Upload-Concat": "final;" + " ".join(parts)}
    return ask(port, "POST", "/files/", {**TUS, **wanted, **(headers or {})})


def stored(server: LiveServer, upload: str) -> Path:
    """The data file."""
    return server.data_dir / "uploads" / upload.rsplit("/", 1)[-1]
