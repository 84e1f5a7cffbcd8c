"""How fast something goes, over the last seconds.

Knows: numbers and a clock.
Must not know: of what.
"""

from __future__ import annotations

import time
from collections import deque
from typing import Final

_WINDOW_SECONDS: Final = 8.0
_SHORTEST_SECONDS: Final = 0.3
_FEWEST: Final = 2


class Pace:
    """Counts at moments, of which the newest seconds matter."""

    def __init__(self) -> None:
        """Nothing was counted yet."""
        self._points: deque[tuple[float, int]] = deque()

    def add(self, count: int) -> None:
        """It has come to `count` now; when that is less than before, it begins anew."""
        now = time.monotonic()
        if self._points and count < self._points[-1][1]:
            self._points.clear()
        self._points.append((now, count))
        while len(self._points) > _FEWEST and now - self._points[0][0] > _WINDOW_SECONDS:
            self._points.popleft()

    @property
    def per_second(self) -> float:
        """Units a second; 0 until it can be told."""
        if len(self._points) < _FEWEST:
            return 0
        (began, first), (ended, last) = self._points[0], self._points[-1]
        return (last - first) / (ended - began) if ended - began >= _SHORTEST_SECONDS else 0
