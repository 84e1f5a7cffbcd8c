"""The exception tree of the server; each class fixes its HTTP status and its code.

    ServerError
    ├── BadRequest            400   a header or body cannot be understood
    ├── Unauthorized          401   no token, or an unknown one
    ├── Forbidden             403   the caller may not do that
    ├── NotFound              404   no such upload, or another caller's
    ├── BodyTimeout           408   the body stopped; what came is kept
    ├── Conflict              409   the upload is not in the state the request assumes
    │   ├── OffsetMismatch          Upload-Offset is not where the upload is
    │   └── Evicted                 a newer request took the upload over
    ├── Gone                  410   expired or canceled
    ├── UnsupportedVersion    412   Tus-Resumable is missing or unknown
    ├── TooLarge              413   more bytes than the upload or the server takes
    ├── UnsupportedMediaType  415   Content-Type does not fit
    ├── WrongChunk            422   a chunk is not what it should be; nothing of it counts
    ├── UploadLocked          423   another request is writing
    ├── FailedDependency      424   the registry would not take the image, whoever asks
    ├── HeadTooLarge          431   request line and headers are too long
    ├── ChecksumMismatch      460   the bytes are not the promised ones; none of them was kept
    ├── Unavailable           503   stopping, or Redis is away
    └── InsufficientStorage   507   the disk would not hold it

Knows: statuses, codes, words, and headers that belong to a status.
Must not know: which route raises what.
"""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any, ClassVar


class ServerError(Exception):
    """Root of the tree: an answer to a request, with words for a person."""

    status: ClassVar[int] = HTTPStatus.INTERNAL_SERVER_ERROR
    title: ClassVar[str] = ""
    code: str = "internal_error"

    def __init__(
        self,
        message: str,
        hint: str = "",
        *,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """Keep message, hint and headers; `code` refines the class's own."""
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.code = code or self.code
        self.headers = dict(headers or {})
        # A protocol that has problem types of its own fills these in.
        self.problem_type = "about:blank"
        self.members: dict[str, Any] = {}

    def problem(self) -> dict[str, Any]:
        """The body of the answer.

        Spec: RFC 9457, section 3.
        """
        return {
            "type": self.problem_type,
            "title": self.title or HTTPStatus(self.status).phrase,
            "status": int(self.status),
            "detail": self.message,
            "code": self.code,
            "hint": self.hint,
            **self.members,
        }


class BadRequest(ServerError):
    """A header or a body cannot be understood."""

    status = HTTPStatus.BAD_REQUEST
    code = "bad_request"


class Unauthorized(ServerError):
    """No token, or an unknown one."""

    status = HTTPStatus.UNAUTHORIZED
    code = "unauthorized"


class Forbidden(ServerError):
    """The caller may not do that."""

    status = HTTPStatus.FORBIDDEN
    code = "forbidden"


class NotFound(ServerError):
    """No such upload, or another caller's."""

    status = HTTPStatus.NOT_FOUND
    code = "not_found"


class BodyTimeout(ServerError):
    """The body stopped coming; what came is kept."""

    status = HTTPStatus.REQUEST_TIMEOUT
    code = "body_timeout"


class Conflict(ServerError):
    """The upload is not in the state that the request assumes."""

    status = HTTPStatus.CONFLICT
    code = "conflict"


class OffsetMismatch(Conflict):
    """The request's Upload-Offset is not where the upload is."""

    code = "offset_mismatch"


class Evicted(Conflict):
    """A newer request took the upload over."""

    code = "evicted"


class Gone(ServerError):
    """The upload expired or was canceled."""

    status = HTTPStatus.GONE
    code = "gone"


class UnsupportedVersion(ServerError):
    """Tus-Resumable is missing or names a version that is not spoken here."""

    status = HTTPStatus.PRECONDITION_FAILED
    code = "unsupported_version"


class TooLarge(ServerError):
    """More bytes than the upload or the server takes."""

    status = HTTPStatus.REQUEST_ENTITY_TOO_LARGE
    code = "too_large"


class UnsupportedMediaType(ServerError):
    """Content-Type does not fit the request."""

    status = HTTPStatus.UNSUPPORTED_MEDIA_TYPE
    code = "unsupported_media_type"


class WrongChunk(ServerError):
    """A chunk's bytes are not the promised ones, or others than are proven; nothing was counted."""

    status = HTTPStatus.UNPROCESSABLE_ENTITY
    code = "wrong_chunk"


class UploadLocked(ServerError):
    """Another request is writing this upload, and it is not idle."""

    status = HTTPStatus.LOCKED
    code = "locked"


class FailedDependency(ServerError):
    """The registry would not take the image, until its operator or ours repairs something.

    Not 502: clients repeat a request for hours when a server answers that.
    """

    status = HTTPStatus.FAILED_DEPENDENCY
    code = "registry_error"


class HeadTooLarge(ServerError):
    """Request line and headers are longer than any that is meant.

    Spec: RFC 6585, section 5.
    """

    status = HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE
    code = "head_too_large"


class ChecksumMismatch(ServerError):
    """The request's bytes are not the promised ones; none of them was kept.

    Spec: tus 1.0.0, Checksum (a status of its own, in no registry).
    """

    status = 460
    title = "Checksum Mismatch"
    code = "checksum_mismatch"


class Unavailable(ServerError):
    """The server is stopping, or something it needs is away for now."""

    status = HTTPStatus.SERVICE_UNAVAILABLE
    code = "unavailable"


class InsufficientStorage(ServerError):
    """The disk would not hold it."""

    status = HTTPStatus.INSUFFICIENT_STORAGE
    code = "insufficient_storage"
