"""Asks a registry that failed in the middle of a push whether it has run out of room.

Knows: how a blob upload is begun (OCI distribution spec 1.1, "Pushing a blob in chunks"), what a
full disk looks like in an answer.
Must not know: what was being pushed.

buildah says of such a push `500 Internal Server Error` and nothing more: it drops the answer's
body. So one small upload is begun, whose answers are read, and taken back.
"""

from __future__ import annotations

import re
from http import HTTPStatus

from buildah.conversation import Conversation, converse
from buildah.errors import RegistryError
from buildah.line import Answer
from buildah.reference import ImageReference
from buildah.registry import Registry

_ROOM_SECONDS = 20.0
# More than a file system may still find in the last block of a file.
_SAMPLE = bytes(64 * 1024)
# ENOSPC (28) and EDQUOT (122), as the registry's own code reports them, and in words.
_NO_ROOM = re.compile(rb'"Err":\s*(28|122)\b|no space left|quota exceeded|XMinioStorageFull', re.I)


async def says_full(reference: ImageReference, registry: Registry) -> bool:
    """Whether the registry itself says that it has no room; False if it cannot be told."""

    def attempt(conversation: Conversation) -> bool:
        uploads = conversation.place(f"/v2/{reference.repository}/blobs/uploads/")
        begun = conversation.ask("POST", uploads)
        if begun.status != HTTPStatus.ACCEPTED:
            return _full(begun)
        upload = conversation.place(begun.headers.get("Location", ""))
        sent = conversation.ask("PATCH", upload, body=_SAMPLE)
        location = sent.headers.get("Location")
        conversation.ask("DELETE", conversation.place(location) if location else upload)
        return _full(sent)

    operation = f"Asking whether there is room for {reference}"
    try:
        return await converse(
            operation, reference.repository, registry, attempt, seconds=_ROOM_SECONDS
        )
    except RegistryError:
        # Out of reach, or an answer that makes no sense.
        return False


def _full(answer: Answer) -> bool:
    if answer.status == HTTPStatus.INSUFFICIENT_STORAGE:
        return True
    failed = answer.status >= HTTPStatus.INTERNAL_SERVER_ERROR
    return failed and bool(_NO_ROOM.search(answer.body))
