"""A stretch of bytes on its way to one upload, in as many attempts as it takes.

Knows: the order of things (send, ask for the offset after a failure, begin small again).
Must not know: where the bytes come from, what the upload is a part of.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from server.client.archive import Readable, Slice
from server.client.errors import TryAgain, UploadLost
from server.client.patience import Patience
from server.client.remote import RemoteUpload
from server.client.sizes import KIB

# A server that refuses a chunk closes while we still send, and the reset may take its answer away
# from us. So little fits into the socket's buffers, and the answer is read.
PROBE_BYTES: Final = 64 * KIB


@dataclass(frozen=True)
class Ending:
    """What the last request tells of the whole upload: its length, its MD5 (Base64) if promised."""

    length: int
    md5: str | None


class Leg:
    """Carries what `source` has to an upload whose byte 0 is the source's byte `base`."""

    def __init__(
        self,
        upload: RemoteUpload,
        source: Readable,
        patience: Patience,
        *,
        chunk_size: int,
        base: int = 0,
        on_read: Callable[[int], None],
        on_resumed: Callable[[int], None],
    ) -> None:
        """Prepare; `on_read` hears the source's offset, `on_resumed` the upload's."""
        self.offset: int | None = None
        self._upload = upload
        self._source = source
        self._patience = patience
        self._largest = self._size = chunk_size
        self._base = base
        self._on_read = on_read
        self._on_resumed = on_resumed
        self._best = 0

    def carry(self, begin: int, end: int, ending: Ending | None = None) -> None:
        """Bring the upload's bytes from `begin` to `end`, then what the last request tells.

        With `offset` None the server is asked first where the upload is.

        Raises:
            UploadLost: the upload, or bytes of it before `begin`, are gone.
            ArchiveUnusable: the source cannot be read.
            Refused, GaveUp: the server's or the line's last word.
        """
        told = ending is None
        while True:
            try:
                if self.offset is None:
                    self.offset = self._asked(begin, end)
                while self.offset < end or not told:
                    told = self._send(self.offset, end, ending) or told
            except TryAgain as error:
                self.offset = None
                self._size = min(PROBE_BYTES, self._largest)
                self._patience.wait(error)
            else:
                return

    def _asked(self, begin: int, end: int) -> int:
        offset = self._upload.offset()
        if not begin <= offset <= end:
            raise UploadLost(
                f"upload {self._upload.id} is at {offset}, between {begin} and {end} was expected",
                "did the server lose its disk, or does somebody else write to this upload?",
            )
        self._on_resumed(offset)
        self._advance(offset)
        return offset

    def _send(self, offset: int, end: int, ending: Ending | None) -> bool:
        """One request; whether the ending was told with it."""
        size = min(self._size, end - offset)
        last = ending if offset + size == end else None
        body = Slice(self._source, self._base + offset, size, self._on_read)
        self.offset = self._upload.append(
            offset,
            body if size else b"",
            length=last.length if last else None,
            md5=last.md5 if last else None,
        )
        self._size = min(2 * self._size, self._largest)
        self._advance(self.offset)
        return last is not None

    def _advance(self, offset: int) -> None:
        if offset > self._best:
            self._best = offset
            self._patience.progressed()
