"""The status document of an upload, as a frozen value.

Knows: the names and the shape of the document that the API, the events and the outcome file share.
Must not know: Redis, files, HTTP, how a step does its work.
"""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any, Self


class Status(StrEnum):
    """Where an upload is in its life."""

    RECEIVING = "receiving"
    QUEUED = "queued"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELED = "canceled"
    EXPIRED = "expired"

    @property
    def terminal(self) -> bool:
        """Whether nothing more happens to the upload by itself."""
        return self in _TERMINAL


_TERMINAL = frozenset({Status.DONE, Status.FAILED, Status.CANCELED, Status.EXPIRED})


class StepState(StrEnum):
    """Where one step of the pipeline is."""

    WAITING = "waiting"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    SKIPPED = "skipped"
    CANCELED = "canceled"


def utc_now() -> str:
    """The current time as RFC 3339 in UTC, to the millisecond."""
    return rfc3339(datetime.datetime.now(datetime.UTC).timestamp())


def rfc3339(timestamp_seconds: float) -> str:
    """A POSIX timestamp as RFC 3339 in UTC, to the millisecond."""
    moment = datetime.datetime.fromtimestamp(timestamp_seconds, datetime.UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _known(kind: type[Any], data: Mapping[str, Any]) -> dict[str, Any]:
    """What this version knows of a document that a later one may have written."""
    names = {field.name for field in dataclasses.fields(kind)}
    return {name: value for name, value in data.items() if name in names}


@dataclass(frozen=True)
class StepRecord:
    """One step: its state, its times (RFC 3339) and its progress in bytes."""

    name: str
    state: StepState = StepState.WAITING
    started_at: str | None = None
    finished_at: str | None = None
    bytes_done: int = 0
    bytes_total: int = 0
    message: str = ""

    def to_json(self) -> dict[str, Any]:
        """The step as the document shows it."""
        return {
            "name": self.name,
            "state": self.state.value,
            "started_at": self.started_at,
            "finished_at": self.finished_at,
            "bytes_done": self.bytes_done,
            "bytes_total": self.bytes_total,
            "message": self.message,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Read back what `to_json` wrote."""
        return cls(**{**_known(cls, data), "state": StepState(data["state"])})


@dataclass(frozen=True)
class ImageResult:
    """One image that is now in a registry."""

    image: str
    digest: str
    platforms: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """The result as the document shows it."""
        return {"image": self.image, "digest": self.digest, "platforms": list(self.platforms)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Read back what `to_json` wrote."""
        return cls(data["image"], data["digest"], tuple(data["platforms"]))


@dataclass(frozen=True)
class Failure:
    """Why an upload failed: a stable code, the step, words for a person, and what to do."""

    code: str
    step: str
    message: str
    hint: str
    retryable: bool

    def to_json(self) -> dict[str, Any]:
        """The failure as the document shows it."""
        return {
            "code": self.code,
            "step": self.step,
            "message": self.message,
            "hint": self.hint,
            "retryable": self.retryable,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Read back what `to_json` wrote."""
        return cls(**_known(cls, data))


@dataclass(frozen=True)
class Record:
    """The status document: what everybody sees of one upload."""

    id: str
    filename: str
    length: int | None
    offset: int
    protocol: str
    owner: str
    status: Status
    image: str | None
    digests: Mapping[str, str | None]
    created_at: str
    updated_at: str
    expires_at: str | None = None
    steps: tuple[StepRecord, ...] = ()
    results: tuple[ImageResult, ...] = ()
    error: Failure | None = field(default=None)
    part_of: str | None = None
    """What the parts of one file have in common until they are joined."""

    def step(self, name: str) -> StepRecord:
        """The step of that name.

        Raises:
            KeyError: the record has no such step.
        """
        for step in self.steps:
            if step.name == name:
                return step
        raise KeyError(name)

    def with_step(self, step: StepRecord) -> Record:
        """The same record with one step replaced, stamped now."""
        steps = tuple(step if old.name == step.name else old for old in self.steps)
        return replace(self, steps=steps, updated_at=utc_now())

    def with_step_after(self, earlier: str, name: str) -> Record:
        """The same record with a fresh, waiting step after another, unless it has that already."""
        if any(step.name == name for step in self.steps):
            return self
        at = [step.name for step in self.steps].index(earlier) + 1
        return replace(self, steps=(*self.steps[:at], StepRecord(name), *self.steps[at:]))

    def with_steps(self, names: Iterable[str]) -> Record:
        """The same record with fresh, waiting steps of these names."""
        return replace(self, steps=tuple(StepRecord(name) for name in names))

    def to_json(self) -> dict[str, Any]:
        """The document, ready for json.dumps."""
        return {
            "id": self.id,
            "filename": self.filename,
            "length": self.length,
            "offset": self.offset,
            "protocol": self.protocol,
            "owner": self.owner,
            "status": self.status.value,
            "image": self.image,
            "digests": dict(self.digests),
            "created_at": self.created_at,
            "updated_at": self.updated_at,
            "expires_at": self.expires_at,
            "steps": [step.to_json() for step in self.steps],
            "results": [result.to_json() for result in self.results],
            "error": self.error.to_json() if self.error else None,
            "part_of": self.part_of,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Read back what `to_json` wrote."""
        return cls(
            **{
                **_known(cls, data),
                "status": Status(data["status"]),
                "steps": tuple(StepRecord.from_json(step) for step in data["steps"]),
                "results": tuple(ImageResult.from_json(row) for row in data["results"]),
                "error": Failure.from_json(data["error"]) if data["error"] else None,
            }
        )
