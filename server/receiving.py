"""Receiving: one request's body, from the intake to bytes that count.

Knows: how a body with a checksum is proven behind the writer; how often progress is told.
Must not know: offsets that requests claim, who may send, what follows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Final

import anyio
from anyio import CapacityLimiter, to_thread
from starlette.requests import Request

from hooks.events import UploadEvent, UploadGrew
from hooks.metrics import CHECKSUM_FAILURES
from server.errors import ChecksumMismatch, ServerError
from server.finder import Finder, Found
from server.intake import Intake, Received
from server.interruption import Ending
from server.locker import Lock
from server.proof import Checksum, Proof, Prover
from server.store import UploadStore

_PROGRESS_SECONDS: Final = 1.0
_PROVERS: Final = 32


class Receiving:
    """Takes bodies for uploads whose lock the caller holds."""

    def __init__(
        self,
        store: UploadStore,
        finder: Finder,
        intake: Intake,
        emit: Callable[[UploadEvent], None],
        *,
        max_size: int,
    ) -> None:
        """Wire the parts; `max_size` 0 means that only the disk limits."""
        self._store = store
        self._finder = finder
        self._intake = intake
        self._emit = emit
        self._max_size = max_size
        self._proving = CapacityLimiter(_PROVERS)

    async def receive(
        self, request: Request, lock: Lock, found: Found, proof: Proof | None
    ) -> Received:
        """Receive the body; with `proof`, its bytes count only when their checksum is right.

        Raises:
            ChecksumMismatch: the bytes are others than promised; none was kept.
        """
        if proof is None:
            return await self._receive(request, lock, found)
        return await self._receive_proven(request, lock, found, proof)

    async def _receive_proven(
        self, request: Request, lock: Lock, found: Found, proof: Proof
    ) -> Received:
        """As `_receive`, hashing behind the writer; what is not proven is removed again.

        A kill on the way leaves the mark, and whoever has the lock next does the removing.
        """
        upload_id, start = found.upload.id, found.offset
        await to_thread.run_sync(self._store.mark_pending, upload_id, start)
        digests: list[bytes] = []

        async def hash_behind(prover: Prover) -> None:
            digests.append(await to_thread.run_sync(prover.run, limiter=self._proving))

        def prover(checksum: Checksum) -> Prover:
            return Prover(checksum.algorithm, lock.descriptor, start, lambda: lock.position)

        # A prover occupies its thread as long as the body lasts; beyond the limit it comes after.
        free = self._proving.available_tokens >= 1
        behind = prover(proof.checksum) if proof.checksum and free else None
        async with anyio.create_task_group() as tasks:
            if behind:
                tasks.start_soon(hash_behind, behind)
            try:
                received = await self._receive(request, lock, found, counted=start)
            finally:
                if behind:
                    behind.close()
        try:
            if received.ending is Ending.COMPLETE:
                promised = proof.checksum or proof.trailer()
                if behind is None:
                    late = prover(promised)
                    late.close()
                    await hash_behind(late)
                _check_digest(promised, digests[0])
                await to_thread.run_sync(self._store.prove, upload_id)
                return received
        except ServerError:
            await to_thread.run_sync(self._store.recover, found.upload, lock.descriptor)
            raise
        kept = await to_thread.run_sync(self._store.recover, found.upload, lock.descriptor)
        return replace(received, position=kept)

    async def _receive(
        self, request: Request, lock: Lock, found: Found, *, counted: int | None = None
    ) -> Received:
        """Receive the body; meanwhile tell of `counted`, or of what is there (None)."""
        async with anyio.create_task_group() as progress:
            progress.start_soon(self._report, lock, found, counted)
            length = found.upload.length
            limit = (self._max_size or None) if length is None else length
            received = await self._intake.receive(request, lock, length=length, limit=limit)
            progress.cancel_scope.cancel()
        return received

    async def _report(self, lock: Lock, found: Found, counted: int | None) -> None:
        while True:
            offset = lock.position if counted is None else counted
            told = await self.told(replace(found, offset=offset))
            self._emit(UploadGrew(told.record()))
            await anyio.sleep(_PROGRESS_SECONDS)

    async def told(self, found: Found) -> Found:
        """What is told when bytes came: of a part, how its final upload stands.

        Asked each time: a partial may become a part of something while its bytes come.
        """
        if not found.upload.partial:
            return found
        return await to_thread.run_sync(self._finder.told_of, found)


def _check_digest(promised: Checksum, found: bytes) -> None:
    if found != promised.digest:
        CHECKSUM_FAILURES.add(1, "request")
        raise ChecksumMismatch(
            f"{promised.algorithm}: expected {promised.digest.hex()}, got {found.hex()}",
            "send these bytes again; nothing of this request was kept",
        )
