"""From a build's last words to an error, with the step that failed and what it said.

Knows: what `buildah build` says when something is wrong (1.28 and 1.45).
Must not know: how it was started.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from buildah.command import Completed
from buildah.diagnosis import explain
from buildah.errors import BaseImageRefused, BuildahError, BuildFailed, StorageFull

_WORDS_LINES = 3
_WORDS_CHARS = 400

_NOT_OF_A_STEP = re.compile(r"STEP \d+/\d+: |^subprocess exited with |level=(error|warn)")
# What buildah prints of its own inside, two kilobytes each time.
_REQUEST = re.compile(r"copier\.request\{.*?RemoveOptions:[^}]*\}\}: ")
_NO_SPACE = re.compile(r"no space left on device|disk quota exceeded", re.IGNORECASE)
_NOT_KNOWN = re.compile(r"image not known|rejected by policy|no stage or image found")
# What a step itself says is a hint, not a proof: it may say anything.
_HINTS = (
    (
        re.compile(r"exec format error", re.IGNORECASE),
        "A RUN step for another architecture needs an emulator on the worker (qemu-user-static "
        "with binfmt); COPY alone does not.",
    ),
    (
        _NO_SPACE,
        "A step found no room: in the worker's data directory, or in the 64 MiB of /dev/shm.",
    ),
    (
        re.compile(r"network is unreachable|could not (resolve|connect)|name resolution", re.I),
        "Builds have no network here: put what a step needs into the context or the base image, "
        "or ask the operator for the setting `build_network`.",
    ),
)


def build_failure(operation: str, completed: Completed, tail: Sequence[str]) -> BuildahError:
    """The error for a build that failed; `tail` are its last lines, scrubbed."""
    if completed.returncode < 0:
        return explain(operation, completed, ())
    said, error = _split(tail)
    words = error[:_WORDS_CHARS]
    if _NO_SPACE.search(error):
        return StorageFull(f"{operation}: there is no room left in the job's directory.")
    if _NOT_KNOWN.search(error):
        return BaseImageRefused(f"{operation}: {words}.")
    said = [line for line in said if not _NOT_OF_A_STEP.search(line)][-_WORDS_LINES:]
    about = f"; it said: {' / '.join(said)[-_WORDS_CHARS:]}" if said else ""
    everything = "\n".join(tail)
    hints = (hint for symptom, hint in _HINTS if symptom.search(everything))
    return BuildFailed(f"{operation}: {words}{about}.", hint=next(hints, None))


def _split(tail: Sequence[str]) -> tuple[Sequence[str], str]:
    """What was said before the program's own error, and that error, all its lines."""
    for index in range(len(tail) - 1, -1, -1):
        if tail[index].startswith("Error: "):
            error = " ".join(line.strip() for line in tail[index:])
            return tail[:index], _REQUEST.sub("", error.removeprefix("Error: "))
    return tail[:-1], (tail or ["it said nothing"])[-1]
