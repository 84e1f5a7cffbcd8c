"""For whom a command prints: a person with a terminal, a log, a script.

Knows: which display fits which wish, and which stream.
Must not know: what is printed.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Annotated, Final

import typer

from server.client.bars import BarsDisplay
from server.client.config import ConfigFile
from server.client.display import Display, JsonDisplay, PlainDisplay, QuietDisplay
from server.client.options import Place

_TELLING: Final = "What is printed"


@dataclass(frozen=True)
class Form:
    """For whom an answer is printed."""

    as_json: Annotated[
        bool,
        typer.Option("--json", help="JSON on stdout, one object a line.", rich_help_panel=_TELLING),
    ] = False


@dataclass(frozen=True)
class Telling(Form):
    """For whom progress is printed."""

    quiet: Annotated[
        bool,
        typer.Option(
            "--quiet", "-q", help="Nothing but the result, and errors.", rich_help_panel=_TELLING
        ),
    ] = False

    def __post_init__(self) -> None:
        """Refuse what contradicts itself."""
        if self.as_json and self.quiet:
            raise typer.BadParameter("--json and --quiet: it is one of them")


def open_display(place: Place, form: Form, *, bars: bool = True) -> Display:
    """What fits the terminal, or the pipe, that stderr is; or JSON, or next to nothing."""
    quiet = isinstance(form, Telling) and form.quiet
    display = choose_display(as_json=form.as_json, bars=bars, quiet=quiet)
    remark = ConfigFile(place.client_config).remark()
    if remark:
        display.notice(remark)
    return display


def choose_display(*, as_json: bool, bars: bool = True, quiet: bool = False) -> Display:
    """The same for commands that know no server."""
    if as_json:
        return JsonDisplay()
    if quiet:
        return QuietDisplay()
    return BarsDisplay() if bars and sys.stderr.isatty() else PlainDisplay()
