"""What is wrong with the place where images are unpacked.

Knows: code, words, hint and retryability of each.
Must not know: what is unpacked there.
"""

from __future__ import annotations

from buildah.errors.base import BuildahError


class StorageError(BuildahError):
    """Something is wrong with the place where images are unpacked."""


class StorageFull(StorageError):
    """No room; it may be there again when another job has ended."""

    code = "storage_full"
    retryable = True
    advice = (
        "Make room where the data directory is; unpacking needs about three times the archive, "
        "and with the storage driver vfs more."
    )


class StorageUnsuitable(StorageError):
    """That file system cannot hold container storage."""

    code = "storage_unsuitable"
    advice = "Put the data directory on a local disk (hostPath, emptyDir, a block volume)."


class OverlayNotPermitted(StorageUnsuitable):
    """This process may not mount an overlay, wherever it is."""

    advice = (
        'Run as root or with CAP_SYS_ADMIN, or set storage_driver = "vfs" (slower, and 2 to 3 '
        "times the disk)."
    )


class WorkspaceBusy(StorageError):
    """Somebody else works in that directory."""

    code = "workspace_busy"
    retryable = True
    advice = "Wait until the other run of this job has ended."
