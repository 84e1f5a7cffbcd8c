"""A program that is missing, or failed.

Knows: code, words and hint of each.
Must not know: what it was asked for.
"""

from __future__ import annotations

from buildah.errors.base import BuildahError


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
