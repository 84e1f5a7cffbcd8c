"""Checks of the registries: whether each answers as one, and whether its files can be read.

Knows: that `buildah` greets registries.
Must not know: passwords; a registry that asks for one has answered.
"""

from __future__ import annotations

from buildah.conversation import Conversation
from buildah.errors import RegistryError
from buildah.registry import Registry
from server.checkup.check import Check

_GREET_SECONDS = 5


def registry(row: Registry) -> Check:
    """Whether one configured registry can be reached, and sends us only where we may go."""
    try:
        Conversation("GET /v2/", "any", row, seconds=_GREET_SECONDS).greet()
    except RegistryError as error:
        return _check(row, error.message, error.hint, ok=False)
    return _check(row, "answers as a registry", "", ok=True)


def no_registry() -> Check:
    """The row where no registry is configured."""
    return Check(
        "registry",
        False,
        "none configured",
        "pushing anything: every upload that names an image is refused",
        "set registries to rows of host and what else it takes (`tusboat settings`)",
        required=False,
    )


def wrong(fault: str) -> Check:
    """The row where the setting itself is wrong."""
    return Check("registry", False, fault, "starting at all", "correct the setting `registries`")


def _check(row: Registry, found: str, how_to_get: str, *, ok: bool) -> Check:
    return Check(f"registry {row.host}", ok, found, "pushing images to it", how_to_get)
