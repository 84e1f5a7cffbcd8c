"""Where an image goes: host, repository and tag. Pure.

Knows: the grammar of image references, as far as a destination needs it.
Must not know: which registries exist, transports (`docker://` is put in front elsewhere, always).

Source: OCI distribution spec 1.1, "Pulling manifests" (name and tag); the grammar of
github.com/distribution/reference (host).
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from typing import Self

from buildah.errors import InvalidReference

DEFAULT_TAG = "latest"

# Longer names are refused by the programs and by registries; it counts host and repository.
_NAME_CHARS = 255
_SHOWN_CHARS = 80
_HIGHEST_PORT = 65535

_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?")
_PATH_PART = re.compile(r"[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
_PORT = re.compile(r"[0-9]{1,5}")
# What is looked for before a text is taken apart, and what is wrong with it then.
_FAULTS = (
    (re.compile(r"^$"), "it is empty"),
    (
        re.compile(r"[^\x00-\x7f]"),
        "it has characters outside ASCII; write an international host name as xn--...",
    ),
    (re.compile(r"[\x00-\x20\x7f]"), "it has spaces or control characters"),
    (re.compile(r"^-"), "it begins with a dash"),
    (
        re.compile(
            r"://|^(docker|docker-archive|docker-daemon|dir|oci|oci-archive|containers-storage"
            r"|ostree|sif|tarball|atomic):(?![0-9])"
        ),
        "it begins with a transport or a scheme, and a destination is always a registry",
    ),
    (
        re.compile(r"@"),
        "it has a digest (or a user); a destination has a tag, its digest is the result",
    ),
)


@dataclass(frozen=True)
class ImageReference:
    """A destination: `host` in lower case, with its port if it has one; `repository`; `tag`."""

    host: str
    repository: str
    tag: str

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `host[:port]/path/name[:tag]`; the host must be there, the tag may be missing.

        Raises:
            InvalidReference: it is something else; the message says what is wrong with it.
        """
        for pattern, reason in _FAULTS:
            if pattern.search(text):
                raise _refusal(text, reason)
        host, slash, rest = text.partition("/")
        repository, colon, tag = rest.partition(":")
        host = host.lower()
        fault = (
            # Without a slash, what follows a colon is meant as a tag.
            _host_fault(host if slash else host.partition(":")[0])
            or _repository_fault(repository)
            or _length_fault(host, repository)
            or (_tag_fault(tag) if colon else "")
        )
        if fault:
            raise _refusal(text, fault)
        return cls(host, repository, tag if colon else DEFAULT_TAG)

    @property
    def name(self) -> str:
        """`host/repository`."""
        return f"{self.host}/{self.repository}"

    def __str__(self) -> str:
        """`host[:port]/path/name:tag`."""
        return f"{self.name}:{self.tag}"


def _host_fault(host: str) -> str:
    if not ({".", ":"} & set(host) or host == "localhost"):
        return "it does not begin with a registry's host (with a dot or a port, or localhost)"
    if host.startswith("["):
        address, bracket, after = host[1:].partition("]")
        port = after.removeprefix(":")
        if not bracket or (after and not after.startswith(":")) or not _is_ipv6(address):
            return "the host in brackets is not an IPv6 address"
        colon = bool(after)
    else:
        name, separator, port = host.partition(":")
        if not all(_LABEL.fullmatch(label) for label in name.split(".")):
            return "the registry's host is not a host name"
        colon = bool(separator)
    if colon and not (_PORT.fullmatch(port) and 0 < int(port) <= _HIGHEST_PORT):
        return "the registry's port is not a number from 1 to 65535"
    return ""


def _is_ipv6(address: str) -> bool:
    try:
        return ipaddress.IPv6Address(address).scope_id is None
    except ValueError:
        return False


def _repository_fault(repository: str) -> str:
    if not repository:
        return "it names no repository after the registry's host"
    if repository != repository.lower():
        return "the repository has upper-case letters"
    if not all(_PATH_PART.fullmatch(part) for part in repository.split("/")):
        return (
            "each part of the repository is lower-case letters and digits, with single dots, one "
            "or two underscores, or dashes between them"
        )
    return ""


def _length_fault(host: str, repository: str) -> str:
    if len(host) + 1 + len(repository) > _NAME_CHARS:
        return f"host and repository are longer than {_NAME_CHARS} characters"
    return ""


def _tag_fault(tag: str) -> str:
    if not _TAG.fullmatch(tag):
        return (
            "the tag is not 1 to 128 letters, digits, underscores, dots and dashes, beginning "
            "with none of the last two"
        )
    return ""


def _refusal(text: str, reason: str) -> InvalidReference:
    shown = text if len(text) <= _SHOWN_CHARS else f"{text[:_SHOWN_CHARS]}..."
    return InvalidReference(f"Reading the destination {shown!r}: {reason}.")
