"""Which uploads of this user are under way, so that the same command again goes on.

Knows: one small file for each upload, in the user's state directory.
Must not know: HTTP, what is in an archive.
"""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
import time
from pathlib import Path
from typing import Final

DAY_SECONDS: Final = 86400
# Longer than any server keeps an unfinished upload for; what is older only gathers dust.
_KEPT_SECONDS: Final = 30 * DAY_SECONDS


class Memory:
    """Upload ids by an archive's fingerprint.

    A file for each, replaced atomically: two commands at once never spoil each other's row, as
    they would in one common file. Where the directory cannot be written, nothing is remembered;
    an upload is worth more than its bookkeeping.
    """

    def __init__(self, state_home: Path) -> None:
        """Keep the files below `state_home` (`$XDG_STATE_HOME`); made when first needed."""
        self._directory = state_home / "tusboat" / "uploads"

    def find(self, fingerprint: str) -> str | None:
        """The upload that this archive is on its way to, if there is one."""
        try:
            row = json.loads(self._path(fingerprint).read_bytes())
            return str(row["upload_id"])
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def keep(self, fingerprint: str, upload_id: str, *, server: str, file: Path) -> bool:
        """Remember it (server and file are for people who look); whether that worked."""
        row = {"upload_id": upload_id, "server": server, "file": str(file.absolute())}
        try:
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._sweep()
            descriptor, scratch = tempfile.mkstemp(dir=self._directory, prefix=".new-")
            with os.fdopen(descriptor, "w") as stream:
                json.dump(row, stream)
                stream.flush()
                os.fsync(descriptor)
            Path(scratch).replace(self._path(fingerprint))
        except OSError:
            return False
        return True

    def forget(self, fingerprint: str) -> None:
        """Remember it no longer."""
        with contextlib.suppress(OSError):
            self._path(fingerprint).unlink(missing_ok=True)

    def _path(self, fingerprint: str) -> Path:
        return self._directory / f"{fingerprint}.json"

    def _sweep(self) -> None:
        oldest = time.time() - _KEPT_SECONDS
        for path in self._directory.iterdir():
            with contextlib.suppress(OSError):
                if path.stat().st_mtime < oldest:
                    path.unlink()
