"""Budget: the disk space that what follows an upload takes beside its archive.

Knows: measured peaks for each engine and storage driver.
Must not know: where the space is, or who asks.
"""

from __future__ import annotations

from dataclasses import dataclass

# Measured peaks, in lengths of the uncompressed archive: what the storage holds, and one copy in
# TMPDIR.
_STORED_COPIES = {"overlay": 1, "vfs": 3}
_TEMPORARY_COPIES = 1
# An OCI archive is unpacked first, and its layout stays beside the two while it is loaded.
_LAYOUT_COPIES = 1


@dataclass(frozen=True)
class Budget:
    """What an engine with a storage takes (`loads`), or one without."""

    storage_driver: str = "overlay"
    loads: bool = True

    def needed_bytes(self, plain_bytes: int, *, layout: bool) -> int:
        """What loading and pushing takes beside an uncompressed archive; `layout`: an OCI one."""
        copies = _LAYOUT_COPIES if layout else 0
        if self.loads:
            copies += _STORED_COPIES[self.storage_driver] + _TEMPORARY_COPIES
        return plain_bytes * copies

    def promised_bytes(self, archive_bytes: int) -> int:
        """What it may take, as long as nobody knows which kind of archive is going to come."""
        return self.needed_bytes(archive_bytes, layout=True)
