"""The user's own file of options: what is not said on the command line or in the environment.

Knows: where the file is, its form, and who may read it.
Must not know: what an option means (each one is parsed as if it had been typed).
"""

from __future__ import annotations

import stat
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import typer

NAME: Final = "config.toml"
SECRET: Final = "token"  # noqa: S105 - the name of the key
_OTHERS: Final = stat.S_IRWXG | stat.S_IRWXO

Value = str | int | float | bool


class ConfigFile:
    """A TOML file of options by their long names, with `_` for `-`.

    The one of `path` has to be there; the user's own (`~/.config/tusboat/config.toml`, below
    `$XDG_CONFIG_HOME` where that is set) may be missing.
    """

    def __init__(self, path: Path | None) -> None:
        """Choose the file; it is read when it is asked."""
        self._wanted = path is not None
        self.path = path or Path(typer.get_app_dir("tusboat")) / NAME

    def values(self) -> Mapping[str, Value]:
        """What it says.

        Raises:
            typer.BadParameter: it cannot be read, is not TOML, or holds more than plain values.
        """
        try:
            with self.path.open("rb") as file:
                values = tomllib.load(file)
        except FileNotFoundError:
            if not self._wanted:
                return {}
            raise typer.BadParameter(f"{self.path}: there is no such file") from None
        except OSError as error:
            raise typer.BadParameter(f"{self.path}: {error.strerror}") from error
        except ValueError as error:
            raise typer.BadParameter(f"{self.path}: not valid TOML: {error}") from error
        for name, value in values.items():
            if not isinstance(value, Value):
                raise typer.BadParameter(f"{self.path}: {name} is not a plain value")
        return values

    def remark(self) -> str | None:
        """What a person should hear of how the file is kept: a token in it that others can read.

        Raises:
            typer.BadParameter: as `values`.
        """
        if SECRET not in self.values():
            return None
        mode = stat.S_IMODE(self.path.stat().st_mode)
        if not mode & _OTHERS:
            return None
        return (
            f"warning: others on this machine can read the token in {self.path} "
            f"(mode {mode:04o}): chmod 600 {self.path}"
        )
