"""The manual of the command line, in Markdown, made from the commands themselves.

Knows: what typer knows of a command.
Must not know: any command by name.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any


def manual(root: Any) -> str:
    """Every command of the program with its arguments and options, in the order of `--help`."""
    lines = (line for name, one in root.commands.items() for line in _lines(name, one))
    return "\n".join(lines).rstrip()


def _lines(name: str, command: Any) -> Iterator[str]:
    arguments = [one for one in command.params if one.param_type_name == "argument"]
    options = [one for one in command.params if one.param_type_name == "option"]
    words = " ".join(["tusboat", name, *map(_argument, arguments)])
    yield f"### `{words}`"
    yield ""
    yield inspect.cleandoc(command.help or "")
    yield ""
    rows = [(_argument(one), one) for one in arguments] + [(_option(one), one) for one in options]
    if rows:
        yield "| | | else |"
        yield "|---|---|---|"
        for shown, parameter in rows:
            help_text = _cell(parameter.help or "")
            yield f"| `{_cell(shown)}` | {help_text} | {_cell(_otherwise(parameter))} |"
        yield ""


def _argument(parameter: Any) -> str:
    shown = parameter.metavar or parameter.name.upper()
    return f"{shown}..." if parameter.nargs == -1 else str(shown)


def _option(parameter: Any) -> str:
    names = ", ".join([*parameter.opts, *parameter.secondary_opts])
    if parameter.is_flag:
        return names
    kind = parameter.type_descriptor.annotation
    return f"{names} {parameter.metavar or getattr(kind, '__name__', 'value').upper()}"


def _otherwise(parameter: Any) -> str:
    """What counts where it is not said: the environment, then the default."""
    words = []
    if parameter.envvar:
        words.append(f"`{parameter.envvar}`")
    if isinstance(parameter.show_default, str):
        words.append(parameter.show_default)
    elif parameter.is_eager or not parameter.show_default or parameter.default in (None, False):
        pass
    elif parameter.default is True:
        words.append(f"`{parameter.opts[0]}`")
    else:
        words.append(str(parameter.default))
    return ", ".join(words)


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
