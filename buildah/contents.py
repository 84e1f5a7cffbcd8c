"""What an archive holds, as values: images, platforms, layers, and what is wrong with it.

Knows: the words for it, and its form as JSON.
Must not know: how it is found out.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from buildah.compression import Compression
from buildah.platforms import is_platform

# Behind the name of a missing blob that programs would fetch from an address in the archive.
KEPT_ELSEWHERE = " (kept elsewhere)"


class Format(StrEnum):
    """By which lists the archive describes itself."""

    DOCKER = "docker-archive"
    OCI = "oci-archive"
    BOTH = "docker-and-oci-archive"
    BUILD_CONTEXT = "build-context"
    UNKNOWN = "unknown"


class Writer(StrEnum):
    """Which program lays an archive out like this one."""

    DOCKER_UP_TO_24 = "docker up to 24"
    DOCKER_FROM_25 = "docker 25 or later"
    CONTAINERD = "containerd or nerdctl"
    CONTAINERS = "podman, skopeo or buildah"
    CRANE = "crane or kaniko"
    REGCTL = "regctl"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class Layer:
    """One layer as the archive has it; `size_bytes` is None where its bytes are missing.

    `digest` is that of the stored bytes in OCI form, of the uncompressed ones in docker's.
    """

    name: str
    digest: str | None
    size_bytes: int | None
    media_type: str
    compression: Compression | None

    def as_json(self) -> dict[str, Any]:
        """Its form as JSON."""
        return {
            "name": self.name,
            "digest": self.digest,
            "size_bytes": self.size_bytes,
            "media_type": self.media_type,
            "compression": self.compression and self.compression.value,
        }


@dataclass(frozen=True)
class PlatformImage:
    """An image for one platform (`os/architecture[/variant]`, None where it is not said).

    `image_id` is the digest of its config; `missing` names blobs the archive should have and has
    not.
    """

    platform: str | None
    image_id: str | None
    layers: tuple[Layer, ...] = ()
    missing: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """Its platform for a registry's answer; what a stranger made up is unknown."""
        said = self.platform or ""
        return said if is_platform(said) else "unknown/unknown"

    @property
    def size_bytes(self) -> int:
        """The stored bytes of its layers."""
        return sum(layer.size_bytes or 0 for layer in self.layers)

    def as_json(self) -> dict[str, Any]:
        """Its form as JSON."""
        return {
            "platform": self.platform,
            "image_id": self.image_id,
            "size_bytes": self.size_bytes,
            "layers": [layer.as_json() for layer in self.layers],
            "missing": list(self.missing),
        }


@dataclass(frozen=True)
class Image:
    """One image, for one platform or several; `digest` is that of its OCI manifest or index."""

    tags: tuple[str, ...]
    digest: str | None
    platforms: tuple[PlatformImage, ...]

    @property
    def known_as(self) -> str | None:
        """The id by which people know it: of its first platform, else of what names them all."""
        image_id = self.platforms[0].image_id if self.platforms else None
        return image_id or self.digest

    @property
    def whole_platforms(self) -> tuple[PlatformImage, ...]:
        """Those of which nothing is missing."""
        return tuple(one for one in self.platforms if not one.missing)

    def as_json(self) -> dict[str, Any]:
        """Its form as JSON."""
        return {
            "tags": list(self.tags),
            "digest": self.digest,
            "platforms": [one.as_json() for one in self.platforms],
        }


@dataclass(frozen=True)
class Refusal:
    """Why an upload of this archive would fail: an error's code, words and hint."""

    code: str
    message: str
    hint: str

    def as_json(self) -> dict[str, Any]:
        """Its form as JSON."""
        return {"code": self.code, "message": self.message, "hint": self.hint}


@dataclass(frozen=True)
class Contents:
    """An archive, and what would be said of it."""

    size_bytes: int
    compression: Compression
    format: Format
    writer: Writer
    images: tuple[Image, ...]
    refusals: tuple[Refusal, ...] = ()
    notes: tuple[str, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """Its form as JSON; the README says what each name means."""
        return {
            "format": self.format.value,
            "writer": self.writer.value,
            "compression": self.compression.value,
            "size_bytes": self.size_bytes,
            "images": [one.as_json() for one in self.images],
            "refused": [one.as_json() for one in self.refusals],
            "notes": list(self.notes),
        }
