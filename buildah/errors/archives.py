"""What can be wrong with an archive, or with a build context.

Knows: code, words and hint of each.
Must not know: how it is found out.
"""

from __future__ import annotations

from buildah.errors.base import BuildahError


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
