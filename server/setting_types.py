"""What a setting may be a list of: registries, old clients.

Knows: the fields of a row, and what is no path.
Must not know: which setting has them, where they come from.
"""

from __future__ import annotations

import re
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, field_validator


class RegistryRow(BaseModel):
    """One registry that images may be pushed to."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    host: str
    plain_http: bool = False
    tls_verify: bool = True
    ca_file: Path | None = None
    authfile: Path | None = None
    repositories: tuple[str, ...] = ("*",)
    trusted_hosts: tuple[str, ...] = ()


class LegacyDialectRow(BaseModel):
    """One old client whose endpoints are served: their paths, where they are not the usual ones."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    path: str = ""
    check: str = ""
    chunk: str = ""
    merge: str = ""
    status: str = ""
    chunk_size: int | None = Field(None, gt=0)

    @field_validator("path", "check", "chunk", "merge", "status")
    @classmethod
    def _is_path(cls, path: str) -> str:
        if path:
            check_path(path)
        return path


def check_path(path: str) -> str:
    """A path that a route may have.

    Raises:
        ValueError: it is none.
    """
    if not re.fullmatch(r"(/[A-Za-z0-9._~-]+)+", path):
        raise ValueError(f"{path!r} is no path such as /api/image-upload")
    return path
