"""Ends what takes more disk than reason allows, while it does.

Knows: how much a directory holds, by `du`.
Must not know: what works there, or why it grows.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import TypeVar

import anyio

from buildah.command import run
from buildah.errors import BuildahError
from buildah.sandbox import entering
from buildah.sizes import KIB

logger = logging.getLogger(__name__)

Result = TypeVar("Result")

_USED = re.compile(rb"(\d+)\s")


async def bounded(
    work: Callable[[], Awaitable[Result]],
    check: Callable[[], Awaitable[None]],
    *,
    every_seconds: float = 2.0,
) -> Result:
    """What the work comes to, unless `check` refuses what it takes meanwhile.

    It is looked at again and again, and at the end, so it may take more for a moment.

    Raises:
        BuildahError: what `check` raises; or the work's own.
    """
    results: list[Result] = []
    failure: BuildahError | None = None
    async with anyio.create_task_group() as tasks:

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


async def used_bytes(directory: Path, env: Mapping[str, str]) -> int:
    """What a directory holds now, also in what belongs to our subordinate users."""
    for enter in dict.fromkeys((entering(), ())):
        completed = await run(
            [*enter, "du", "-sk", str(directory)],
            env=env,
            # Files go while it looks.
            on_line=lambda line: logger.debug("du: %s", line),
        )
        if found := _USED.match(completed.stdout):
            return int(found[1]) * KIB
    return 0
