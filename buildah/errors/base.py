"""The root of the tree.

Knows: what an error says.
Must not know: which errors there are.
"""

from __future__ import annotations

from typing import ClassVar


class BuildahError(Exception):
    """Root of the tree.

    `message` is operation, subject and cause in words; `hint` says what to do. `retryable` is true
    only where the same call, with nothing changed by anyone here, may succeed a little later.
    """

    code: ClassVar[str]
    retryable: ClassVar[bool] = False
    advice: ClassVar[str]

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        """Keep message and hint; without a hint, the class's own advice is the hint."""
        super().__init__(message)
        self.message = message
        self.hint = self.advice if hint is None else hint
