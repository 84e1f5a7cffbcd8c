"""Checks of the registries: whether each answers as one, and whether its files can be read.

Knows: `GET /v2/`, TLS.
Must not know: passwords; a registry that asks for one has answered.
"""

from __future__ import annotations

import ssl
from http import HTTPStatus
from http.client import HTTPConnection, HTTPException, HTTPSConnection

from server.checkup.check import Check
from server.settings import RegistryRow

_CONNECT_SECONDS = 5


def registry(row: RegistryRow) -> Check:
    """Whether one configured registry can be reached from here."""
    try:
        if row.authfile:
            row.authfile.read_bytes()
        status = _status(row)
    except (OSError, HTTPException) as error:
        return _check(row, f"{type(error).__name__}: {error}", ok=False)
    known = status < HTTPStatus.MULTIPLE_CHOICES or status in (
        HTTPStatus.UNAUTHORIZED,
        HTTPStatus.FORBIDDEN,
    )
    return _check(row, f"GET /v2/ answers {status}", ok=known)


def no_registry() -> Check:
    """The row where no registry is configured."""
    return Check(
        "registry",
        False,
        "none configured",
        "pushing anything: every upload that names an image is refused",
        "set registries to rows of host and what else it takes (`tusboat settings`)",
        required=False,
    )


def _status(row: RegistryRow) -> int:
    connection = _connection(row)
    try:
        connection.request("GET", "/v2/")
        return connection.getresponse().status
    finally:
        connection.close()


def _connection(row: RegistryRow) -> HTTPConnection:
    if row.plain_http:
        return HTTPConnection(row.host, timeout=_CONNECT_SECONDS)
    trust = ssl.create_default_context(cafile=row.ca_file)
    if not row.tls_verify:
        trust.check_hostname = False
        trust.verify_mode = ssl.CERT_NONE
    return HTTPSConnection(row.host, timeout=_CONNECT_SECONDS, context=trust)


def _check(row: RegistryRow, found: str, *, ok: bool) -> Check:
    how_to_get = "check host, plain_http, ca_file and authfile of its row, and the way there"
    return Check(f"registry {row.host}", ok, found, "pushing images to it", how_to_get)
