"""What a sender may be told about where images can go, before there is an archive.

Knows: the configured registries, and what the caller's token allows.
Must not know: images, how a registry is reached; passwords and files are none of it.
"""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from server.auth import Callers
from server.settings import Settings


class Destinations:
    """The route `/api/destinations`."""

    def __init__(self, settings: Settings, callers: Callers) -> None:
        """Tell of these settings."""
        self._callers = callers
        self._registries = [
            {"host": row.host.lower(), "repositories": list(row.repositories)}
            for row in settings.registries
        ]
        self._default_repository = settings.default_repository.rstrip("/")

    async def get(self, request: Request) -> Response:
        """`GET /api/destinations`: who is calling, and the patterns of where they may write.

        `repositories` of a registry are patterns of paths, those of the caller of `host/path`; a
        destination has to fit one of each.

        Raises:
            Unauthorized: no token, or an unknown one.
        """
        caller = self._callers.identify(request.headers)
        return JSONResponse(
            {
                "caller": caller.name,
                "repositories": list(caller.repositories),
                "registries": self._registries,
                "default_repository": self._default_repository,
            }
        )
