"""Loops that go on whatever happens in one of their rounds.

Knows: how long to wait after what goes wrong.
Must not know: what a loop does.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable

import anyio

from hooks.errors import CoordinationLost

logger = logging.getLogger(__name__)

FIRST_BACKOFF_SECONDS = 0.5
LONGEST_BACKOFF_SECONDS = 10.0


async def again(name: str, action: Callable[[], Awaitable[object]], pause_seconds: float) -> None:
    """Do it for ever; what goes wrong is logged, and tried again after a growing wait."""
    failures = 0
    while True:
        try:
            await action()
        except CoordinationLost as error:
            failures += 1
            logger.warning("%s_waits cause=%s", name, error)
        except Exception:
            failures += 1
            logger.exception("%s_failed", name)
        else:
            failures = 0
        backoff_seconds = FIRST_BACKOFF_SECONDS * 2 ** min(failures, 10)
        wait_seconds = min(backoff_seconds, LONGEST_BACKOFF_SECONDS) if failures else pause_seconds
        await anyio.sleep(wait_seconds)
