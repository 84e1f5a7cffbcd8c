"""The command `export`: an image of a registry becomes a file, for a machine without a network.

Knows: what may be asked for together, progress, signals, exit codes.
Must not know: how an image is pulled or packed.
"""

from __future__ import annotations

import logging
import signal
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import anyio
import typer

from buildah.catalog import shown
from buildah.errors import BuildahError, InvalidReference
from buildah.export import ArchiveFormat, ExportedImage, Wanted, export
from buildah.manifests import Platform
from buildah.reference import ImageReference
from hooks.record import StepRecord, StepState, utc_now
from server.client.display import Display
from server.client.errors import ClientError
from server.client.exits import DONE, FAILED, INTERRUPTED
from server.client.sizes import format_size
from server.client.telling import choose_display
from server.runtime import registries
from server.settings import Settings

logger = logging.getLogger(__name__)

_SAY_SECONDS: Final = 10.0


@dataclass(frozen=True)
class Order:
    """What was asked for, and where it goes."""

    reference: ImageReference
    target: Path
    wanted: Wanted


def order(
    image: str, target: Path, *, form: str | None, platform: str | None, every: bool
) -> Order:
    """Read the command line.

    Raises:
        typer.BadParameter: something is none, or does not go together.
    """
    try:
        reference = ImageReference.parse(image)
        chosen = Platform.parse(platform) if platform is not None else None
    except InvalidReference as error:
        raise typer.BadParameter(f"{error.message} {error.hint}") from error
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    if form is None:
        form = ArchiveFormat.OCI if every else ArchiveFormat.DOCKER
    if form not in tuple(ArchiveFormat):
        raise typer.BadParameter(f"--format {form}: it is one of {', '.join(ArchiveFormat)}")
    if every and form == ArchiveFormat.DOCKER:
        raise typer.BadParameter(
            "a docker-archive holds one platform: --all wants --format oci-archive"
        )
    if every and chosen:
        raise typer.BadParameter("--all and --platform: it is one of them")
    return Order(reference, target, Wanted(ArchiveFormat(form), chosen, every))


def carry_out(asked: Order, settings: Settings, *, overwrite: bool) -> int:
    """Do it, and tell how it goes; the exit code.

    Raises:
        SettingsError: the registries of the settings are none.
    """
    allowed = registries(settings)
    with choose_display(as_json=False) as display:
        told = _Told(display)

        async def work() -> ExportedImage:
            registry = allowed.find(asked.reference)
            wanted = replace(asked.wanted, overwrite=overwrite)
            return await export(
                asked.reference,
                registry,
                asked.target,
                wanted,
                progress=told.progress,
                log=lambda line: logger.debug("skopeo: %s", line),
            )

        try:
            exported = anyio.run(_until_signal, work)
        except BuildahError as error:
            told.end(StepState.FAILED)
            display.error(ClientError(error.message, error.hint, code=error.code))
            return FAILED
        if exported is None:
            display.notice(f"interrupted; nothing was left at {shown(str(asked.target))}")
            return INTERRUPTED
        told.end(StepState.DONE)
        _conclude(display, asked, exported)
    typer.echo(exported.digest)
    return DONE


def _conclude(display: Display, asked: Order, exported: ExportedImage) -> None:
    platforms = "".join(f", {shown(name)}" for name in exported.platforms)
    display.notice(
        f"{shown(str(asked.target))}: {asked.wanted.format} of {asked.reference}{platforms}, "
        f"{format_size(exported.size_bytes)}"
    )
    if exported.others:
        names = ", ".join(map(shown, exported.others))
        display.notice(f"not in it: {names}; --platform takes one of them, --all every one")


class _Told:
    """What a person hears while it goes on: a bar, or a line now and then."""

    def __init__(self, display: Display) -> None:
        self._display = display
        self._step = StepRecord("export", StepState.RUNNING, started_at=utc_now())
        self._said_at = time.monotonic()

    def progress(self, done_bytes: int, total_bytes: int) -> None:
        self._step = replace(self._step, bytes_done=done_bytes, bytes_total=total_bytes)
        self._display.step("", self._step, changed=False)
        if time.monotonic() - self._said_at >= _SAY_SECONDS and total_bytes:
            self._said_at = time.monotonic()
            self._display.waypoint("export", done_bytes, total_bytes)

    def end(self, state: StepState) -> None:
        self._step = replace(self._step, state=state, finished_at=utc_now())
        self._display.step("", self._step, changed=True)


async def _until_signal(work: Callable[[], Awaitable[ExportedImage]]) -> ExportedImage | None:
    """The work's result; None when a signal came first, and everything of it is gone.

    Raises:
        BuildahError: the work's own.
    """
    result: ExportedImage | BuildahError | None = None
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(_cancel_at_signal, tasks.cancel_scope)
        try:
            result = await work()
        except BuildahError as error:
            result = error
        tasks.cancel_scope.cancel()
    if isinstance(result, BuildahError):
        raise result
    return result


async def _cancel_at_signal(scope: anyio.CancelScope) -> None:
    ours = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    # What is ignored stays so: nohup means it.
    heard = [one for one in ours if signal.getsignal(one) is not signal.SIG_IGN]
    with anyio.open_signal_receiver(*heard) as signals:
        async for _ in signals:
            scope.cancel()
            return
