"""The commands that talk to a server: `upload`, `status`, `cancel`, `retry`; and the manual.

Knows: what each command does in which order.
Must not know: HTTP, what an option is called, how a progress bar is drawn.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Final

import typer

from server.client.cargo import cargo
from server.client.exits import FAILED, exits
from server.client.followed import conclude, followed
from server.client.groups import grouped
from server.client.listing import show_all, show_log, show_one, watch_all
from server.client.manual import manual
from server.client.options import CONFIGURABLE, Asked, Place, Sending
from server.client.telling import Form, Telling, open_display
from server.client.watch import act, fetch, fetch_log, resolve

_LOOK: Final = "interrupted; `tusboat status` says what came of it"

# Under which heading `tusboat --help` has a command.
SEND: Final = "Send"
LOOK: Final = "Look"

app = typer.Typer(help="Talk to a Tusboat server.")


def _command(panel: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    def register(function: Callable[..., None]) -> Callable[..., None]:
        options = grouped(function, configurable=CONFIGURABLE)
        return app.command(rich_help_panel=panel)(options)

    return register


UploadArgument = Annotated[
    str, typer.Argument(metavar="ID", help="Id of the upload, or how it begins.")
]


@_command(SEND)
def upload(
    archives: Annotated[
        list[Path],
        typer.Argument(metavar="ARCHIVE", help="Image archives; - is standard input."),
    ],
    *,
    asked: Asked,
    sending: Sending,
    telling: Telling,
    place: Place,
) -> None:
    """Upload image archives and have them pushed; stdout has the images' digests.

    Goes on by itself after a lost connection, and when the same command is given again; only
    standard input cannot be had a second time.

    Several archives are sent a few at once, and the server works on what it has; each is told of,
    and the exit code is 1 if one of them failed.

    ```
    tusboat upload llm.tar --image harbor.example/team/llm:v1
    docker save llm:v1 | tusboat upload - --image harbor.example/team/llm:v1
    tusboat upload a.tar b.tar --image harbor.example/team/{name}:v1
    ```
    """
    from server.client.fleet import fleet  # noqa: PLC0415 - other commands start faster

    load = cargo(archives, asked, sending)
    with (
        open_display(place, telling) as display,
        exits(display, load.interrupted),
        place.connect() as connection,
    ):
        if not fleet(load, connection, display, sending, place).deliver(sending.at_once):
            raise typer.Exit(FAILED)


@_command(LOOK)
def status(
    upload_id: Annotated[
        str | None,
        typer.Argument(metavar="[ID]", help="One upload, or how its id begins; else the newest."),
    ] = None,
    *,
    watch: Annotated[
        bool, typer.Option("--watch", "-w", help="Go on showing it until nothing more happens.")
    ] = False,
    limit: Annotated[int, typer.Option("--limit", min=1, help="How many to list.")] = 20,
    form: Form,
    place: Place,
) -> None:
    """Show one upload, or list them; with --watch, the exit code says how the one ended.

    ```
    tusboat status                  # the newest
    tusboat status --watch          # the same as a table that is kept up to date
    tusboat status 1292abad         # one with its steps, its digests and its error
    tusboat status 1292abad --watch # until it has ended
    ```
    """
    bars = watch and upload_id is not None
    with (
        open_display(place, form, bars=bars) as display,
        exits(display, "interrupted"),
        place.connect() as connection,
    ):
        if upload_id is None and watch:
            watch_all(connection, limit, place.patience(display), as_json=form.as_json)
        elif upload_id is None:
            show_all(connection, limit, as_json=form.as_json)
        elif watch:
            one = resolve(connection, upload_id)
            conclude(display, followed(connection, one, display, place))
        else:
            show_one(fetch(connection, resolve(connection, upload_id)), as_json=form.as_json)


@_command(LOOK)
def log(upload_id: UploadArgument, *, form: Form, place: Place) -> None:
    """Print what the steps of an upload said: buildah's and skopeo's own words, line by line."""
    with (
        open_display(place, form, bars=False) as display,
        exits(display, "interrupted"),
        place.connect() as connection,
    ):
        show_log(fetch_log(connection, resolve(connection, upload_id)), as_json=form.as_json)


@_command(SEND)
def cancel(upload_id: UploadArgument, *, form: Form, place: Place) -> None:
    """Stop an upload, or the job that follows it; its archive is removed from the server."""
    with (
        open_display(place, form, bars=False) as display,
        exits(display, _LOOK),
        place.connect() as connection,
    ):
        show_one(act(connection, resolve(connection, upload_id), "cancel"), as_json=form.as_json)


@_command(SEND)
def retry(
    upload_id: UploadArgument,
    *,
    wait: Annotated[
        bool, typer.Option("--wait", help="Wait until the image is in the registry.")
    ] = False,
    telling: Telling,
    place: Place,
) -> None:
    """Try a failed upload again, from the archive that the server kept.

    ```
    tusboat retry 1292abad --wait
    ```
    """
    with (
        open_display(place, telling, bars=wait) as display,
        exits(display, _LOOK),
        place.connect() as connection,
    ):
        document = act(connection, resolve(connection, upload_id), "retry")
        if wait:
            conclude(display, followed(connection, document.record.id, display, place))
        else:
            show_one(document, as_json=telling.as_json)


@app.command("manual", rich_help_panel=LOOK)
def show_manual(context: typer.Context) -> None:
    """Print the manual of all commands, as Markdown."""
    typer.echo(manual(context.find_root().command))
