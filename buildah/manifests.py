"""What a registry keeps of an image: manifests, and indexes that list one for each platform. Pure.

Knows: their JSON, docker's and OCI's, and how the one is said in the words of the other.
Must not know: registries, files.

Source: OCI image specification v1.1, manifest and index; docker image manifest version 2, schema 2.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Self

from buildah.catalog import shown
from buildah.errors import ImageNotFound, ImageUnsupported
from buildah.platforms import is_platform, this_platform

OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"

_DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
_DOCKER_LAYER = "application/vnd.docker.image.rootfs.diff.tar"
# The blobs are the same in both, byte for byte; only their names differ.
_IN_OCI_WORDS = {
    "application/vnd.docker.container.image.v1+json": "application/vnd.oci.image.config.v1+json",
    _DOCKER_LAYER: "application/vnd.oci.image.layer.v1.tar",
    f"{_DOCKER_LAYER}.gzip": "application/vnd.oci.image.layer.v1.tar+gzip",
    f"{_DOCKER_LAYER}.zstd": "application/vnd.oci.image.layer.v1.tar+zstd",
    "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip": (
        "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip"
    ),
}
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


@dataclass(frozen=True)
class Platform:
    """`os/architecture[/variant]`."""

    system: str
    architecture: str
    variant: str = ""

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read what a person writes.

        Raises:
            ValueError: it is something else.
        """
        if not is_platform(text):
            raise ValueError(f"{text!r} is not a platform like linux/amd64 or linux/arm/v7")
        return cls(*text.split("/"))

    @classmethod
    def of_this_machine(cls) -> Self:
        """What runs here."""
        return cls.parse(this_platform())

    @classmethod
    def of_json(cls, values: object) -> Self | None:
        """The `platform` of an index's row, or a config; None where it says none."""
        if not isinstance(values, Mapping):
            return None
        parts = [values.get(key) or "" for key in ("os", "architecture", "variant")]
        if not (all(isinstance(part, str) for part in parts) and parts[0] and parts[1]):
            return None
        # What is about an image instead of being one says so (docker's buildx adds such rows).
        return None if parts[0] == parts[1] == "unknown" else cls(*parts)

    @classmethod
    def of_config(cls, data: bytes) -> Self | None:
        """What an image's config says; None where it says none."""
        try:
            return cls.of_json(json.loads(data or b"null"))
        except (ValueError, RecursionError):
            return None

    def serves(self, wanted: Platform) -> bool:
        """Whether it is what is wanted; without a variant, any one is (arm64 has one only)."""
        same = (self.system, self.architecture) == (wanted.system, wanted.architecture)
        return same and (
            not wanted.variant
            or self.variant == wanted.variant
            or (self.architecture == "arm64" and {self.variant, wanted.variant} == {"", "v8"})
        )

    def __str__(self) -> str:
        """As it is written."""
        return "/".join(filter(None, (self.system, self.architecture, self.variant)))


@dataclass(frozen=True)
class Descriptor:
    """What one document says of another: the digest (`sha256:...`), the size, the media type."""

    digest: str
    size_bytes: int
    media_type: str
    platform: Platform | None

    @property
    def hex(self) -> str:
        """The digest without its algorithm."""
        return self.digest.removeprefix("sha256:")


@dataclass(frozen=True)
class Manifest:
    """One image for one platform; `data` is as the registry keeps it."""

    data: bytes
    config: Descriptor
    layers: tuple[Descriptor, ...]

    @property
    def blobs(self) -> dict[str, Descriptor]:
        """Config and layers by their digests, each once."""
        return {one.digest: one for one in (self.config, *self.layers)}

    def as_oci(self) -> bytes:
        """The same image in OCI's words: config and layers stay what they are, byte for byte.

        Raises:
            ImageUnsupported: it has parts for which OCI has no word.
        """
        document = json.loads(self.data)
        if document.get("mediaType") != _DOCKER_MANIFEST:
            return self.data
        rows = [document["config"], *document["layers"]]
        for row in rows:
            if row["mediaType"] not in _IN_OCI_WORDS:
                raise ImageUnsupported(
                    f"Reading the image: OCI has no word for {shown(row['mediaType'])}.",
                    hint="Export it as a docker-archive.",
                )
            row["mediaType"] = _IN_OCI_WORDS[row["mediaType"]]
        return json.dumps(document | {"mediaType": OCI_MANIFEST}, separators=(",", ":")).encode()


@dataclass(frozen=True)
class Index:
    """An image for several platforms; `data` is as the registry keeps it."""

    data: bytes
    rows: tuple[Descriptor, ...]

    @property
    def platforms(self) -> tuple[Platform, ...]:
        """Those it has, in its order."""
        return tuple(row.platform for row in self.rows if row.platform)

    def choose(self, wanted: Platform) -> Descriptor:
        """The manifest for a platform; one without a variant before one with some.

        Raises:
            ImageNotFound: it has none.
        """
        found = [row for row in self.rows if row.platform and row.platform.serves(wanted)]
        if not found:
            names = ", ".join(map(str, self.platforms)) or "none"
            raise ImageNotFound(
                f"Choosing a platform: the image is not there for {wanted} (it is for: "
                f"{shown(names, 500)}).",
                hint="Choose one of these with --platform, or take them --all.",
            )
        return min(found, key=lambda row: (row.platform != wanted, bool(_variant(row))))

    def as_oci(self, replaced: Mapping[str, bytes]) -> bytes:
        """The same list in OCI's words; `replaced` has the new manifests by their old digests."""
        if not replaced and json.loads(self.data).get("mediaType") in (OCI_INDEX, None):
            return self.data
        document = json.loads(self.data) | {"mediaType": OCI_INDEX}
        for row in document["manifests"]:
            manifest = replaced.get(row["digest"])
            if manifest is not None:
                row |= {
                    "mediaType": OCI_MANIFEST,
                    "digest": digest_of(manifest),
                    "size": len(manifest),
                }
        return json.dumps(document, separators=(",", ":")).encode()


def _variant(row: Descriptor) -> str:
    return row.platform.variant if row.platform else ""


def digest_of(data: bytes) -> str:
    """`sha256:...` of a document."""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def parse(data: bytes) -> Manifest | Index:
    """Read what a registry answered.

    Raises:
        ImageUnsupported: it is neither of the two.
    """
    try:
        document = json.loads(data)
        if "manifests" in document:
            return Index(data, tuple(_descriptors(document["manifests"])))
        [config] = _descriptors([document["config"]])
        return Manifest(data, config, tuple(_descriptors(document["layers"])))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ImageUnsupported(
            "Reading the image: what the registry has there is neither a manifest of docker's "
            "schema 2 nor of OCI."
        ) from error


def _descriptors(rows: Iterable[Mapping[str, Any]]) -> Iterable[Descriptor]:
    for row in rows:
        digest, size_bytes, media_type = row["digest"], row["size"], row["mediaType"]
        if not (_DIGEST.fullmatch(digest) and isinstance(size_bytes, int) and size_bytes >= 0):
            raise ValueError(digest)
        yield Descriptor(digest, size_bytes, str(media_type), Platform.of_json(row.get("platform")))
