"""The settings as a person reads them: for `tusboat settings`, and the table in the README.

Knows: names, defaults, units and words of the rows.
Must not know: their values.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from server.settings import ENVIRONMENT_PREFIX, Settings


@dataclass(frozen=True)
class Row:
    """One setting as a person sees it."""

    name: str
    variable: str
    default: str
    unit: str
    help: str


def rows() -> Iterator[Row]:
    """Every setting, in order; the README's table and `tusboat settings` are made from this."""
    for name, info in Settings.model_fields.items():
        extra = info.json_schema_extra
        unit = str(extra.get("unit", "")) if isinstance(extra, dict) else ""
        yield Row(
            name,
            ENVIRONMENT_PREFIX + name.upper(),
            _shown(info.default),
            unit,
            info.description or "",
        )


def _shown(value: Any) -> str:
    match value:
        case None | "" | ():
            return "(empty)"
        case bool():
            return str(value).lower()
        case _:
            return str(value)


def table() -> str:
    """The settings as a Markdown table."""
    lines = ["| setting | environment | default | what it does |", "|---|---|---|---|"]
    for row in rows():
        default = f"{row.default} {row.unit}".strip()
        lines.append(f"| `{row.name}` | `{row.variable}` | {default} | {row.help} |")
    return "\n".join(lines)
