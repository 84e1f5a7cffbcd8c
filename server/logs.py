"""Logs: one line per event, for people or for machines.

Knows: formats.
Must not know: what is logged. Nobody may log a secret; file names come in as fields and are escaped
here.
"""

from __future__ import annotations

import json
import logging
import sys
from typing import Any, Final, Literal

from hooks.record import rfc3339

_STANDARD: Final = frozenset(vars(logging.makeLogRecord({}))) | {
    "message",
    "asctime",
    "color_message",
    "taskName",
}


class _Text(logging.Formatter):
    """`time level event key=value`."""

    def format(self, record: logging.LogRecord) -> str:
        fields = "".join(
            f" {key}={json.dumps(value, default=str)}" for key, value in _fields(record).items()
        )
        message = record.getMessage().replace("\n", "\\n")
        line = f"{rfc3339(record.created)} {record.levelname.lower():<7} {message}{fields}"
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


class _Json(logging.Formatter):
    """One JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        document: dict[str, Any] = {
            "time": rfc3339(record.created),
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": record.getMessage(),
            **_fields(record),
        }
        if record.exc_info:
            document["trace"] = self.formatException(record.exc_info)
        return json.dumps(document, default=str)


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    return {key: value for key, value in vars(record).items() if key not in _STANDARD}


def configure(log_format: Literal["text", "json"], *, level: int = logging.INFO) -> None:
    """Send every log of this process to stderr in that format."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Json() if log_format == "json" else _Text())
    logging.basicConfig(level=level, handlers=[handler], force=True)
    # uvicorn says `Started server process` and the like; its errors stay.
    logging.getLogger("uvicorn.error").setLevel(logging.WARNING)
