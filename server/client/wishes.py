"""What a sender asks to be done with an archive.

Knows: the metadata for it.
Must not know: what is in the archive, how it is sent, command lines.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Wishes:
    """Where the image goes (None: its own name, or nowhere), and how."""

    image: str | None = None
    ref: str | None = None
    compression: str | None = None
    allow_partial: bool = False
    platforms: tuple[str, ...] = ()

    @property
    def metadata(self) -> Mapping[str, str]:
        """What is said of it when the upload is created."""
        said = {
            "image": self.image,
            "ref": self.ref,
            "compression": self.compression,
            "allow_partial": "true" if self.allow_partial else None,
            "platforms": ",".join(self.platforms) or None,
        }
        return {name: value for name, value in said.items() if value is not None}

    @property
    def identity(self) -> tuple[str | None, ...]:
        """What tells this errand from another one with the same archive."""
        others = sorted(f"{name}={value}" for name, value in self.metadata.items())
        return (self.image, *(other for other in others if not other.startswith("image=")))
