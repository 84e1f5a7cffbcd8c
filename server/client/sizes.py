"""Sizes in bytes, as a person writes and reads them.

Knows: binary units and their names.
Must not know: what is measured.
"""

from __future__ import annotations

import re

KIB = 2**10
MIB = 2**20
GIB = 2**30

_UNITS = {"": 1, "k": KIB, "m": MIB, "g": GIB, "t": 2**40}
_SIZE = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*([kmgt]?)(?:i?b)?", re.IGNORECASE)
_NAMES = ("B", "KiB", "MiB", "GiB", "TiB")


def parse_size(text: str) -> int:
    """`64MiB`, `64M`, `1.5 GiB` or plain bytes, as bytes; every unit is binary.

    Raises:
        ValueError: it is none of these.
    """
    match = _SIZE.fullmatch(text.strip())
    if not match:
        raise ValueError(f"{text!r} is not a size; write for example 64MiB")
    return int(float(match[1]) * _UNITS[match[2].lower()])


def format_size(size_bytes: float) -> str:
    """A size in the largest unit that leaves at least 1, with three significant digits."""
    for name in _NAMES[:-1]:
        if size_bytes < KIB:
            return f"{size_bytes:.0f} {name}" if name == "B" else f"{size_bytes:.3g} {name}"
        size_bytes /= KIB
    return f"{size_bytes:.4g} {_NAMES[-1]}"
