"""Dialects of the four old endpoints: what each calls things, and what its client expects.

Knows: field names, index bases, answer shapes, statuses that make a client give up.
Must not know: uploads, what is done with a request.

A dialect is a row, nothing else; how to add one is in `examples/legacy/README.md`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, Final

from server.protocols.legacy.listing import Listing
from server.space import MIB

# What we call a thing → what the old pages call it. A dialect's own names stand over these; what it
# has no name for may be said by these all the same.
OWN_NAMES: Final = {
    "upload_id": "uploadId",
    "task_id": "taskId",
    "filename": "fileName",
    "md5": "fileMd5",
    "sha256": "fileSha256",
    "image": "image",
    "total": "totalSize",
    "chunk_size": "chunkSize",
    "count": "totalChunks",
    "index": "chunkIndex",
    "offset": "offset",
    "size": "length",
    "chunk_md5": "chunkMd5",
    "chunk_sha256": "chunkSha256",
}


def _nothing_more(_: Listing) -> Mapping[str, Any]:
    return {}


@dataclass(frozen=True)
class Dialect:
    """One row.

    `names` are the dialect's words by ours. `first_index` is the number of the first chunk.
    `chunk_size` (bytes) is assumed where no request says it. `identity` are fields that tell one
    file from another of the same name, while its digest is not known. `absent` is the status of a
    check that names a chunk which is not there (None: the list is the answer). `final` are statuses
    after which the client gives the whole file up: what passes by itself is 503 instead. `shape`
    adds what the client reads beside our own answer.
    """

    name: str
    names: Mapping[str, str] = field(default_factory=dict)
    first_index: int = 0
    chunk_size: int | None = None
    identity: tuple[str, ...] = ()
    absent: HTTPStatus | None = None
    final: frozenset[int] = frozenset()
    shape: Callable[[Listing], Mapping[str, Any]] = _nothing_more

    def word(self, ours: str) -> str:
        """What this dialect calls it."""
        return self.names.get(ours, OWN_NAMES[ours])


def _uploader_names(prefix: str) -> dict[str, str]:
    """The words of resumable.js and of all that came of it."""
    words = {
        "filename": "filename",
        "total": "totalSize",
        "chunk_size": "chunkSize",
        "count": "totalChunks",
        "index": "chunkNumber",
        "size": "currentChunkSize",
    }
    return {
        ours: prefix + word[0].upper() + word[1:] if prefix else word
        for ours, word in words.items()
    }


def _uploader_shape(listing: Listing) -> Mapping[str, Any]:
    shape = {"skipUpload": listing.finished, "mergeFlag": int(listing.complete)}
    if listing.brief:
        return shape
    indexes = [entry.index for entry in listing.entries if entry.index is not None]
    return {**shape, "uploadedChunks": indexes, "uploadedChunkList": indexes}


OWN: Final = Dialect("own")

DIALECTS: Final = {
    row.name: row
    for row in (
        Dialect(
            "simple-uploader",
            names=_uploader_names(""),
            first_index=1,
            identity=("identifier",),
            absent=HTTPStatus.NO_CONTENT,
            final=frozenset({404, 415, 500, 501}),
            shape=_uploader_shape,
        ),
        Dialect(
            "flow",
            names=_uploader_names("flow"),
            first_index=1,
            identity=("flowIdentifier",),
            absent=HTTPStatus.NO_CONTENT,
            final=frozenset({404, 413, 415, 500, 501}),
            shape=_uploader_shape,
        ),
        Dialect(
            "resumable",
            names=_uploader_names("resumable"),
            first_index=1,
            identity=("resumableIdentifier",),
            absent=HTTPStatus.NO_CONTENT,
            final=frozenset({400, 401, 403, 404, 409, 415, 500, 501}),
            shape=_uploader_shape,
        ),
        Dialect(
            "webuploader",
            names={
                "filename": "name",
                "md5": "md5",
                "total": "size",
                "count": "chunks",
                "index": "chunk",
            },
            # It does not say its chunk size: this is its own default.
            chunk_size=5 * MIB,
            identity=("lastModifiedDate",),
        ),
    )
}
