"""How a command of the client ends: words on the display, and an exit code.

Knows: 0 done, 1 failed, 2 usage (typer's own), 130 interrupted.
Must not know: what the command does.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Final

import typer

from server.client.display import Display
from server.client.errors import ClientError

DONE: Final = 0
FAILED: Final = 1
INTERRUPTED: Final = 130


@contextlib.contextmanager
def exits(display: Display, interrupted: str) -> Iterator[None]:
    """What goes wrong inside, as words on the display and an exit code.

    Raises:
        typer.Exit: 1 for a `ClientError`, 130 for an interruption (`interrupted` is said then).
    """
    try:
        yield
    except ClientError as error:
        display.error(error)
        raise typer.Exit(FAILED) from error
    except KeyboardInterrupt as error:
        display.notice(interrupted)
        raise typer.Exit(INTERRUPTED) from error
