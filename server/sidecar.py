"""Small JSON files beside an upload's data: written atomically, durable when `write` returns.

Knows: names, bytes and fsync.
Must not know: what the documents mean.

    ID.info     the sidecar (TusUploadParams and our own block)
    ID.outcome  how the upload ended
    ID.digest   what a follower computed
    ID.cancel   somebody asked to cancel what follows the upload
    ID.pending  from where on the bytes are not proven yet
    ID.contents what a look into the archive told
    ID.claim    which final upload this partial is a part of
    ID.chunks   which chunks are proven: no document, but a file that grows (`server/journal.py`)
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Any


class Kind(StrEnum):
    """Which document, by the end of its file name."""

    INFO = ".info"
    OUTCOME = ".outcome"
    DIGEST = ".digest"
    CANCEL = ".cancel"
    PENDING = ".pending"
    CONTENTS = ".contents"
    CLAIM = ".claim"
    CHUNKS = ".chunks"


class Sidecars:
    """The documents of all uploads in one directory. Blocking: call it from a thread."""

    def __init__(self, directory: Path) -> None:
        """Keep the directory; it must exist."""
        self._directory = directory

    def path(self, upload_id: str, kind: Kind) -> Path:
        """Where the document stands."""
        return self._directory / f"{upload_id}{kind}"

    def read(self, upload_id: str, kind: Kind) -> dict[str, Any] | None:
        """The document, or None when there is none or it cannot be read as JSON."""
        try:
            data = json.loads(self.path(upload_id, kind).read_bytes())
        except (FileNotFoundError, ValueError):
            return None
        return data if isinstance(data, dict) else None

    def write(self, upload_id: str, kind: Kind, document: Mapping[str, Any]) -> None:
        """Replace the document: a reader sees the old or the new one, also after a power cut.

        Raises:
            OSError: it could not be made durable; the old document is still there.
        """
        with self._draft(upload_id, kind, document) as draft:
            draft.rename(self.path(upload_id, kind))
        sync_directory(self._directory)

    def write_once(self, upload_id: str, kind: Kind, document: Mapping[str, Any]) -> bool:
        """Write the document unless there is one; of several writers at once, one does it.

        Raises:
            OSError: it could not be made durable.
        """
        with self._draft(upload_id, kind, document) as draft:
            try:
                self.path(upload_id, kind).hardlink_to(draft)
            except FileExistsError:
                return False
        sync_directory(self._directory)
        return True

    @contextmanager
    def _draft(self, upload_id: str, kind: Kind, document: Mapping[str, Any]) -> Iterator[Path]:
        """A durable file with the document in it, which has its name only within the block."""
        target = self.path(upload_id, kind)
        draft = target.with_name(f"{target.name}.{os.getpid()}.{os.urandom(4).hex()}.tmp")
        try:
            with draft.open("x") as file:
                json.dump(document, file, indent=1)
                file.flush()
                os.fsync(file.fileno())
            yield draft
        finally:
            draft.unlink(missing_ok=True)

    def exists(self, upload_id: str, kind: Kind) -> bool:
        """Whether the document is there."""
        return self.path(upload_id, kind).exists()

    def remove(self, upload_id: str, *kinds: Kind) -> None:
        """Remove documents; one that is not there is fine."""
        for kind in kinds:
            self.path(upload_id, kind).unlink(missing_ok=True)
        sync_directory(self._directory)

    def modified_at(self, upload_id: str, kind: Kind) -> float | None:
        """When the document was written (POSIX seconds), or None."""
        try:
            return self.path(upload_id, kind).stat().st_mtime
        except FileNotFoundError:
            return None


def sync_directory(directory: Path) -> None:
    """Make created, renamed and removed names in the directory durable."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
