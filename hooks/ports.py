"""What the hooks need from whoever stores uploads, said as Protocols.

Knows: the shape of a finished upload and of the store that holds it.
Must not know: who implements it. The composition root hands the implementation in.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from hooks.record import Record


@dataclass(frozen=True)
class Growth:
    """How far an upload has come: total length (None: not said yet) and the bytes that may be read.

    `proven` never includes bytes of a request whose checksum is still to be checked.
    """

    length: int | None
    proven: int

    @property
    def complete(self) -> bool:
        """Whether every byte is there and proven."""
        return self.length is not None and self.proven == self.length


@dataclass(frozen=True)
class Digests:
    """Digests (lower-case hex) of the first `length` bytes of an upload."""

    length: int
    md5: str
    sha256: str


@dataclass(frozen=True)
class Swept:
    """One thing that a sweep removed (or would remove)."""

    upload_id: str
    reason: str
    freed_bytes: int


class Caller(Protocol):
    """Who asks, as far as admission has to know."""

    @property
    def name(self) -> str:
        """The token's name, or `local`."""

    @property
    def repositories(self) -> tuple[str, ...]:
        """Patterns `host/path` of what the caller may write; `*` is everything."""


class FinishedUpload(Protocol):
    """A whole upload: every byte is in the file at `path` (once assembled, if it is in parts)."""

    @property
    def id(self) -> str:
        """32 lower-case hex digits."""

    @property
    def path(self) -> Path:
        """The data file; read only."""

    @property
    def length(self) -> int:
        """Size in bytes."""

    @property
    def metadata(self) -> Mapping[str, str]:
        """What the sender said (filename, image, ...)."""

    @property
    def expected(self) -> Mapping[str, str]:
        """Digests the sender promised, lower-case hex by `md5` and `sha256`."""

    @property
    def record(self) -> Record:
        """The status document as the disk alone can tell it (status `queued`)."""

    @property
    def in_parts(self) -> bool:
        """Whether it was sent as several uploads; `assemble` makes one file of them."""

    async def assemble(self, progress: Callable[[int, int], None]) -> None:
        """Put the parts into the file at `path`, from where it was left, each one's space freed.

        The lock must be held. `progress` hears of bytes done and of their total.

        Raises:
            OSError: the disk is full, or a part cannot be read; it can be called again.
        """

    def lock(self) -> AbstractAsyncContextManager[None]:
        """Hold the upload: nobody else works on it, removes it or expires it meanwhile.

        A kernel lock, free the moment its holder dies.

        Raises:
            UploadBusy: somebody else holds it.
        """

    async def digests(self) -> Digests | None:
        """What a follower left beside the sidecar, if it covers the whole length."""

    async def cancel_requested(self) -> bool:
        """Whether somebody asked to cancel what follows this upload (kept on disk)."""

    async def record_contents(self, contents: Mapping[str, Any]) -> None:
        """Keep what a look into the archive told, for whoever asks for this upload."""

    async def record_outcome(self, outcome: Record) -> None:
        """Write the end of this upload to disk, atomically and durably."""

    async def discard(self) -> None:
        """Remove the data file (the lock must be held); the sidecar and the outcome stay."""


class UploadBusy(Exception):
    """Somebody else holds the upload's lock."""


class Uploads(Protocol):
    """The store of uploads, as the hooks see it. Implementations do no blocking I/O on the loop."""

    async def finished(self) -> list[str]:
        """Ids of uploads that are whole and have no outcome: they must be in the queue."""

    async def get(self, upload_id: str) -> FinishedUpload | None:
        """A whole upload without an outcome; None when there is none of that id."""

    async def outcome(self, upload_id: str) -> Record | None:
        """How the upload ended, if it ended."""

    def growth(self, upload_id: str) -> Growth | None:
        """How far its file has come. Blocking: for a follower's own thread.

        None when it is gone, or when there is nothing in it to follow: partials are nothing by
        themselves, and what they become is read while it is assembled.
        """

    def location(self, upload_id: str) -> str:
        """The path of the data file."""

    async def record_digests(self, upload_id: str, digests: Digests) -> None:
        """Leave a follower's result beside the sidecar."""

    async def sweep(self, *, dry_run: bool) -> list[Swept]:
        """Remove what is due (expired, old archives, old history); never what is in use."""
