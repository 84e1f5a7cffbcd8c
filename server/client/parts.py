"""Sending one archive in parts at once, each a partial upload, joined by a final one.

A part is remembered by itself, so the same command again goes on with each of them; the final
upload is the same one when it is asked for again, so it need not be remembered at all.

Knows: how a file is shared out, and what is asked before and after.
Must not know: command lines, exit codes.

Spec: tus 1.0.0, Concatenation.
"""

from __future__ import annotations

import contextlib
from typing import Final

from server.client.archive import Archive, TrailingDigest
from server.client.connection import Connection
from server.client.crew import Crew, Part
from server.client.display import Display
from server.client.errors import (
    ArchiveChanged,
    ClientError,
    Refused,
    TryAgain,
    UploadLost,
)
from server.client.journey import waited_for
from server.client.memory import Memory
from server.client.patience import Patience
from server.client.remote import RemoteUpload, check_beforehand
from server.client.sender import Errand
from server.client.sizes import MIB
from server.client.watch import canceled_meanwhile, is_canceled

# A part costs a few requests; what is shorter than this is not worth another connection.
SMALLEST_PART_BYTES: Final = MIB
# These parts can not become this upload; others can.
_SPENT: Final = frozenset({"unknown_partial", "partial_in_use", "digest_conflict", "not_partial"})


def shares(length: int, parallel: int) -> int:
    """How many parts a file of this length is worth, at most so many."""
    return max(1, min(parallel, length // SMALLEST_PART_BYTES))


class PartsSender:
    """Carries an archive to the server in so many parts at once."""

    def __init__(
        self,
        connection: Connection,
        memory: Memory,
        display: Display,
        errand: Errand,
        count: int,
    ) -> None:
        """Prepare, and share the archive out."""
        self._connection = connection
        self._memory = memory
        self._display = display
        self._errand = errand
        self._parts = _shared(errand.archive, errand.fingerprint(connection.server), count)
        self._metadata = errand.metadata

    def send(self) -> str:
        """Send it all; the final upload's id.

        Raises:
            ArchiveUnusable: the file cannot be read.
            ArchiveChanged: somebody wrote to it; what the server has was removed.
            UploadEnded: somebody canceled a part meanwhile.
            Refused, UploadLost, GaveUp: the server's or the line's last word.
        """
        try:
            return self._deliver()
        except UploadLost as lost:
            self._check_canceled(lost)
            # Parts that are still there are gone on with.
            self._display.notice(f"a part is gone; sending it again ({lost.message})")
        except Refused as error:
            if error.code not in _SPENT:
                raise
            self.forget()
            self._display.notice(f"beginning anew ({error.message})")
        return self._deliver()

    def forget(self) -> None:
        """The upload came to an end: the same command again is a new upload."""
        for part in self._parts:
            self._memory.forget(part.key)

    def _deliver(self) -> str:
        with contextlib.ExitStack() as stack:
            md5 = None
            archive = self._errand.archive
            if self._errand.with_digest:
                digest = stack.enter_context(TrailingDigest(archive))
                # The file is read at as many places as there are parts; it may as well run ahead.
                digest.allow(archive.length)
                md5 = waited_for(digest, archive.length, self._display)
            self._check()
            crew = Crew(self._connection, self._memory, self._display, self._errand, self._parts)
            try:
                ids = crew.run()
                archive.check_unchanged()
            except ArchiveChanged:
                self._remove()
                raise
            return self._joined(ids, md5() if md5 else None)

    def _check_canceled(self, lost: UploadLost) -> None:
        """Sending it again is not what the person who canceled it had in mind."""
        for part in self._parts:
            known = self._memory.find(part.key)
            if known and is_canceled(self._connection, known):
                self._memory.forget(part.key)
                raise canceled_meanwhile(known) from lost

    def _joined(self, ids: list[str], md5: str | None) -> str:
        patience = Patience(self._errand.give_up_after_seconds, self._display.notice)
        while True:
            try:
                final = RemoteUpload.final(self._connection, self._metadata, ids, md5)
            except TryAgain as error:
                patience.wait(error)
            else:
                length = self._errand.archive.length
                self._display.begun(final.id, length, length, resumed=False)
                self._display.notice(f"upload {final.id}: made of {len(ids)} parts")
                return final.id

    def _check(self) -> None:
        """A part alone may be sent by anyone: hear first whether the whole may become an image."""
        if any(self._memory.find(part.key) for part in self._parts):
            return
        patience = Patience(self._errand.give_up_after_seconds, self._display.notice)
        length = self._errand.archive.length
        while True:
            try:
                answer = check_beforehand(
                    self._connection, self._metadata, length, self._errand.names
                )
            except TryAgain as error:
                patience.wait(error)
            else:
                break
        if answer.get("allowed") is False:
            reason, hint = str(answer.get("reason")), str(answer.get("hint"))
            raise Refused(f"{self._connection.server}: {reason}", hint, code=str(answer["code"]))

    def _remove(self) -> None:
        """What the server has is of no use to anyone: the file is not what it was."""
        for part in self._parts:
            known = self._memory.find(part.key)
            if known:
                with contextlib.suppress(ClientError):
                    RemoteUpload(self._connection, known).remove()
        self.forget()


def _shared(archive: Archive, fingerprint: str, count: int) -> list[Part]:
    size = -(-archive.length // count)
    return [
        Part(
            number,
            number * size,
            min(size, archive.length - number * size),
            f"{fingerprint}-{number + 1}of{count}",
            f"{fingerprint}-of{count}",
        )
        for number in range(count)
    ]
