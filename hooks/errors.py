"""The exception tree of the hooks.

    HookError
    ├── AdmissionRefused
    │   ├── InvalidImage        the destination cannot be parsed
    │   ├── ImageForbidden      registry or repository is not allowed
    │   └── RegistryUnfit       the registry would not take it, whatever is sent
    ├── StepFailed              a step of the pipeline failed; says whether trying again can help
    └── CoordinationLost        Redis cannot be reached, or forgot us

Knows: code, message and hint of each.
Must not know: HTTP statuses (the server maps them).
"""

from __future__ import annotations


class HookError(Exception):
    """Root of the tree: a stable code, words for a person, and what to do."""

    def __init__(self, code: str, message: str, hint: str) -> None:
        """Keep the three parts; `str()` gives the message."""
        super().__init__(message)
        self.code = code
        self.message = message
        self.hint = hint


class AdmissionRefused(HookError):
    """The upload may not be sent with this metadata by this caller."""


class InvalidImage(AdmissionRefused):
    """The destination reference cannot be parsed."""


class ImageForbidden(AdmissionRefused):
    """The registry or the repository is not allowed, for anyone or for this caller."""


class RegistryUnfit(AdmissionRefused):
    """The registry would not take it, for a reason that is no caller's and does not pass."""


class StepFailed(HookError):
    """A step failed for a reason known by code."""

    def __init__(self, code: str, message: str, hint: str, *, retryable: bool) -> None:
        """Keep also whether trying again, with nothing changed here, can help."""
        super().__init__(code, message, hint)
        self.retryable = retryable


class CoordinationLost(HookError):
    """Redis cannot be reached, or it forgot what we told it."""
