"""Records: the status document of an upload, of what disk and Redis know of it.

Knows: disk says what exists and how it ended, Redis says what is going on.
Must not know: who asks, HTTP.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

import anyio

from hooks.errors import CoordinationLost
from hooks.record import Record, Status
from hooks.status import LogLine, StatusStore
from server.finder import Found

logger = logging.getLogger(__name__)

_REDIS_SECONDS: Final = 2


class Records:
    """The documents as everybody sees them."""

    def __init__(self, status: StatusStore) -> None:
        """Ask this store what is going on."""
        self._status = status

    async def of(self, found: Sequence[Found]) -> list[Record]:
        """The document of each."""
        known = await self._known([one.upload.id for one in found])
        return [_merged(one, known.get(one.upload.id)) for one in found]

    async def log(self, upload_id: str) -> list[LogLine]:
        """What the upload's steps said, as far as it is remembered.

        Raises:
            CoordinationLost: Redis, which remembers it, does not answer.
        """
        with anyio.move_on_after(_REDIS_SECONDS):
            return await self._status.lines(upload_id)
        raise CoordinationLost(
            "coordination_lost", "the log: Redis does not answer", "come back later"
        )

    async def _known(self, ids: list[str]) -> dict[str, Record]:
        """What Redis says; nothing while it is away (the disk still knows a lot)."""
        try:
            with anyio.move_on_after(_REDIS_SECONDS):
                return dict(await self._status.get_many(ids))
        except CoordinationLost as error:
            logger.warning("status not read", extra={"cause": str(error)})
        return {}


def _merged(found: Found, known: Record | None) -> Record:
    """One document of what disk and Redis know."""
    disk = found.record()
    if found.outcome is not None or known is None or known.status.terminal:
        return disk
    if found.expired:
        return replace(disk, status=Status.EXPIRED)
    if not found.finished or known.status is Status.RECEIVING:
        return disk
    return known
