"""BuildImage: an unpacked build context becomes an image.

Knows: the limits of a build, and that only some uploads need one.
Must not know: how a build runs or is shut in, Redis.
"""

from __future__ import annotations

from dataclasses import replace

from buildah.build import BuildOptions, build
from hooks.pipeline import Shipment, StepContext, StepSkipped


class BuildImage:
    """Builds what the load step unpacked. Where that was an image, nobody sees this step."""

    name = "build"
    after_failure = False

    def __init__(self, options: BuildOptions) -> None:
        """Build within these limits, for the platforms that a job names."""
        self._options = options

    def is_needed(self, context: StepContext) -> bool:
        """Whether there is a context."""
        return context.unbuilt is not None

    async def run(self, context: StepContext) -> None:
        """Build it, and have it pushed.

        Raises:
            StepSkipped: there is no context.
            buildah.errors.BuildahError: it did not become an image.
        """
        unbuilt = context.unbuilt
        if unbuilt is None:
            raise StepSkipped("an image needs no build")
        built = await build(
            unbuilt.context,
            unbuilt.workspace,
            replace(self._options, platforms=context.job.platforms),
            note=context.document.note,
            log=context.log,
        )
        context.document.note(f"built for {', '.join(built.platforms)}")
        context.shipments = [Shipment(built, unbuilt.destination)]
