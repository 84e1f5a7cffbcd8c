"""The command `tusboat`.

Knows: options, what is printed where, exit codes; which part each command starts.
Must not know: how a part does its work.
"""

from __future__ import annotations

import json
import logging
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import anyio
import typer
from rich.console import Console
from rich.table import Table

from server.auth import Callers, check_listening
from server.checkup.check import Start
from server.client.commands import LOOK
from server.client.commands import app as client_app
from server.logs import configure
from server.settings import Settings, SettingsError, load
from server.settings_table import rows, table

if TYPE_CHECKING:
    from hooks.retention import Collected

FAILED: Final = 1
USAGE: Final = 2
_TELL_SECONDS: Final = 5
_OPERATE: Final = "Operate"

app = typer.Typer(
    help="Carries a container image archive of any size over a bad network into an OCI registry.",
    epilog="Exit codes: 0 done, 1 failed (cause and hint on stderr), 2 wrong usage, 130 "
    "interrupted. The server's address and your token: TUSBOAT_SERVER, TUSBOAT_TOKEN, or "
    "~/.config/tusboat/config.toml. `tusboat COMMAND --help` has the rest.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)
app.registered_commands += client_app.registered_commands

ConfigOption = Annotated[
    Path | None,
    typer.Option(
        "--config", envvar="TUSBOAT_CONFIG", help="TOML file of settings.", dir_okay=False
    ),
]
DataDirOption = Annotated[
    Path | None, typer.Option("--data-dir", help="Where uploads live (setting `data_dir`).")
]


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"tusboat {version('tusboat')}")
        raise typer.Exit


@app.callback()
def _root(
    _: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Carries a container image archive of any size over a bad network into an OCI registry."""


@app.command(rich_help_panel=_OPERATE)
def serve(
    config: ConfigOption = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on.")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on; 0 takes a free one.")] = None,
    data_dir: DataDirOption = None,
    workers: Annotated[int | None, typer.Option(help="Server processes.")] = None,
    insecure_no_auth: Annotated[
        bool, typer.Option("--insecure-no-auth", help="Listen beyond loopback without callers.")
    ] = False,
) -> None:
    """Receive uploads, and run what follows them (unless `run_worker` is off)."""
    from server import serving  # noqa: PLC0415 - other commands start faster

    overrides = {"host": host, "port": port, "data_dir": data_dir, "workers": workers}
    settings = _settings(config, {**overrides, "insecure_no_auth": insecure_no_auth or None})
    with _explained():
        check_listening(
            settings.host,
            Callers.from_file(settings.tokens_file),
            insecure=settings.insecure_no_auth,
        )
        if settings.insecure_no_auth:
            logging.getLogger(__name__).warning(
                "no authentication: everyone who reaches the port may upload"
            )
        with (
            serving.listen(settings.host, settings.port) as listener,
            serving.scraped(settings) as scraped,
        ):
            shown = f"[{settings.host}]" if ":" in settings.host else settings.host
            url = f"http://{shown}:{listener.getsockname()[1]}"
            if settings.log_format == "json":
                logging.getLogger(__name__).info("tusboat serves", extra={"url": url})
            else:
                typer.echo(f"tusboat serves {url}", err=True)
            serving.serve(settings, listener, scraped)


@app.command(rich_help_panel=_OPERATE)
def worker(config: ConfigOption = None, data_dir: DataDirOption = None) -> None:
    """Run jobs beside a server, on the same data directory and Redis."""
    from server import serving  # noqa: PLC0415 - other commands start faster
    from server.runtime import prepare, require_storage  # noqa: PLC0415

    settings = _settings(config, {"data_dir": data_dir})
    with _explained():
        prepare(settings)
        require_storage(settings)
        with serving.scraped(settings) as scraped, serving.redis_of(settings) as redis_url:
            anyio.run(_work, settings, redis_url, scraped)


async def _work(settings: Settings, redis_url: str, scraped: socket.socket | None) -> None:
    from server.metrics import MetricsPage  # noqa: PLC0415 - other commands start faster
    from server.runtime import Runtime  # noqa: PLC0415

    runtime = Runtime(settings, redis_url)
    stop = anyio.Event()
    async with anyio.create_task_group() as tasks:
        if scraped is not None:
            tasks.start_soon(MetricsPage(runtime).serve, scraped, stop)
        tasks.start_soon(_set_at_signal, stop)
        tasks.start_soon(runtime.relay.run)
        await runtime.work(stop, grace_seconds=settings.worker_grace_seconds)
        tasks.cancel_scope.cancel()
    await runtime.close()


async def _set_at_signal(stop: anyio.Event) -> None:
    with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async for _ in signals:
            stop.set()


@app.command(rich_help_panel=_OPERATE)
def gc(
    config: ConfigOption = None,
    data_dir: DataDirOption = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say what would be removed.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """Remove now what has expired, and say what was freed."""
    from hooks.errors import CoordinationLost  # noqa: PLC0415 - other commands start faster
    from server import serving  # noqa: PLC0415

    settings = _settings(config, {"data_dir": data_dir})
    if not settings.data_dir.is_dir():
        _fail(f"gc: data_dir {settings.data_dir} does not exist; nothing to remove")
    with _explained():
        try:
            with serving.redis_of(settings) as redis_url:
                collected = anyio.run(_collect, settings, redis_url, dry_run)
        except CoordinationLost as error:
            # A full disk, of all things, keeps the embedded Redis from starting: sweep without it.
            typer.echo(f"tusboat: {error.message}; going on without Redis", err=True)
            nowhere = f"unix://{settings.data_dir.absolute()}/redis/none.sock"
            collected = anyio.run(_collect, settings, nowhere, dry_run)
    if as_json:
        removed = [
            {"id": one.upload_id, "reason": one.reason, "freed_bytes": one.freed_bytes}
            for one in collected.uploads
        ]
        freed = collected.freed_bytes
        jobs = list(collected.workspaces)
        typer.echo(
            json.dumps({"dry_run": dry_run, "freed_bytes": freed, "removed": removed, "jobs": jobs})
        )
        return
    for one in collected.uploads:
        typer.echo(f"{one.upload_id}  {one.freed_bytes:>14}  {one.reason}")
    for job_id in collected.workspaces:
        typer.echo(f"{job_id}  {'':>14}  directories of a dead job")
    verb = "would free" if dry_run else "freed"
    typer.echo(f"{verb} {collected.freed_bytes} bytes of {len(collected.uploads)} uploads")


async def _collect(settings: Settings, redis_url: str, dry_run: bool) -> Collected:
    from server.runtime import Runtime  # noqa: PLC0415 - other commands start faster

    runtime = Runtime(settings, redis_url)
    try:
        collected = await runtime.retention.collect(dry_run=dry_run)
        # Whoever looks reads the disk first; Redis hears of it if it is there.
        with anyio.move_on_after(_TELL_SECONDS):
            await runtime.relay.drain()
    finally:
        await runtime.close()
    return collected


@app.command("settings", rich_help_panel=_OPERATE)
def show_settings(
    config: ConfigOption = None,
    markdown: Annotated[bool, typer.Option("--markdown", help="The README's table.")] = False,
) -> None:
    """List every setting, its value now, and what it does."""
    if markdown:
        typer.echo(table())
        return
    settings = _settings(config, {})
    grid = Table("setting", "now", "default", "what it does", box=None, pad_edge=False)
    for row in rows():
        now = getattr(settings, row.name)
        value = "(empty)" if now in (None, "", ()) else str(now)
        grid.add_row(row.name, value, f"{row.default} {row.unit}".strip(), row.help)
    Console(width=None if sys.stdout.isatty() else 160).print(grid)


@app.command(rich_help_panel=_OPERATE)
def doctor(
    config: ConfigOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
    before: Annotated[
        Start | None,
        typer.Option("--before", help="Only what this command has to find here, as in a pod."),
    ] = None,
    in_user_namespace: Annotated[
        bool,
        typer.Option("--user-namespace", help="Root here must not be root of the machine."),
    ] = False,
) -> None:
    """Say what this machine lacks, what for, and how to get it."""
    from server.doctor import report  # noqa: PLC0415 - other commands start faster

    text, code = report(
        _settings(config, {}),
        as_json=as_json,
        before=before,
        in_user_namespace=in_user_namespace,
    )
    typer.echo(text)
    raise typer.Exit(code)


@app.command("inspect", rich_help_panel=LOOK)
def inspect_archive(
    archive: Annotated[str, typer.Argument(metavar="ARCHIVE", help="The image archive.")],
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document.")] = False,
) -> None:
    """Say what an image archive holds, and what of it would be refused, without sending it."""
    from server.client.errors import ClientError  # noqa: PLC0415 - other commands start faster
    from server.client.inspect import report  # noqa: PLC0415

    try:
        text = report(archive, as_json=as_json)
    except ClientError as error:
        typer.echo(f"tusboat: {error.message}\nhint: {error.hint}", err=True)
        raise typer.Exit(FAILED) from error
    typer.echo(text)


@app.command("export", rich_help_panel=_OPERATE)
def export_image(
    image: Annotated[str, typer.Argument(metavar="IMAGE", help="host/repository:tag.")],
    archive: Annotated[Path, typer.Argument(metavar="ARCHIVE", help="The file to make.")],
    *,
    form: Annotated[
        str | None,
        typer.Option("--format", help="docker-archive (the default) or oci-archive."),
    ] = None,
    platform: Annotated[
        str | None,
        typer.Option("--platform", metavar="OS/ARCH", help="Which one of a multi-arch image."),
    ] = None,
    every_platform: Annotated[
        bool, typer.Option("--all", help="Every platform, as an oci-archive.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Overwrite the file.")] = False,
    config: ConfigOption = None,
) -> None:
    """Write an image of a configured registry to a file; the last line of stdout is its digest."""
    from server.client import export  # noqa: PLC0415 - other commands start faster

    order = export.order(image, archive, form=form, platform=platform, every=every_platform)
    settings = _settings(config, {})
    with _explained():
        raise typer.Exit(export.carry_out(order, settings, overwrite=force))


def _settings(config: Path | None, overrides: dict[str, Any]) -> Settings:
    with _explained():
        settings = load(config, overrides)
        configure(settings.log_format)
        return settings
    raise AssertionError  # _explained exits


@contextmanager
def _explained() -> Iterator[None]:
    """What is wrong with the settings or the machine, in a line instead of a trace."""
    from hooks.errors import HookError  # noqa: PLC0415 - other commands start faster

    try:
        yield
    except SettingsError as error:
        _fail(str(error), USAGE)
    except HookError as error:
        _fail(f"{error.message}; {error.hint}")


def _fail(message: str, code: int = FAILED) -> None:
    typer.echo(f"tusboat: {message}", err=True)
    raise typer.Exit(code)


def main() -> None:
    """Run the command line."""
    app()
