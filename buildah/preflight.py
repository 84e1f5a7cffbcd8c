"""Sees whether a push would be let in, before gigabytes are sent for it.

Knows: how a blob upload is begun and taken back (OCI distribution spec 1.1, "Pushing a blob in
chunks").
Must not know: what is going to be pushed, who is asking.

Only a begun upload tells: registries answer `GET /v2/` and give tokens to users who may push
nothing. No byte of a blob is stored by it.
"""

from __future__ import annotations

from http import HTTPStatus

from buildah.conversation import Conversation, converse
from buildah.errors import RegistryElsewhere, RegistryError
from buildah.line import Answer
from buildah.reference import ImageReference
from buildah.registry import Registry
from buildah.territory import Address

PREFLIGHT_SECONDS = 10.0


async def preflight(
    reference: ImageReference,
    registry: Registry,
    *,
    operation: str = "",
    seconds: float = PREFLIGHT_SECONDS,
) -> None:
    """Reach the registry, log in, begin an upload to the repository and take it back.

    `operation` opens the message of every error.

    Raises:
        RegistryError: a push would fail now; the subclass says why.
    """
    repository = reference.repository

    def attempt(conversation: Conversation) -> None:
        answer = conversation.ask("POST", _uploads(conversation, repository))
        begun = _begun(answer)
        if begun is None:
            raise conversation.refusal(answer)
        _take_back(conversation, begun)

    operation = operation or f"Asking whether one may push to {reference.name}"
    await converse(operation, repository, registry, attempt, seconds=seconds)


async def confine(
    operation: str, repository: str, registry: Registry, *, pushing: bool = True
) -> None:
    """See that a program would be sent nowhere but where the settings allow it.

    buildah and skopeo follow the address of a token server, and when `pushing` of an upload, to any
    host, with the password in their hands. They cannot be told otherwise, so it is asked before.
    What they find out by themselves is left to them.

    Raises:
        RegistryElsewhere: they would be sent elsewhere.
        RegistryError: the registry cannot even be greeted; the subclass says why.
    """

    def look(conversation: Conversation) -> None:
        conversation.greet()
        if not pushing:
            return
        try:
            begun = _begun(conversation.ask("POST", _uploads(conversation, repository)))
        except RegistryElsewhere:
            raise
        except RegistryError:
            return
        if begun is not None:
            _take_back(conversation, begun)

    await converse(operation, repository, registry, look, seconds=PREFLIGHT_SECONDS)


def _uploads(conversation: Conversation, repository: str) -> Address:
    return conversation.place(f"/v2/{repository}/blobs/uploads/")


def _begun(answer: Answer) -> str | None:
    """Where an upload that was let in is to be sent; None if it was not."""
    return answer.headers.get("Location") if answer.status == HTTPStatus.ACCEPTED else None


def _take_back(conversation: Conversation, begun: str) -> None:
    upload = conversation.place(begun)
    try:
        conversation.ask("DELETE", upload)
    except RegistryElsewhere:
        raise
    except RegistryError:
        # It is forgotten after a while without it, too.
        return
