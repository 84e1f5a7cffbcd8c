"""Why a context did not become an image.

Knows: code, words and hint of each.
Must not know: how a build is run.
"""

from __future__ import annotations

from buildah.errors.base import BuildahError


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
