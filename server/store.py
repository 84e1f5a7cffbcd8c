"""UploadStore: uploads in one directory, as Tusboat and tuspyserver see them.

Knows: the contract of tuspyserver, so that its router can be mounted over this store.
Must not know: HTTP, callers, what follows an upload.
"""

from __future__ import annotations

import os
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

from anyio import to_thread
from tuspyserver.storage import TusStorage

from server.locker import Locker
from server.sidecar import Kind
from server.upload import merged_sidecar
from server.upload_files import UploadFiles


class UploadStore(UploadFiles, TusStorage):
    """The only writer of upload bytes.

    What Tusboat itself uses are the blocking methods of `UploadFiles`; the `async` ones here are
    tuspyserver's contract.
    """

    def __init__(self, directory: Path, locker: Locker, *, durable: bool = True) -> None:
        """Use (and make) the directory; `durable=False` leaves flushing to the kernel."""
        super().__init__(directory, durable=durable)
        self._locker = locker

    async def create(self, uid: str) -> None:
        """Begin a new, empty upload; doing it again changes nothing."""

        def make() -> None:
            os.close(os.open(self.path(uid), os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o640))

        await to_thread.run_sync(make)

    async def exists(self, uid: str) -> bool:
        """Whether there is data of that id."""
        return await to_thread.run_sync(self.path(uid).exists)

    async def size(self, uid: str) -> int:
        """Bytes in the file, durable: the Upload-Offset."""
        return await to_thread.run_sync(self.durable_offset, uid) or 0

    async def append(self, uid: str, chunk: bytes) -> None:
        """Add bytes at the end."""

        def write() -> None:
            with self.path(uid).open("ab", buffering=0) as file:
                view = memoryview(chunk)
                while view:
                    view = view[file.write(view) :]

        await to_thread.run_sync(write)

    async def flush(self, uid: str) -> None:
        """Make what was appended durable."""
        await to_thread.run_sync(self.durable_offset, uid)

    async def finalize(self, uid: str) -> None:
        """Nothing to do: a whole file is whole."""

    async def read(self, uid: str) -> bytes | None:
        """Every byte at once, as the contract wants it; not for large uploads."""
        if await self.exists(uid):
            return await to_thread.run_sync(self.path(uid).read_bytes)
        return None

    async def delete(self, uid: str) -> None:
        """Remove data, sidecar and everything beside them."""
        await to_thread.run_sync(self.erase, uid)

    async def read_info(self, uid: str) -> dict[str, Any] | None:
        """The sidecar as it stands on disk."""
        self.path(uid)
        return await to_thread.run_sync(self._sidecars.read, uid, Kind.INFO)

    async def write_info(self, uid: str, data: dict[str, Any]) -> None:
        """Replace the sidecar, keeping our own block when the writer does not know it."""

        def write() -> None:
            old = self._sidecars.read(uid, Kind.INFO)
            self._sidecars.write(uid, Kind.INFO, merged_sidecar(old, data))

        self.path(uid)
        await to_thread.run_sync(write)

    async def list_uids(self) -> list[str]:
        """Every known id."""
        return list(await to_thread.run_sync(self.ids))

    def location(self, uid: str) -> str:
        """The path of the data file."""
        return str(self.path(uid))

    # The contract's own type is wrong: an async context manager is meant, and used as one.
    def lock(  # type: ignore[override]
        self, uid: str
    ) -> AbstractAsyncContextManager[Any]:
        """Exclusive access to one upload, over all protocols and processes."""
        return self._locker.hold(uid)
