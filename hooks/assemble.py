"""AssembleParts: one file of an upload that was sent as several.

Knows: that programs want one file, and that its digests can be had while it is made.
Must not know: where the parts lie, or how they are put together.
"""

from __future__ import annotations

import errno
import logging

import anyio

from hooks.errors import StepFailed
from hooks.follow import DigestFollower
from hooks.pipeline import StepContext
from hooks.ports import Digests, FinishedUpload, Growth, Uploads

logger = logging.getLogger(__name__)

_FOLLOWERS_LIMIT = 4


class AssembleParts:
    """Makes the file; the digests are computed behind the copying, so verifying waits for none."""

    name = "assemble"
    after_failure = False

    def __init__(self, uploads: Uploads) -> None:
        """Leave digests in `uploads`."""
        self._uploads = uploads
        self._threads = anyio.CapacityLimiter(_FOLLOWERS_LIMIT)

    async def run(self, context: StepContext) -> None:
        """Assemble, from where an earlier run was ended.

        Raises:
            StepFailed: the disk is full, or a part is not what it was.
        """
        failure: OSError | None = None
        upload = context.upload
        async with anyio.create_task_group() as tasks:
            if await upload.digests() is None:
                tasks.start_soon(self._digest, upload)
            try:
                await upload.assemble(context.report)
            except OSError as error:
                failure = error
                tasks.cancel_scope.cancel()
        if failure is not None:
            raise _worded(upload, failure) from failure

    async def _digest(self, upload: FinishedUpload) -> None:
        """Read the file behind the copying; without digests, the verify step reads it again."""
        length = upload.length

        def growth() -> Growth | None:
            try:
                return Growth(length, upload.path.stat().st_size)
            except FileNotFoundError:
                return None

        try:
            found = await DigestFollower(upload.path, growth).digests(self._threads)
            if isinstance(found, Digests):
                await self._uploads.record_digests(upload.id, found)
        except OSError as error:
            logger.warning("digests_unrecorded upload_id=%s cause=%s", upload.id, error)


def _worded(upload: FinishedUpload, error: OSError) -> StepFailed:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return StepFailed(
            "storage_full",
            f"assembling the archive {upload.id}: {error.strerror}",
            "Free disk space (`tusboat gc` removes what is expired), then try again.",
            retryable=True,
        )
    return StepFailed(
        "archive_unreadable",
        f"assembling the archive {upload.id}: {error.strerror or error}",
        "Look at the file system of data_dir; then try again.",
        retryable=True,
    )
