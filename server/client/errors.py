"""The exception tree of the command line's client side.

    ClientError
    ├── Refused            the server's answer is final: the same request will not do better
    ├── UploadLost         the server does not have this upload (any more)
    ├── TryAgain           the line, or the server for the moment: ask again later
    ├── GaveUp             tried again for as long as was allowed
    ├── ArchiveUnusable    the file cannot be read, is not a regular file, or is empty
    │   └── ArchiveChanged     somebody wrote to it while it was sent
    └── UploadEnded        the upload ended otherwise than done (failed, canceled, expired)

Knows: the words for a person (what happened, and what to do).
Must not know: how they are shown, or exit codes.
"""

from __future__ import annotations


class ClientError(Exception):
    """Root of the tree: a stable code, words for a person, and what to do."""

    code = "client_error"

    def __init__(self, message: str, hint: str = "", *, code: str | None = None) -> None:
        """Keep the parts; `code` refines the class's own (the server's code, where it gave one)."""
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.code = code or self.code


class Refused(ClientError):
    """The server's answer is final."""

    code = "refused"


class UploadLost(ClientError):
    """The server does not have this upload (any more)."""

    code = "upload_lost"


class TryAgain(ClientError):
    """The line is down, or the server cannot answer for the moment."""

    code = "unavailable"

    def __init__(
        self,
        message: str,
        hint: str = "",
        *,
        code: str | None = None,
        retry_after_seconds: float = 0,
    ) -> None:
        """Keep also how long the server asked to wait (0: it did not say)."""
        super().__init__(message, hint, code=code)
        self.retry_after_seconds = retry_after_seconds


class GaveUp(ClientError):
    """Nothing moved for as long as was allowed."""

    code = "gave_up"


class ArchiveUnusable(ClientError):
    """The file cannot be read, is not a regular file, or is empty."""

    code = "archive_unusable"


class ArchiveChanged(ArchiveUnusable):
    """Somebody wrote to it while it was sent."""

    code = "archive_changed"


class UploadEnded(ClientError):
    """The upload ended otherwise than done."""

    code = "upload_ended"
