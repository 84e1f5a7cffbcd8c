"""Takes secrets out of a program's lines before anyone sees them.

Knows: what a credential looks like in the output of buildah, skopeo and Go's HTTP client.
Must not know: where a line goes.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

MASK = "***"

# A shorter value is found in ordinary words: masking it would shred the text and tell its letters.
_SHORTEST_SECRET = 4

_RULES = (
    # Authorization: Bearer abc, Authorization:[Basic abc], "Authorization": "abc"
    (
        re.compile(r"(?i)(authorization[\"']?\s*[:=]\s*)(?:[\[\"']*(?:[a-z]+\s+)?)[^\s\"'\]]+"),
        rf"\1{MASK}",
    ),
    (re.compile(r"(?i)\b(bearer|basic)\s+[a-z0-9+/._~=-]{8,}"), rf"\1 {MASK}"),
    # https://user:password@host
    (re.compile(r"//[^/\s@\"']+@"), f"//{MASK}@"),
    # ?access_token=abc&X-Amz-Signature=abc
    (
        re.compile(
            r"(?i)([?&](?:[a-z_-]*(?:token|password|passwd|secret|signature|credential)|sig|key|code|_state)=)"
            r"[^&\s\"']+"
        ),
        rf"\1{MASK}",
    ),
    # {"token": "abc", "password": "abc"}
    (
        re.compile(r"(?i)(\"(?:[a-z_]*token|password|auth|secret)\"\s*:\s*)\"[^\"]*\""),
        rf'\1"{MASK}"',
    ),
)


def scrub(line: str, secrets: Iterable[str] = ()) -> str:
    r"""The line with every known secret and everything shaped like one masked.

    Control characters, which could move a terminal's cursor or forge a log line, are written as
    `\x1b`.
    """
    for secret in sorted(secrets, key=len, reverse=True):
        if len(secret) >= _SHORTEST_SECRET:
            line = line.replace(secret, MASK)
    for pattern, replacement in _RULES:
        line = pattern.sub(replacement, line)
    if line.isprintable():
        return line
    return "".join(_visible(char) for char in line)


def _visible(char: str) -> str:
    if char.isprintable() or char == "\t":
        return char
    return char.encode("unicode_escape").decode("ascii")
