"""Every setting of Tusboat: one row each, with name, default, unit and help.

Knows: the environment (`TUSBOAT_*`), the TOML file given by `--config`, and the words for a person.
Must not know: what the rows are used for. No other module reads the environment.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import Any, Literal

from pydantic import (
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
)
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from server.setting_types import LegacyDialectRow, RegistryRow, check_path

MIB = 2**20
GIB = 2**30
GZIP_LEVELS = 9
ENVIRONMENT_PREFIX = "TUSBOAT_"


class SettingsError(Exception):
    """A setting is wrong; the message names it, its value's fault and where it came from."""


class Settings(BaseSettings):
    """The rows, in the order in which a person meets them. Values are checked once, at start."""

    model_config = SettingsConfigDict(
        env_prefix=ENVIRONMENT_PREFIX, extra="forbid", frozen=True, env_ignore_empty=True
    )

    host: str = Field(
        "127.0.0.1", description="Address to listen on. Beyond loopback only with `tokens_file`."
    )
    port: int = Field(8080, ge=0, le=65535, description="Port to listen on; 0 takes a free one.")
    data_dir: Path = Field(
        Path("tusboat-data"),
        description="Uploads, job directories and the embedded Redis live here.",
    )
    redis_url: str = Field(
        "",
        description="`redis://`, `rediss://` or `unix://` URL. Empty: a private one in `data_dir`.",
    )
    workers: int = Field(1, ge=1, le=64, description="Server processes on one data directory.")
    run_worker: bool = Field(
        True,
        description="Run the job worker inside `tusboat serve` (one of its processes is elected).",
    )
    job_concurrency: int = Field(2, ge=1, le=64, description="Jobs that one worker runs at once.")
    worker_grace_seconds: float = Field(
        5,
        ge=0,
        allow_inf_nan=False,
        json_schema_extra={"unit": "seconds"},
        description="How long running jobs may go on after `tusboat worker` was told to stop; then "
        "they are given back. A worker inside `tusboat serve` gives them at most 5 seconds.",
    )
    registries: tuple[RegistryRow, ...] = Field(
        (),
        description="Where images may go: rows of `host`, `plain_http`, `tls_verify`, `ca_file`, "
        "`authfile`, `repositories`, `trusted_hosts` (where else it may send us: a token server, a "
        "storage). In the environment as JSON.",
    )
    preflight: bool = Field(
        True,
        description="Ask the registry before an upload is taken whether a push would be let in. "
        "One that is away for now refuses nothing.",
    )
    default_repository: str = Field(
        "",
        description="`host/path` below which images of uploads without `image` go, each under its "
        "own whole name. Empty: such uploads are verified and kept.",
    )
    engine: Literal["buildah", "skopeo"] = Field(
        "buildah",
        description="`buildah` unpacks every image into a storage and pushes it from there; "
        "`skopeo` copies layers straight from the archive: no privileges, less disk.",
    )
    storage_driver: Literal["overlay", "vfs"] = Field(
        "overlay",
        description="Container storage of a job. `vfs` needs no mounts and far more disk.",
    )
    overwrite: Literal["allow", "refuse"] = Field(
        "allow",
        description="What becomes of an image whose tag is in the registry already: `allow` moves "
        "the tag, `refuse` fails before anything is loaded or pushed.",
    )
    compression: Literal["gzip", "zstd"] = Field(
        "gzip",
        description="How layers are compressed on their way to the registry; `compression` in an "
        "upload's metadata wins. zstd is faster and smaller; docker before 23 cannot read it, and "
        "an image that docker saved gets another id.",
    )
    compression_level: int | None = Field(
        None,
        ge=1,
        le=22,
        description="1 (fast) to 9 for gzip, to 22 for zstd. Empty: what buildah thinks best.",
    )

    builds: bool = Field(
        False,
        description="Build archives that are build contexts (a Containerfile or Dockerfile at the "
        "top). Runs commands of whoever may upload: read `buildah/README.md`, Building.",
    )
    build_base_images: tuple[str, ...] = Field(
        (),
        description="Images that builds may start from: patterns of `host/repository`, in which a "
        "`*` stands for anything. Empty: all of the configured registries. In the environment as "
        "JSON.",
    )
    build_network: bool = Field(
        False, description="Let the steps of a build use the worker's network, all of it."
    )
    build_timeout_minutes: float = Field(
        60,
        gt=0,
        allow_inf_nan=False,
        json_schema_extra={"unit": "minutes"},
        description="How long one build may take, with the pull of its base images.",
    )
    build_max_size: int = Field(
        20 * GIB,
        ge=1,
        json_schema_extra={"unit": "bytes"},
        description="How much disk one build may take.",
    )
    build_jobs: int = Field(
        1, ge=1, le=64, description="Stages of one build that may run at the same time."
    )

    @field_validator("compression_level")
    @classmethod
    def _fits_format(cls, level: int | None, info: ValidationInfo) -> int | None:
        if level is not None and level > GZIP_LEVELS and info.data.get("compression") == "gzip":
            raise ValueError(f"gzip has the levels 1 to {GZIP_LEVELS}")
        return level

    max_size: int = Field(
        0,
        ge=0,
        json_schema_extra={"unit": "bytes"},
        description="Largest upload accepted; 0: what the disk holds.",
    )
    lock_wait_seconds: float = Field(
        5,
        ge=0,
        allow_inf_nan=False,
        json_schema_extra={"unit": "seconds"},
        description="How long a request waits for an upload that another one writes, before 423.",
    )
    idle_release_ms: int = Field(
        250,
        ge=10,
        json_schema_extra={"unit": "ms"},
        description="A writer without a byte for this long gives way to the next request.",
    )
    body_idle_seconds: float = Field(
        60,
        gt=0,
        allow_inf_nan=False,
        json_schema_extra={"unit": "seconds"},
        description="A body without a byte for this long is cut; its bytes are kept.",
    )
    durability: Literal["patch", "never"] = Field(
        "patch",
        description="`patch`: bytes are on the disk before their offset is acknowledged. "
        "`never`: left to the kernel; a power cut may lose acknowledged bytes.",
    )
    unfinished_ttl_hours: float = Field(
        6,
        gt=0,
        allow_inf_nan=False,
        json_schema_extra={"unit": "hours"},
        description="Unfinished uploads expire this long after their last byte.",
    )
    finished_ttl_hours: float = Field(
        6,
        gt=0,
        allow_inf_nan=False,
        json_schema_extra={"unit": "hours"},
        description="Archives of failed uploads, and of uploads without `image`, go after this.",
    )
    sweep_minutes: float = Field(
        60,
        gt=0,
        allow_inf_nan=False,
        json_schema_extra={"unit": "minutes"},
        description="How often expired things are removed.",
    )
    history_days: float = Field(
        30,
        gt=0,
        allow_inf_nan=False,
        json_schema_extra={"unit": "days"},
        description="How long an ended upload is still listed.",
    )
    public_url: str = Field(
        "",
        description="What clients see before `/files/`, if a proxy changes it. Empty: paths.",
    )
    trusted_proxies: tuple[IPv4Network | IPv6Network, ...] = Field(
        (),
        description="Networks of proxies whose `X-Forwarded-Proto`, `-Host` and `-Prefix` make the "
        "Location absolute. In the environment as JSON.",
    )
    downloads: bool = Field(
        False,
        description="`GET /files/ID` gives a whole archive back, with Range, while it is kept.",
    )
    cors_origins: tuple[str, ...] = Field(
        (),
        description="Web origins (`https://console.example`) whose pages may use this server. "
        "In the environment as JSON.",
    )
    console_uploads: int = Field(
        3,
        ge=1,
        le=5,
        description="How many connections a page of the console sends over at a time, one for each "
        "file or part of a file; the others wait. A browser has six, and needs one itself.",
    )
    console_chunk_size: int = Field(
        64 * MIB,
        ge=MIB,
        json_schema_extra={"unit": "bytes"},
        description="How much the console sends in one request; less, where a proxy in front takes "
        "less.",
    )
    ietf_interim: bool = Field(
        False,
        description="Send interim responses 104 to IETF resumable uploads. Some proxies "
        "(nginx 1.22) stall a body after one.",
    )
    legacy_base_path: str = Field(
        "/api/image-upload",
        description="Below it are the four endpoints of the old chunk upload: "
        "`GET POST .../chunks`, `POST .../merge`, `GET .../status`.",
    )
    legacy_dialects: tuple[LegacyDialectRow, ...] = Field(
        (),
        description="Old clients that are served, too: `simple-uploader`, `flow`, `resumable`, "
        "`webuploader`, as names or as rows of `name`, `path`, `check`, `chunk`, `merge`, "
        "`status` (paths), `chunk_size`. In the environment as JSON.",
    )

    @field_validator("legacy_base_path")
    @classmethod
    def _is_base_path(cls, path: str) -> str:
        return check_path(path)

    @field_validator("legacy_dialects", mode="before")
    @classmethod
    def _named_dialects(cls, rows: Any) -> Any:
        if not isinstance(rows, (list, tuple)):
            return rows
        return tuple({"name": row} if isinstance(row, str) else row for row in rows)

    tokens_file: Path | None = Field(
        None, description="TOML file of callers: `[[token]] name, sha256, repositories, admin`."
    )
    insecure_no_auth: bool = Field(
        False,
        description="Listen beyond loopback without callers: whoever reaches the port may upload.",
    )
    metrics_port: int = Field(
        0,
        ge=0,
        le=65535,
        description="Port of `GET /metrics` for Prometheus, on the address `host`; 0: none. "
        "`tusboat worker` has one of its own.",
    )
    log_format: Literal["text", "json"] = Field(
        "text", description="One line per event, for people or for machines."
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Only what `load` merged and the environment count: no dot files, no secret folders."""
        return (init_settings, env_settings)


def load(config: Path | None = None, overrides: Mapping[str, Any] | None = None) -> Settings:
    """Read the settings: command line over environment over `config` (TOML) over defaults.

    Raises:
        SettingsError: a name is unknown, a value does not fit, or the file cannot be read.
    """
    file_values = _read_toml(config) if config else {}
    given = {name: value for name, value in (overrides or {}).items() if value is not None}
    unknown = _unknown_variables()
    if unknown:
        raise SettingsError(
            f"environment: no setting is called {', '.join(unknown)}; `tusboat settings` lists them"
        )
    from_file = {name: value for name, value in file_values.items() if not _in_environment(name)}
    try:
        return Settings(**{**from_file, **given})
    except ValidationError as error:
        raise SettingsError(_explain(error, config)) from error
    except ValueError as error:
        cause = f": {error.__cause__}" if error.__cause__ else ""
        raise SettingsError(f"settings: {error}{cause}") from error


# Read by the CLI's own options, not by the server.
_CLIENT_VARIABLES = frozenset(
    {"TUSBOAT_SERVER", "TUSBOAT_TOKEN", "TUSBOAT_CONFIG", "TUSBOAT_CLIENT_CONFIG"}
)


def _unknown_variables() -> list[str]:
    known = {ENVIRONMENT_PREFIX + name.upper() for name in Settings.model_fields}
    ours = (name for name in os.environ if name.startswith(ENVIRONMENT_PREFIX))
    return sorted(name for name in ours if name not in known and name not in _CLIENT_VARIABLES)


def _in_environment(name: str) -> bool:
    return bool(os.environ.get(ENVIRONMENT_PREFIX + name.upper()))


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            return tomllib.load(file)
    except OSError as error:
        raise SettingsError(f"settings file {path}: {error.strerror}") from error
    except tomllib.TOMLDecodeError as error:
        raise SettingsError(f"settings file {path}: not valid TOML: {error}") from error


def _explain(error: ValidationError, config: Path | None) -> str:
    where = f"settings ({config} and environment)" if config else "settings"
    faults = []
    for fault in error.errors():
        name = ".".join(str(part) for part in fault["loc"])
        hint = " (`tusboat settings` lists the names)" if fault["type"] == "extra_forbidden" else ""
        faults.append(f"{name}: {fault['msg']}{hint}")
    return f"{where}: " + "; ".join(faults)
