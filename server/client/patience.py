"""How long to go on asking when nothing moves, and how often.

Knows: exponential backoff with jitter, and when enough is enough.
Must not know: what is asked.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import Final

from server.client.errors import GaveUp, TryAgain

FIRST_WAIT_SECONDS: Final = 0.5
LONGEST_WAIT_SECONDS: Final = 30.0
_MINUTE_SECONDS: Final = 60


class Patience:
    """Waits between attempts, longer each time, until something moves or the allowed time is over.

    The clock starts with the first failure after progress, so that one request may take as long as
    it needs. Many clients whose server comes back do not all ask in the same moment (jitter).
    """

    def __init__(self, give_up_after_seconds: float, notice: Callable[[str], None]) -> None:
        """`notice` hears, for a person, when it begins to wait and why."""
        self._give_up_after_seconds = give_up_after_seconds
        self._notice = notice
        self._stuck_since: float | None = None
        self._attempts = 0
        self._said = ""

    def progressed(self) -> None:
        """Something moved: begin anew."""
        self._stuck_since = None
        self._attempts = 0
        self._said = ""

    def wait(self, error: TryAgain) -> None:
        """Wait before the next attempt.

        Raises:
            GaveUp: from `error`, when nothing moved for as long as was allowed.
        """
        now = time.monotonic()
        if self._stuck_since is None:
            self._stuck_since = now
        left_seconds = self._stuck_since + self._give_up_after_seconds - now
        if left_seconds <= 0:
            raise GaveUp(
                f"gave up after {_words(self._give_up_after_seconds)} without progress; "
                f"the last answer was: {error.message}",
                error.hint,
                code=error.code,
            ) from error
        if error.message != self._said:
            self._said = error.message
            self._notice(f"{error.message}; trying again for {_words(left_seconds)}")
        longest = min(LONGEST_WAIT_SECONDS, FIRST_WAIT_SECONDS * 2 ** min(self._attempts, 10))
        self._attempts += 1
        pause = max(longest * random.uniform(0.5, 1), error.retry_after_seconds)  # noqa: S311 - spread, not secrecy
        time.sleep(min(pause, left_seconds))


def _words(seconds: float) -> str:
    if seconds < 2 * _MINUTE_SECONDS:
        return f"{max(seconds, 1):.0f} s"
    return f"{seconds / _MINUTE_SECONDS:.0f} min"
