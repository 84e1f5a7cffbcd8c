"""What this machine has and lacks for Tusboat: one row for each thing, and how to get it.

Knows: which checks there are, and what a person reads of them.
Must not know: how a thing is tried out (`server/checkup/`). Nothing is repaired here.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict

from buildah.engine import ENGINES
from server.checkup import identity, place, programs, reach
from server.checkup.check import Check, Start
from server.runtime import registries
from server.settings import Settings, SettingsError


def report(
    settings: Settings,
    *,
    as_json: bool = False,
    before: Start | None = None,
    in_user_namespace: bool = False,
) -> tuple[str, int]:
    """Look at everything; the text for a person or (in one line) a program, and the exit code.

    With `before`, only what that command has to find here: it starts whether Redis and registries,
    which are elsewhere, answer or not, and a server beside workers of their own loads nothing.
    With `in_user_namespace`, root here must not be root of the machine.

    The code is 0 when all that is required is there, else 1.
    """
    found = list(checks(settings, before=before))
    if in_user_namespace:
        found.insert(0, identity.user_namespace())
    missing = [check.name for check in found if check.required and not check.ok]
    if as_json:
        document = {"ok": not missing, "checks": [asdict(check) for check in found]}
        return json.dumps(document), int(bool(missing))
    verdict = f"missing: {', '.join(missing)}" if missing else "everything that is required is here"
    return "\n".join([*map(_shown, found), "", verdict]), int(bool(missing))


def checks(settings: Settings, *, before: Start | None = None) -> Iterator[Check]:
    """Every row for these settings, in the order in which a person would go through them."""
    receives_only = before is Start.SERVE and not settings.run_worker
    loads = ENGINES[settings.engine].loads and not receives_only
    yield from programs.programs(loads=loads)
    if before is None or not settings.redis_url:
        yield programs.redis(settings.redis_url)
    yield programs.open_files()
    yield from place.place(settings.data_dir, settings.storage_driver if loads else None)
    if settings.builds and not receives_only:
        yield place.sandbox(settings.data_dir, network=settings.build_network)
    if before is not None:
        return
    if not settings.registries:
        yield reach.no_registry()
    try:
        rows = list(registries(settings))
    except SettingsError as error:
        yield reach.wrong(str(error))
    else:
        yield from map(reach.registry, rows)


def _shown(check: Check) -> str:
    word = "ok" if check.ok else "MISSING" if check.required else "note"
    line = f"{word:<8} {check.name:<22} {check.found}"
    return line if check.ok else f"{line}\n{'':9}for {check.needed_for}; {check.how_to_get}"
