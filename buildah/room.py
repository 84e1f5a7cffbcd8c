"""Asks a registry that failed in the middle of a push whether it has run out of room.

Knows: how a blob upload is begun (OCI distribution spec 1.1, "Pushing a blob in chunks"), basic and
token authentication, what a full disk looks like in an answer.
Must not know: what was being pushed.

buildah says of such a push `500 Internal Server Error` and nothing more: it drops the answer's
body. So one small upload is begun, whose answers are read, and taken back.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import re
import ssl
import urllib.parse
from http import HTTPStatus
from typing import NamedTuple

from buildah.reference import ImageReference
from buildah.registry import Registry

_TIMEOUT_SECONDS = 10.0
_ANSWER_BYTES = 64 * 1024
# More than a file system may still find in the last block of a file.
_SAMPLE = bytes(64 * 1024)
# ENOSPC (28) and EDQUOT (122), as the registry's own code reports them, and in words.
_NO_ROOM = re.compile(r'"Err":\s*(28|122)\b|no space left|quota exceeded|XMinioStorageFull', re.I)
_CHALLENGE = re.compile(r'(\w+)="([^"]*)"')


class _Answer(NamedTuple):
    status: int
    headers: http.client.HTTPMessage
    body: str

    @property
    def says_full(self) -> bool:
        if self.status == HTTPStatus.INSUFFICIENT_STORAGE:
            return True
        failed = self.status >= HTTPStatus.INTERNAL_SERVER_ERROR
        return failed and bool(_NO_ROOM.search(self.body))


def says_full(reference: ImageReference, registry: Registry) -> bool:
    """Whether the registry itself says that it has no room; False if it cannot be told.

    Blocking, at most about half a minute.
    """
    try:
        return _Conversation(reference, registry).says_full()
    except (OSError, http.client.HTTPException, ValueError, LookupError, TypeError):
        # Out of reach, or an answer that makes no sense.
        return False


class _Conversation:
    def __init__(self, reference: ImageReference, registry: Registry) -> None:
        self._reference = reference
        self._registry = registry
        self._basic = registry.credentials().basic
        self._authorization: str | None = None

    def says_full(self) -> bool:
        uploads = f"/v2/{self._reference.repository}/blobs/uploads/"
        begun = self._ask("POST", uploads)
        if begun.status == HTTPStatus.UNAUTHORIZED:
            self._authorize(begun.headers.get("WWW-Authenticate", ""))
            begun = self._ask("POST", uploads)
        if begun.status != HTTPStatus.ACCEPTED:
            return begun.says_full
        upload = self._path(begun.headers.get("Location", ""))
        sent = self._ask("PATCH", upload, _SAMPLE)
        self._ask("DELETE", self._path(sent.headers.get("Location", upload)))
        return sent.says_full

    def _ask(self, method: str, path: str, body: bytes | None = None) -> _Answer:
        headers = {"Content-Type": "application/octet-stream"}
        if self._authorization:
            headers["Authorization"] = self._authorization
        with contextlib.closing(self._connect()) as connection:
            connection.request(method, path, body, headers)
            answer = connection.getresponse()
            text = answer.read(_ANSWER_BYTES).decode(errors="replace")
            return _Answer(answer.status, answer.headers, text)

    def _connect(self) -> http.client.HTTPConnection:
        host = self._reference.host
        if self._registry.plain_http:
            return http.client.HTTPConnection(host, timeout=_TIMEOUT_SECONDS)
        context = ssl.create_default_context()
        if self._registry.ca_file:
            context.load_verify_locations(self._registry.ca_file)
        if not self._registry.tls_verify:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        return http.client.HTTPSConnection(host, timeout=_TIMEOUT_SECONDS, context=context)

    def _authorize(self, challenge: str) -> None:
        """Answer a challenge. Source: RFC 7617; the token authentication of distribution."""
        basic = f"Basic {self._basic}" if self._basic else None
        if challenge.lower().startswith("basic"):
            self._authorization = basic
            return
        fields = dict(_CHALLENGE.findall(challenge))
        self._authorization = basic
        query = urllib.parse.urlencode(
            {
                "service": fields.get("service", ""),
                "scope": f"repository:{self._reference.repository}:pull,push",
            }
        )
        document = json.loads(self._ask("GET", f"{self._path(fields['realm'])}?{query}").body)
        token = document["token"] if "token" in document else document["access_token"]
        self._authorization = f"Bearer {token}"

    def _path(self, location: str) -> str:
        """Path and query of an address that the registry named: it must be on the registry itself.

        Raises:
            ValueError: it is elsewhere, where nobody allowed us to go.
        """
        parts = urllib.parse.urlsplit(location)
        if parts.netloc not in ("", self._reference.host):
            raise ValueError("the registry sends us elsewhere")
        return urllib.parse.urlunsplit(("", "", parts.path, parts.query, ""))
