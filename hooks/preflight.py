"""Preflights: what the registries say at creation, remembered for a moment.

Knows: how long an answer is good for, and that nobody waits long for one.
Must not know: what a registry is asked (`buildah/preflight.py`), HTTP, who is asking.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass

import anyio
from anyio import CapacityLimiter

from buildah.errors import RegistryError, RegistryUnreachable
from buildah.preflight import preflight
from buildah.reference import ImageReference
from buildah.registry import Registry

logger = logging.getLogger(__name__)

# A creation waits no longer, whatever a registry does.
_WAIT_SECONDS = 5.0
# Less, so that of a registry that never answers something is remembered.
_ASK_SECONDS = 4.0
_GOOD_SECONDS = 30.0
# Somebody may be repairing it at this moment.
_BAD_SECONDS = 3.0
_AT_ONCE = 8
_REMEMBERED = 1000


@dataclass(frozen=True)
class _Found:
    """What was heard (None: nothing is wrong), and until when that counts."""

    error: RegistryError | None
    until: float


class Preflights:
    """Asks each registry about each repository once in a while, however many uploads begin."""

    def __init__(self) -> None:
        """Know nothing yet."""
        self._found: dict[str, _Found] = {}
        self._asking: dict[str, anyio.Event] = {}
        self._limiter = CapacityLimiter(_AT_ONCE)

    async def check(self, reference: ImageReference, registry: Registry) -> None:
        """Return if a push would be let in, or if nobody can tell at this moment.

        A registry that is away now may be back long before the upload is whole.

        Raises:
            RegistryError: a push would be refused, for a reason that does not pass by itself.
        """
        error: RegistryError | None = None
        with anyio.move_on_after(_WAIT_SECONDS):
            error = await self._ask(reference, registry)
        if error is not None and not error.retryable:
            # One of its own for everybody who waited for the same answer.
            raise type(error)(error.message, hint=error.hint)

    async def _ask(self, reference: ImageReference, registry: Registry) -> RegistryError | None:
        while True:
            found = self._remembered(reference.host) or self._remembered(reference.name)
            if found is not None:
                return found.error
            other = self._asking.get(reference.name)
            if other is None:
                return await self._ask_now(reference, registry)
            await other.wait()

    async def _ask_now(self, reference: ImageReference, registry: Registry) -> RegistryError | None:
        self._asking[reference.name] = asked = anyio.Event()
        error: RegistryError | None = None
        subject = reference.name
        try:
            async with self._limiter:
                found = self._remembered(reference.host)
                if found is not None:
                    return found.error
                await preflight(reference, registry, seconds=_ASK_SECONDS)
        except RegistryError as said:
            error = said
            logger.warning("preflight image=%s code=%s cause=%s", reference, said.code, said)
            if isinstance(said, RegistryUnreachable):
                # Nobody there for one repository is nobody there for all.
                subject = reference.host
        finally:
            del self._asking[reference.name]
            asked.set()
        self._remember(subject, error)
        return error

    def _remembered(self, subject: str) -> _Found | None:
        found = self._found.get(subject)
        return found if found and found.until > time.monotonic() else None

    def _remember(self, subject: str, error: RegistryError | None) -> None:
        now = time.monotonic()
        if len(self._found) >= _REMEMBERED:
            self._found = {key: one for key, one in self._found.items() if one.until > now}
        if len(self._found) < _REMEMBERED:
            good_seconds = _GOOD_SECONDS if error is None else _BAD_SECONDS
            self._found[subject] = _Found(error, now + good_seconds)
