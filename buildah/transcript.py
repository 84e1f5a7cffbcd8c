"""Reads behind a program that writes its words into a file, in pieces that cost little.

Knows: lines, scrubbing, how much of a flood is worth telling.
Must not know: which program it is.

What a stranger's program says may come by the gigabyte. Through a pipe, each line would have to be
looked at by the event loop; from a file, what comes too fast is left out, and said to be.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from buildah.redaction import scrub
from buildah.sizes import KIB

_PIECE_BYTES = 64 * KIB
_PIECE_LINES = 200
_LINE_CHARS = 4000
_TAIL_LINES = 50


class Transcript:
    """The words in one file, handed on line by line; `tail` has the last of them."""

    def __init__(self, path: Path, on_line: Callable[[str], None]) -> None:
        """Read `path`, which need not be there yet; `on_line` gets each scrubbed line."""
        self._path = path
        self._on_line = on_line
        self._position = 0
        self.tail: list[str] = []

    def read(self) -> None:
        """Hand on what is new, at most 64 KiB and 200 lines of it. Blocking."""
        try:
            with self._path.open("rb") as file:
                size = os.fstat(file.fileno()).st_size
                self._skip(size)
                file.seek(self._position)
                piece = file.read(_PIECE_BYTES)
        except FileNotFoundError:
            return
        whole = piece.rpartition(b"\n")[0] if len(piece) < _PIECE_BYTES else piece
        if whole:
            self._position += len(whole) + (len(piece) < _PIECE_BYTES)
            self._hand_on(whole)

    def end(self) -> None:
        """The program has ended: hand on the rest, also a line without an end. Blocking."""
        self.read()
        if self._path.exists():
            with self._path.open("rb") as file:
                file.seek(self._position)
                self._hand_on(file.read(_PIECE_BYTES))

    def _skip(self, size: int) -> None:
        """What is more than one piece behind is left out: the newest words say most."""
        behind = size - self._position - _PIECE_BYTES
        if behind > 0:
            self._position += behind
            self._say(f"({behind} bytes of the log are left out)")

    def _hand_on(self, piece: bytes) -> None:
        lines = [line for line in piece.decode(errors="replace").splitlines() if line.strip()]
        if len(lines) > _PIECE_LINES:
            self._say(f"({len(lines) - _PIECE_LINES} lines of the log are left out)")
        for line in lines[-_PIECE_LINES:]:
            self._say(scrub(_cut(line.rstrip())))

    def _say(self, line: str) -> None:
        self.tail = [*self.tail, line][-_TAIL_LINES:]
        self._on_line(line)


def _cut(line: str) -> str:
    """Of a line that is too long, the beginning and the end: there the cause is."""
    half = _LINE_CHARS // 2
    return line if len(line) <= _LINE_CHARS else f"{line[:half]}...{line[-half:]}"
