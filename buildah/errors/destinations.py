"""A destination that is none, or that nobody may push to.

Knows: code, words and hint of each.
Must not know: which destinations are allowed.
"""

from __future__ import annotations

from buildah.errors.base import BuildahError


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
