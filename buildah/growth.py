"""Ends what takes more disk than reason allows, while it does.

Knows: how much a directory holds, by `du`.
Must not know: what works there, or why it grows.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import anyio

from buildah.command import run
from buildah.errors import BuildahError
from buildah.sizes import KIB

logger = logging.getLogger(__name__)

Result = TypeVar("Result")

_USED = re.compile(rb"(\d+)\s")


async def bounded(
    work: Callable[[], Awaitable[Result]],
    directory: Path,
    *,
    limit_bytes: int,
    refuse: Callable[[int], BuildahError],
    env: Mapping[str, str],
    entering: Sequence[str] = (),
    every_seconds: float = 2.0,
) -> Result:
    """What the work comes to, unless the directory holds more than the limit meanwhile.

    It is looked at again and again, and at the end, so it may hold more for a moment. `entering` is
    the command that may look into all of it, where we may not.

    Raises:
        BuildahError: what `refuse` makes of the bytes that are used; or the work's own.
    """
    results: list[Result] = []
    failure: BuildahError | None = None
    async with anyio.create_task_group() as tasks:

        async def check() -> None:
            used_bytes = await _used(directory, env, entering)
            if used_bytes > limit_bytes:
                raise refuse(used_bytes)

        async def watch() -> None:
            nonlocal failure
            while failure is None:
                try:
                    await check()
                except BuildahError as error:
                    failure = error
                    tasks.cancel_scope.cancel()
                await anyio.sleep(every_seconds)

        tasks.start_soon(watch)
        try:
            results.append(await work())
            await check()
        except BuildahError as error:
            failure = error
        tasks.cancel_scope.cancel()
    if failure:
        raise failure
    return results[0]


async def _used(directory: Path, env: Mapping[str, str], entering: Sequence[str]) -> int:
    completed = await run(
        [*entering, "du", "-sk", str(directory)],
        env=env,
        # Files go while it looks.
        on_line=lambda line: logger.debug("du: %s", line),
    )
    found = _USED.match(completed.stdout)
    return int(found[1]) * KIB if found else 0
