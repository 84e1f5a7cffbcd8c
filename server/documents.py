"""Documents: what is known of uploads beside their bytes.

Knows: which document says what, and in which order they may come and go.
Must not know: the bytes, HTTP, callers.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hooks.ports import Digests
from hooks.record import Record
from server.sidecar import Kind, Sidecars
from server.upload import Upload, UploadId, parse_upload_id

logger = logging.getLogger(__name__)


class Documents:
    """The documents of all uploads in one directory. Blocking: call it from a thread."""

    def __init__(self, directory: Path) -> None:
        """Keep the directory; it must exist."""
        self.directory = directory
        self._sidecars = Sidecars(directory)

    def find(self, upload_id: str) -> Upload | None:
        """The upload of that id; None when there is none (or its sidecar cannot be read)."""
        parsed = parse_upload_id(upload_id)
        data = self._sidecars.read(parsed, Kind.INFO) if parsed else None
        if parsed is None or data is None:
            return None
        try:
            return Upload.from_sidecar(parsed, data)
        except ValueError:
            return None

    def outcome(self, upload_id: str) -> Record | None:
        """How the upload ended; None while it has not."""
        data = self._sidecars.read(upload_id, Kind.OUTCOME) if parse_upload_id(upload_id) else None
        if not data:
            return None
        try:
            return Record.from_json(data)
        except (KeyError, TypeError, ValueError):
            # It ended, whatever is wrong with the words: running it again could push a wrong image.
            logger.warning("outcome unreadable", extra={"upload_id": upload_id})
            upload = self.find(upload_id)
            return upload.unreadable_outcome() if upload else None

    def outcome_age_seconds(self, upload_id: str) -> float | None:
        """How long ago the outcome was written; None when there is none."""
        written = self._sidecars.modified_at(upload_id, Kind.OUTCOME)
        return None if written is None else time.time() - written

    def sidecar_age_seconds(self, upload_id: str) -> float | None:
        """How long ago the sidecar was written; None when there is none."""
        written = self._sidecars.modified_at(upload_id, Kind.INFO)
        return None if written is None else time.time() - written

    def record_outcome(self, outcome: Record) -> None:
        """Write the end of an upload; its cancel mark has done its work then."""
        self._sidecars.write(outcome.id, Kind.OUTCOME, outcome.to_json())
        self._sidecars.remove(outcome.id, Kind.CANCEL)

    def forget_outcome(self, upload_id: str) -> None:
        """Open a failed upload again, so that its pipeline can run once more."""
        # In this order: a kill in between must not leave a mark that cancels the new run.
        self._sidecars.remove(upload_id, Kind.CANCEL, Kind.OUTCOME)

    def digests(self, upload_id: str) -> Digests | None:
        """What a follower computed; None when it left nothing."""
        data = self._sidecars.read(upload_id, Kind.DIGEST)
        return Digests(**data) if data else None

    def record_digests(self, upload_id: str, digests: Digests) -> None:
        """Keep what a follower computed."""
        document = {"length": digests.length, "md5": digests.md5, "sha256": digests.sha256}
        self._sidecars.write(upload_id, Kind.DIGEST, document)

    def forget_digests(self, upload_id: str) -> None:
        """The file is not what they were computed of."""
        self._sidecars.remove(upload_id, Kind.DIGEST)

    def contents(self, upload_id: str) -> dict[str, Any] | None:
        """What a look into the archive told; None before there was one."""
        return self._sidecars.read(upload_id, Kind.CONTENTS)

    def record_contents(self, upload_id: str, contents: Mapping[str, Any]) -> None:
        """Keep what a look into the archive told."""
        self._sidecars.write(upload_id, Kind.CONTENTS, contents)

    def request_cancel(self, upload_id: str) -> None:
        """Leave the mark that whatever works on the upload must stop."""
        self._sidecars.write(upload_id, Kind.CANCEL, {})

    def cancel_requested(self, upload_id: str) -> bool:
        """Whether the mark is there."""
        return self._sidecars.exists(upload_id, Kind.CANCEL)

    def claim(self, upload_id: str, final_id: str) -> str:
        """Make a partial a part of that final upload, for ever; returns whose it is (now)."""
        if self._sidecars.write_once(upload_id, Kind.CLAIM, {"final": final_id}):
            return final_id
        return self.claimer(upload_id) or ""

    def withdraw(self, upload_id: str) -> bool:
        """Make sure that a partial never becomes a part of anything; False when it is one."""
        return self.claim(upload_id, upload_id) == upload_id

    def unclaim(self, upload_id: str) -> None:
        """Take a claim back that did not come to anything."""
        self._sidecars.remove(upload_id, Kind.CLAIM)

    def claimer(self, upload_id: str) -> str | None:
        """The final upload that a partial is a part of; itself, when it was withdrawn."""
        document = self._sidecars.read(upload_id, Kind.CLAIM)
        return None if document is None else str(document["final"])

    def parts(self, upload_id: str) -> list[UploadId]:
        """The parts of a final upload that are its own; of any other upload there are none."""
        upload = self.find(upload_id)
        return [part for part in upload.parts if self.claimer(part) == upload_id] if upload else []

    def ids(self) -> list[UploadId]:
        """Every upload that exists."""
        with os.scandir(self.directory) as entries:
            names = [entry.name for entry in entries if entry.name.endswith(Kind.INFO)]
        parsed = (parse_upload_id(name.removesuffix(Kind.INFO)) for name in names)
        return sorted(upload_id for upload_id in parsed if upload_id)
