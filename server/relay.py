"""Relay: hands events to the hooks, in order, without making a request wait for Redis.

Knows: a queue in memory and one task.
Must not know: what an event is for. Whatever is lost here (a kill, a full queue) is told again from
disk.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Final

import anyio

from hooks.events import UploadEvent, UploadGrew

logger = logging.getLogger(__name__)

_LIMIT: Final = 10_000


class Relay:
    """Events wait here while Redis is slow or away."""

    def __init__(self, handle: Callable[[UploadEvent], Awaitable[None]]) -> None:
        """Pass each event to `handle`, one at a time."""
        self._handle = handle
        self._waiting: deque[UploadEvent] = deque()
        self._grown: dict[str, UploadGrew] = {}
        self._news = anyio.Event()

    def emit(self, event: UploadEvent) -> None:
        """Queue an event; returns at once. Called on the event loop."""
        if isinstance(event, UploadGrew):
            # Only the newest offset of an upload matters, so a queue that is held up does not grow
            # with the bytes.
            known = self._grown.get(event.record.id)
            self._grown[event.record.id] = event
            if known is not None:
                return
        if len(self._waiting) >= _LIMIT:
            dropped = self._waiting.popleft()
            if isinstance(dropped, UploadGrew):
                self._grown.pop(dropped.record.id, None)
            logger.warning("event dropped", extra={"event": type(dropped).__name__})
        self._waiting.append(event)
        self._news.set()

    async def run(self) -> None:
        """Pass events on for ever."""
        while True:
            await self._news.wait()
            self._news = anyio.Event()
            await self.drain()

    async def drain(self) -> None:
        """Pass on what waits now."""
        while self._waiting:
            event = self._waiting.popleft()
            if isinstance(event, UploadGrew):
                event = self._grown.pop(event.record.id, event)
            try:
                await self._handle(event)
            except Exception:
                # One event that cannot be told must not keep the others.
                logger.exception("event not told", extra={"event": type(event).__name__})
