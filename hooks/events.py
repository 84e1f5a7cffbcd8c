"""What happened to an upload, as frozen values that the server hands to the hooks.

Knows: facts about uploads.
Must not know: who listens.
"""

from __future__ import annotations

from dataclasses import dataclass

from hooks.record import Record


@dataclass(frozen=True)
class UploadCreated:
    """An upload exists; no byte may have come yet."""

    record: Record


@dataclass(frozen=True)
class UploadGrew:
    """Bytes arrive (said when a request body begins, about once a second, and when it ends)."""

    record: Record


@dataclass(frozen=True)
class UploadFinished:
    """Every byte is there and durable; with `in_parts`, in several files."""

    record: Record
    in_parts: bool = False


@dataclass(frozen=True)
class UploadRemoved:
    """The upload and all that was known of it are gone (terminated while receiving)."""

    upload_id: str
    owner: str


@dataclass(frozen=True)
class UploadEnded:
    """The upload ended without the pipeline (canceled or expired while receiving)."""

    record: Record


UploadEvent = UploadCreated | UploadGrew | UploadFinished | UploadRemoved | UploadEnded
