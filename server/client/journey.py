"""One upload on its way: from wherever it is to its last byte, in as many attempts as it takes.

Knows: the order of things (create or ask for the offset, send, try again).
Must not know: what is remembered between runs, what to do when the upload is lost.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from server.client.archive import TrailingDigest
from server.client.display import Display
from server.client.errors import TryAgain
from server.client.patience import Patience
from server.client.sizes import KIB, format_size
from server.client.uploader import ArchiveUploader

# A server that refuses a chunk closes while we still send, and the reset may take its answer away
# from us. So little fits into the socket's buffers, and the answer is read.
_PROBE_BYTES: Final = 64 * KIB


class Journey:
    """The attempts. After one that moved nothing, chunks begin small and double again."""

    def __init__(
        self,
        uploader: ArchiveUploader,
        patience: Patience,
        display: Display,
        *,
        digest: TrailingDigest | None,
        on_created: Callable[[str], None],
    ) -> None:
        """Prepare; `on_created` hears the id of a new upload before its first byte is sent."""
        self.in_touch = False
        self._uploader = uploader
        self._patience = patience
        self._display = display
        self._digest = digest
        self._on_created = on_created
        self._length = uploader.archive.length
        self._largest = uploader.chunk_size
        self._best = 0

    def run(self) -> None:
        """Bring every byte to the server.

        Raises:
            ArchiveUnusable: the file cannot be read, or changed.
            UploadLost, Refused, GaveUp: the server's or the line's last word; `in_touch` says
                whether the server knew the upload before.
        """
        while True:
            try:
                self._attempt()
            except TryAgain as error:
                self._uploader.chunk_size = min(_PROBE_BYTES, self._largest)
                self._patience.wait(error)
            else:
                return

    def _attempt(self) -> None:
        uploader = self._uploader
        if uploader.upload_id:
            uploader.refresh()
        else:
            uploader.create()
            self._on_created(uploader.upload_id)
        self._begin()
        while uploader.offset < self._length:
            uploader.send_chunk()
            uploader.chunk_size = min(2 * uploader.chunk_size, self._largest)
            self._advance()
        uploader.archive.check_unchanged()

    def _begin(self) -> None:
        """The server knows the upload, and we know where it is."""
        uploader = self._uploader
        resumed = self.in_touch or uploader.offset > 0
        self.in_touch = True
        self._display.begun(uploader.upload_id, uploader.offset, self._length, resumed=resumed)
        if self._digest:
            self._digest.allow(uploader.offset)
        if uploader.offset > self._best:
            uploader.chunk_size = self._largest
        self._advance()

    def _advance(self) -> None:
        if self._uploader.offset > self._best:
            self._best = self._uploader.offset
            self._patience.progressed()


def waited_for(digest: TrailingDigest, length: int, display: Display) -> Callable[[], str]:
    """The digest as Base64, on demand; a person is told when it is the digest that takes time."""
    said = False

    def on_wait(hashed: int) -> None:
        nonlocal said
        if not said:
            said = True
            display.notice(f"computing the MD5: {format_size(hashed)} of {format_size(length)}")

    return lambda: digest.base64(on_wait)
