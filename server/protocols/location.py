"""Location: how a client reaches an upload that it has just created.

Knows: the public address, and which proxies may say what it is.
Must not know: protocols, uploads.

Path-absolute is right behind most proxies and cannot be forged; more is said only on the word of
the settings, or of a proxy that the settings trust.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence
from typing import Final

from starlette.requests import Request

from server.upload import UploadId, parse_upload_id

FILES: Final = "/files/"

_HOST: Final = re.compile(r"[A-Za-z0-9._-]+(:[0-9]{1,5})?|\[[0-9A-Fa-f:.]+\](:[0-9]{1,5})?")
_PREFIX: Final = re.compile(r"(/[A-Za-z0-9._~-]+)*")
_Network = ipaddress.IPv4Network | ipaddress.IPv6Network


def upload_id_of(url: str) -> UploadId | None:
    """The upload that a URL names, absolute, path-absolute or relative to `/files/`.

    Which host or prefix it has is the proxies' affair; an id is not guessed.
    """
    path, _, _ = url.partition("?")
    directory, _, name = path.rpartition("/")
    if directory and not f"{directory}/".endswith(FILES):
        return None
    return parse_upload_id(name)


class Locations:
    """Makes the Location of an upload."""

    def __init__(self, public_url: str, trusted_proxies: Sequence[_Network]) -> None:
        """`public_url` wins; else the forwarded headers of a trusted proxy; else the bare path."""
        self._public_url = public_url.rstrip("/")
        self._trusted = tuple(trusted_proxies)

    def of(self, request: Request, upload_id: str) -> str:
        """The Location for whoever sent this request."""
        return f"{self._public_url or self._forwarded(request)}{FILES}{upload_id}"

    def _forwarded(self, request: Request) -> str:
        """What a trusted proxy says that the client sees; empty where that is odd."""
        if request.client is None or not self._trusts(request.client.host):
            return ""
        scheme = _first(request, "x-forwarded-proto").lower()
        host = _first(request, "x-forwarded-host")
        prefix = _first(request, "x-forwarded-prefix").rstrip("/")
        if scheme not in ("http", "https") or not _HOST.fullmatch(host):
            return ""
        return f"{scheme}://{host}{prefix if _PREFIX.fullmatch(prefix) else ''}"

    def _trusts(self, address: str) -> bool:
        try:
            parsed = ipaddress.ip_address(address)
        except ValueError:
            return False
        return any(parsed in network for network in self._trusted)


def _first(request: Request, name: str) -> str:
    """The value that the nearest proxy to the client wrote."""
    return request.headers.get(name, "").split(",")[0].strip()
