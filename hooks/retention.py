"""Retention: removes what is expired, on a timer or when asked.

Knows: how often, that one process is enough for each tick, and how to say what was freed.
Must not know: what is expired and where it lies (the store and `buildah` do).
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

import anyio
import anyio.to_thread

from buildah.workspace import sweep_workspaces
from hooks.errors import CoordinationLost
from hooks.metrics import RECLAIMED_BYTES
from hooks.ports import Swept, Uploads
from hooks.redis import Leases

logger = logging.getLogger(__name__)

LEASE = "retention"
# The lease ends before the next tick of the process that took it, however its clock wavers.
LEASE_SHARE = 0.9


@dataclass(frozen=True)
class Collected:
    """What one sweep removed: of uploads, and the ids of dead jobs whose workspaces went."""

    uploads: tuple[Swept, ...]
    workspaces: tuple[str, ...]

    @property
    def freed_bytes(self) -> int:
        """Bytes of uploads that are free again."""
        return sum(swept.freed_bytes for swept in self.uploads)


class Retention:
    """Sweeps. Safe beside everything else: what is in use is locked, and left alone."""

    def __init__(
        self, uploads: Uploads, leases: Leases, *, jobs_dir: Path, interval_seconds: float
    ) -> None:
        """Sweep `uploads` and `jobs_dir` every `interval_seconds`, in one process of many."""
        self._uploads = uploads
        self._leases = leases
        self._jobs_dir = jobs_dir
        self._interval_seconds = interval_seconds

    async def run(self) -> None:
        """Sweep now and on every tick, for ever."""
        while True:
            if await self._our_turn():
                await self._tick()
            await anyio.sleep(self._interval_seconds)

    async def collect(self, *, dry_run: bool = False) -> Collected:
        """Sweep once. With `dry_run` only say what would go; workspaces are not looked at then.

        Raises:
            OSError: the disk refused.
        """
        uploads = await self._uploads.sweep(dry_run=dry_run)
        workspaces: list[str] = []
        if not dry_run:
            workspaces = await anyio.to_thread.run_sync(sweep_workspaces, self._jobs_dir)
        collected = Collected(tuple(uploads), tuple(workspaces))
        if not dry_run:
            RECLAIMED_BYTES.add(collected.freed_bytes)
            _log(collected)
        return collected

    async def _tick(self) -> None:
        try:
            await self.collect()
        except OSError as error:
            logger.warning("sweep_failed cause=%s", error)

    async def _our_turn(self) -> bool:
        """Whether no other process took this tick. The lease is left to run out, not dropped."""
        try:
            return await self._leases.take(LEASE, self._interval_seconds * LEASE_SHARE)
        except CoordinationLost as error:
            # Sweeping twice is a waste; not sweeping while Redis is away fills the disk.
            logger.warning("sweep_unshared cause=%s", error)
            return True


def _log(collected: Collected) -> None:
    for swept in collected.uploads:
        logger.info(
            "upload_swept upload_id=%s reason=%s freed_bytes=%d",
            swept.upload_id,
            swept.reason,
            swept.freed_bytes,
        )
    for job_id in collected.workspaces:
        logger.info("workspace_swept upload_id=%s", job_id)
