"""Uploads in one directory, as the hooks see them: a second implementation of `hooks/ports.py`.

Knows: real files, real kernel locks (`flock` on the data file), whole documents by rename.
Must not know: HTTP, protocols, how the server stores an upload.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import time
import uuid
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from anyio import to_thread

from hooks.ports import Digests, Growth, Swept, UploadBusy
from hooks.record import Record, Status, utc_now


@dataclass(frozen=True)
class DiskUpload:
    """One whole upload (a `FinishedUpload`)."""

    store: DiskUploads
    id: str
    length: int
    metadata: Mapping[str, str]
    expected: Mapping[str, str]
    record: Record

    @property
    def path(self) -> Path:
        return self.store.data(self.id)

    @property
    def in_parts(self) -> bool:
        return False

    async def assemble(self, progress: Callable[[int, int], None]) -> None:
        progress(self.length, self.length)

    @asynccontextmanager
    async def lock(self) -> AsyncIterator[None]:
        descriptor = await to_thread.run_sync(_locked, self.path)
        try:
            yield
        finally:
            os.close(descriptor)

    async def digests(self) -> Digests | None:
        found = await to_thread.run_sync(self.store.read, self.id, "digest")
        digests = Digests(**found) if found else None
        return digests if digests and digests.length == self.length else None

    async def cancel_requested(self) -> bool:
        return await to_thread.run_sync(self.store.beside(self.id, "cancel").exists)

    async def record_contents(self, contents: Mapping[str, Any]) -> None:
        await to_thread.run_sync(self.store.write, self.id, "contents", contents)

    async def record_outcome(self, outcome: Record) -> None:
        await to_thread.run_sync(self.store.write, self.id, "outcome", outcome.to_json())

    async def discard(self) -> None:
        await to_thread.run_sync(self.path.unlink, True)


class DiskUploads:
    """All uploads of a directory (an `Uploads`), and what a test does to them."""

    def __init__(self, directory: Path, *, ttl_seconds: float = 3600.0) -> None:
        """Use (and make) the directory; what has ended is swept `ttl_seconds` later."""
        directory.mkdir(parents=True, exist_ok=True)
        self.directory = directory
        self._ttl_seconds = ttl_seconds

    # What a sender and a person do.

    def create(self, length: int | None, *, owner: str = "local", **metadata: str) -> str:
        """An empty upload; `md5` and `sha256` among the metadata are its promised digests."""
        upload_id = uuid.uuid4().hex
        self.data(upload_id).touch()
        info = {"length": length, "metadata": metadata, "owner": owner, "created_at": utc_now()}
        self.write(upload_id, "info", info)
        return upload_id

    def append(self, upload_id: str, block: bytes) -> None:
        with self.data(upload_id).open("ab") as file:
            file.write(block)

    def add(self, archive: Path, *, owner: str = "local", **metadata: str) -> str:
        """A whole upload with the bytes of a file."""
        upload_id = self.create(archive.stat().st_size, owner=owner, **metadata)
        shutil.copyfile(archive, self.data(upload_id))
        return upload_id

    def request_cancel(self, upload_id: str) -> None:
        self.beside(upload_id, "cancel").touch()

    def forget_outcome(self, upload_id: str) -> None:
        """What a retry does first."""
        self.beside(upload_id, "outcome").unlink()

    # Files.

    def data(self, upload_id: str) -> Path:
        return self.directory / upload_id

    def beside(self, upload_id: str, kind: str) -> Path:
        return self.directory / f"{upload_id}.{kind}"

    def read(self, upload_id: str, kind: str) -> dict[str, Any] | None:
        try:
            document: dict[str, Any] = json.loads(self.beside(upload_id, kind).read_text())
        except FileNotFoundError:
            return None
        return document

    def write(self, upload_id: str, kind: str, document: Mapping[str, Any]) -> None:
        new = self.beside(upload_id, f"{kind}.{uuid.uuid4().hex}")
        new.write_text(json.dumps(document))
        new.replace(self.beside(upload_id, kind))

    # The port.

    async def finished(self) -> list[str]:
        return await to_thread.run_sync(self._finished)

    async def get(self, upload_id: str) -> DiskUpload | None:
        return await to_thread.run_sync(self._get, upload_id)

    async def outcome(self, upload_id: str) -> Record | None:
        found = await to_thread.run_sync(self.read, upload_id, "outcome")
        return Record.from_json(found) if found else None

    def growth(self, upload_id: str) -> Growth | None:
        info = self.read(upload_id, "info")
        try:
            proven = self.data(upload_id).stat().st_size
        except FileNotFoundError:
            return None
        return Growth(info["length"], proven) if info else None

    def location(self, upload_id: str) -> str:
        return str(self.data(upload_id))

    async def record_digests(self, upload_id: str, digests: Digests) -> None:
        document = {"length": digests.length, "md5": digests.md5, "sha256": digests.sha256}
        await to_thread.run_sync(self.write, upload_id, "digest", document)

    async def sweep(self, *, dry_run: bool) -> list[Swept]:
        return await to_thread.run_sync(self._sweep, dry_run)

    def _ids(self) -> list[str]:
        return [path.stem for path in self.directory.glob("*.info")]

    def _finished(self) -> list[str]:
        return [upload_id for upload_id in self._ids() if self._get(upload_id)]

    def _get(self, upload_id: str) -> DiskUpload | None:
        growth = self.growth(upload_id)
        if growth is None or not growth.complete or self.read(upload_id, "outcome"):
            return None
        info = self.read(upload_id, "info")
        assert info
        metadata = info["metadata"]
        expected = {name: metadata[name] for name in ("md5", "sha256") if name in metadata}
        record = _record(upload_id, info)
        return DiskUpload(self, upload_id, growth.proven, metadata, expected, record)

    def _sweep(self, dry_run: bool) -> list[Swept]:
        swept = []
        for outcome in self.directory.glob("*.outcome"):
            data = self.data(outcome.stem)
            due = time.time() - outcome.stat().st_mtime > self._ttl_seconds
            if not due or not data.exists():
                continue
            try:
                descriptor = _locked(data)
            except UploadBusy:
                continue
            swept.append(Swept(outcome.stem, "archive, kept long enough", data.stat().st_size))
            if not dry_run:
                data.unlink()
            os.close(descriptor)
        return swept


def _record(upload_id: str, info: Mapping[str, Any]) -> Record:
    return Record(
        id=upload_id,
        filename=info["metadata"].get("filename", ""),
        length=info["length"],
        offset=info["length"],
        protocol="tus",
        owner=info["owner"],
        status=Status.QUEUED,
        image=info["metadata"].get("image"),
        digests={"md5": None, "sha256": None},
        created_at=info["created_at"],
        updated_at=utc_now(),
    )


def _locked(path: Path) -> int:
    """A descriptor that holds the file's lock until it is closed."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError as error:
        raise UploadBusy(path.name) from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(descriptor)
        raise UploadBusy(path.name) from error
    return descriptor


def readers_of(path: Path) -> int:
    """Descriptors of this process that are open for the file."""
    found = 0
    for descriptor in Path("/proc/self/fd").iterdir():
        with suppress(FileNotFoundError):
            found += descriptor.readlink() == path
    return found


def digests_of(path: Path) -> Digests:
    data = path.read_bytes()
    return Digests(len(data), hashlib.md5(data).hexdigest(), hashlib.sha256(data).hexdigest())  # noqa: S324
