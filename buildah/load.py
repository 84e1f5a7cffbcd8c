"""Brings an image of an archive into a workspace's storage.

Knows: `buildah pull`.
Must not know: where the archive comes from, or where the image goes.
"""

from __future__ import annotations

import re

from buildah.archived import ArchivedImage
from buildah.command import Completed, run
from buildah.compression import allowed_bytes
from buildah.diagnosis import LOADING, explain
from buildah.errors import ArchiveCorrupt, ArchiveInvalid, ToolFailed
from buildah.growth import bounded, used_bytes
from buildah.progress import FileActivity, Share
from buildah.push import StoredImage
from buildah.pushed import Log
from buildah.workspace import Workspace

_OPERATION = "Loading the archive"
_IMAGE_ID = re.compile(r"[0-9a-f]{64}")
# buildah copies each layer to tmp/storageNNN/N, and reads it back from there to unpack it. In newer
# versions the directory's name begins with what made it.
_LAYER_FILES = re.compile(r"(container_images_)?storage\d+/\d+")


async def load(
    image: ArchivedImage, workspace: Workspace, *, share: Share, log: Log
) -> StoredImage:
    """Load one image for one platform.

    `share` gets how far it is: each layer is copied once, and read once again to be applied.

    Raises:
        ArchiveError: something is wrong with the archive; the subclass says what.
        StorageFull: there is no room in the workspace.
        ToolError: buildah is missing, or failed in a way that is not known here.
    """
    activity = FileActivity(workspace.tmp, _LAYER_FILES)

    def watch(pgid: int) -> None:
        activity.scan(pgid)
        if image.layers_bytes:
            moved_bytes = activity.written_bytes + activity.read_bytes
            share(moved_bytes / 2 / image.layers_bytes)

    async def pull() -> Completed:
        return await run(
            ["buildah", *workspace.storage_arguments, "pull", "--quiet", "--", image.name],
            env=workspace.env,
            cwd=image.directory,
            on_line=log,
            watch=watch,
        )

    # Images that were loaded before are in the same storage.
    before_bytes = await used_bytes(workspace.root, workspace.env)
    limit_bytes = allowed_bytes(image.stored_bytes) * _trees(image, workspace)

    async def check() -> None:
        grown_bytes = await used_bytes(workspace.root, workspace.env) - before_bytes
        if grown_bytes > limit_bytes:
            raise ArchiveInvalid(
                f"{_OPERATION}: layers of {image.stored_bytes} bytes grow to more than "
                f"{limit_bytes}."
            )

    completed = await bounded(pull, check)
    if completed.returncode:
        raise explain(_OPERATION, completed, LOADING)
    image_id = completed.stdout.decode(errors="replace").strip()
    if not _IMAGE_ID.fullmatch(image_id):
        raise ToolFailed(f"{_OPERATION}: buildah named the image {image_id[:80]!r}.")
    if image_id != image.image_id:
        raise ArchiveCorrupt(
            f"{_OPERATION}: its list says {image.image_id}, what was loaded is {image_id}."
        )
    return StoredImage(image_id, image.platforms[0])


def _trees(image: ArchivedImage, workspace: Workspace) -> int:
    """How often a storage may hold an image: with vfs each layer holds all that is below it."""
    return len(image.layers) if workspace.storage_driver == "vfs" and image.layers else 1
