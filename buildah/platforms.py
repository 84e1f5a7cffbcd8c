"""Platforms as images call them: `os/architecture[/variant]`. Pure, but for this machine's own.

Knows: how they are written.
Must not know: what is built or pushed for them.
"""

from __future__ import annotations

import platform
import re

from buildah.errors import InvalidPlatform

# More are a mistake, or an attack: each is a build of its own.
_MOST = 16
_WORD = "[a-z0-9][a-z0-9_.-]{0,31}"
_PLATFORM = re.compile(f"{_WORD}/{_WORD}(/{_WORD})?")
_MACHINES = {
    "x86_64": "amd64",
    "aarch64": "arm64",
    "armv7l": "arm/v7",
    "armv6l": "arm/v6",
    "i686": "386",
}
_SHOWN_CHARS = 80


def is_platform(text: str) -> bool:
    """Whether it is written like one."""
    return _PLATFORM.fullmatch(text) is not None


def parse_platforms(text: str) -> tuple[str, ...]:
    """Read platforms between commas, each kept once.

    Raises:
        InvalidPlatform: one is none, or there are too many.
    """
    found = tuple(dict.fromkeys(part.strip() for part in text.split(",")))
    for one in found:
        if not is_platform(one):
            raise InvalidPlatform(f"Reading the platforms: {one[:_SHOWN_CHARS]!r} is none.")
    if len(found) > _MOST:
        raise InvalidPlatform(f"Reading the platforms: there are more than {_MOST}.")
    return found


def this_platform() -> str:
    """The one of this machine."""
    machine = platform.machine()
    return f"linux/{_MACHINES.get(machine, machine)}"
