"""Parts: what all dialects share.

Knows: who may ask from where; the way of a chunk through the reception.
Must not know: field names, answers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final
from urllib.parse import urlsplit

from anyio import to_thread
from starlette.requests import Request

from hooks.ports import Caller as AdmittedCaller
from server.auth import Caller, Callers
from server.chunk_reception import ChunkReception, Place
from server.errors import Forbidden
from server.finder import Found
from server.indexed_uploads import IndexedUploads
from server.intake import Intake, Received, Sink
from server.interruption import Ending
from server.protocols import headers as h
from server.protocols.legacy.staging import Staging
from server.reception import Reception
from server.records import Records

_SAFE: Final = ("GET", "HEAD", "OPTIONS")


class Parts:
    """The server's parts as the old endpoints use them."""

    def __init__(
        self,
        reception: Reception,
        chunks: ChunkReception,
        intake: Intake,
        callers: Callers,
        admit: Callable[[Mapping[str, str], AdmittedCaller], None],
        records: Records,
        origins: Sequence[str],
    ) -> None:
        """Wire them; `origins` are pages of the web that may send without a token."""
        self.reception = reception
        self.indexed = IndexedUploads(reception)
        self.chunks = chunks
        self.intake = intake
        self.admit = admit
        self.records = records
        self._callers = callers
        self._origins = frozenset(origins)

    def caller(self, request: Request) -> Caller:
        """Who is calling.

        A page of any origin can make a browser send a form, without asking us first. Where nobody
        has a token, only pages that came from here, or that the settings name, are let in.

        Raises:
            Unauthorized: no token, or an unknown one.
            Forbidden: a page from elsewhere sends without one.
        """
        caller = self._callers.identify(request.headers)
        origin = h.single(request.headers, h.ORIGIN)
        if self._callers.required or request.method in _SAFE or origin is None:
            return caller
        here = (h.single(request.headers, "Host") or "").lower()
        if urlsplit(origin).netloc.lower() != here and origin not in self._origins:
            raise Forbidden(
                f"a page of {origin} may not send here",
                "name its origin in the setting `cors_origins`, or give callers tokens",
            )
        return caller

    async def count(
        self, found: Found, place: Place, size: int | None, promised: Mapping[str, str]
    ) -> Found:
        """Count a chunk whose bytes have come; a full disk is said in words."""
        try:
            return await self.chunks.count(found, place, size, promised)
        except OSError as error:
            self.reception.check_disk(Received(place.writer.position, Ending.FAILED, error))
            raise

    async def give(self, staging: Staging, target: Sink) -> None:
        """Bytes that waited, to their place; a full disk is said in words."""
        try:
            await to_thread.run_sync(staging.give, target)
        except OSError as error:
            self.reception.check_disk(Received(target.position, Ending.FAILED, error))
            raise
