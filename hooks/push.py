"""LoadImage, PushImage, CleanUp: from an archive to an image in its registry.

Knows: the verbs of `buildah`, the disk space they need, and where the image may go.
Must not know: how buildah is run, Redis, what becomes of the upload.
"""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

import anyio
import anyio.to_thread

from buildah.errors import BuildahError
from buildah.load import load
from buildah.push import LayerCompression, push
from buildah.reference import ImageReference
from buildah.workspace import Workspace
from hooks.admission import Admission
from hooks.budget import space_needed_bytes
from hooks.errors import AdmissionRefused, StepFailed
from hooks.job import Job
from hooks.pipeline import StepContext, StepSkipped
from hooks.record import ImageResult

logger = logging.getLogger(__name__)

NO_IMAGE = "no image was named: the archive is verified and kept, nothing is pushed"
FOUND = "found in the registry: an earlier run of this job had pushed it"


class LoadImage:
    """Unpacks the archive into a container storage of the job's own."""

    name = "load"
    after_failure = False

    def __init__(self, admission: Admission, jobs_dir: Path, storage_driver: str) -> None:
        """Make workspaces below `jobs_dir`, with `overlay` or `vfs`."""
        self._admission = admission
        self._jobs_dir = jobs_dir
        self._storage_driver = storage_driver

    async def run(self, context: StepContext) -> None:
        """Load, unless the image is in its registry already.

        Raises:
            StepSkipped: no image was named.
            StepFailed: the disk would not hold it, or its tag is taken.
            buildah.errors.BuildahError: the archive could not be loaded.
        """
        if context.job.image is None:
            raise StepSkipped(NO_IMAGE)
        if await self._pushed_before(context):
            context.document.note(FOUND)
            return
        await _check_free(self._admission, context.job.image)
        await anyio.to_thread.run_sync(self._check_space, context.job.length)
        if context.workspace is None:
            context.workspace = await anyio.to_thread.run_sync(self._open_workspace, context.job.id)
        context.image = await load(
            context.job.path, context.workspace, progress=context.report, log=context.log
        )

    async def _pushed_before(self, context: StepContext) -> bool:
        """Whether an earlier run got as far as the push, and the registry still has its image."""
        for result in context.document.record.results:
            try:
                if await self._admission.exists(result.image) == result.digest:
                    return True
            except (AdmissionRefused, BuildahError) as error:
                logger.warning("result_unproven upload_id=%s cause=%s", context.job.id, error)
        context.document.forget_results()
        return False

    def _open_workspace(self, job_id: str) -> Workspace:
        return Workspace.open(self._jobs_dir, job_id, storage_driver=self._storage_driver)

    def _check_space(self, archive_bytes: int) -> None:
        needed_bytes = space_needed_bytes(archive_bytes, self._storage_driver)
        free_bytes = shutil.disk_usage(self._jobs_dir).free
        if free_bytes < needed_bytes:
            raise StepFailed(
                "storage_full",
                f"loading needs about {needed_bytes} bytes below {self._jobs_dir}, "
                f"{free_bytes} bytes are free",
                "Free disk space (`tusboat gc` removes what is expired), then try again.",
                retryable=True,
            )


class PushImage:
    """Pushes the loaded image, and reads its digest back."""

    name = "push"
    after_failure = False

    def __init__(self, admission: Admission, compression: LayerCompression) -> None:
        """Push to what the settings allow at that moment, compressed so unless the job differs."""
        self._admission = admission
        self._compression = compression

    async def run(self, context: StepContext) -> None:
        """Push, unless the load step found the image in its registry.

        Raises:
            StepSkipped: no image was named.
            StepFailed: the destination is not allowed any more, or its tag was taken meanwhile.
            buildah.errors.BuildahError: the image could not be pushed.
        """
        destination = context.job.image
        if destination is None:
            raise StepSkipped(NO_IMAGE)
        if context.image is None or context.workspace is None:
            context.document.note(FOUND)
            return
        try:
            registry = self._admission.registry(destination)
        except AdmissionRefused as error:
            raise StepFailed(error.code, error.message, error.hint, retryable=False) from error
        await _check_free(self._admission, destination)
        pushed = await push(
            context.image,
            destination,
            registry,
            context.workspace,
            progress=context.report,
            log=context.log,
            compression=self._compression_of(context.job),
        )
        result = ImageResult(str(destination), pushed.digest, pushed.platforms)
        context.document.add(result=result)

    def _compression_of(self, job: Job) -> LayerCompression:
        """What its sender asked for; a level of the settings holds for their own format only."""
        if job.compression in (None, self._compression.format):
            return self._compression
        return LayerCompression(job.compression)


async def _check_free(admission: Admission, destination: ImageReference) -> None:
    try:
        await admission.check_destination(destination)
    except AdmissionRefused as error:
        raise StepFailed(error.code, error.message, error.hint, retryable=False) from error


class CleanUp:
    """Removes the workspace. What cannot be removed is left to the sweep and fails nothing."""

    name = "cleanup"
    after_failure = True

    async def run(self, context: StepContext) -> None:
        """Close the workspace.

        Raises:
            StepSkipped: something of it stayed.
        """
        try:
            await context.close_workspace()
        except (OSError, BuildahError) as error:
            logger.warning("workspace_left upload_id=%s cause=%s", context.job.id, error)
            reason = f"left to the next sweep: {error}"
            raise StepSkipped(reason) from error
