"""Groups of options that commands share, as frozen values; a command names the groups it takes.

What is not typed comes from the environment, then from the user's file (`config.py`), then from
the defaults here.

Knows: every option of the client: its names, its default, what is wrong usage.
Must not know: what a command does with them.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final

import typer

from server.client.connection import Connection, is_server_address
from server.client.display import Display
from server.client.patience import Patience
from server.client.sizes import KIB, MIB, format_size, parse_size
from server.client.wishes import Wishes

DEFAULT_SERVER: Final = "http://127.0.0.1:8080"
GIVE_UP_AFTER_SECONDS: Final = 600.0
CHUNK_BYTES: Final = 64 * MIB
SMALLEST_CHUNK_BYTES: Final = 64 * KIB
MOST_PARTS: Final = 64
MOST_ARCHIVES: Final = 16

_SERVER: Final = "The server"
_IMAGE: Final = "The image"
_SENDING: Final = "How it is sent"

# What a user's file may say: how, never what.
CONFIGURABLE: Final = frozenset(
    {
        *("server", "token", "give_up_after", "quiet"),
        *("chunk_size", "parallel", "at_once", "md5", "check"),
    }
)


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


def _checked_name(text: str | None) -> str | None:
    if text is not None and not text.strip():
        raise typer.BadParameter("the name is empty; leave the option out for the file's own")
    return text


def _parsed_size(text: str | int) -> int:
    size = parse_size(str(text))  # the default comes by here, too, and it is a number
    if size < SMALLEST_CHUNK_BYTES:
        raise ValueError(f"a chunk has at least {format_size(SMALLEST_CHUNK_BYTES)}")
    return size


@dataclass(frozen=True)
class Place:
    """Which server, who we are there, and how long to go on asking."""

    server: Annotated[
        str,
        typer.Option(
            "--server",
            envvar="TUSBOAT_SERVER",
            show_envvar=True,
            metavar="URL",
            callback=_checked_server,
            help="Address of the server.",
            rich_help_panel=_SERVER,
        ),
    ] = DEFAULT_SERVER
    token: Annotated[
        str | None,
        typer.Option(
            "--token",
            envvar="TUSBOAT_TOKEN",
            show_envvar=True,
            callback=_checked_token,
            metavar="TOKEN",
            help="Who we are. Better in the environment or in the file of options: other users "
            "see a command line.",
            rich_help_panel=_SERVER,
        ),
    ] = None
    give_up_after: Annotated[
        float,
        typer.Option(
            "--give-up-after",
            min=0,
            metavar="SECONDS",
            show_default="600",
            help="How long to go on trying while nothing moves.",
            rich_help_panel=_SERVER,
        ),
    ] = GIVE_UP_AFTER_SECONDS
    client_config: Annotated[
        Path | None,
        typer.Option(
            "--client-config",
            envvar="TUSBOAT_CLIENT_CONFIG",
            show_envvar=True,
            metavar="FILE",
            show_default="config.toml in ~/.config/tusboat",
            help="File of options (TOML), for what is neither typed nor in the environment.",
            rich_help_panel=_SERVER,
        ),
    ] = None

    def connect(self) -> Connection:
        """A connection to it; nothing is sent yet."""
        return Connection(self.server, self.token)

    def patience(self, display: Display) -> Patience:
        """How long to go on asking."""
        return Patience(self.give_up_after, display.notice)


@dataclass(frozen=True)
class Asked:
    """What is to become of an archive."""

    image: Annotated[
        str | None,
        typer.Option(
            "--image",
            metavar="REF",
            callback=_checked_image,
            help="Where to push it: host/repository:tag. Else the server decides, or only keeps "
            "it. For several archives with {name}, which is the file's name without its ending.",
            rich_help_panel=_IMAGE,
        ),
    ] = None
    ref: Annotated[
        str | None,
        typer.Option(
            "--ref",
            metavar="IMAGE",
            help="Which image of several in one archive: its name, id, or position (@0).",
            rich_help_panel=_IMAGE,
        ),
    ] = None
    platform: Annotated[
        list[str] | None,
        typer.Option(
            "--platform",
            metavar="OS/ARCH",
            help="What to build a context for; again for more.",
            rich_help_panel=_IMAGE,
        ),
    ] = None
    allow_partial: Annotated[
        bool,
        typer.Option(
            "--allow-partial",
            help="Push the platforms that are whole, if not all are.",
            rich_help_panel=_IMAGE,
        ),
    ] = False
    compression: Annotated[
        str | None,
        typer.Option(
            "--compression",
            metavar="gzip|zstd",
            help="How layers go to the registry; else as the server has it.",
            rich_help_panel=_IMAGE,
        ),
    ] = None

    def wishes(self, image: str | None) -> Wishes:
        """The same for one archive that becomes `image`."""
        platforms = tuple(self.platform or ())
        return Wishes(image, self.ref, self.compression, self.allow_partial, platforms)


@dataclass(frozen=True)
class Sending:
    """How archives are sent."""

    name: Annotated[
        str | None,
        typer.Option(
            "--name",
            metavar="FILE",
            callback=_checked_name,
            help="What the server shows as the file's name.",
            show_default="the file's own; stdin.tar",
            rich_help_panel=_SENDING,
        ),
    ] = None
    parallel: Annotated[
        int,
        typer.Option(
            "--parallel",
            min=1,
            max=MOST_PARTS,
            metavar="N",
            help="Send N parts of a file at once, over a connection each: for lines where one "
            "connection does not get all the speed there is.",
            rich_help_panel=_SENDING,
        ),
    ] = 1
    at_once: Annotated[
        int,
        typer.Option(
            "--at-once",
            min=1,
            max=MOST_ARCHIVES,
            metavar="N",
            help="Of several archives, send N at a time.",
            rich_help_panel=_SENDING,
        ),
    ] = 3
    chunk_size: Annotated[
        int,
        typer.Option(
            "--chunk-size",
            metavar="SIZE",
            parser=_parsed_size,
            show_default=format_size(CHUNK_BYTES),
            help="Bytes in one request; of standard input, as much is held in memory.",
            rich_help_panel=_SENDING,
        ),
    ] = CHUNK_BYTES
    md5: Annotated[
        bool,
        typer.Option(
            "--md5/--no-md5",
            help="Prove the whole file by its MD5.",
            rich_help_panel=_SENDING,
        ),
    ] = True
    check: Annotated[
        bool,
        typer.Option(
            "--check/--no-check",
            help="Look into the archive for what could not arrive, before sending it.",
            rich_help_panel=_SENDING,
        ),
    ] = True
    wait: Annotated[
        bool,
        typer.Option(
            "--wait/--no-wait",
            help="Wait until the image is in the registry; else print the upload's id.",
            rich_help_panel=_SENDING,
        ),
    ] = True
    state_home: Annotated[
        Path,
        typer.Option(
            "--state-home",
            envvar="XDG_STATE_HOME",
            show_envvar=True,
            metavar="DIRECTORY",
            help="Remembers what is under way, below this.",
            rich_help_panel=_SENDING,
        ),
    ] = Path("~/.local/state")
