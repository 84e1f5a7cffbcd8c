"""Job: what follows a finished upload, as an immutable value.

Knows: what the steps must know of an upload.
Must not know: how the steps do their work, or what became of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from buildah.platforms import parse_platforms
from buildah.reference import ImageReference
from hooks.ports import FinishedUpload


@dataclass(frozen=True)
class Job:
    """One archive, where it is to go, and the digests (lower-case hex) its sender promised.

    `image` is None for an upload whose images go under their own names, or that is only verified
    and kept; `compression` for one whose layers are compressed as the settings say; `ref` for one
    that means all images of its archive; `platforms` are those to build for
    (none: the worker's own).
    """

    id: str
    path: Path
    length: int
    filename: str
    image: ImageReference | None
    expected: Mapping[str, str]
    owner: str
    compression: str | None = None
    ref: str | None = None
    allow_partial: bool = False
    platforms: tuple[str, ...] = ()

    @classmethod
    def of(cls, upload: FinishedUpload) -> Self:
        """The job that an upload asks for.

        Raises:
            buildah.errors.InvalidReference: the destination or a platform cannot be parsed.
        """
        platforms = upload.metadata.get("platforms")
        image = upload.metadata.get("image")
        return cls(
            id=upload.id,
            path=upload.path,
            length=upload.length,
            filename=upload.metadata.get("filename", ""),
            image=ImageReference.parse(image) if image else None,
            expected=dict(upload.expected),
            owner=upload.record.owner,
            compression=upload.metadata.get("compression") or None,
            ref=upload.metadata.get("ref") or None,
            allow_partial=upload.metadata.get("allow_partial") == "true",
            platforms=parse_platforms(platforms) if platforms else (),
        )
