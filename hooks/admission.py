"""Admission: may this image go to that registry for this caller.

Knows: the reference grammar and the registries of `buildah`, and a caller's patterns.
Must not know: HTTP, tokens, what becomes of the upload.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from fnmatch import fnmatchcase
from pathlib import Path

from buildah.errors import InvalidReference, RegistryNotAllowed, RepositoryNotAllowed
from buildah.reference import ImageReference
from buildah.registry import Registries, Registry, resolve
from hooks.budget import space_to_promise_bytes
from hooks.errors import ImageForbidden, InvalidImage
from hooks.ports import Caller


class Admission:
    """Judges a destination: at creation for its caller, and again before the push."""

    def __init__(self, registries: Registries, *, storage_driver: str = "overlay") -> None:
        """Allow what these registries allow; jobs will work with this container storage."""
        self._registries = registries
        self._storage_driver = storage_driver

    def check(self, metadata: Mapping[str, str], caller: Caller) -> None:
        """Let an upload with this metadata in, or say why not. Without `image` it is let in.

        Raises:
            InvalidImage: `image` cannot be parsed.
            ImageForbidden: the registry, the repository or the caller does not allow it.
        """
        image = metadata.get("image")
        if image is None:
            return
        reference = _parse(image)
        self.registry(reference)
        _check_caller(reference, caller)

    def working_space(self, metadata: Mapping[str, str], length: int) -> int:
        """Bytes that the steps will need beside an archive of this length; 0 without `image`."""
        if not metadata.get("image"):
            return 0
        return space_to_promise_bytes(length, self._storage_driver)

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

    async def exists(self, image: str) -> str | None:
        """The manifest digest that the tag has in its registry now; None when there is no such tag.

        Raises:
            InvalidImage: `image` cannot be parsed.
            ImageForbidden: the registry or the repository is not allowed.
            buildah.errors.BuildahError: the registry could not be asked.
        """
        reference = _parse(image)
        scratch = Path(tempfile.gettempdir())
        return await resolve(reference, self.registry(reference), scratch=scratch)


def _parse(image: str) -> ImageReference:
    try:
        return ImageReference.parse(image)
    except InvalidReference as error:
        raise InvalidImage("invalid_image", error.message, error.hint) from error


def _check_caller(reference: ImageReference, caller: Caller) -> None:
    place = f"{reference.host}/{reference.repository}"
    if any(fnmatchcase(place, pattern) for pattern in caller.repositories):
        return
    allowed = ", ".join(caller.repositories) or "nothing"
    raise ImageForbidden(
        "caller_not_allowed",
        f"image {reference}: the caller {caller.name} may not write to {place}",
        f"This caller may write to: {allowed}. Choose such a repository, or ask for another token.",
    )
