"""LoadImage: an archive becomes images that are ready to be pushed, each with its destinations.

Knows: the look into an archive, which images are meant, the disk space that loading takes.
Must not know: how an archive is read or an engine works, Redis, what becomes of the upload.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio.to_thread
from anyio import from_thread

from buildah.archive import inspect
from buildah.contents import Contents, Format
from buildah.context import unpack_context
from buildah.engine import Engine, ready_images
from buildah.errors import ArchiveError, ArchiveNotChosen, BuildahError, BuildsOff
from buildah.opening import OpenedArchive, open_archive
from buildah.progress import Meter, Share
from buildah.reference import ImageReference
from buildah.reservation import reserve
from buildah.selection import Choice, Order, choose
from buildah.workspace import Workspace
from hooks.admission import Admission
from hooks.budget import Budget
from hooks.errors import AdmissionRefused, StepFailed
from hooks.pipeline import Shipment, StepContext, StepSkipped, Unbuilt

_CONTEXT = "Loading the archive: it is a build context"

_CONTENTS_CHARS = 256 * 1024

logger = logging.getLogger(__name__)

NO_IMAGE = "no image was named: the archive is verified and kept, nothing is pushed"
FOUND = "found in the registry: an earlier run of this job had pushed it"


class LoadImage:
    """Looks into the archive, and unpacks what is meant into a storage of the job's own."""

    name = "load"
    after_failure = False

    def __init__(
        self,
        admission: Admission,
        engine: Engine,
        jobs_dir: Path,
        budget: Budget,
        *,
        builds: bool = False,
    ) -> None:
        """Make workspaces below `jobs_dir`, of which `budget` knows the storage driver.

        With `builds`, build contexts are unpacked; else they are refused.
        """
        self._admission = admission
        self._engine = engine
        self._jobs_dir = jobs_dir
        self._budget = budget
        self._builds = builds

    async def run(self, context: StepContext) -> None:
        """Load what is not in its registry already.

        Raises:
            StepSkipped: nothing is to be pushed, or the engine has no use for a storage.
            StepFailed: the disk would not hold it, or a tag is taken or not allowed.
            buildah.errors.BuildahError: the archive could not be loaded.
        """
        job = context.job
        meter = Meter(context.report, job.length)
        order = Order(job.image, self._admission.default_repository, job.ref, job.allow_partial)
        if order.image is None and not order.default_repository:
            await self._look(context, meter.report)
            # What an earlier run pushed is no reason to let go of an archive that is to be kept.
            context.document.keep_results([])
            raise StepSkipped(NO_IMAGE)
        if context.workspace is None:
            context.workspace = await anyio.to_thread.run_sync(self._open_workspace, job.id)
        opened = await self._open(context, context.workspace, meter.report)
        if opened.contents.format is Format.BUILD_CONTEXT:
            await self._unpack_context(context, context.workspace, opened)
            return
        choices = choose(opened.contents.images, order)
        pushed = await self._pushed_before(context)
        wanted = await self._admitted(choices, pushed)
        if not wanted:
            context.document.note(FOUND)
            return
        needed_bytes = self._budget.needed_bytes(opened.plain_bytes, layout=opened.is_layout)
        await anyio.to_thread.run_sync(reserve, context.workspace, needed_bytes)
        images = await ready_images(
            self._engine,
            opened,
            [choice.position for choice, _ in wanted],
            context.workspace,
            share=meter.report,
            log=context.log,
        )
        context.shipments = [
            Shipment(image, destination)
            for image, (_, destinations) in zip(images, wanted, strict=True)
            for destination in destinations
        ]
        meter.finish()
        if not self._engine.loads:
            raise StepSkipped(f"the engine {self._engine.name} reads layers where they are")

    async def _unpack_context(
        self, context: StepContext, workspace: Workspace, opened: OpenedArchive
    ) -> None:
        """Make a context ready for the build step, unless its image is in its registry already."""
        image = context.job.image
        if not self._builds:
            raise BuildsOff(f"{_CONTEXT}, and this server builds none.")
        if image is None:
            raise ArchiveNotChosen(
                f"{_CONTEXT}, which has no name of its own.", hint="Name the destination (`image`)."
            )
        if str(image) in await self._pushed_before(context):
            context.document.note(FOUND)
            return
        await check_destination(self._admission, image)
        # The context, what is built of it, and that once more on its way: whatever the engine is, a
        # build has a storage. What comes beside the context, its own limit bounds.
        needed = replace(self._budget, loads=True).needed_bytes(opened.plain_bytes, layout=True)
        await anyio.to_thread.run_sync(reserve, workspace, needed)
        unpacked = await anyio.to_thread.run_sync(
            unpack_context, opened.plain, workspace.directory / "context"
        )
        context.unbuilt = Unbuilt(unpacked, workspace, image)
        await opened.close()
        context.report(context.job.length, context.job.length, "a build context")

    async def _look(self, context: StepContext, share: Share) -> None:
        """Tell what is in an archive that is only kept; it may be anything."""

        def look() -> Mapping[str, Any]:
            try:
                return _brief(inspect(context.job.path, _cancellable(share)))
            except ArchiveError as error:
                return _refused(error)

        await context.upload.record_contents(await anyio.to_thread.run_sync(look))

    async def _open(
        self, context: StepContext, workspace: Workspace, share: Share
    ) -> OpenedArchive:
        try:
            opened = await open_archive(context.job.path, workspace, share)
        except ArchiveError as error:
            await context.upload.record_contents(_refused(error))
            raise
        await context.upload.record_contents(_brief(opened.contents))
        return opened

    async def _pushed_before(self, context: StepContext) -> set[str]:
        """What an earlier run of this job pushed, as far as its registry still has it."""
        kept = []
        for result in context.document.record.results:
            try:
                if await self._admission.exists(result.image) == result.digest:
                    kept.append(result)
            except (AdmissionRefused, BuildahError) as error:
                logger.warning("result_unproven upload_id=%s cause=%s", context.job.id, error)
        context.document.keep_results(kept)
        return {result.image for result in kept}

    async def _admitted(
        self, choices: Sequence[Choice], pushed: set[str]
    ) -> list[tuple[Choice, list[ImageReference]]]:
        """What is still to be pushed; nothing of it may be refused later, when one half is there.

        Raises:
            StepFailed: a destination is not allowed, or its tag is taken.
        """
        wanted = []
        for choice in choices:
            missing = [one for one in choice.destinations if str(one) not in pushed]
            for destination in missing:
                await check_destination(self._admission, destination)
            if missing:
                wanted.append((choice, missing))
        return wanted

    def _open_workspace(self, job_id: str) -> Workspace:
        # An engine without a storage must not be refused for what only a storage lacks.
        needs_storage = self._engine.loads or self._builds
        driver = self._budget.storage_driver if needs_storage else "vfs"
        return Workspace.open(self._jobs_dir, job_id, storage_driver=driver)


async def check_destination(admission: Admission, destination: ImageReference) -> None:
    """Refuse a destination that the settings do not allow, or whose tag may not move.

    Raises:
        StepFailed: they do not.
        buildah.errors.BuildahError: the registry could not be asked.
    """
    try:
        admission.registry(destination)
        await admission.check_destination(destination)
    except AdmissionRefused as error:
        raise StepFailed(error.code, error.message, error.hint, retryable=False) from error


def _brief(contents: Contents) -> Mapping[str, Any]:
    """What is kept of a look, and asked for often: a stranger's archive can name a lot."""
    document = contents.as_json()
    if len(json.dumps(document)) <= _CONTENTS_CHARS:
        return document
    named = {"images": [], "refused": document["refused"][:1]}
    note = f"{len(contents.images)} images: more than can be shown here, `tusboat inspect` does"
    return {**document, **named, "notes": [note]}


def _refused(error: ArchiveError) -> Mapping[str, Any]:
    return {"refused": [{"code": error.code, "message": error.message, "hint": error.hint}]}


def _cancellable(share: Share) -> Share:
    def report(done: float) -> None:
        from_thread.check_cancelled()
        share(done)

    return report
