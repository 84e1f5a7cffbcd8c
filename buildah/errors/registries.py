"""What a registry, or the way to it, refuses.

Knows: code, words, hint and retryability of each.
Must not know: how a cause is recognised (that is `diagnosis.py`).
"""

from __future__ import annotations

from buildah.errors.base import BuildahError


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
