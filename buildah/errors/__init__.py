"""The exception tree of this room; each class fixes its code and whether trying again can help.

    BuildahError
    ├── InvalidReference            a destination cannot be parsed
    │   └── InvalidPlatform         nor can a platform
    ├── DestinationRefused
    │   ├── RegistryNotAllowed      the registry is not on the list
    │   └── RepositoryNotAllowed    the registry is, this repository is not
    ├── ArchiveError
    │   ├── ArchiveInvalid          not an image archive
    │   ├── ArchiveTruncated        it ends too early
    │   ├── ArchiveNoImage          an archive without an image in it
    │   ├── ArchiveNotChosen        it does not say clearly which image goes where
    │   ├── ArchiveIncomplete       some platforms of an image are named, and not in it
    │   ├── ArchiveCorrupt          a layer is missing, or not what its digest says
    │   └── ContextInvalid          a build context with something in it that may not be there
    ├── BuildError
    │   ├── BuildsOff               the operator has not turned builds on
    │   ├── BuildFailed             a step of the Containerfile failed
    │   ├── BuildTimedOut           it took too long
    │   ├── BuildTooBig             it took too much disk
    │   ├── BuildUnsafe             this machine cannot shut a build in
    │   ├── BaseImageRefused        a base image that may not be used
    │   └── BaseImageMissing        the registry does not have it (for that platform)
    ├── RegistryError               the registry answered 5xx, or cut the line
    │   ├── RegistryUnauthorized    no user, or the wrong one
    │   ├── RegistryForbidden       the user may not
    │   │   ├── RegistryProjectMissing  there is no such project
    │   │   └── RegistryTagImmutable    the tag must stay what it is
    │   ├── RegistryTokenExpired    its token was not valid for long enough
    │   ├── RegistryElsewhere       it sends us where nobody allowed us to go
    │   ├── RegistryReadOnly        it takes nothing at this moment
    │   ├── RegistryUntrusted       its certificate is not trusted
    │   ├── RegistryUnreachable     nobody answers there
    │   ├── RegistryUnknownHost     no such name
    │   ├── RegistryFull            it has no room
    │   └── RegistryConflict        the tag is not what was just pushed
    ├── ExportError
    │   ├── ImageNotFound           the registry has no such image, or not for that platform
    │   ├── ImageUnsupported        what it has there does not fit into an archive
    │   ├── TargetTaken             the file is there already
    │   └── TargetUnusable          no file can be made there
    ├── StorageError
    │   ├── StorageFull             no room in the job's own directory
    │   ├── StorageUnsuitable       that file system cannot hold container storage
    │   │   └── OverlayNotPermitted     no file system could: this process may not mount
    │   └── WorkspaceBusy           somebody else works in that directory
    └── ToolError
        ├── ToolMissing             buildah or skopeo is not installed
        └── ToolFailed              it failed for a reason that is not known here

Knows: code, words, hint and retryability of each.
Must not know: steps, HTTP statuses, how a cause is recognised (that is `diagnosis.py`).
"""

from __future__ import annotations

from buildah.errors.archives import (
    ArchiveCorrupt,
    ArchiveError,
    ArchiveIncomplete,
    ArchiveInvalid,
    ArchiveNoImage,
    ArchiveNotChosen,
    ArchiveTruncated,
    ContextInvalid,
)
from buildah.errors.base import (
    BuildahError,
)
from buildah.errors.builds import (
    BaseImageMissing,
    BaseImageRefused,
    BuildError,
    BuildFailed,
    BuildsOff,
    BuildTimedOut,
    BuildTooBig,
    BuildUnsafe,
)
from buildah.errors.destinations import (
    DestinationRefused,
    InvalidPlatform,
    InvalidReference,
    RegistryNotAllowed,
    RepositoryNotAllowed,
)
from buildah.errors.exports import (
    ExportError,
    ImageNotFound,
    ImageUnsupported,
    TargetTaken,
    TargetUnusable,
)
from buildah.errors.registries import (
    RegistryConflict,
    RegistryElsewhere,
    RegistryError,
    RegistryForbidden,
    RegistryFull,
    RegistryProjectMissing,
    RegistryReadOnly,
    RegistryTagImmutable,
    RegistryTokenExpired,
    RegistryUnauthorized,
    RegistryUnknownHost,
    RegistryUnreachable,
    RegistryUntrusted,
)
from buildah.errors.storage import (
    OverlayNotPermitted,
    StorageError,
    StorageFull,
    StorageUnsuitable,
    WorkspaceBusy,
)
from buildah.errors.tools import (
    ToolError,
    ToolFailed,
    ToolMissing,
)

__all__ = [
    "ArchiveCorrupt",
    "ArchiveError",
    "ArchiveIncomplete",
    "ArchiveInvalid",
    "ArchiveNoImage",
    "ArchiveNotChosen",
    "ArchiveTruncated",
    "BaseImageMissing",
    "BaseImageRefused",
    "BuildError",
    "BuildFailed",
    "BuildTimedOut",
    "BuildTooBig",
    "BuildUnsafe",
    "BuildahError",
    "BuildsOff",
    "ContextInvalid",
    "DestinationRefused",
    "ExportError",
    "ImageNotFound",
    "ImageUnsupported",
    "InvalidPlatform",
    "InvalidReference",
    "OverlayNotPermitted",
    "RegistryConflict",
    "RegistryElsewhere",
    "RegistryError",
    "RegistryForbidden",
    "RegistryFull",
    "RegistryNotAllowed",
    "RegistryProjectMissing",
    "RegistryReadOnly",
    "RegistryTagImmutable",
    "RegistryTokenExpired",
    "RegistryUnauthorized",
    "RegistryUnknownHost",
    "RegistryUnreachable",
    "RegistryUntrusted",
    "RepositoryNotAllowed",
    "StorageError",
    "StorageFull",
    "StorageUnsuitable",
    "TargetTaken",
    "TargetUnusable",
    "ToolError",
    "ToolFailed",
    "ToolMissing",
    "WorkspaceBusy",
]
