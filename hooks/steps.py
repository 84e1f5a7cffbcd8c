"""The steps of every upload, in order.

Knows: which steps there are and what each is made of.
Must not know: what they do.
"""

from __future__ import annotations

from pathlib import Path

from buildah.build import BuildOptions
from buildah.engine import ENGINES
from buildah.pushed import LayerCompression
from hooks.admission import Admission
from hooks.assemble import AssembleParts
from hooks.budget import Budget
from hooks.build import BuildImage
from hooks.load import LoadImage
from hooks.pipeline import Step
from hooks.ports import Uploads
from hooks.push import CleanUp, PushImage
from hooks.redis import Leases
from hooks.verify import VerifyDigest

STEP_NAMES = (VerifyDigest.name, LoadImage.name, PushImage.name, CleanUp.name)


def step_names(*, in_parts: bool) -> tuple[str, ...]:
    """The steps of an upload that is in one file, or in several."""
    return (AssembleParts.name, *STEP_NAMES) if in_parts else STEP_NAMES


def image_steps(  # noqa: PLR0913 - what a worker is made of meets here
    uploads: Uploads,
    leases: Leases,
    admission: Admission,
    *,
    jobs_dir: Path,
    budget: Budget,
    engine: str = "buildah",
    compression: LayerCompression | None = None,
    builds: BuildOptions | None = None,
) -> tuple[Step, ...]:
    """Assemble, verify, load, build, push, clean up; workspaces are made below `jobs_dir`.

    Without `builds`, a build context is refused.
    """
    return (
        AssembleParts(uploads),
        VerifyDigest(uploads, leases),
        LoadImage(admission, ENGINES[engine], jobs_dir, budget, builds=builds is not None),
        *((BuildImage(builds),) if builds else ()),
        PushImage(admission, compression or LayerCompression()),
        CleanUp(),
    )
