"""Engines: how an image in an archive becomes one that can be pushed.

Knows: which engines there are, and what each needs for it.
Must not know: archives, registries, who chose the engine.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from buildah.archived import ArchivedImage
from buildah.load import load
from buildah.opening import DECOMPRESSED, OpenedArchive
from buildah.progress import Share, part
from buildah.pushed import Log, ReadyImage
from buildah.workspace import Workspace


class Engine(Protocol):
    """A way from an archive into a registry."""

    @property
    def name(self) -> str:
        """The name that the setting `engine` takes."""

    @property
    def loads(self) -> bool:
        """Whether images go through a container storage on their way."""

    async def make_ready(
        self, image: ArchivedImage, workspace: Workspace, *, share: Share, log: Log
    ) -> ReadyImage:
        """Do what has to be done before the image can be pushed.

        Raises:
            ArchiveError: something is wrong with the archive; the subclass says what.
            StorageFull: there is no room in the workspace.
            ToolError: a program is missing, or failed in a way that is not known here.
        """


class BuildahEngine:
    """Loads an image into a storage, which proves every layer, and pushes it from there.

    What a storage does not take (an image for several platforms above all) is copied as by skopeo.
    """

    name = "buildah"
    loads = True

    async def make_ready(
        self, image: ArchivedImage, workspace: Workspace, *, share: Share, log: Log
    ) -> ReadyImage:
        """Load it, as every `Engine`."""
        if not image.storable:
            return image
        return await load(image, workspace, share=share, log=log)


class SkopeoEngine:
    """Copies layers from the archive to the registry: no storage, no privileges, half the disk."""

    name = "skopeo"
    loads = False

    async def make_ready(
        self, image: ArchivedImage, workspace: Workspace, *, share: Share, log: Log
    ) -> ReadyImage:
        """Nothing is to be done."""
        return image


async def ready_images(
    engine: Engine,
    opened: OpenedArchive,
    positions: Sequence[int],
    workspace: Workspace,
    *,
    share: Share,
    log: Log,
) -> list[ReadyImage]:
    """Make images of an archive ready, by their positions in its list.

    What was unpacked for it is removed, unless an image is going to be read from there.

    Raises:
        BuildahError: as `Engine.make_ready`.
    """
    start = DECOMPRESSED if opened.decompressed else 0.0
    left = part(share, start, 1)
    ready = []
    for number, position in enumerate(positions):
        span = part(left, number / len(positions), (number + 1) / len(positions))
        unpacked = opened.unpacking_share(position)
        image = await opened.image(position, part(span, 0, unpacked))
        rest = part(span, unpacked, 1)
        ready.append(await engine.make_ready(image, workspace, share=rest, log=log))
    if not any(isinstance(image, ArchivedImage) for image in ready):
        await opened.close()
    return ready


ENGINES: dict[str, Engine] = {engine.name: engine for engine in (BuildahEngine(), SkopeoEngine())}
