"""A status document as the server sent it, and how an upload ended by it.

Knows: the shape of the document; which ends are good ones.
Must not know: HTTP, how anything is shown.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Self

from hooks.record import Failure, ImageResult, Record, Status, StepRecord
from server.client.errors import ClientError, UploadEnded


@dataclass(frozen=True)
class Document:
    """The document, parsed, and as it came (for `--json`)."""

    record: Record
    raw: Mapping[str, Any]

    @classmethod
    def parse(cls, raw: Mapping[str, Any]) -> Self:
        """Read it; fields that a newer server added are passed over.

        Raises:
            ClientError: it is not a status document.
        """
        try:
            error = raw["error"]
            known = {
                **_known(Record, raw),
                "steps": [_known(StepRecord, step) for step in raw["steps"]],
                "results": [_known(ImageResult, result) for result in raw["results"]],
                "error": _known(Failure, error) if error else None,
            }
            return cls(Record.from_json(known), raw)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ClientError(
                f"the server's status document cannot be understood: {error!r}",
                "server and command line may be of different versions: `tusboat --version`",
                code="not_understood",
            ) from error

    def check_done(self) -> None:
        """Look whether it ended well.

        Raises:
            UploadEnded: the upload failed, was canceled or expired, with cause and hint.
        """
        record = self.record
        match record.status:
            case Status.FAILED:
                raise self._failure()
            case Status.CANCELED:
                raise UploadEnded(f"upload {record.id} was canceled", code="canceled")
            case Status.EXPIRED:
                raise UploadEnded(
                    f"upload {record.id} expired before it was whole",
                    "upload again",
                    code="expired",
                )

    def _failure(self) -> UploadEnded:
        record = self.record
        error = record.error or Failure("failed", "", "the server says no cause", "", False)
        where = f" at {error.step}" if error.step else ""
        # What arrived damaged stays damaged; everything else can be tried from what the server has.
        again = (
            "upload the archive again"
            if error.step == "verify"
            else f"to try again without sending it again: tusboat retry {record.id}"
        )
        return UploadEnded(
            f"upload {record.id} failed{where}: {error.message} ({error.code})",
            "\n".join(words for words in (error.hint, again) if words),
            code=error.code,
        )


def _known(shape: type, row: Mapping[str, Any]) -> dict[str, Any]:
    names = {field.name for field in fields(shape)}
    return {name: value for name, value in row.items() if name in names}
