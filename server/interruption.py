"""Interruption: how a body comes to its end, also before its last byte.

Knows: the reasons; how to wake a thread, or a `receive()`, that waits for bytes.
Must not know: what the bytes are for.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from enum import StrEnum


class Ending(StrEnum):
    """How a body came to its end."""

    COMPLETE = "complete"
    DISCONNECTED = "disconnected"
    EVICTED = "evicted"
    IDLE = "idle"
    STOPPING = "stopping"
    OVERLONG = "overlong"
    FAILED = "failed"


class Interruption:
    """Ends one body early, from the event loop; wakes its thread or its `receive()`."""

    def __init__(self) -> None:
        """Nothing has happened yet."""
        self.ending: Ending | None = None
        self.descriptor = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self.on_fire: Callable[[], None] = nothing

    def fire(self, ending: Ending) -> None:
        """End the body; the first reason counts."""
        if self.ending is None:
            self.ending = ending
            os.eventfd_write(self.descriptor, 1)
            self.on_fire()

    def close(self) -> None:
        """Give the descriptor back."""
        os.close(self.descriptor)


def nothing() -> None:
    """No receiver waits at the moment."""
