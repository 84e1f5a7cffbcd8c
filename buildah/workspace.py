"""A directory in which one job's image lives, and which leaves no trace.

Knows: the directory's layout and its lock.
Must not know: what is loaded or pushed in it, or whose job it is.

    <jobs_dir>/<job_id>.lock    held by the kernel as long as the workspace is open
    <jobs_dir>/<job_id>/        mode 0700
        storage/  run/          root and runroot of the container storage
        tmp/                    TMPDIR, and what is unpacked on the way
        home/                   HOME: configuration of the tools, an authfile while it is needed
    <jobs_dir>/.known/          without root: the programs' list of blobs that registries have
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import os
import re
import struct
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

from buildah.environment import tool_environment
from buildah.errors import StorageFull, WorkspaceBusy
from buildah.place import refuse_unsuitable
from buildah.removal import mounts, remove_tree

logger = logging.getLogger(__name__)

_JOB_ID = re.compile(r"[0-9A-Za-z][0-9A-Za-z_-]{0,63}")
LOCK_SUFFIX = ".lock"
# No job's name, so no sweep's prey.
_KNOWN_BLOBS = ".known"


class Workspace:
    """An open workspace; `env` is the whole environment for a tool that works in it."""

    def __init__(self, directory: Path, lock: int, storage_driver: str) -> None:
        """Use `open`."""
        self.directory = directory
        self.storage_driver = storage_driver
        self.tmp = directory / "tmp"
        self.home = directory / "home"
        self.root = directory / "storage"
        self.runroot = directory / "run"
        self._lock: int | None = lock
        self.env: Mapping[str, str] = {}

    @classmethod
    def open(cls, jobs_dir: Path, job_id: str, *, storage_driver: str) -> Self:
        """Make a fresh workspace; what a dead process left under that name goes first. Blocking.

        Raises:
            StorageUnsuitable: the file system there cannot hold container storage.
            StorageFull: there is no room even for this.
            WorkspaceBusy: another process, or another place in this one, has it open.
        """
        if not _JOB_ID.fullmatch(job_id):
            raise ValueError(f"not a job id: {job_id!r}")
        jobs_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        jobs_dir = jobs_dir.resolve()
        refuse_unsuitable(jobs_dir, storage_driver, mounts())
        lock = _take_lock(jobs_dir / f"{job_id}{LOCK_SUFFIX}")
        if lock is None:
            raise WorkspaceBusy(f"Opening the workspace of job {job_id}: it is open already.")
        workspace = cls(jobs_dir / job_id, lock, storage_driver)
        try:
            workspace._make()
        except OSError as error:
            workspace.close()
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise StorageFull(
                    f"Opening the workspace of job {job_id}: there is no room in {jobs_dir}."
                ) from error
            raise
        return workspace

    @property
    def lock_descriptor(self) -> int:
        """The open file of its lock, whose content says what it needs."""
        if self._lock is None:
            raise ValueError(f"the workspace of job {self.directory.name} is closed")
        return self._lock

    @property
    def storage_arguments(self) -> tuple[str, ...]:
        """The options that keep buildah's storage in here."""
        return (
            f"--storage-driver={self.storage_driver}",
            f"--root={self.root}",
            f"--runroot={self.runroot}",
        )

    def close(self) -> None:
        """Unmount everything in it, remove it, let go of the lock. Blocking; twice is once."""
        if self._lock is None:
            return
        lock, self._lock = self._lock, None
        try:
            remove_tree(self.directory)
            # Whoever gets this lock from now on sees that its file is not there any more.
            self.directory.with_name(self.directory.name + LOCK_SUFFIX).unlink(missing_ok=True)
        finally:
            os.close(lock)

    def __enter__(self) -> Self:
        """Nothing to do."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close it."""
        self.close()

    def _make(self) -> None:
        remove_tree(self.directory)
        for directory in (self.directory, self.tmp, self.home):
            directory.mkdir(mode=0o700)
        storage_conf = self.home / "storage.conf"
        # Without one of ours, options of this machine's own would be mixed in.
        storage_conf.write_text(
            "[storage]\n"
            f'driver = "{self.storage_driver}"\n'
            f'graphroot = "{self.root}"\n'
            f'runroot = "{self.runroot}"\n'
        )
        self.env = {
            **tool_environment(self.home, self.tmp),
            "CONTAINERS_STORAGE_CONF": str(storage_conf),
            # Not in this workspace: what is known to be in a registry is not sent by a later one.
            "XDG_DATA_HOME": str(self.directory.parent / _KNOWN_BLOBS),
        }


def sweep_workspaces(jobs_dir: Path) -> list[str]:
    """Remove every workspace that nobody has open; returns their job ids. Blocking."""
    if not jobs_dir.is_dir():
        return []
    names = {entry.name.removesuffix(LOCK_SUFFIX) for entry in jobs_dir.iterdir()}
    removed = []
    for job_id in sorted(filter(_JOB_ID.fullmatch, names)):
        lock = _take_lock(jobs_dir / f"{job_id}{LOCK_SUFFIX}")
        if lock is None:
            continue
        try:
            Workspace(jobs_dir / job_id, lock, "").close()
        except OSError as error:
            # The others are worth sweeping all the same; the next sweep tries this one again.
            logger.warning("a workspace cannot be removed: job_id=%s error=%s", job_id, error)
        else:
            removed.append(job_id)
    return removed


def _take_lock(path: Path) -> int | None:
    """A descriptor that holds the lock, or None when somebody else does.

    It belongs to the open file, not to the process: two places in one process exclude each other
    too, and the kernel frees it when the last copy of the descriptor is closed. No program that is
    started inherits it.
    """
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        request = struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
        try:
            fcntl.fcntl(descriptor, fcntl.F_OFD_SETLK, request)
        except BlockingIOError:
            os.close(descriptor)
            return None
        except BaseException:
            os.close(descriptor)
            raise
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(descriptor), path.stat()):
                return descriptor
        # Its last holder has removed the file meanwhile; the lock is another file's now.
        os.close(descriptor)
