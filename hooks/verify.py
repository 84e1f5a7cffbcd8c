"""VerifyDigest: the whole file against the digests its sender promised.

Knows: that a follower may have the digests already, may be about to, or that the file must be read.
Must not know: how followers are started, or what happens to the upload afterwards.
"""

from __future__ import annotations

import logging

import anyio

from hooks.errors import CoordinationLost, StepFailed
from hooks.follow import DigestFollower, Ending
from hooks.following import lease_name
from hooks.job import Job
from hooks.metrics import CHECKSUM_FAILURES
from hooks.pipeline import StepContext, StepSkipped
from hooks.ports import Digests, FinishedUpload, Growth, Uploads
from hooks.redis import Leases

logger = logging.getLogger(__name__)

NO_DIGEST = "no digest was sent along to compare with; md5 and sha256 were computed"
POLL_SECONDS = 0.01
LOOK_SECONDS = 0.5
READERS_LIMIT = 4


class VerifyDigest:
    """Compares; without a promise it only records what it computed, and says that it did."""

    name = "verify"
    after_failure = False

    def __init__(self, uploads: Uploads, leases: Leases) -> None:
        """Use what followers leave in `uploads`, and wait for those that `leases` shows."""
        self._uploads = uploads
        self._leases = leases
        self._threads = anyio.CapacityLimiter(READERS_LIMIT)

    async def run(self, context: StepContext) -> None:
        """Find the digests, record them, compare.

        Raises:
            StepSkipped: nothing was promised.
            StepFailed: the file is not what was promised, or cannot be read.
        """
        digests = await self._left_by_follower(context) or await self._read(context)
        context.report(digests.length, digests.length)
        context.document.add(digests=digests)
        context.document.note("")
        if not _compare(context.job, digests):
            raise StepSkipped(NO_DIGEST)

    async def _left_by_follower(self, context: StepContext) -> Digests | None:
        """What a follower left, or leaves while it holds its lease; None when there is none."""
        upload = context.upload
        digests = await upload.digests()
        while digests is None and await self._followed(upload):
            context.document.note("waiting for the digests computed behind the upload")
            digests = await _left_soon(upload)
        # The follower may have ended between the two looks.
        return digests or await upload.digests()

    async def _followed(self, upload: FinishedUpload) -> bool:
        try:
            return await self._leases.held(lease_name(upload.id))
        except CoordinationLost as error:
            logger.warning("follower_unknown upload_id=%s cause=%s", upload.id, error)
            return False

    async def _read(self, context: StepContext) -> Digests:
        """Read the whole file now, and leave the result for whoever runs the job again."""
        job = context.job
        whole = Growth(length=job.length, proven=job.length)
        follower = DigestFollower(job.path, lambda: whole, progress=context.report)
        try:
            digests = await follower.digests(self._threads)
        except OSError as error:
            raise StepFailed(
                "archive_unreadable",
                f"reading the archive {job.id}: {error.strerror or error}",
                "Look at the file system of data_dir; then try again.",
                retryable=True,
            ) from error
        if isinstance(digests, Ending):
            raise StepFailed(
                "archive_lost",
                f"reading the archive {job.id}: {follower.position} of {job.length} bytes, "
                f"then the file was {digests}",
                "Something other than Tusboat changed the file. Send the archive again.",
                retryable=False,
            )
        try:
            await self._uploads.record_digests(job.id, digests)
        except OSError as error:
            logger.warning("digests_unrecorded upload_id=%s cause=%s", job.id, error)
        return digests


async def _left_soon(upload: FinishedUpload) -> Digests | None:
    """What a follower leaves within `LOOK_SECONDS`."""
    with anyio.move_on_after(LOOK_SECONDS):
        while True:
            digests = await upload.digests()
            if digests is not None:
                return digests
            await anyio.sleep(POLL_SECONDS)
    return None


def _compare(job: Job, digests: Digests) -> bool:
    """Compare with what was promised; False when nothing was.

    Raises:
        StepFailed: something differs.
    """
    found = {"md5": digests.md5, "sha256": digests.sha256}
    promised = {name: digest for name, digest in job.expected.items() if name in found}
    wrong = [name for name, digest in promised.items() if digest != found[name]]
    if wrong:
        CHECKSUM_FAILURES.add(1, "archive")
        detail = "; ".join(f"{name} expected {promised[name]}, got {found[name]}" for name in wrong)
        raise StepFailed(
            "digest_mismatch",
            f"the archive is not what its sender promised: {detail}",
            "It changed on its way or before it was sent: check it at its source, send it again.",
            retryable=False,
        )
    return bool(promised)
