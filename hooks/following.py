"""Following: who follows which upload while it arrives.

Knows: that uploads grow (a signal says so), that one worker of many follows each, and for how long.
Must not know: how a follower reads, or what its digests are compared with.
"""

from __future__ import annotations

import logging
from pathlib import Path

import anyio
import anyio.to_thread
from anyio.abc import TaskGroup

from hooks.errors import CoordinationLost
from hooks.follow import DigestFollower, Ending
from hooks.metrics import FOLLOWER_LAG
from hooks.ports import Digests, Uploads
from hooks.redis import Leases

logger = logging.getLogger(__name__)

RENEWALS_PER_LEASE = 3
DROP_SECONDS = 2.0
LAG_SECONDS = 1.0


def lease_name(upload_id: str) -> str:
    """The lease that says that somebody follows this upload."""
    return f"follow:{upload_id}"


class Following:
    """Starts a follower for an upload that grows, if nobody anywhere follows it yet.

    An optimisation only: an upload whose follower died, or that found no room here, is read by the
    verify step. A lost lease may mean two followers for a while, which is a waste and no harm.
    """

    def __init__(
        self,
        uploads: Uploads,
        leases: Leases,
        *,
        limit: int = 16,
        idle_seconds: float = 600.0,
        lease_seconds: float = 4.0,
    ) -> None:
        """Follow at most `limit` uploads at once, each until `idle_seconds` without a new byte."""
        self._uploads = uploads
        self._leases = leases
        self._limit = limit
        self._idle_seconds = idle_seconds
        self._lease_seconds = lease_seconds
        self._threads = anyio.CapacityLimiter(limit)
        self._followers: dict[str, DigestFollower] = {}
        self._tasks: TaskGroup | None = None

    def grew(self, upload_id: str) -> None:
        """An upload is said to have grown. On the event loop; returns at once."""
        follower = self._followers.get(upload_id)
        if follower is not None:
            follower.wake()
        elif self._tasks is not None and len(self._followers) < self._limit:
            self._followers[upload_id] = follower = DigestFollower(
                Path(self._uploads.location(upload_id)),
                lambda: self._uploads.growth(upload_id),
                idle_seconds=self._idle_seconds,
            )
            self._tasks.start_soon(self._look_after, upload_id, follower)

    async def run(self) -> None:
        """Follow what grows, until cancelled."""
        try:
            async with anyio.create_task_group() as tasks:
                self._tasks = tasks
                await self._measure()
        finally:
            self._tasks = None
            FOLLOWER_LAG.put(0)

    async def _measure(self) -> None:
        """Tell how far behind the followers are, for ever."""
        while True:
            FOLLOWER_LAG.put(sum(follower.lag_bytes for follower in self._followers.values()))
            await anyio.sleep(LAG_SECONDS)

    async def _look_after(self, upload_id: str, follower: DigestFollower) -> None:
        lease = lease_name(upload_id)
        try:
            # A whole upload without digests is read by the verify step, one without growth is gone.
            growth = await anyio.to_thread.run_sync(self._uploads.growth, upload_id)
            if growth is None or growth.complete:
                return
            if await self._leases.take(lease, self._lease_seconds):
                await self._follow(upload_id, follower, lease)
        except CoordinationLost as error:
            logger.warning("follower_refused upload_id=%s cause=%s", upload_id, error)
        except OSError as error:
            logger.warning("follower_failed upload_id=%s cause=%s", upload_id, error)
        finally:
            del self._followers[upload_id]

    async def _follow(self, upload_id: str, follower: DigestFollower, lease: str) -> None:
        logger.debug("follower_started upload_id=%s", upload_id)
        try:
            found = await self._digests(follower, lease)
            if isinstance(found, Digests):
                await self._uploads.record_digests(upload_id, found)
            logger.debug(
                "follower_ended upload_id=%s ending=%s bytes=%d",
                upload_id,
                Ending.COMPLETE if isinstance(found, Digests) else found,
                follower.position,
            )
        finally:
            # Only now: whoever waits for the lease to end finds the digests, if there are any.
            with anyio.CancelScope(shield=True), anyio.move_on_after(DROP_SECONDS):
                await self._drop(lease)

    async def _digests(self, follower: DigestFollower, lease: str) -> Digests | Ending:
        """Follow to the end while the lease is renewed beside it."""
        failure: OSError | None = None
        found: Digests | Ending = Ending.STOPPED
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._renew, lease, follower)
            try:
                found = await follower.digests(self._threads)
            except OSError as error:
                failure = error
            tasks.cancel_scope.cancel()
        if failure is not None:
            raise failure
        return found

    async def _renew(self, lease: str, follower: DigestFollower) -> None:
        """Keep the lease; take it again where Redis forgot it; stop where somebody else has it."""
        while True:
            await anyio.sleep(self._lease_seconds / RENEWALS_PER_LEASE)
            try:
                ours = await self._leases.renew(lease, self._lease_seconds)
                ours = ours or await self._leases.take(lease, self._lease_seconds)
            except CoordinationLost as error:
                logger.warning("follower_unrenewed lease=%s cause=%s", lease, error)
                continue
            if not ours:
                follower.stop()
                return

    async def _drop(self, lease: str) -> None:
        try:
            await self._leases.drop(lease)
        except CoordinationLost as error:
            logger.warning("follower_undropped lease=%s cause=%s", lease, error)
