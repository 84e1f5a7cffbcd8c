"""Admission: may this image go to that registry for this caller.

Knows: the reference grammar and the registries of `buildah`, and a caller's patterns.
Must not know: HTTP, tokens, what becomes of the upload.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase

from buildah.contents import Image
from buildah.errors import (
    ArchiveError,
    BuildahError,
    DestinationRefused,
    InvalidReference,
    RegistryError,
    RegistryForbidden,
    RegistryNotAllowed,
    RepositoryNotAllowed,
)
from buildah.platforms import parse_platforms, this_platform
from buildah.reference import ImageReference
from buildah.registry import Registries, Registry, resolve
from buildah.selection import Order, choose
from hooks.budget import Budget
from hooks.errors import ImageForbidden, InvalidImage, RegistryUnfit
from hooks.ports import Caller
from hooks.preflight import Preflights

COMPRESSIONS = ("gzip", "zstd")

_SOME_NAME = "any"


class Admission:
    """Judges a destination: at creation for its caller, and again before the push."""

    def __init__(
        self,
        registries: Registries,
        *,
        budget: Budget | None = None,
        overwrite: bool = True,
        default_repository: str = "",
        preflight: bool = True,
    ) -> None:
        """Allow what these registries allow; jobs will take the disk of this budget.

        Without `overwrite`, a tag that is in its registry stays what it is. Images of an upload
        without `image` go below `default_repository` (`host/path`), if there is one. Without
        `preflight`, no registry is asked before the push.

        Raises:
            ValueError: `default_repository` is none, or its registry does not allow it.
        """
        self._registries = registries
        self._budget = budget or Budget()
        self._overwrite = overwrite
        self._preflights = Preflights() if preflight else None
        self.default_repository = default_repository.rstrip("/")
        if self.default_repository:
            self._check_default(f"{self.default_repository}/{_SOME_NAME}")

    def check(self, metadata: Mapping[str, str], caller: Caller) -> None:
        """Let an upload with this metadata in, or say why not.

        Raises:
            InvalidImage: `image` cannot be parsed, or another word about it is unknown.
            ImageForbidden: the registry, the repository or the caller does not allow it.
        """
        _check_compression(metadata.get("compression"))
        _check_flag("allow_partial", metadata.get("allow_partial"))
        _check_platforms(metadata.get("platforms"))
        image = metadata.get("image")
        if image is None:
            if self.default_repository:
                _check_caller_below(self.default_repository, caller)
            return
        reference = _parse(image)
        self.registry(reference)
        _check_caller(reference, caller)

    async def preflight(self, metadata: Mapping[str, str]) -> None:
        """Let an upload in if its registry would take it, or cannot be asked at this moment.

        What `check` refuses is not for this.

        Raises:
            ImageForbidden: the registry's user may not push there, or there is no such project.
            RegistryUnfit: nobody's push would be taken, until somebody repairs something.
        """
        image = metadata.get("image")
        if image is None and self.default_repository:
            # Nobody knows the names yet, but one is as good as another.
            image = f"{self.default_repository}/{_SOME_NAME}"
        if image is None or self._preflights is None:
            return
        reference = _parse(image)
        try:
            await self._preflights.check(reference, self._registries.find(reference))
        except DestinationRefused:
            return
        except RegistryForbidden as error:
            raise ImageForbidden(error.code, error.message, error.hint) from error
        except RegistryError as error:
            raise RegistryUnfit(error.code, error.message, error.hint) from error

    def destinations(self, metadata: Mapping[str, str], images: Sequence[Image]) -> tuple[str, ...]:
        """Where images that are called so would go; without any, that is `image`.

        Raises:
            InvalidImage: some would go nowhere, or two to one place.
            ImageForbidden: the registry or the repository is not allowed.
        """
        image = metadata.get("image")
        if not image and not (images and self.default_repository):
            return ()
        reference = _parse(image) if image else None
        if reference and not images:
            return (str(reference),)
        order = Order(reference, self.default_repository, metadata.get("ref"))
        try:
            choices = choose(images, order)
        except (ArchiveError, InvalidReference) as error:
            raise InvalidImage(error.code, error.message, error.hint) from error
        wanted = [destination for choice in choices for destination in choice.destinations]
        for destination in wanted:
            self.registry(destination)
        return tuple(map(str, wanted))

    def working_space(self, metadata: Mapping[str, str], length: int) -> int:
        """Bytes that the steps will need beside an archive of this length; 0 for one just kept."""
        if not metadata.get("image") and not self.default_repository:
            return 0
        return self._budget.promised_bytes(length)

    def _check_default(self, example: str) -> None:
        try:
            reference = ImageReference.parse(example)
            self._registries.find(reference)
        except RepositoryNotAllowed:
            # Some of what is below it may be allowed.
            return
        except BuildahError as error:
            raise ValueError(f"default_repository {self.default_repository!r}: {error}") from error

    def registry(self, reference: ImageReference) -> Registry:
        """Where to push, as the settings allow it now.

        Raises:
            ImageForbidden: the registry or the repository is not allowed.
        """
        try:
            return self._registries.find(reference)
        except RegistryNotAllowed as error:
            raise ImageForbidden("registry_not_allowed", error.message, error.hint) from error
        except RepositoryNotAllowed as error:
            raise ImageForbidden("repository_not_allowed", error.message, error.hint) from error

    def check_free(self, image: str, digest: str | None) -> None:
        """Let an image be pushed whose tag is in its registry with that digest (None: it is not).

        Raises:
            ImageForbidden: the tag is there, and must stay what it is.
        """
        if digest is not None and not self._overwrite:
            raise ImageForbidden(
                "tag_exists",
                f"image {image}: the tag is in its registry already ({digest})",
                "Choose another tag; this server does not move tags (setting `overwrite`).",
            )

    async def check_destination(self, reference: ImageReference) -> None:
        """As `check_free`, asking the registry; it is not asked where tags may move.

        Raises:
            ImageForbidden: the tag is there, and must stay what it is.
            buildah.errors.BuildahError: the registry could not be asked.
        """
        if not self._overwrite:
            self.check_free(str(reference), await self.exists(str(reference)))

    async def exists(self, image: str) -> str | None:
        """The manifest digest that the tag has in its registry now; None when there is no such tag.

        Raises:
            InvalidImage: `image` cannot be parsed.
            ImageForbidden: the registry or the repository is not allowed.
            buildah.errors.BuildahError: the registry could not be asked.
        """
        reference = _parse(image)
        return await resolve(reference, self.registry(reference))


def _check_compression(compression: str | None) -> None:
    if compression and compression not in COMPRESSIONS:
        raise InvalidImage(
            "invalid_compression",
            f"compression {compression!r} is not known here",
            f"Say one of {', '.join(COMPRESSIONS)}, or leave it out.",
        )


def _check_flag(name: str, value: str | None) -> None:
    if value not in (None, "", "true", "false"):
        raise InvalidImage(
            f"invalid_{name}",
            f"{name} {value!r} is neither true nor false",
            "Say `true`, or leave it out.",
        )


def _check_platforms(platforms: str | None) -> None:
    try:
        parse_platforms(platforms or this_platform())
    except InvalidReference as error:
        raise InvalidImage(error.code, error.message, error.hint) from error


def _parse(image: str) -> ImageReference:
    try:
        return ImageReference.parse(image)
    except InvalidReference as error:
        raise InvalidImage("invalid_image", error.message, error.hint) from error


def _check_caller(reference: ImageReference, caller: Caller) -> None:
    if not _may_write(reference.name, caller):
        raise _caller_refused(f"image {reference}", reference.name, caller)


def _check_caller_below(repository: str, caller: Caller) -> None:
    """Let only those in who may write everything below: nobody knows the names yet.

    A `*` fits only a `*` of a pattern, never a name.
    """
    if not _may_write(f"{repository}/*", caller):
        raise _caller_refused("an upload without `image`", f"all of {repository}", caller)


def _may_write(place: str, caller: Caller) -> bool:
    return any(fnmatchcase(place, pattern) for pattern in caller.repositories)


def _caller_refused(subject: str, place: str, caller: Caller) -> ImageForbidden:
    allowed = ", ".join(caller.repositories) or "nothing"
    return ImageForbidden(
        "caller_not_allowed",
        f"{subject}: the caller {caller.name} may not write to {place}",
        f"This caller may write to: {allowed}. Choose such a repository, or ask for another token.",
    )
