"""Election: one of several processes does something, and another takes over when it dies.

Knows: kernel locks.
Must not know: what the elected one does.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import anyio

from server.kernel_locks import try_lock

_CANDIDATE_SECONDS: Final = 0.5


@asynccontextmanager
async def elected(path: Path, stop: anyio.Event) -> AsyncIterator[bool]:
    """Wait to be the only holder of the lock file; False when `stop` came first.

    The lock is the kernel's: it is free the moment its holder dies.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        while not stop.is_set():
            if try_lock(descriptor):
                yield True
                return
            with anyio.move_on_after(_CANDIDATE_SECONDS):
                await stop.wait()
        yield False
    finally:
        os.close(descriptor)
