"""Why an image did not become a file.

Knows: code, words and hint of each.
Must not know: how one is written.
"""

from __future__ import annotations

from buildah.errors.base import BuildahError


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
