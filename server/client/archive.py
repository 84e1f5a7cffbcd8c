"""The archive on this machine: opened once, read in pieces, and watched for changes.

Knows: the file, its identity for resuming, and the MD5 of what was read.
Must not know: HTTP, the server, what an image is.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import stat
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Final, Protocol, Self

from server.client.errors import ArchiveChanged, ArchiveUnusable
from server.client.sizes import KIB, MIB

# Small enough for a smooth bar and for a slow line's deadline, large enough not to cost.
BLOCK_BYTES: Final = 64 * KIB
_HASH_BYTES: Final = MIB
_IDENTITY_BYTES: Final = 64 * KIB


class Archive:
    """A regular file, open for reading; its length is what it was when it was opened."""

    def __init__(self, path: Path, name: str | None = None) -> None:
        """Open it; the server hears `name` in place of the file's own.

        Raises:
            ArchiveUnusable: it cannot be opened, is not a regular file, or is empty.
        """
        self.path = path
        self._name = name
        self._abandoned = False
        try:
            # Without O_NONBLOCK, opening a pipe that nobody writes would wait for ever.
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError as error:
            raise ArchiveUnusable(f"cannot open {path}: {error.strerror}") from error
        status = os.fstat(descriptor)
        self.length = status.st_size
        self._mtime_ns = status.st_mtime_ns
        try:
            self._refuse(status)
        except ArchiveUnusable:
            os.close(descriptor)
            raise
        self.stream: BinaryIO = os.fdopen(descriptor, "rb", buffering=0)

    @property
    def name(self) -> str:
        """What it is called, as text that can be encoded."""
        if self._name is not None:
            return self._name
        return os.fsencode(self.path.name).decode("utf-8", "replace")

    def close(self) -> None:
        """Close it."""
        self.stream.close()

    def abandon(self) -> None:
        """Let nobody read on, in whatever thread; called from any other."""
        self._abandoned = True

    def __enter__(self) -> Self:
        """The archive itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close it."""
        self.close()

    def read(self, offset: int, length: int) -> bytes:
        """Up to `length` bytes from `offset`, at least one; safe from any thread.

        Raises:
            ArchiveUnusable: the disk failed, or the archive was abandoned.
            ArchiveChanged: the file ends before `offset`.
        """
        if self._abandoned:
            raise ArchiveUnusable(f"{self.path} is not sent any further")
        try:
            block = os.pread(self.stream.fileno(), length, offset)
        except OSError as error:
            raise ArchiveUnusable(f"cannot read {self.path}: {error.strerror}") from error
        if not block:
            raise self._changed()
        return block

    def check_unchanged(self) -> None:
        """Look whether size and time are still what they were.

        Raises:
            ArchiveChanged: they are not.
        """
        status = os.fstat(self.stream.fileno())
        if (status.st_size, status.st_mtime_ns) != (self.length, self._mtime_ns):
            raise self._changed()

    def fingerprint(self, *parts: str | None) -> str:
        """A name (hex) for this very file sent to where `parts` say; another one once it changes.

        Raises:
            ArchiveUnusable: it cannot be read.
        """
        head = self.read(0, _IDENTITY_BYTES)
        tail = self.read(max(0, self.length - _IDENTITY_BYTES), _IDENTITY_BYTES)
        ends = hashlib.sha256(head + tail).hexdigest()
        identity = [*parts, self.name, self.length, self._mtime_ns, ends]
        return hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:32]

    def _refuse(self, status: os.stat_result) -> None:
        if not stat.S_ISREG(status.st_mode):
            raise ArchiveUnusable(
                f"{self.path} is not a regular file",
                "save the image to a file, or send it through a pipe: ... | tusboat upload -",
            )
        if not self.length:
            raise ArchiveUnusable(
                f"{self.path} is empty", "was `docker save` interrupted? save the image again"
            )

    def _changed(self) -> ArchiveChanged:
        return ArchiveChanged(
            f"{self.path} changed while it was sent",
            "wait until nobody writes to it any more, then upload it again",
        )


class Readable(Protocol):
    """Bytes that can be read again: an archive, or what is kept of a pipe."""

    def read(self, offset: int, length: int) -> bytes:
        """Up to `length` bytes from `offset`, at least one.

        Raises:
            ArchiveUnusable: they cannot be had, or others than before.
        """


@dataclass(frozen=True)
class Slice:
    """A part of an archive as a request body: it has a length, and is read as it is sent."""

    archive: Readable
    offset: int
    length: int
    on_read: Callable[[int], None]

    def __len__(self) -> int:
        """Size in bytes, for Content-Length."""
        return self.length

    def __iter__(self) -> Iterator[bytes]:
        """Blocks in order; `on_read` hears where reading has come to.

        Raises:
            ArchiveUnusable: the file cannot be read, or became shorter.
        """
        position, end = self.offset, self.offset + self.length
        while position < end:
            block = self.archive.read(position, min(BLOCK_BYTES, end - position))
            position += len(block)
            yield block
            self.on_read(position)


class TrailingDigest:
    """The MD5 of an archive, computed in a thread that trails the sender.

    It never reads what the sender has not read yet, so the file comes from the disk once and from
    the page cache the second time. A resumed upload begins with a head start: `allow` the offset,
    and the thread reads up to there at its own speed while the sender goes on.
    """

    def __init__(self, archive: Archive) -> None:
        """Prepare; `start` begins."""
        self._archive = archive
        self._md5 = hashlib.md5(usedforsecurity=False)
        self._state = threading.Condition()
        self._allowed = 0
        self._hashed = 0
        self._error: ArchiveUnusable | None = None
        self._stopped = False
        self._thread = threading.Thread(target=self._run, name="md5", daemon=True)

    def __enter__(self) -> Self:
        """Start the thread."""
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop the thread, wherever it is."""
        with self._state:
            self._stopped = True
            self._state.notify_all()
        self._thread.join()

    def allow(self, position: int) -> None:
        """Let it read up to `position`; never goes back."""
        with self._state:
            if position > self._allowed:
                self._allowed = position
                self._state.notify_all()

    def base64(self, on_wait: Callable[[int], None]) -> str:
        """The digest of the whole archive as Base64, waited for.

        `on_wait` hears, about four times a second, up to where it has come.

        Raises:
            ArchiveUnusable: the thread could not read the file.
        """
        self.allow(self._archive.length)
        with self._state:
            while self._hashed < self._archive.length and not self._error:
                if not self._state.wait(0.25):
                    on_wait(self._hashed)
            if self._error:
                raise self._error
        return base64.b64encode(self._md5.digest()).decode()

    def _run(self) -> None:
        try:
            while (span := self._next_span()) is not None:
                block = self._archive.read(*span)
                self._md5.update(block)
                with self._state:
                    self._hashed += len(block)
                    if self._hashed == self._archive.length:
                        self._state.notify_all()
        except ArchiveUnusable as error:
            with self._state:
                self._error = error
                self._state.notify_all()

    def _next_span(self) -> tuple[int, int] | None:
        """Where to read and how much; None when there is nothing left to do."""
        with self._state:
            while self._hashed == self._allowed and not self._stopped:
                if self._hashed == self._archive.length:
                    return None
                self._state.wait()
            if self._stopped:
                return None
            return self._hashed, min(_HASH_BYTES, self._allowed - self._hashed)
