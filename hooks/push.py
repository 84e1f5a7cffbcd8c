"""PushImage and CleanUp: what is ready goes to its registry, and nothing stays behind.

Knows: what the load step made ready, and where it may go.
Must not know: what an image is pushed from, Redis, what becomes of the upload.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from buildah.errors import BuildahError, RegistryConflict
from buildah.pushed import LayerCompression, confirm
from buildah.workspace import Workspace
from hooks.admission import Admission
from hooks.job import Job
from hooks.load import FOUND, NO_IMAGE, check_destination
from hooks.pipeline import Shipment, StepContext, StepSkipped
from hooks.record import ImageResult

logger = logging.getLogger(__name__)


class PushImage:
    """Pushes what is ready, one after the other, and reads the digests back."""

    name = "push"
    after_failure = False

    def __init__(self, admission: Admission, compression: LayerCompression) -> None:
        """Push to what the settings allow at that moment, compressed so unless the job differs."""
        self._admission = admission
        self._compression = compression

    async def run(self, context: StepContext) -> None:
        """Push what is not there yet: an attempt before this one may have come half way.

        A result is noted before it is read back, so that the next attempt asks the registry again
        instead of finding its own tag in the way.

        Raises:
            StepSkipped: nothing was to be pushed.
            StepFailed: a destination is not allowed any more, or its tag was taken meanwhile.
            buildah.errors.BuildahError: an image could not be pushed.
        """
        workspace = context.workspace
        if not context.shipments or workspace is None:
            if not context.document.record.results:
                raise StepSkipped(NO_IMAGE)
            context.document.note(FOUND)
            return
        progress = _Progress(context.report)
        known = {result.image: result for result in context.document.record.results}
        for number, shipment in enumerate(context.shipments, 1):
            if len(context.shipments) > 1:
                counted = f"image {number} of {len(context.shipments)}"
                context.document.note(f"{counted}: {shipment.destination}")
            result = known.get(str(shipment.destination))
            if result is None:
                result = await self._push(context, workspace, shipment, progress)
            await self._confirm(context, shipment, result)
        if len(context.shipments) > 1:
            context.document.note(f"{len(context.shipments)} images pushed")

    async def _push(
        self, context: StepContext, workspace: Workspace, shipment: Shipment, progress: _Progress
    ) -> ImageResult:
        destination = shipment.destination
        await check_destination(self._admission, destination)
        pushed = await shipment.image.push(
            destination,
            self._admission.registry(destination),
            workspace,
            progress=progress.report,
            log=context.log,
            compression=self._compression_of(context.job),
        )
        progress.next()
        result = ImageResult(str(destination), pushed.digest, pushed.platforms)
        context.document.add(result=result)
        return result

    async def _confirm(self, context: StepContext, shipment: Shipment, result: ImageResult) -> None:
        destination = shipment.destination
        registry = self._admission.registry(destination)
        try:
            await confirm(destination, registry, result.digest, context.log)
        except RegistryConflict:
            others = [one for one in context.document.record.results if one != result]
            context.document.keep_results(others)
            raise

    def _compression_of(self, job: Job) -> LayerCompression:
        """What its sender asked for; a level of the settings holds for their own format only."""
        if job.compression in (None, self._compression.format):
            return self._compression
        return LayerCompression(job.compression)


class _Progress:
    """One growing count for several images, each of which counts for itself."""

    def __init__(self, report: Callable[[int, int], None]) -> None:
        self._report = report
        self._before_bytes = 0
        self._total_bytes = 0

    def report(self, bytes_done: int, bytes_total: int) -> None:
        self._total_bytes = bytes_total
        self._report(self._before_bytes + bytes_done, self._before_bytes + bytes_total)

    def next(self) -> None:
        self._before_bytes += self._total_bytes
        self._total_bytes = 0


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
