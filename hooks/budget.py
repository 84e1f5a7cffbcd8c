"""Budget: the disk space that what follows an upload takes beside its archive.

Knows: measured peaks for each storage driver.
Must not know: where the space is, or who asks.
"""

from __future__ import annotations

# Measured peaks, in archive lengths: what the storage holds, and one copy in TMPDIR.
_STORED_COPIES = {"overlay": 1, "vfs": 3}
_TEMPORARY_COPIES = 1
# An OCI archive is unpacked first, and its layout stays beside the two while it is loaded.
_LAYOUT_COPIES = 1


def space_needed_bytes(archive_bytes: int, storage_driver: str) -> int:
    """What loading and pushing takes at least on the workspace's file system (a docker archive)."""
    return archive_bytes * (_STORED_COPIES[storage_driver] + _TEMPORARY_COPIES)


def space_to_promise_bytes(archive_bytes: int, storage_driver: str) -> int:
    """What it may take, as long as nobody knows which kind of archive is going to come."""
    return space_needed_bytes(archive_bytes, storage_driver) + archive_bytes * _LAYOUT_COPIES
