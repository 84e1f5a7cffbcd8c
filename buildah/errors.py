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

from typing import ClassVar


class BuildahError(Exception):
    """Root of the tree.

    `message` is operation, subject and cause in words; `hint` says what to do. `retryable` is true
    only where the same call, with nothing changed by anyone here, may succeed a little later.
    """

    code: ClassVar[str]
    retryable: ClassVar[bool] = False
    advice: ClassVar[str]

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        """Keep message and hint; without a hint, the class's own advice is the hint."""
        super().__init__(message)
        self.message = message
        self.hint = self.advice if hint is None else hint


class InvalidReference(BuildahError):
    """A destination cannot be parsed."""

    code = "invalid_reference"
    advice = "Write it like harbor.example.com/team/name:tag."


class InvalidPlatform(InvalidReference):
    """What should be a platform is none."""

    code = "invalid_platforms"
    advice = "Write them like linux/amd64,linux/arm64."


class DestinationRefused(BuildahError):
    """A well-formed destination that nobody may push to."""


class RegistryNotAllowed(DestinationRefused):
    """The registry is not among those configured."""

    code = "registry_not_allowed"
    advice = "Ask the operator to add it to the setting `registries`."


class RepositoryNotAllowed(DestinationRefused):
    """The registry is configured, but not for this repository."""

    code = "repository_not_allowed"
    advice = "Choose an allowed repository, or ask the operator to allow this one."


class ArchiveError(BuildahError):
    """Something is wrong with the archive; sending it again unchanged cannot help."""


class ArchiveInvalid(ArchiveError):
    """The file is not an image archive."""

    code = "archive_invalid"
    advice = "Make it with `docker save`, `podman save`, `nerdctl save` or as an OCI archive."


class ArchiveTruncated(ArchiveError):
    """The archive ends too early."""

    code = "archive_truncated"
    advice = "The file was cut before it was sent: save the image again and compare the sizes."


class ArchiveNoImage(ArchiveError):
    """A good archive with no image in it."""

    code = "archive_no_image"
    advice = (
        "An image archive has a manifest.json or an index.json at its top; `docker export` makes "
        "none, `docker save` does."
    )


class ArchiveNotChosen(ArchiveError):
    """Which of its images is meant, or where one of them goes, is not clear."""

    code = "archive_not_chosen"
    advice = "`tusboat inspect ARCHIVE` lists the images; choose one with `ref` (`--ref`)."


class ArchiveIncomplete(ArchiveError):
    """An image names platforms whose blobs are not in the archive."""

    code = "archive_incomplete"
    advice = (
        "Save it with all platforms, or with one (`docker save --platform`); `allow_partial` "
        "(`--allow-partial`) pushes those that are whole."
    )


class ArchiveCorrupt(ArchiveError):
    """A layer or the config is missing, or not what its digest says."""

    code = "archive_corrupt"
    advice = "The file was damaged before it was sent: save the image again."


class ContextInvalid(ArchiveError):
    """A build context with something in it that may not be there."""

    code = "context_invalid"
    advice = (
        "A build context is a tar of regular files, directories and links within it, with a "
        "Containerfile or Dockerfile at its top."
    )


class BuildError(BuildahError):
    """A build context did not become an image."""


class BuildsOff(BuildError):
    """The operator has not turned builds on."""

    code = "builds_off"
    advice = "Build the image yourself and send it, or ask the operator for the setting `builds`."


class BuildFailed(BuildError):
    """A step of the Containerfile failed: it would fail again."""

    code = "build_failed"
    advice = "The job's log has what the step said; correct the context and send it again."


class BuildTimedOut(BuildError):
    """The build took too long."""

    code = "build_timed_out"
    advice = "Make it shorter, or ask the operator for more `build_timeout_minutes`."


class BuildTooBig(BuildError):
    """The build took too much disk."""

    code = "build_too_big"
    advice = "Make it smaller, or ask the operator for more `build_max_size`."


class BuildUnsafe(BuildError):
    """This machine cannot shut a build in, so nothing is built."""

    code = "build_unsafe"
    advice = (
        "The worker needs `unshare` and `mount` (util-linux), and root or subordinate ids with "
        "user namespaces; without network for builds, a network namespace too."
    )


class BaseImageRefused(BuildError):
    """A base image that may not be used here, or that is not named in full."""

    code = "base_image_refused"
    advice = (
        "Name it in full (`registry.example.com/team/base:tag`); the operator's setting "
        "`build_base_images` says which are allowed."
    )


class BaseImageMissing(BuildError):
    """The registry does not have the base image, or not for that platform."""

    code = "base_image_missing"
    advice = "Check the name and the tag, and for which platforms that image exists."


class RegistryError(BuildahError):
    """The registry failed, or the line to it broke: it may be well again in a moment."""

    code = "registry_error"
    retryable = True
    advice = "Look into the registry's own log if it goes on."


class RegistryUnauthorized(RegistryError):
    """The registry wants a user, or another one."""

    code = "registry_unauthorized"
    retryable = False
    advice = "Check the user and the password of this registry in its authfile."


class RegistryForbidden(RegistryError):
    """The registry knows the user and refuses the push."""

    code = "registry_forbidden"
    retryable = False
    advice = "Give the registry's user, or its robot account, the right to push there."


class RegistryProjectMissing(RegistryForbidden):
    """There is no such project, and pushing makes none."""

    code = "registry_project_missing"
    advice = (
        "Create the project in the registry (in Harbor it is the first part of the path), or "
        "correct the destination."
    )


class RegistryTagImmutable(RegistryForbidden):
    """The registry lets nobody move a tag that is there."""

    code = "registry_tag_immutable"
    advice = "Choose another tag, or ask the registry's administrator about its immutability rules."


class RegistryTokenExpired(RegistryError):
    """The token ran out in the middle; what has arrived by then is not sent again."""

    code = "registry_token_expired"
    retryable = True
    advice = "If it goes on, let the registry's token server give tokens that are valid for longer."


class RegistryElsewhere(RegistryError):
    """The registry sends us, by a token server, a Location or a redirect, where we may not go."""

    code = "registry_redirects_elsewhere"
    retryable = False
    advice = (
        "If that is right, add the host to `trusted_hosts` of this registry; else correct the "
        "registry's own address in its configuration (Harbor: `external_url`)."
    )


class RegistryReadOnly(RegistryError):
    """The registry takes nothing at this moment, as during its garbage collection."""

    code = "registry_read_only"
    retryable = True
    advice = "Wait for the end of the maintenance, or switch the registry's read-only mode off."


class RegistryUntrusted(RegistryError):
    """The registry's certificate is not trusted, or it speaks no TLS where TLS is wanted."""

    code = "registry_tls_untrusted"
    retryable = False
    advice = (
        "Give the certificate authority in the registry's `ca_file`; `tls_verify = false` trusts "
        "anybody, `plain_http = true` is for a registry without TLS."
    )


class RegistryUnreachable(RegistryError):
    """Nobody answers at the registry's address."""

    code = "registry_unreachable"
    advice = "Check that the registry runs and that this machine can reach it."


class RegistryUnknownHost(RegistryError):
    """The registry's host name has no address."""

    code = "registry_unknown_host"
    retryable = False
    advice = "Check the spelling of the registry's host, and this machine's DNS."


class RegistryFull(RegistryError):
    """The registry, or a quota in it, has no room; every attempt would send everything again."""

    code = "registry_full"
    retryable = False
    advice = "Make room in the registry or raise its quota, then try again."


class RegistryConflict(RegistryError):
    """After the push the tag is not the image that was pushed: somebody else pushed there too."""

    code = "registry_conflict"
    retryable = False
    advice = "Give every image a tag of its own."


class ExportError(BuildahError):
    """An image of a registry cannot become a file."""


class ImageNotFound(ExportError):
    """The registry has no such image, or has it for other platforms only."""

    code = "image_not_found"
    advice = "Check the repository and the tag: skopeo list-tags says which there are."


class ImageUnsupported(ExportError):
    """What the registry has under that name does not fit into an archive of images."""

    code = "image_unsupported"
    advice = "Push the image again with a program of today, then export that."


class TargetTaken(ExportError):
    """Something has the file's name already."""

    code = "target_taken"
    advice = "Choose another name, or overwrite it with --force."


class TargetUnusable(ExportError):
    """No file can be made there."""

    code = "target_unusable"
    advice = "Name a file in a directory that exists and that you may write to."


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


class ToolError(BuildahError):
    """A program could not do its work."""


class ToolMissing(ToolError):
    """The program is not installed."""

    code = "tool_missing"
    advice = "Install it; on Debian and Ubuntu: apt-get install buildah skopeo."


class ToolFailed(ToolError):
    """The program failed for a reason that is not known here."""

    code = "tool_failed"
    advice = "The job's log has the program's own words."
