"""Routes: which path speaks which dialect.

Knows: the settings of the old endpoints, and that one path means one thing.
Must not know: what is done with a request.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from starlette.routing import BaseRoute, Match, Route

from server.protocols.legacy.dialect import DIALECTS, OWN, Dialect
from server.protocols.legacy.parts import Parts
from server.protocols.legacy.protocol import LegacyProtocol
from server.setting_types import LegacyDialectRow
from server.settings import Settings, SettingsError


@dataclass(frozen=True)
class _Paths:
    """Where one dialect is spoken."""

    dialect: Dialect
    check: str
    chunk: str
    merge: str
    status: str

    def requests(self) -> Iterator[tuple[str, str]]:
        """Method and path of each endpoint."""
        yield "GET", self.check
        yield "POST", self.chunk
        yield "POST", self.merge
        yield "GET", self.status


def legacy_routes(settings: Settings, parts: Parts) -> list[Route]:
    """The endpoints of every dialect that is switched on.

    Raises:
        SettingsError: a dialect is unknown, or two of them want one path.
    """
    routes = []
    for paths in _all_paths(settings):
        protocol = LegacyProtocol(parts, paths.dialect)
        endpoints = (protocol.check, protocol.chunk, protocol.merge, protocol.status)
        routes += [
            Route(path, endpoint, methods=[method])
            for (method, path), endpoint in zip(paths.requests(), endpoints, strict=True)
        ]
    return routes


def check_paths(settings: Settings, others: Sequence[BaseRoute] = ()) -> None:
    """Refuse paths that mean two things.

    Raises:
        SettingsError: which, and in whose name.
    """
    taken: dict[tuple[str, str], str] = {}
    for paths in _all_paths(settings):
        for method, path in paths.requests():
            scope = {"type": "http", "method": method, "path": path, "root_path": ""}
            owner = taken.setdefault((method, path), paths.dialect.name)
            if any(route.matches(scope)[0] is not Match.NONE for route in others):
                owner = "this server"
            if owner != paths.dialect.name:
                raise SettingsError(
                    f"legacy_dialects {paths.dialect.name}: {method} {path} belongs to {owner}; "
                    "choose another `path`"
                )


def _all_paths(settings: Settings) -> list[_Paths]:
    base = settings.legacy_base_path
    own = _Paths(OWN, f"{base}/chunks", f"{base}/chunks", f"{base}/merge", f"{base}/status")
    return [own, *(_paths(base, row) for row in settings.legacy_dialects)]


def _paths(base: str, row: LegacyDialectRow) -> _Paths:
    dialect = DIALECTS.get(row.name)
    if dialect is None:
        raise SettingsError(
            f"legacy_dialects: {row.name!r} is not known; one of {', '.join(DIALECTS)}"
        )
    path = row.path or f"{base}/{row.name}"
    if row.chunk_size is not None:
        dialect = replace(dialect, chunk_size=row.chunk_size)
    return _Paths(
        dialect,
        row.check or path,
        row.chunk or path,
        row.merge or f"{path}/merge",
        row.status or f"{path}/status",
    )
