"""Staging: a chunk whose form says behind the bytes where they belong.

Knows: a file without a name, on the file system of the uploads.
Must not know: forms, uploads.

Only such a form costs a copy: its bytes wait here until the words have come. The file has no name,
so nothing of it outlives its request.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Final

from server.intake import Sink
from server.space import MIB

_BLOCK_BYTES: Final = MIB


class Staging:
    """Takes bytes, and gives them on. Blocking: it lives in a thread."""

    def __init__(self, directory: Path) -> None:
        """Nothing is there yet."""
        self._file = tempfile.TemporaryFile(dir=directory)  # noqa: SIM115 it is closed below
        self.position = 0

    def write(self, data: bytes | memoryview) -> None:
        """Take the next bytes."""
        self._file.write(data)
        self.position += len(data)

    def arrived(self) -> None:
        """Nobody waits for these bytes."""

    def finish(self) -> None:
        """Nothing of it is to last."""

    def give(self, target: Sink) -> None:
        """Give all of it on.

        Raises:
            OSError: the disk is full or broken.
        """
        self._file.seek(0)
        while block := self._file.read(_BLOCK_BYTES):
            target.write(block)
        target.finish()

    def close(self) -> None:
        """Free its space."""
        self._file.close()
