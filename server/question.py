"""What is asked before an upload is sent: would it be taken, and is its tag there already.

Knows: the words of the question, their types and limits.
Must not know: the answer.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from starlette.requests import Request

from buildah.contents import Image
from server.errors import BadRequest
from server.protocols.headers import digest
from server.protocols.small_body import small_body

_LIMIT_BYTES: Final = 256 * 1024
# What of an upload's metadata is judged beforehand, besides `image`.
_WORDS: Final = ("ref", "compression", "allow_partial", "platforms")
_ID: Final = re.compile(r"sha256:[0-9a-f]{64}")


@dataclass(frozen=True)
class Question:
    """The metadata it would have, how long it is, and what its images are called.

    `images` is empty when the sender did not look.
    """

    metadata: Mapping[str, str]
    length: int
    images: tuple[Image, ...]


async def read_question(request: Request) -> Question:
    """The body `{image, length, images: [{tags, id}], ...}` of a check.

    Raises:
        BadRequest: it is no such thing.
    """
    body = await small_body(request, _LIMIT_BYTES)
    try:
        data = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise BadRequest(f"check: the body is not JSON: {error}") from error
    if not isinstance(data, dict):
        raise BadRequest("check: the body is not a JSON object", "send {image, length}")
    image, length = data.get("image"), data.get("length")
    if image is not None and not isinstance(image, str):
        raise BadRequest("check: image is not a string")
    if length is not None and (
        not isinstance(length, int) or isinstance(length, bool) or not 0 <= length < 2**63
    ):
        raise BadRequest("check: length is not a size in bytes")
    for name in ("md5", "sha256"):
        if isinstance(data.get(name), str):
            digest(name, data[name], header="check")
    metadata = {name: data[name] for name in _WORDS if isinstance(data.get(name), str)}
    if image:
        metadata["image"] = image
    return Question(metadata, length or 0, _images(data.get("images")))


def _images(rows: Any) -> tuple[Image, ...]:
    rows = [] if rows is None else rows
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise BadRequest("check: images is not a list of objects", "send [{tags, id}, ...]")
    return tuple(_image(row.get("tags"), row.get("id")) for row in rows)


def _image(tags: Any, image_id: Any) -> Image:
    if not isinstance(tags, list) or not all(isinstance(tag, str) for tag in tags):
        raise BadRequest("check: the tags of an image are not a list of strings")
    known = isinstance(image_id, str) and _ID.fullmatch(image_id)
    if not known and (image_id is not None or not tags):
        raise BadRequest(
            f"check: {image_id!r} is no id of an image",
            "send sha256:..., or none for one with tags",
        )
    return Image(tuple(tags), image_id, ())
