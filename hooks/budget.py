"""Budget: the disk space that what follows an upload takes beside its archive.

Knows: measured peaks for each storage driver.
Must not know: where the space is, or who asks.
"""

from __future__ import annotations

# Measured peaks, in archive lengths: what the storage holds, and one copy in TMPDIR.
_STORED_COPIES = {"overlay": 1, "vfs": 3}
_TEMPORARY_COPIES = 1


def space_needed_bytes(archive_bytes: int, storage_driver: str) -> int:
    """What loading and pushing an archive of this length takes on the workspace's file system."""
    return archive_bytes * (_STORED_COPIES[storage_driver] + _TEMPORARY_COPIES)
