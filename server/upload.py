"""Upload and its parts, as frozen values.

Knows: what an upload is, and the sidecar form that it shares with tuspyserver.
Must not know: files, HTTP, what the bytes mean.
"""

from __future__ import annotations

import hashlib
import json
import re
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, NewType, Self

from tuspyserver.params import TusUploadParams

from hooks.record import Failure, Record, Status, rfc3339

UploadId = NewType("UploadId", str)

_ID = re.compile(r"[0-9a-f]{32}")
# Where our own block stands in the sidecar; tuspyserver ignores what it does not know.
_OWN = "tusboat"


def new_upload_id() -> UploadId:
    """128 random bits as hex: not guessable, and safe as a file name."""
    return UploadId(secrets.token_hex(16))


def parse_upload_id(text: str) -> UploadId | None:
    """The id, or None when it is not one (so that no path is ever built from it)."""
    return UploadId(text) if _ID.fullmatch(text) else None


def final_upload_id(owner: str, raw_metadata: str | None, parts: Sequence[UploadId]) -> UploadId:
    """The id of a final upload, made from what it is: the same request again means the same upload.

    Whoever does not know the ids of its parts cannot guess it.
    """
    what = json.dumps(["final", owner, raw_metadata, list(parts)])
    return UploadId(hashlib.sha256(what.encode()).hexdigest()[:32])


@dataclass(frozen=True)
class Concatenation:
    """What a partial or a final upload is. `raw` is Upload-Concat exactly as sent.

    `parts` are the partials of a final upload, in order; a partial has none. `lengths` are theirs,
    kept once the final upload is sealed: from then on it is whole, wherever its bytes are.
    """

    raw: str
    parts: tuple[UploadId, ...] = ()
    lengths: tuple[int, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """As it stands in the sidecar."""
        return {"raw": self.raw, "parts": list(self.parts), "lengths": list(self.lengths)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Read back what `to_json` wrote.

        Raises:
            ValueError: a part is no upload id.
        """
        parts = tuple(parse_upload_id(part) for part in data["parts"])
        known = tuple(part for part in parts if part is not None)
        if known != parts:
            raise ValueError("a part is no upload id")
        return cls(data["raw"], known, tuple(data["lengths"]))


@dataclass(frozen=True)
class Chunking:
    """How an upload was cut that comes in chunks of any order.

    `size` (bytes) and `count` are the sender's, None where it did not say them. It is not whole
    before somebody says so: then it is `merged`.
    """

    size: int | None = None
    count: int | None = None
    merged: bool = False

    def to_json(self) -> dict[str, Any]:
        """As it stands in the sidecar."""
        return {"size": self.size, "count": self.count, "merged": self.merged}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Read back what `to_json` wrote."""
        return cls(data["size"], data["count"], data["merged"])


def indexed_upload_id(owner: str, identity: Sequence[str], turn: int) -> UploadId:
    """The id of an upload in chunks, made from whose and which file it is.

    So of many senders that begin at once each means the same upload. What was tried and ended is
    not begun again: the same file has another `turn` then.
    """
    what = json.dumps(["indexed", owner, list(identity), turn])
    return UploadId(hashlib.sha256(what.encode()).hexdigest()[:32])


@dataclass(frozen=True)
class Upload:
    """What is known of an upload besides its bytes.

    `length` is None until the sender says it; `raw_metadata` is Upload-Metadata exactly as sent;
    `expected` holds promised digests, lower-case hex by `md5` and `sha256`.
    """

    id: UploadId
    length: int | None
    owner: str
    created_at: float
    protocol: str = "tus"
    raw_metadata: str | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)
    expected: Mapping[str, str] = field(default_factory=dict)
    concatenation: Concatenation | None = None
    chunking: Chunking | None = None

    @property
    def unmerged(self) -> bool:
        """Whether it comes in chunks, and nobody said yet that these are all."""
        return self.chunking is not None and not self.chunking.merged

    def merged(self) -> Upload:
        """The same upload, now that all its chunks are there."""
        return replace(self, chunking=replace(self.chunking or Chunking(), merged=True))

    @property
    def partial(self) -> bool:
        """Whether it is meant to become a part of a final upload, and is nothing by itself."""
        return self.concatenation is not None and not self.concatenation.parts

    @property
    def parts(self) -> tuple[UploadId, ...]:
        """The partials of a final upload, in order; of any other upload there are none."""
        return self.concatenation.parts if self.concatenation else ()

    @property
    def sealed(self) -> bool:
        """Whether it is a final upload of which all parts were whole."""
        return self.concatenation is not None and bool(self.concatenation.lengths)

    @property
    def filename(self) -> str:
        """The name the sender gave, for people; never used as a path."""
        return self.metadata.get("filename") or self.metadata.get("name") or self.id

    @property
    def image(self) -> str | None:
        """The destination as the sender wrote it; its meaning is not known here."""
        return self.metadata.get("image") or None

    def with_length(self, length: int) -> Upload:
        """The same upload, now that the sender said how long it is."""
        return replace(self, length=length)

    def sealed_with(self, lengths: Sequence[int]) -> Upload:
        """The same final upload, now that its parts are whole and so long."""
        if self.concatenation is None:
            raise ValueError("only a final upload is sealed")
        concatenation = replace(self.concatenation, lengths=tuple(lengths))
        return replace(self, concatenation=concatenation, length=sum(lengths))

    def expecting(self, digests: Mapping[str, str]) -> Upload:
        """The same upload with further promised digests."""
        return replace(self, expected={**self.expected, **digests})

    def record(self, *, status: Status, offset: int, expires_at: float | None = None) -> Record:
        """The status document, as far as the server alone can tell it."""
        return Record(
            id=self.id,
            filename=self.filename,
            length=self.length,
            offset=offset,
            protocol=self.protocol,
            owner=self.owner,
            status=status,
            image=self.image,
            digests={"md5": None, "sha256": None},
            created_at=rfc3339(self.created_at),
            updated_at=rfc3339(datetime.now(UTC).timestamp()),
            expires_at=None if expires_at is None else rfc3339(expires_at),
            part_of=(self.metadata.get("part_of") or None) if self.partial else None,
        )

    def unreadable_outcome(self) -> Record:
        """How an upload ended of which nobody can tell any more how it ended."""
        record = self.record(status=Status.FAILED, offset=self.length or 0)
        failure = Failure(
            "outcome_unreadable",
            "",
            "how this upload ended was written by another version, or is damaged",
            "look for the image in the registry; try again if it is not there",
            retryable=True,
        )
        return replace(record, error=failure)

    def to_sidecar(self) -> dict[str, Any]:
        """The sidecar: a TusUploadParams with our own block beside it."""
        params = TusUploadParams(
            metadata=dict(self.metadata),
            size=self.length,
            created_at=datetime.fromtimestamp(self.created_at, UTC).isoformat(),
            defer_length=self.length is None,
            expires=None,
        )
        own: dict[str, Any] = {
            "owner": self.owner,
            "protocol": self.protocol,
            "created_at": self.created_at,
            "raw_metadata": self.raw_metadata,
            "expected": dict(self.expected),
        }
        if self.concatenation:
            own["concatenation"] = self.concatenation.to_json()
        if self.chunking:
            own["chunking"] = self.chunking.to_json()
        return {**params.model_dump(mode="json"), _OWN: own}

    @classmethod
    def from_sidecar(cls, upload_id: UploadId, data: Mapping[str, Any]) -> Self:
        """Read a sidecar back, ours or one that tuspyserver wrote (it belongs to `local` then).

        Raises:
            ValueError: the data is not a sidecar.
        """
        params = TusUploadParams.model_validate(dict(data))
        own = data.get(_OWN) or {}
        concatenation = own.get("concatenation")
        chunking = own.get("chunking")
        created = own.get("created_at") or datetime.fromisoformat(params.created_at).timestamp()
        return cls(
            id=upload_id,
            length=params.size,
            owner=own.get("owner", "local"),
            created_at=float(created),
            protocol=own.get("protocol", "tus"),
            raw_metadata=own.get("raw_metadata"),
            metadata={str(key): value for key, value in params.metadata.items()},
            expected=own.get("expected", {}),
            concatenation=Concatenation.from_json(concatenation) if concatenation else None,
            chunking=Chunking.from_json(chunking) if chunking else None,
        )


def merged_sidecar(old: Mapping[str, Any] | None, new: Mapping[str, Any]) -> dict[str, Any]:
    """`new`, with our own block kept from `old` when the writer (tuspyserver) does not know it."""
    kept = {_OWN: old[_OWN]} if old and _OWN in old and _OWN not in new else {}
    return {**new, **kept}
