"""Which protocol a request at `/files/` speaks, by its headers.

Knows: the signs of each protocol.
Must not know: what is done with a request.
"""

from __future__ import annotations

from typing import Final

from starlette.requests import Request
from starlette.responses import Response

from server.protocols import headers as h
from server.protocols.ietf import protocol as ietf
from server.protocols.ietf.dialect import NEWEST
from server.protocols.location import FILES
from server.protocols.tus import TusProtocol
from server.protocols.tus import common_headers as tus_headers

METHODS: Final = ("POST", "PUT", "HEAD", "PATCH", "DELETE", "OPTIONS", "GET")

_IETF_SIGNS: Final = (h.INTEROP_VERSION, h.UPLOAD_COMPLETE, h.UPLOAD_INCOMPLETE)
# A POST with one of these was meant for tus, and forgot to say its version.
_TUS_SIGNS: Final = (
    h.UPLOAD_LENGTH,
    h.UPLOAD_DEFER_LENGTH,
    h.UPLOAD_OFFSET,
    h.UPLOAD_CHECKSUM,
    h.UPLOAD_CONCAT,
    h.METHOD_OVERRIDE,
)


class Protocols:
    """Both protocols on the same URLs."""

    def __init__(self, tus: TusProtocol, resumable: ietf.IetfProtocol) -> None:
        """Choose between these two."""
        self._tus = tus
        self._ietf = resumable

    async def collection(self, request: Request) -> Response:
        """`/files/`."""
        if _speaks_ietf(request):
            return await self._ietf.collection(request)
        return self._discoverable(request, await self._tus.collection(request))

    async def item(self, request: Request) -> Response:
        """`/files/ID`."""
        if _speaks_ietf(request):
            return await self._ietf.item(request)
        return self._discoverable(request, await self._tus.item(request))

    def _discoverable(self, request: Request, answer: Response) -> Response:
        """OPTIONS asks what is spoken here: without the sign of a protocol, that is both."""
        if request.method == "OPTIONS" and h.TUS_RESUMABLE not in request.headers:
            answer.headers.update(self._ietf.discovery(NEWEST))
        return answer


def error_headers(request: Request) -> dict[str, str]:
    """What an error carries, by the protocol of the request that it answers."""
    if not request.url.path.startswith(FILES):
        return {}
    common = ietf.common_headers(request) if _speaks_ietf(request) else tus_headers()
    # An offset is not to be cached, and neither is that there is none.
    uncached = {h.CACHE_CONTROL: "no-store"} if request.method == "HEAD" else {}
    return {**common, **uncached}


def _speaks_ietf(request: Request) -> bool:
    """Whether it is the IETF's protocol, or a plain upload; Tus-Resumable always means tus."""
    headers = request.headers
    if h.TUS_RESUMABLE in headers:
        return False
    if any(name in headers for name in _IETF_SIGNS) or request.method == "PUT":
        return True
    content_type = headers.get(h.CONTENT_TYPE, "").split(";")[0].strip().lower()
    if content_type == h.PARTIAL_UPLOAD:
        return True
    plain = "transfer-encoding" in headers or headers.get(h.CONTENT_LENGTH, "0") != "0"
    meant_for_tus = content_type == h.OFFSET_OCTET_STREAM or any(
        name in headers for name in _TUS_SIGNS
    )
    return request.method == "POST" and plain and not meant_for_tus
