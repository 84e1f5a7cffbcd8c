"""What a request of the old endpoints says, in our words, whatever its dialect calls it.

Knows: fields, their values, and which values contradict each other.
Must not know: uploads on disk, how the fields came.
"""

from __future__ import annotations

import base64
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from server.errors import BadRequest, TooLarge
from server.indexed_uploads import Identity
from server.protocols import headers as h
from server.protocols.legacy.dialect import OWN_NAMES, Dialect
from server.protocols.legacy.listing import CHUNKS_LIMIT, Layout
from server.reception import INCONSISTENT_LENGTH
from server.upload import Chunking, Upload, UploadId, parse_upload_id

_DIGITS = re.compile(r"[0-9]{1,19}")
# What else the metadata of an upload may say; the same words in every protocol.
_FURTHER: Final = ("filetype", "ref", "compression", "platforms", "allow_partial")


@dataclass(frozen=True)
class ChunkPlace:
    """Where a chunk belongs: at `start`, with exactly `size` bytes (None: at most `room`)."""

    start: int
    room: int
    size: int | None
    index: int | None


@dataclass(frozen=True)
class Said:
    """The fields of one request; sizes in bytes, digests in lower-case hex, None: not said.

    `index` counts from 0, whatever the dialect counts from. `identity` tells files of one name
    apart as long as no digest does.
    """

    upload_id: UploadId | None
    filename: str | None
    image: str | None
    digests: Mapping[str, str]
    identity: tuple[str, ...]
    total: int | None
    chunk_size: int | None
    count: int | None
    index: int | None
    offset: int | None
    size: int | None
    chunk_digests: Mapping[str, str]
    further: Mapping[str, str]
    first_index: int = 0

    @property
    def names_chunk(self) -> bool:
        """Whether it is about one chunk."""
        return self.index is not None or self.offset is not None

    @property
    def names_file(self) -> bool:
        """Whether it says which file it is about."""
        return self.upload_id is not None or self.filename is not None

    def identified(self, owner: str, *, digested: bool = True) -> Identity:
        """Which file it is about; not `digested`: as if its digest had not been said.

        Raises:
            BadRequest: it does not say.
        """
        if self.filename is None:
            raise BadRequest("no file is named", "say its name, or `uploadId`", code="unnamed")
        if digested and "md5" in self.digests:
            return Identity(owner, (self.filename, self.digests["md5"]), self.image)
        total = "" if self.total is None else str(self.total)
        return Identity(owner, (self.filename, "", total, *self.identity), self.image)

    def described(self, upload_id: UploadId, owner: str) -> Upload:
        """The upload that this request begins.

        Raises:
            BadRequest: its words are too long.
        """
        pairs = {"filename": self.filename or "", **self.further, **self.digests}
        if self.image:
            pairs["image"] = self.image
        return Upload(
            id=upload_id,
            length=self.total,
            owner=owner,
            created_at=time.time(),
            protocol="legacy",
            raw_metadata=coded(pairs),
            metadata=pairs,
            expected=dict(self.digests),
            chunking=Chunking(self.chunk_size, self.count),
        )

    def layout(self, upload: Upload | None) -> Layout:
        """How the file is cut: as this request says, else as the first one said."""
        known = upload.chunking if upload else None
        length = upload.length if upload and upload.length is not None else self.total
        chunk_size = self.chunk_size or (known.size if known else None)
        same_cut = known is not None and known.size == chunk_size
        count = self.count or (known.count if known and same_cut else None)
        return Layout(chunk_size, count, length, self.first_index)

    def check_length(self, upload: Upload) -> None:
        """Refuse a size of the file that is not the one said before.

        Raises:
            BadRequest: it is another one.
        """
        if self.total is not None and upload.length not in (None, self.total):
            raise BadRequest(
                f"the file has {self.total} bytes, but {upload.length} were said before",
                "is it the same file? a length is said once",
                code=INCONSISTENT_LENGTH,
            )

    def place(self, layout: Layout) -> ChunkPlace:
        """Where its chunk belongs.

        Raises:
            BadRequest: the numbers contradict each other, or do not say it.
            TooLarge: it would lie behind the end of the file.
        """
        start, room, size = self._cut(layout)
        if self.size is not None and size not in (None, self.size):
            raise BadRequest(
                f"chunk of {self.size} bytes: {size} would be right",
                "the size of a chunk and that of the file must fit each other",
                code="chunk_size",
            )
        if self.size is not None:
            room = size = self.size
        length = layout.length
        if length is not None and start + room > length:
            if size is not None or start > length:
                raise TooLarge(
                    f"chunk of {room} bytes at {start}: the file has {length}",
                    "send no more than its size",
                )
            room = length - start
        if start + room > h.LARGEST_LENGTH:
            raise BadRequest(f"chunk at {start}: no file is that large", code="chunk_place")
        return ChunkPlace(start, room, size, self.index)

    def _cut(self, layout: Layout) -> tuple[int, int, int | None]:
        """Start, room and exact size (None: only its bytes tell) of the chunk, as it is cut."""
        if self.index is None:
            if self.size is None and layout.length is None:
                raise BadRequest("chunk without its length", "say it, or the size of the file")
            room = self.size if self.size is not None else (layout.length or 0) - (self.offset or 0)
            return self.offset or 0, max(0, room), self.size
        if layout.chunk_size is None:
            raise BadRequest("chunk without the chunk size", "say it with each chunk")
        start = self.index * layout.chunk_size
        if self.offset not in (None, start):
            raise BadRequest(
                f"chunk {self.index + self.first_index} begins at {start}, not at {self.offset}",
                "say index and chunk size, or offset and length",
                code="chunk_place",
            )
        number = layout.number
        if number is not None and self.index >= number:
            raise BadRequest(
                f"chunk {self.index + self.first_index}: the file has {number} chunks",
                "is the first index right for this server's `legacy_dialects`?",
                code="chunk_place",
            )
        if number is None or self.index < number - 1:
            return start, layout.chunk_size, layout.chunk_size
        if layout.length is None:
            # The last one is as long as it is.
            return start, self.size or layout.chunk_size, self.size
        if layout.length < start:
            raise BadRequest(
                f"{number} chunks of {layout.chunk_size} bytes are more than {layout.length}",
                "count, chunk size and size of the file must fit each other",
                code="chunk_place",
            )
        return start, layout.length - start, layout.length - start


def said(fields: Mapping[str, str], dialect: Dialect) -> Said:
    """What these fields say.

    Raises:
        BadRequest: a value cannot be understood.
    """
    values = {ours: fields.get(dialect.word(ours)) or None for ours in OWN_NAMES}
    upload_id = values["upload_id"] or values["task_id"]
    parsed = parse_upload_id(upload_id) if upload_id else None
    if upload_id and parsed is None:
        raise BadRequest(
            f"{dialect.word('upload_id')}: {upload_id!r} is none",
            "send the one that an answer told, or leave it out",
        )

    def size(ours: str, least: int = 0) -> int | None:
        text = values[ours]
        if text is None:
            return None
        if not _DIGITS.fullmatch(text) or not least <= int(text) <= h.LARGEST_LENGTH:
            raise BadRequest(
                f"field {dialect.word(ours)}: {text!r} is no number from {least} to 2^63 - 1",
                "send decimal digits only",
            )
        return int(text)

    def digests(**ours: str) -> dict[str, str]:
        return {
            name: h.digest(name, text, header=dialect.word(word))
            for name, word in ours.items()
            if (text := values[word])
        }

    index = size("index", dialect.first_index)
    count = size("count", 1)
    if count is not None and count > CHUNKS_LIMIT:
        raise BadRequest(f"{count} chunks: at most {CHUNKS_LIMIT} are taken", "cut larger chunks")
    total, offset = size("total"), size("offset")
    if index is None and offset is None and count is None and _is_one_chunk(fields, dialect):
        # WebUploader numbers chunks only where there are several.
        index, count = dialect.first_index, 1
    return Said(
        upload_id=parsed,
        filename=values["filename"],
        image=values["image"],
        digests=digests(md5="md5", sha256="sha256"),
        identity=tuple(fields.get(name, "") for name in dialect.identity),
        total=total,
        chunk_size=size("chunk_size", 1) or dialect.chunk_size,
        count=count,
        index=None if index is None else index - dialect.first_index,
        offset=offset,
        size=size("size"),
        chunk_digests=digests(md5="chunk_md5", sha256="chunk_sha256"),
        further={name: fields[name] for name in _FURTHER if fields.get(name)},
        first_index=dialect.first_index,
    )


def _is_one_chunk(fields: Mapping[str, str], dialect: Dialect) -> bool:
    return dialect.chunk_size is not None and dialect.word("total") in fields


def coded(pairs: Mapping[str, str]) -> str:
    """Metadata as tus would have said it.

    Raises:
        BadRequest: it is too long.
    """
    try:
        words = [f"{key} {base64.b64encode(pairs[key].encode()).decode()}" for key in pairs]
    except UnicodeEncodeError as error:
        raise BadRequest(f"a field is no text: {error}", "send UTF-8") from error
    text = ",".join(words)
    if len(text) > h.METADATA_LIMIT_BYTES:
        raise BadRequest(
            f"the fields have {len(text)} bytes", f"at most {h.METADATA_LIMIT_BYTES} are taken"
        )
    return text
