"""A check: one thing that a machine has or lacks for Tusboat, and how to get it.

Knows: the words of a row, and how a program is asked.
Must not know: what is looked at.
"""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from enum import StrEnum

_ANSWER_SECONDS = 10
_SEARCH_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class Start(StrEnum):
    """A command that starts and stays, and before which a look is taken."""

    SERVE = "serve"
    WORKER = "worker"


@dataclass(frozen=True)
class Check:
    """One thing that was looked at: what was found, what it is for, how to get it."""

    name: str
    ok: bool
    found: str
    needed_for: str
    how_to_get: str
    required: bool = True


def answer(argv: list[str]) -> tuple[bool, str]:
    """Run a program: whether it succeeded, and the first line that it says on either stream."""
    environment = {"PATH": _SEARCH_PATH, "LC_ALL": "C"}
    try:
        done = subprocess.run(
            argv,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=_ANSWER_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return False, f"{argv[0]}: {error}"
    said = next(iter(done.stdout.decode(errors="replace").splitlines()), "")
    return done.returncode == 0, said
