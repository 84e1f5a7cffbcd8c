"""The commands that talk to a server: `upload`, `status`, `cancel`, `retry`.

Knows: options, what goes to which stream, exit codes (0 done, 1 failed, 2 usage, 130 interrupted).
Must not know: HTTP, how a progress bar is drawn.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Final

import typer

from server.client.archive import Archive
from server.client.bars import BarsDisplay
from server.client.connection import Connection, is_server_address
from server.client.display import Display, JsonDisplay, PlainDisplay
from server.client.document import Document
from server.client.errors import ClientError
from server.client.listing import show_all, show_one, watch_all
from server.client.memory import Memory
from server.client.patience import Patience
from server.client.sender import Errand, Sender
from server.client.sizes import KIB, MIB, format_size, parse_size
from server.client.watch import act, fetch, follow
from server.client.wishes import Wishes

FAILED: Final = 1
INTERRUPTED: Final = 130
DEFAULT_SERVER: Final = "http://127.0.0.1:8080"
GIVE_UP_AFTER_SECONDS: Final = 600.0
CHUNK_BYTES: Final = 64 * MIB
SMALLEST_CHUNK_BYTES: Final = 64 * KIB

_RESUMABLE: Final = "interrupted; the same command again goes on where it stopped"
_LOOK: Final = "interrupted; `tusboat status` says what came of it"

app = typer.Typer(help="Talk to a Tusboat server.")


def _checked_server(text: str) -> str:
    if not is_server_address(text):
        raise typer.BadParameter(f"{text!r} is not an address like {DEFAULT_SERVER}")
    return text


def _checked_token(text: str | None) -> str | None:
    token = (text or "").strip()
    if not token.isascii() or any(not one.isprintable() or one.isspace() for one in token):
        raise typer.BadParameter("a token is one word of printable ASCII characters")
    return token or None


def _checked_image(text: str | None) -> str | None:
    if text is not None and not text.strip():
        raise typer.BadParameter("the image is empty; leave the option out to have it only kept")
    return text


def _parsed_size(text: str | int) -> int:
    size = parse_size(str(text))  # the default comes by here, too, and it is a number
    if size < SMALLEST_CHUNK_BYTES:
        raise ValueError(f"a chunk has at least {format_size(SMALLEST_CHUNK_BYTES)}")
    return size


ServerOption = Annotated[
    str,
    typer.Option(
        "--server", envvar="TUSBOAT_SERVER", callback=_checked_server, help="Address of the server."
    ),
]
TokenOption = Annotated[
    str | None,
    typer.Option(
        "--token",
        envvar="TUSBOAT_TOKEN",
        show_envvar=True,
        callback=_checked_token,
        help="Who we are. Better in the environment: other users see a command line.",
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="JSON on stdout, one object a line.")]
UploadArgument = Annotated[str, typer.Argument(metavar="ID", help="Id of the upload.")]
GiveUpOption = Annotated[
    float,
    typer.Option(
        "--give-up-after", min=0, metavar="SECONDS", help="How long to go on without progress."
    ),
]


def choose_display(*, as_json: bool, bars: bool = True) -> Display:
    """What fits the terminal, or the pipe, that stderr is; or JSON."""
    if as_json:
        return JsonDisplay()
    return BarsDisplay() if bars and sys.stderr.isatty() else PlainDisplay()


@contextlib.contextmanager
def _exits(display: Display, interrupted: str) -> Iterator[None]:
    """What goes wrong inside, as words on the display and an exit code."""
    try:
        yield
    except ClientError as error:
        display.error(error)
        raise typer.Exit(FAILED) from error
    except KeyboardInterrupt as error:
        display.notice(interrupted)
        raise typer.Exit(INTERRUPTED) from error


def _followed(
    connection: Connection, upload_id: str, display: Display, give_up_after_seconds: float
) -> Document:
    """The upload's last document; an interruption leaves the server at it."""
    with _exits(display, f"interrupted; the server goes on: tusboat status {upload_id} --watch"):
        patience = Patience(give_up_after_seconds, display.notice)
        return follow(connection, upload_id, display, patience)


def _conclude(display: Display, document: Document) -> None:
    """Say how it ended.

    Raises:
        UploadEnded: not well.
    """
    display.finished(document)
    document.check_done()


@app.command()
def upload(  # noqa: PLR0913 - a command has as many parameters as options
    archive: Annotated[
        Path,
        typer.Argument(
            metavar="ARCHIVE", exists=True, dir_okay=False, readable=True, help="The image archive."
        ),
    ],
    *,
    image: Annotated[
        str | None,
        typer.Option(
            "--image",
            metavar="REF",
            callback=_checked_image,
            help="Where to push it; else the server decides, or only keeps it.",
        ),
    ] = None,
    ref: Annotated[
        str | None,
        typer.Option("--ref", help="Which image of several: its name, id, or position (@0)."),
    ] = None,
    compression: Annotated[
        str | None,
        typer.Option("--compression", help="How layers go to the registry: gzip or zstd."),
    ] = None,
    allow_partial: Annotated[
        bool,
        typer.Option("--allow-partial", help="Push the platforms that are whole, if not all are."),
    ] = False,
    platform: Annotated[
        list[str] | None,
        typer.Option(
            "--platform", metavar="OS/ARCH", help="What to build a context for; again for more."
        ),
    ] = None,
    check: Annotated[
        bool, typer.Option("--check/--no-check", help="Look into the archive before sending it.")
    ] = True,
    server: ServerOption = DEFAULT_SERVER,
    token: TokenOption = None,
    chunk_size: Annotated[
        int,
        typer.Option(
            "--chunk-size",
            metavar="SIZE",
            parser=_parsed_size,
            show_default=format_size(CHUNK_BYTES),
            help="Bytes in one request.",
        ),
    ] = CHUNK_BYTES,
    with_md5: Annotated[
        bool, typer.Option("--md5/--no-md5", help="Prove the whole file by its MD5.")
    ] = True,
    wait: Annotated[
        bool, typer.Option("--wait/--no-wait", help="Wait until the image is in the registry.")
    ] = True,
    as_json: JsonOption = False,
    give_up_after: GiveUpOption = GIVE_UP_AFTER_SECONDS,
    state_home: Annotated[
        Path,
        typer.Option(
            "--state-home", envvar="XDG_STATE_HOME", help="Remembers what is under way, below this."
        ),
    ] = Path("~/.local/state"),
) -> None:
    """Upload an image archive and have it pushed; the last line of stdout is the image's digest.

    Goes on by itself after a lost connection, and when the same command is given again.
    """
    with (
        choose_display(as_json=as_json) as display,
        _exits(display, _RESUMABLE),
        Archive(archive) as opened,
        Connection(server, token) as connection,
    ):
        wishes = Wishes(image, ref, compression, allow_partial, tuple(platform or ()))
        if check:
            from server.client.precheck import precheck  # noqa: PLC0415 - others start faster

            precheck(archive, wishes)
        errand = Errand(opened, wishes, chunk_size, with_md5, give_up_after)
        sender = Sender(connection, Memory(state_home.expanduser()), display, errand)
        upload_id = sender.send()
        if not wait:
            sender.forget()
            display.uploaded(upload_id)
            return
        document = _followed(connection, upload_id, display, give_up_after)
        sender.forget()
        _conclude(display, document)


@app.command()
def status(
    upload_id: Annotated[
        str | None, typer.Argument(metavar="[ID]", help="One upload; else the newest ones.")
    ] = None,
    *,
    watch: Annotated[
        bool, typer.Option("--watch", help="Go on showing it until nothing more happens.")
    ] = False,
    limit: Annotated[int, typer.Option("--limit", min=1, help="How many to list.")] = 20,
    server: ServerOption = DEFAULT_SERVER,
    token: TokenOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show one upload, or list them; with --watch, the exit code says how the one ended."""
    bars = watch and upload_id is not None
    with (
        choose_display(as_json=as_json, bars=bars) as display,
        _exits(display, "interrupted"),
        Connection(server, token) as connection,
    ):
        if upload_id is None:
            patience = Patience(GIVE_UP_AFTER_SECONDS, display.notice)
            if watch:
                watch_all(connection, limit, patience, as_json=as_json)
            else:
                show_all(connection, limit, as_json=as_json)
        elif watch:
            document = _followed(connection, upload_id, display, GIVE_UP_AFTER_SECONDS)
            _conclude(display, document)
        else:
            show_one(fetch(connection, upload_id), as_json=as_json)


@app.command()
def cancel(
    upload_id: UploadArgument,
    *,
    server: ServerOption = DEFAULT_SERVER,
    token: TokenOption = None,
    as_json: JsonOption = False,
) -> None:
    """Stop an upload, or the job that follows it; its archive is removed from the server."""
    with (
        choose_display(as_json=as_json, bars=False) as display,
        _exits(display, _LOOK),
        Connection(server, token) as connection,
    ):
        document = act(connection, upload_id, "cancel")
        show_one(document, as_json=as_json)


@app.command()
def retry(
    upload_id: UploadArgument,
    *,
    wait: Annotated[
        bool, typer.Option("--wait", help="Wait until the image is in the registry.")
    ] = False,
    server: ServerOption = DEFAULT_SERVER,
    token: TokenOption = None,
    as_json: JsonOption = False,
) -> None:
    """Try a failed upload again, from the archive that the server kept."""
    with (
        choose_display(as_json=as_json, bars=wait) as display,
        _exits(display, _LOOK),
        Connection(server, token) as connection,
    ):
        document = act(connection, upload_id, "retry")
        if wait:
            document = _followed(connection, upload_id, display, GIVE_UP_AFTER_SECONDS)
            _conclude(display, document)
        else:
            show_one(document, as_json=as_json)
