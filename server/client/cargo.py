"""What one command is to send: archives, and what each of them becomes.

Knows: which combinations of archives and wishes are ambiguous.
Must not know: how anything is sent.
"""

from __future__ import annotations

import re
import stat
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import typer

from server.client.options import Asked, Sending
from server.client.wishes import Wishes

STDIN: Final = Path("-")
STDIN_NAME: Final = "stdin.tar"
PLACEHOLDER: Final = "{name}"

_RESUMABLE: Final = "interrupted; the same command again goes on where it stopped"
_ONCE: Final = (
    "interrupted; standard input cannot be had twice: what was sent is removed from the server, "
    "and the whole pipe has to run again"
)
_ENDING: Final = re.compile(r"(\.(tar|tgz|tzst|txz|tbz2?))?(\.(gz|zst|xz|bz2))?$", re.IGNORECASE)


@dataclass(frozen=True)
class Consignment:
    """One archive (None: standard input), the name the server gets to hear, what it becomes.

    The label tells it from others of the same command; it is empty when there are none.
    """

    path: Path | None
    name: str | None
    wishes: Wishes
    label: str = ""


@dataclass(frozen=True)
class Cargo:
    """All of them, in order, and what is said when the command is interrupted."""

    consignments: tuple[Consignment, ...]

    @property
    def interrupted(self) -> str:
        """What a person should know then."""
        return _ONCE if any(one.path is None for one in self.consignments) else _RESUMABLE


def cargo(archives: Sequence[Path], asked: Asked, sending: Sending) -> Cargo:
    """Read the command line.

    Raises:
        typer.BadParameter: it can be meant in more than one way, or in none.
    """
    _check_there(archives)
    if len(archives) == 1:
        (archive,) = archives
        if archive != STDIN:
            wishes = asked.wishes(_named(asked.image, archive))
            return Cargo((Consignment(archive, sending.name, wishes),))
        _check_stdin(asked, sending)
        name = sending.name or STDIN_NAME
        return Cargo((Consignment(None, name, asked.wishes(_named(asked.image, Path(name)))),))
    _check_several(archives, asked, sending)
    images = [_named(asked.image, archive) for archive in archives]
    _check_images(archives, images)
    return Cargo(
        tuple(
            Consignment(archive, None, asked.wishes(image), str(archive))
            for archive, image in zip(archives, images, strict=True)
        )
    )


def _check_there(archives: Sequence[Path]) -> None:
    # typer could do it, but for `-`, which it takes for a file.
    for archive in archives:
        if archive == STDIN:
            continue
        try:
            mode = archive.stat().st_mode
        except FileNotFoundError:
            raise typer.BadParameter(f"ARCHIVE: file {str(archive)!r} does not exist") from None
        except OSError as error:
            raise typer.BadParameter(f"ARCHIVE: {archive}: {error.strerror}") from error
        if stat.S_ISDIR(mode):
            raise typer.BadParameter(
                f"ARCHIVE: {str(archive)!r} is a directory; an image in one goes into a tar first"
            )


def _check_stdin(asked: Asked, sending: Sending) -> None:
    if sys.stdin is not None and sys.stdin.isatty():
        raise typer.BadParameter(
            "-: standard input is this terminal; send an archive through a pipe: "
            "docker save NAME | tusboat upload - ..."
        )
    if sending.parallel > 1:
        raise typer.BadParameter(
            "--parallel: standard input comes in one piece; write it to a file first, or leave "
            "the option out"
        )
    if asked.image and PLACEHOLDER in asked.image and not sending.name:
        raise typer.BadParameter(
            f"--image: standard input has no file name for {PLACEHOLDER}; say --name"
        )


def _check_several(archives: Sequence[Path], asked: Asked, sending: Sending) -> None:
    if STDIN in archives:
        raise typer.BadParameter("- is standard input: it is sent alone")
    twice = [str(one) for one, count in Counter(map(Path.resolve, archives)).items() if count > 1]
    if twice:
        raise typer.BadParameter(f"{', '.join(twice)}: named twice")
    for option, value in (("--ref", asked.ref), ("--name", sending.name)):
        if value is not None:
            raise typer.BadParameter(
                f"{option} is about one archive, and there are {len(archives)}: send it alone"
            )
    if asked.image is not None and PLACEHOLDER not in asked.image:
        raise typer.BadParameter(
            f"--image {asked.image}: {len(archives)} archives cannot become one image. Write "
            f"{PLACEHOLDER} where the file's name (without .tar) belongs, as in "
            f"host/team/{PLACEHOLDER}:v1; or leave --image out, and each goes under its own name "
            "below the server's default_repository"
        )


def _check_images(archives: Sequence[Path], images: Sequence[str | None]) -> None:
    """Several images are looked at before the first of them is sent."""
    from buildah.errors import InvalidReference  # noqa: PLC0415 - other commands start faster
    from buildah.reference import ImageReference  # noqa: PLC0415

    named = [
        (archive, image)
        for archive, image in zip(archives, images, strict=True)
        if image is not None
    ]
    for archive, image in named:
        try:
            ImageReference.parse(image)
        except InvalidReference as error:
            raise typer.BadParameter(
                f"{archive}: --image makes {image} of it: {error.message} {error.hint}"
            ) from error
    for image, count in Counter(image for _, image in named).items():
        if count > 1:
            same = ", ".join(str(archive) for archive, other in named if other == image)
            raise typer.BadParameter(f"{same}: all of them would become {image}")


def _named(image: str | None, archive: Path) -> str | None:
    if image is None:
        return None
    return image.replace(PLACEHOLDER, _ENDING.sub("", archive.name))
