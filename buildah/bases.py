"""Which base images a build may use, and where they are pulled from.

Knows: the allow-list of base images, the registries' TLS options and credentials, `buildah pull`.
Must not know: Containerfiles, how an image is built on them, who asks.

They are pulled before the build, by us: what a stranger wrote runs without credentials and, unless
the operator allows it one, without a network.
"""

from __future__ import annotations

import fnmatch
import glob
import re
from collections.abc import Iterable
from dataclasses import dataclass

from buildah.command import run
from buildah.containerfile import BaseImage
from buildah.diagnosis import REACHING, explain, last_words
from buildah.errors import BaseImageMissing, BaseImageRefused, InvalidReference
from buildah.platforms import is_platform
from buildah.preflight import confine
from buildah.pushed import Log
from buildah.reference import ImageReference
from buildah.registry import Registries, Registry
from buildah.workspace import Workspace

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_DOCKER_HUB = "docker.io"
_ABSENT = re.compile(
    r"manifest unknown|name unknown|repository name not known|StatusCode: 404"
    r"|no image found in (image index|manifest list)"
)


@dataclass(frozen=True)
class Base:
    """A base image that is allowed: what to pull, and from which registry."""

    source: str
    repository: str
    registry: Registry
    platform: str


class BaseImages:
    """The allow-list of base images."""

    def __init__(self, patterns: Iterable[str], registries: Registries) -> None:
        """Allow `host/repository` that match a pattern, in which a `*` stands for anything.

        Without patterns, everything in the configured registries is allowed.
        """
        self._registries = registries
        self._patterns = tuple(patterns) or tuple(
            f"{glob.escape(host)}/*" for host in registries.hosts
        )

    def find(self, image: BaseImage, platform: str) -> Base:
        """What to pull for a build for `platform`.

        Raises:
            BaseImageRefused: it is not allowed, or not named in full.
        """
        subject = f"Using the base image {image.name[:200]!r}"
        name, at, digest = image.name.partition("@")
        if at and not _DIGEST.fullmatch(digest):
            raise BaseImageRefused(f"{subject}: its digest is none.")
        try:
            reference = ImageReference.parse(name)
        except InvalidReference as error:
            raise BaseImageRefused(f"{subject}: {error.message}") from error
        wanted = image.platform or platform
        if not is_platform(wanted):
            raise BaseImageRefused(f"{subject}: its platform {wanted[:80]!r} is none.")
        host, repository = reference.host, reference.repository
        if host == _DOCKER_HUB and "/" not in repository:
            repository = f"library/{repository}"
        place = f"{host}/{repository}"
        if not any(fnmatch.fnmatchcase(place, pattern) for pattern in self._patterns):
            raise BaseImageRefused(
                f"{subject}: {place} is not allowed (allowed: "
                f"{', '.join(self._patterns) or 'none, only `FROM scratch`'})."
            )
        source = f"{place}@{digest}" if at else f"{place}:{reference.tag}"
        return Base(source, repository, self._registries.at(host) or Registry(host), wanted)


async def pull(base: Base, workspace: Workspace, *, log: Log) -> None:
    """Bring a base image into the workspace's storage, in place of one for another platform.

    Raises:
        BaseImageMissing: there is none of that name, or none for that platform.
        RegistryError: the registry cannot be asked; the subclass says why.
        StorageFull: there is no room in the workspace.
        ToolError: buildah is missing, or failed in a way that is not known here.
    """
    operation = f"Pulling the base image {base.source}"
    if base.registry.authfile:
        # With a password in its hands. Whoever has none is sent around by public registries.
        await confine(operation, base.repository, base.registry, pushing=False)
    async with base.registry.access(workspace.home) as access:
        completed = await run(
            [
                *("buildah", *workspace.storage_arguments, "pull", "--quiet", "--policy=always"),
                *(f"--platform={base.platform}", *access.arguments),
                *("--", f"docker://{base.source}"),
            ],
            env=workspace.env,
            on_line=log,
            secrets=access.secrets,
        )
    if not completed.returncode:
        return
    words = last_words(completed.stderr_tail)
    if _ABSENT.search(words):
        raise BaseImageMissing(f"{operation} for {base.platform}: there is none ({words}).")
    raise explain(operation, completed, REACHING)
