"""One line to a registry: a request, its answer, and what went wrong on the way.

Knows: TLS options, redirects, a deadline over all requests.
Must not know: who one is, what is asked, what an answer means.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import ssl
import time
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING

from buildah.errors import (
    RegistryError,
    RegistryUnknownHost,
    RegistryUnreachable,
    RegistryUntrusted,
)
from buildah.sizes import MIB
from buildah.territory import Address, Territory

if TYPE_CHECKING:
    from buildah.registry import Registry

# No manifest is larger (OCI distribution spec 1.1, "Pushing Manifests").
ANSWER_BYTES = 4 * MIB
_WORDS_CHARS = 400
_REDIRECTS = 5
# After these a client comes back with GET, whatever it asked before.
_SEE_OTHER = (HTTPStatus.MOVED_PERMANENTLY, HTTPStatus.FOUND, HTTPStatus.SEE_OTHER)
_REDIRECTED = (*_SEE_OTHER, HTTPStatus.TEMPORARY_REDIRECT, HTTPStatus.PERMANENT_REDIRECT)
# What OpenSSL, by its version, says of an answer in plain HTTP.
_NO_TLS = frozenset({"WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "PACKET_LENGTH_TOO_LONG"})


@dataclass(frozen=True)
class Answer:
    """Status, headers, and at most 4 MiB of body."""

    status: int
    headers: http.client.HTTPMessage
    body: bytes

    @property
    def words(self) -> str:
        """Status and reason in one line, worded as buildah and skopeo word it."""
        try:
            said = "; ".join(map(_reason, json.loads(self.body)["errors"]))
        except (ValueError, LookupError, TypeError, RecursionError):
            said = " ".join(self.body.decode(errors="replace").split())
        return f"{said[:_WORDS_CHARS]}, StatusCode: {self.status}".removeprefix(", ")


def _reason(row: Mapping[str, object]) -> str:
    code = str(row["code"]).lower().replace("_", " ")
    return f"{code}: {row.get('message', '')}" if isinstance(row, dict) else code


class Line:
    """Requests to a registry and where it may send us, all within a deadline. Blocking."""

    def __init__(self, operation: str, registry: Registry, *, seconds: float) -> None:
        """Connect to nothing yet. `operation` opens the message of every error."""
        self._operation = operation
        self._registry = registry
        self._seconds = seconds
        self._until = time.monotonic() + seconds
        self._connection: http.client.HTTPConnection | None = None
        self._territory = Territory(
            registry.host, plain_http=registry.plain_http, trusted_hosts=registry.trusted_hosts
        )

    def close(self) -> None:
        """End whatever is going on, and let nothing begin. From any thread."""
        self._until = 0.0
        sock = self._connection.sock if self._connection else None
        if sock is not None:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)

    def place(self, what: str, named: str, base: Address | None = None) -> Address:
        """The place of an address that the registry named (or of a path on it); `what` it is for.

        Raises:
            RegistryElsewhere: nobody allowed us to go there.
        """
        return self._territory.follow(self._operation, what, named, base)

    def ask(
        self,
        method: str,
        target: Address,
        headers: Mapping[str, str],
        body: bytes | None = None,
        authorization: str | None = None,
    ) -> Answer:
        """Ask, and follow redirects; credentials do not follow one to another host.

        Raises:
            RegistryElsewhere: it redirects to where nobody allowed us to go.
            RegistryError: there was no answer; the subclass says why.
        """
        for _ in range(_REDIRECTS):
            private = {"Authorization": authorization} if authorization else {}
            answer = self._exchange(method, target, {**headers, **private}, body)
            location = answer.headers.get("Location")
            if answer.status not in _REDIRECTED or not location:
                return answer
            before, target = target, self.place("the way to go on", location, target)
            if before.host != target.host:
                authorization = None
            if answer.status in _SEE_OTHER and method != "HEAD":
                method, body = "GET", None
        raise RegistryError(f"{self._operation}: the registry redirects without an end.")

    def _exchange(
        self, method: str, target: Address, headers: Mapping[str, str], body: bytes | None
    ) -> Answer:
        try:
            self._connection = self._connect(target)
            with contextlib.closing(self._connection) as connection:
                connection.request(method, target.path, body, headers)
                response = connection.getresponse()
                expected_bytes = min(response.length or 0, ANSWER_BYTES)
                read = response.read(ANSWER_BYTES)
        except (OSError, http.client.HTTPException) as error:
            raise self._broken(target, error) from error
        if len(read) < expected_bytes:
            raise self._cut(target)
        return Answer(response.status, response.headers, read)

    def _connect(self, target: Address) -> http.client.HTTPConnection:
        left_seconds = self._until - time.monotonic()
        if left_seconds <= 0:
            raise self._silence()
        if not target.secure:
            return http.client.HTTPConnection(target.host, timeout=left_seconds)
        return http.client.HTTPSConnection(
            target.host, timeout=left_seconds, context=self._context()
        )

    def _context(self) -> ssl.SSLContext:
        context = ssl.create_default_context()
        # Newer Pythons are stricter than the programs are; these have the last word.
        context.verify_flags &= ~ssl.VERIFY_X509_STRICT
        ca_file = self._registry.ca_file
        if ca_file:
            try:
                context.load_verify_locations(ca_file)
            except OSError as error:
                reason = "it is none" if isinstance(error, ssl.SSLError) else error.strerror
                raise RegistryUntrusted(
                    f"{self._operation}: reading the certificate authority {ca_file}: {reason}."
                ) from error
        if not self._registry.tls_verify:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        return context

    def _broken(self, target: Address, error: Exception) -> RegistryError:
        """The error for a line that could not be had, or that broke."""
        at = f"{self._operation}: {target.host}"
        match error:
            case TimeoutError():
                return self._silence()
            case socket.gaierror() if error.errno != socket.EAI_AGAIN:
                return RegistryUnknownHost(f"{at}: no such host ({error.strerror}).")
            case ssl.SSLEOFError() | ConnectionResetError() | BrokenPipeError():
                return self._cut(target)
            case ssl.SSLError():
                return _untrusted(at, error)
            case http.client.HTTPException():
                return RegistryUntrusted(f"{at}: what answers there does not speak HTTP.")
        reason = getattr(error, "strerror", None) or type(error).__name__
        return RegistryUnreachable(f"{at}: nobody answers there ({reason}).")

    def _silence(self) -> RegistryUnreachable:
        return RegistryUnreachable(f"{self._operation}: no answer within {self._seconds:g} s.")

    def _cut(self, target: Address) -> RegistryError:
        return RegistryError(
            f"{self._operation}: {target.host}: the connection was cut in the middle."
        )


def _untrusted(at: str, error: ssl.SSLError) -> RegistryUntrusted:
    if isinstance(error, ssl.SSLCertVerificationError):
        return RegistryUntrusted(f"{at}: its certificate is not trusted ({error.verify_message}).")
    if error.reason in _NO_TLS:
        return RegistryUntrusted(
            f"{at}: the registry speaks plain HTTP, and TLS is wanted.",
            hint="Say `plain_http = true` for this registry if its network may be trusted.",
        )
    return RegistryUntrusted(f"{at}: TLS failed ({error.reason}).")
