"""Refusals: what the hooks refuse, as an answer of the server.

Knows: which error of the hooks is which of ours.
Must not know: which protocol asks.
"""

from __future__ import annotations

from hooks.errors import AdmissionRefused, CoordinationLost, ImageForbidden, RegistryUnfit
from server.errors import BadRequest, FailedDependency, Forbidden, ServerError, Unavailable
from server.protocols.headers import RETRY_AFTER


def as_answer(error: AdmissionRefused | CoordinationLost) -> ServerError:
    """The same in the server's words."""
    if isinstance(error, CoordinationLost):
        again = {RETRY_AFTER: "5"}
        return Unavailable(error.message, error.hint, code=error.code, headers=again)
    kind: type[ServerError] = BadRequest
    if isinstance(error, ImageForbidden):
        kind = Forbidden
    elif isinstance(error, RegistryUnfit):
        kind = FailedDependency
    return kind(error.message, error.hint, code=error.code)
