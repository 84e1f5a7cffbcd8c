"""From a program's last words to an error of this room, with a cause and a hint.

Knows: what buildah and skopeo say when something is wrong (seen in real runs, on Debian 12's
versions; each row is made to happen by a test), and registries to `conversation.py`.
Must not know: how the programs are started.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from buildah.command import Completed
from buildah.errors import (
    ArchiveCorrupt,
    ArchiveInvalid,
    ArchiveNoImage,
    ArchiveTruncated,
    BuildahError,
    ImageNotFound,
    InvalidReference,
    RegistryError,
    RegistryForbidden,
    RegistryFull,
    RegistryProjectMissing,
    RegistryReadOnly,
    RegistryTagImmutable,
    RegistryUnauthorized,
    RegistryUnknownHost,
    RegistryUnreachable,
    RegistryUntrusted,
    StorageFull,
    ToolFailed,
    ToolMissing,
)

_WORDS_CHARS = 400
_ERROR = re.compile(r"^Error: |level=fatal")


class Symptom(NamedTuple):
    """Words of a program, the error they mean, its cause for a person; maybe a hint of its own."""

    words: re.Pattern[str]
    error: type[BuildahError]
    cause: str
    hint: str | None = None


def _symptom(words: str, error: type[BuildahError], cause: str, hint: str | None = None) -> Symptom:
    return Symptom(re.compile(words), error, cause, hint)


_NO_SPACE = _symptom(
    r"no space left on device|disk quota exceeded",
    StorageFull,
    "there is no room left in the job's directory",
)

LOADING = (
    _NO_SPACE,
    _symptom(
        r"could not find \"netavark\"",
        ToolMissing,
        "buildah needs netavark, though no container is run, and it is not installed",
        "Install it, with apt-get install netavark for example.",
    ),
    _symptom(
        r"Digest did not match|(gzip|zlib|zstd|flate|xz|lzma|bzip2).*(checksum|corrupt|invalid)",
        ArchiveCorrupt,
        "a layer is not what its digest says",
    ),
    _symptom(r"unexpected EOF", ArchiveTruncated, "the archive ends too early"),
    _symptom(
        r"manifest\.json\"?: file does not exist|index\.json: no such file|expected 1 item, got 0"
        r"|no image found in (image index|manifest list)",
        ArchiveNoImage,
        "there is no image in it",
    ),
    _symptom(
        r"archive/tar: |tar manifest\.json|tar component|blobs/sha256/\w+: no such file"
        r"|loading index|Invalid image config|exceeded maximum allowed size|invalid character",
        ArchiveInvalid,
        "it is not an image archive",
    ),
)

REACHING = (
    _symptom(
        r"will exceed the configured upper limit|(HTTP status|StatusCode): 507|quota",
        RegistryFull,
        "the registry has no room for it",
    ),
    _symptom(r"immutable", RegistryTagImmutable, "the registry lets nobody overwrite this tag"),
    _symptom(
        r"read only mode|(HTTP status|StatusCode): 405|operation is unsupported",
        RegistryReadOnly,
        "the registry takes nothing at this moment",
    ),
    _symptom(
        r"(HTTP status|StatusCode): 412|configured policy",
        RegistryForbidden,
        "a policy of the registry forbids it",
        "Ask the registry's administrator which one (Harbor: the project's configuration).",
    ),
    _symptom(
        r"StatusCode: 413|413 Request Entity Too Large",
        RegistryForbidden,
        "something before the registry limits the size of a request",
        "Raise the limit of the proxy before the registry (nginx: proxy-body-size 0).",
    ),
    _symptom(
        r"project \S+ not found|name unknown|(HTTP status|StatusCode): 404",
        RegistryProjectMissing,
        "the registry has no such project",
    ),
    # Harbor says so whether it knows the user or was given none.
    _symptom(
        r"unauthorized to access repository",
        RegistryForbidden,
        "the registry's user may not do that, or there is none in its authfile",
    ),
    _symptom(
        r"unauthorized|StatusCode: 401|HTTP status: 401|authentication required",
        RegistryUnauthorized,
        "the registry does not accept the user and the password it was given",
    ),
    _symptom(
        r"\bdenied\b|(HTTP status|StatusCode): 403",
        RegistryForbidden,
        "the registry refuses this repository",
    ),
    _symptom(
        r"server gave HTTP response to HTTPS client",
        RegistryUntrusted,
        "the registry speaks plain HTTP, and TLS is wanted",
        "Say `plain_http = true` for this registry if its network may be trusted.",
    ),
    _symptom(
        r"HTTP request to an HTTPS server|HTTP request was sent to HTTPS port",
        RegistryUntrusted,
        "the registry speaks TLS, and plain HTTP is configured",
        "Take `plain_http` away from this registry, and give its `ca_file`.",
    ),
    _symptom(
        r"x509: |tls: |remote error: tls",
        RegistryUntrusted,
        "the registry's certificate is not trusted",
    ),
    _symptom(r"no such host|Name or service not known", RegistryUnknownHost, "no such host"),
    _symptom(
        r"connection refused|no route to host|network is unreachable|i/o timeout|connect: "
        r"|TLS handshake timeout|server misbehaving|Temporary failure in name resolution"
        r"|context deadline exceeded|Client\.Timeout",
        RegistryUnreachable,
        "nobody answers there",
    ),
    _symptom(
        r"connection reset by peer|broken pipe|: EOF|unexpected EOF|use of closed network",
        RegistryError,
        "the connection was cut in the middle",
        "If it goes on, look for a limit of size or time in a proxy before the registry.",
    ),
    _symptom(r"HTTP status: 5\d\d|StatusCode: 5\d\d", RegistryError, "the registry failed"),
    _symptom(r"StatusCode: 429|toomanyrequests", RegistryError, "the registry is too busy"),
    _symptom(
        r"invalid reference format",
        InvalidReference,
        "the installed program does not understand this destination",
    ),
    _NO_SPACE,
)

# A copy reads an archive and writes to a registry at once, and an EOF may be either's.
COPYING = (LOADING[1], *REACHING, *LOADING[2:])

# What a registry says of an image that it does not have.
ABSENT = re.compile(r"manifest unknown|name unknown|repository name not known|StatusCode: 404")

PULLING = (
    _symptom(
        r"fetching blob: .*404",
        ImageNotFound,
        "the registry has lost a part of it",
        "Push the image again.",
    ),
    _symptom(
        r"Digest did not match",
        ImageNotFound,
        "the registry gives something else than what the image is made of",
        "Push the image again, and look after the disk under the registry.",
    ),
    Symptom(ABSENT, ImageNotFound, "the registry has no such image"),
    _symptom(
        r"\bdenied\b|StatusCode: 403",
        RegistryForbidden,
        "the registry does not let this user read it",
        "Give the registry's user the right to pull there.",
    ),
    *REACHING,
)


def explain(operation: str, completed: Completed, symptoms: Sequence[Symptom]) -> BuildahError:
    """The error for a program that failed while it did `operation` (words, with the subject).

    `operation` reads like "Pushing harbor.example.com/team/llm:v1".
    """
    if completed.returncode < 0:
        return ToolFailed(
            f"{operation}: the program was killed by signal {-completed.returncode}.",
            hint="Was it the kernel, for want of memory? Its log says so; then try again.",
        )
    words = last_words(completed.stderr_tail)
    found = recognize(operation, words, symptoms)
    if found is not None:
        return found
    if not words:
        words = f"the program ended with status {completed.returncode} and said nothing"
    return ToolFailed(f"{operation}: {words}.")


def recognize(operation: str, words: str, symptoms: Sequence[Symptom]) -> BuildahError | None:
    """The error that such words mean; None if nobody knows them."""
    for symptom in symptoms:
        if symptom.words.search(words):
            return symptom.error(f"{operation}: {symptom.cause} ({words}).", hint=symptom.hint)
    return None


def last_words(stderr_tail: str) -> str:
    """The cause in a program's stderr: the end of its last error, without its log's dressing."""
    lines = [line for line in stderr_tail.splitlines() if line.strip()]
    errors = [at for at, line in enumerate(lines) if _ERROR.search(line)]
    at = errors[-1] if errors else len(lines) - 1
    line = lines[at] if lines else ""
    if line.endswith("errors:"):
        # A registry gave several reasons, and each has a line of its own.
        line = f"{line} {'; '.join(dict.fromkeys(lines[at + 1 :]))}"
    line = line.partition('level=fatal msg="')[2].removesuffix('"') or line.removeprefix("Error: ")
    line = line.replace('\\"', '"')
    return line if len(line) <= _WORDS_CHARS else f"...{line[-_WORDS_CHARS:]}"
