"""What a request says of its upload, and how it hears that its body broke off: for any protocol.

Knows: lengths and digests are said once; which ending is which refusal.
Must not know: which protocol asks, which answer it gives when all went well.
"""

from __future__ import annotations

from collections.abc import Mapping

from starlette.requests import Request

from server.errors import BadRequest, BodyTimeout, Evicted, TooLarge, Unavailable
from server.intake import Received
from server.interruption import Ending
from server.protocols import headers as h
from server.reception import INCONSISTENT_LENGTH, Appended
from server.upload import Upload


def method(request: Request) -> str:
    """The method that is meant.

    Spec: tus 1.0.0, X-HTTP-Method-Override.
    """
    return (h.single(request.headers, h.METHOD_OVERRIDE) or request.method).upper()


def lengthened(upload: Upload, length: int | None) -> Upload:
    """The upload with its length, where the request says one; the same one again is harmless.

    Raises:
        BadRequest: another length was said before.
    """
    if length is None or length == upload.length:
        return upload
    if upload.length is not None:
        raise BadRequest(
            f"length {length}: the upload has {upload.length} bytes",
            "a length is said once",
            code=INCONSISTENT_LENGTH,
        )
    return upload.with_length(length)


def promised(upload: Upload, digests: Mapping[str, str]) -> Upload:
    """The upload with further promised digests; the same one again is harmless.

    A client that sends one file in parts may say the file's digest with each of them: it counts for
    the final upload only.

    Raises:
        BadRequest: another digest was promised before.
    """
    if upload.partial:
        return upload
    for name, value in digests.items():
        if upload.expected.get(name, value) != value:
            raise BadRequest(
                f"{h.REPR_DIGEST}: {name} {value}, but {upload.expected[name]} was promised before",
                "a digest is said once; send the right one in a new upload",
                code="digest_conflict",
            )
    return upload.expecting(digests) if digests else upload


def unchanged(upload: Upload) -> Upload:
    """The upload as it is: this request says nothing new of it."""
    return upload


def refusal(appended: Appended) -> Exception:
    """What a request hears whose body did not come to its end; the bytes that came are kept."""
    received: Received = appended.received
    headers = {h.UPLOAD_OFFSET: str(received.position)}
    hint = "ask with HEAD where it is, and go on from there"
    match received.ending:
        case Ending.OVERLONG:
            return TooLarge(
                "the body is longer than the upload may be",
                "send no more than its length",
                headers=headers,
            )
        case Ending.IDLE:
            return BodyTimeout("the body stopped coming", hint, headers=headers)
        case Ending.STOPPING:
            return Unavailable(
                "the server is stopping", hint, headers={**headers, h.RETRY_AFTER: "1"}
            )
        case _:
            return Evicted("a newer request took this upload over", hint, headers=headers)
