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

COMPRESSIONS = ("gzip", "zstd")


class Admission:
    """Judges a destination: at creation for its caller, and again before the push."""

    def __init__(
        self,
        registries: Registries,
        *,
        storage_driver: str = "overlay",
        overwrite: bool = True,
    ) -> None:
        """Allow what these registries allow; jobs will work with this container storage.

        Without `overwrite`, a tag that is in its registry stays what it is.
        """
        self._registries = registries
        self._storage_driver = storage_driver
        self._overwrite = overwrite

    def check(self, metadata: Mapping[str, str], caller: Caller) -> None:
        """Let an upload with this metadata in, or say why not. Without `image` it is let in.

        Raises:
            InvalidImage: `image` cannot be parsed, or `compression` is unknown.
            ImageForbidden: the registry, the repository or the caller does not allow it.
        """
        _check_compression(metadata.get("compression"))
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
        scratch = Path(tempfile.gettempdir())
        return await resolve(reference, self.registry(reference), scratch=scratch)


def _check_compression(compression: str | None) -> None:
    if compression and compression not in COMPRESSIONS:
        raise InvalidImage(
            "invalid_compression",
            f"compression {compression!r} is not known here",
            f"Say one of {', '.join(COMPRESSIONS)}, or leave it out.",
        )


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
