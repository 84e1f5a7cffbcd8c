"""Appender: bytes to the end of one upload's file, paced to the disk, made durable at the end.

Knows: write positions, splice, writeback pacing, reservation ahead of an unknown length.
Must not know: HTTP, sockets' owners, who holds the lock (whoever makes an Appender holds it).
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from typing import Final

from server.space import MIB, await_writeback, reserve, start_writeback

# Dirty pages of one upload: the kernel is asked to write each window when it is full, and the
# writer waits for the window before the last. So one PATCH of 20 GB ends in a flush of at most two
# windows.
_WINDOW_BYTES: Final = 64 * MIB
_RESERVE_STEP_BYTES: Final = 256 * MIB


class Appender:
    """Writes in order from `position` on. Blocking: it lives in a thread."""

    def __init__(
        self,
        descriptor: int,
        position: int,
        *,
        durable: bool,
        length: int | None,
        on_bytes: Callable[[int], None],
    ) -> None:
        """Append to an open file; `on_bytes(position)` is told of every advance."""
        self.position = position
        self._descriptor = descriptor
        self._durable = durable
        self._on_bytes = on_bytes
        self._window_start = position
        # A known length was reserved when the upload was created.
        self._reserved_to = position if length is None else length
        self._ahead = False

    def write(self, data: bytes | memoryview) -> None:
        """Append bytes.

        Raises:
            OSError: the disk is full or broken; `position` says what is in the file.
        """
        view = memoryview(data)
        self._reserve_for(len(view))
        while view:
            written = os.pwrite(self._descriptor, view, self.position)
            self._advance(written)
            view = view[written:]

    def splice(self, pipe: int, count: int) -> None:
        """Append bytes that wait in a pipe, without copying them through this process.

        Raises:
            OSError: as `write`.
        """
        self._reserve_for(count)
        while count:
            # A descriptor opened with O_APPEND refuses splice, an explicit offset does not.
            try:
                moved = os.splice(pipe, self._descriptor, count, offset_dst=self.position)
            except OSError as error:
                if error.errno != errno.EINVAL:
                    raise
                # This file system cannot splice: the bytes go through our memory after all.
                data = os.read(pipe, count)
                self.write(data)
                count -= len(data)
            else:
                self._advance(moved)
                count -= moved

    def arrived(self) -> None:
        """Bytes are here that will be written soon."""
        self._on_bytes(self.position)

    def finish(self) -> None:
        """Make everything written durable (unless the setting leaves that to the kernel)."""
        if self._ahead:
            # What was reserved ahead of an unknown length goes back; the size stays.
            os.ftruncate(self._descriptor, self.position)
        if self._durable:
            os.fdatasync(self._descriptor)

    def _reserve_for(self, count: int) -> None:
        while self.position + count > self._reserved_to:
            self._ahead = True
            reserve(self._descriptor, self._reserved_to, _RESERVE_STEP_BYTES)
            self._reserved_to += _RESERVE_STEP_BYTES

    def _advance(self, count: int) -> None:
        self.position += count
        self._on_bytes(self.position)
        if self._durable and self.position - self._window_start >= _WINDOW_BYTES:
            start_writeback(
                self._descriptor, self._window_start, self.position - self._window_start
            )
            if self._window_start >= _WINDOW_BYTES:
                await_writeback(self._descriptor, self._window_start - _WINDOW_BYTES, _WINDOW_BYTES)
            self._window_start = self.position
