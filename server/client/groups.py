"""A command whose parameters are groups of options: typer sees every option, the command values.

Knows: how typer reads a signature; precedence of the user's file.
Must not know: any option by name, but the one that names the file.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import MISSING, fields, is_dataclass
from typing import Any, Final, get_type_hints

import typer

from server.client.config import ConfigFile

_FILE: Final = "client_config"


def grouped(command: Callable[..., None], *, configurable: frozenset[str]) -> Callable[..., None]:
    """The command for typer: parameters that are frozen dataclasses become an option a field.

    Fields carry `Annotated[..., typer.Option(...)]`. What was neither typed nor in the environment
    is taken from the file of the option `client_config`, for the names that are `configurable`.
    """
    hints = get_type_hints(command, include_extras=True)
    groups = {
        name: one for name, one in hints.items() if isinstance(one, type) and is_dataclass(one)
    }

    @functools.wraps(command)
    def run(context: typer.Context, **given: Any) -> None:
        values = {**given, **_from_file(context, given[_FILE], configurable)}
        for name, group in groups.items():
            values[name] = group(**{field.name: values.pop(field.name) for field in fields(group)})
        command(**values)

    parameters = [inspect.Parameter("context", _NAMED, annotation=typer.Context)]
    parameters += _parameters(inspect.signature(command), hints)
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined] # PEP 362
    run.__annotations__ = {one.name: one.annotation for one in parameters}
    return run


_NAMED: Final = inspect.Parameter.KEYWORD_ONLY


def _parameters(
    signature: inspect.Signature, hints: Mapping[str, Any]
) -> Iterator[inspect.Parameter]:
    for name, parameter in signature.parameters.items():
        hint = hints[name]
        if not (isinstance(hint, type) and is_dataclass(hint)):
            yield parameter.replace(kind=_NAMED, annotation=hint)
            continue
        inner = get_type_hints(hint, include_extras=True)
        for field in fields(hint):
            default = inspect.Parameter.empty if field.default is MISSING else field.default
            yield inspect.Parameter(
                field.name, _NAMED, default=default, annotation=inner[field.name]
            )


def _from_file(context: typer.Context, path: Any, configurable: frozenset[str]) -> dict[str, Any]:
    """The values of the file that count here, parsed as if they had been typed.

    Raises:
        typer.BadParameter: the file, a name or a value in it is wrong.
    """
    file = ConfigFile(path)
    said = file.values()
    unknown = sorted(set(said) - configurable)
    if unknown:
        names = ", ".join(sorted(configurable))
        raise typer.BadParameter(
            f"{file.path}: no option is called {', '.join(unknown)}; there are {names}"
        )
    values = {}
    for parameter in context.command.params:
        name = parameter.name
        source = context.get_parameter_source(name or "")
        if name not in said or source is None or source.name != "DEFAULT":
            continue
        value = said[name]
        try:
            typed = value if isinstance(value, bool) else str(value)
            values[name] = parameter.process_value(context, typed)
        except typer.BadParameter as error:
            raise typer.BadParameter(f"{file.path}: {name}: {error.message}") from error
    return values
