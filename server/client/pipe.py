"""An archive from standard input: read once, and only its newest chunk is kept.

Knows: the pipe, its MD5, and how an archive ends.
Must not know: HTTP, what an image is.
"""

from __future__ import annotations

import base64
import hashlib
import os
from typing import Final

from server.client.errors import ArchiveUnusable
from server.client.sizes import MIB, format_size

_READ_BYTES: Final = MIB
# A tar ends with two blocks of zeroes; what breaks off in the middle ends otherwise.
_TAR_BLOCK_BYTES: Final = 512
_TAR_END: Final = bytes(2 * _TAR_BLOCK_BYTES)
_TAR_MAGIC: Final = slice(257, 262)


class Pipe:
    """Bytes in order from a descriptor; `start` to `end` is what can be read now, and again.

    Nobody can tell from a pipe whether the program before it finished or broke off: both are the
    end of it. `check_whole` looks at how the archive ends.
    """

    def __init__(self, descriptor: int, chunk_size: int) -> None:
        """Prepare; nothing is read yet."""
        self.start = 0
        self.end = 0
        self.ended = False
        # Whoever started us may use it otherwise, and there is nothing else to do meanwhile.
        os.set_blocking(descriptor, True)
        self._descriptor = descriptor
        self._chunk = bytearray(chunk_size)
        self._md5 = hashlib.md5(usedforsecurity=False)
        self._head = b""
        self._tail = b""

    def fill(self) -> None:
        """Let go of the chunk, and wait for the next one; the last may be short, or empty.

        Raises:
            ArchiveUnusable: the pipe cannot be read.
        """
        self.start = self.end
        room = memoryview(self._chunk)
        filled = 0
        while filled < len(room) and not self.ended:
            count = self._read_into(room[filled : filled + _READ_BYTES])
            self._md5.update(room[filled : filled + count])
            filled += count
            self.ended = not count
        self.end += filled
        newest = bytes(room[max(0, filled - len(_TAR_END)) : filled])
        self._tail = (self._tail + newest)[-len(_TAR_END) :]
        if not self.start:
            self._head = bytes(room[: min(filled, _TAR_BLOCK_BYTES)])

    def read(self, offset: int, length: int) -> bytes:
        """Up to `length` bytes of the chunk from `offset` of the whole."""
        begin = offset - self.start
        return bytes(memoryview(self._chunk)[begin : min(begin + length, self.end - self.start)])

    def md5(self) -> str:
        """Base64 of what was read so far."""
        return base64.b64encode(self._md5.digest()).decode()

    def check_whole(self) -> None:
        """Look, at the end, whether it is one of a plain tar; others are the server's to judge.

        Raises:
            ArchiveUnusable: it is not, so what is missing never came.
        """
        if self._head[_TAR_MAGIC] != b"ustar":
            return
        if self.end % _TAR_BLOCK_BYTES or self._tail != _TAR_END:
            raise ArchiveUnusable(
                f"standard input ended in the middle of the archive, after {format_size(self.end)}",
                "look at what the program before the pipe said, and run it all again; what was "
                "sent is removed (--no-check sends it all the same)",
                code="archive_broken_off",
            )

    def check_any(self) -> None:
        """Look, at the beginning, whether anything came.

        Raises:
            ArchiveUnusable: nothing did.
        """
        if not self.end:
            raise ArchiveUnusable(
                "standard input is empty",
                "look at what the program before the pipe said; nothing was sent",
            )

    def _read_into(self, room: memoryview) -> int:
        try:
            return os.readv(self._descriptor, [room])
        except OSError as error:
            raise ArchiveUnusable(f"cannot read standard input: {error.strerror}") from error
