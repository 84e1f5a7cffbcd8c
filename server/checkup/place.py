"""Checks of the data directory, and of what the kernel does there. Each is tried out for real.

Knows: locks, reservation, space, mounts.
Must not know: what the directory will hold. Nothing that is made here stays.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import anyio

from buildah.errors import BuildahError, StorageUnsuitable
from buildah.place import require_suitable
from buildah.removal import Mount, mounts
from buildah.sandbox import try_out
from server.checkup.check import Check
from server.kernel_locks import probe_locks
from server.space import GIB, MIB, free_bytes, reserve

# An archive of 20 GB is there once itself, once unpacked, and once more on its way out.
COMFORTABLE_BYTES = 60 * GIB


def place(data_dir: Path, storage_driver: str | None) -> Iterator[Check]:
    """The directory where data would lie, or where it would be made."""
    there = data_dir.absolute()
    try:
        there = _there(data_dir)
        scratch = tempfile.TemporaryDirectory(prefix=".tusboat-doctor-", dir=there)
    except OSError as error:
        yield _data_directory(f"{data_dir}: {there}: {error.strerror}", ok=False)
        return
    where = str(data_dir) if there == data_dir.absolute() else f"{data_dir}, to be made in {there}"
    yield _data_directory(where, ok=True)
    with scratch as name:
        yield _locks(Path(name))
        yield _reservation(Path(name))
        yield _space(Path(name))
    yield _storage(_jobs_directory(there, data_dir), storage_driver)


def _jobs_directory(there: Path, data_dir: Path) -> Path:
    """Where a job would unpack: often another volume, mounted in the data directory."""
    jobs_dir = data_dir.absolute() / "jobs"
    return jobs_dir if jobs_dir.is_dir() else there


def sandbox(data_dir: Path, *, network: bool) -> Check:
    """Whether a build can be shut in there; the data directory itself was looked at before."""
    ok, found, how_to_get = True, "builds are shut in", ""
    try:
        with tempfile.TemporaryDirectory(prefix=".tusboat-doctor-", dir=_there(data_dir)) as name:
            anyio.run(partial(try_out, Path(name), network=network))
    except BuildahError as error:
        ok, found, how_to_get = False, error.message, error.hint
    except OSError as error:
        ok, found = False, str(error)
    return Check("sandbox for builds", ok, found, "the setting `builds`", how_to_get)


def _there(data_dir: Path) -> Path:
    """The directory itself, or the nearest above it that is there."""
    there = data_dir.absolute()
    while not there.exists():
        there = there.parent
    return there


def _data_directory(found: str, *, ok: bool) -> Check:
    how_to_get = "set data_dir to a directory that this user may write"
    return Check("data directory", ok, found, "uploads and jobs", how_to_get)


def _locks(directory: Path) -> Check:
    ok = probe_locks(directory)
    found = "two writers exclude each other" if ok else "two writers do not exclude each other"
    how_to_get = "put data_dir on a local disk, or mount NFS without nolock"
    return Check("file locks", ok, found, "never writing an upload twice", how_to_get)


def _reservation(directory: Path) -> Check:
    descriptor = os.open(directory / "reserved", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        ok = reserve(descriptor, 0, MIB)
        found = "fallocate works" if ok else "no fallocate on this file system"
    except OSError as error:
        ok, found = False, f"fallocate: {error.strerror}"
    finally:
        os.close(descriptor)
    needed_for = "an upload that was accepted to find its space until its end"
    how_to_get = (
        "ext4, xfs and btrfs have it; without it space is only looked at when an upload starts"
    )
    return Check("space reservation", ok, found, needed_for, how_to_get, required=False)


def _space(directory: Path) -> Check:
    free = free_bytes(directory)
    return Check(
        "free space",
        free >= COMFORTABLE_BYTES,
        f"{free / GIB:.1f} GiB on {file_system(directory, mounts())}",
        f"one archive of 20 GB ({COMFORTABLE_BYTES // GIB} GiB with its job)",
        "put data_dir on a larger disk for images of that size",
        required=False,
    )


def file_system(directory: Path, mounted: list[Mount]) -> str:
    """The kind of the mount that holds the directory, and where it is mounted."""
    holders = [mount for mount in mounted if directory.resolve().is_relative_to(mount.path)]
    if not holders:
        # In a plain chroot, what holds it is outside.
        return "an unknown file system"
    # Of two at the same place the later covers the earlier, and a sort keeps their order.
    holder = sorted(holders, key=lambda mount: len(mount.path.parts))[-1]
    return f"{holder.filesystem} at {holder.path}"


def _storage(directory: Path, driver: str | None) -> Check:
    """Whether a job could keep its image there with this storage driver, or work without one."""
    how_to_get = ""
    try:
        require_suitable(directory, driver)
    except StorageUnsuitable as error:
        ok, found, how_to_get = False, error.message, error.hint
    except OSError as error:
        ok, found = False, str(error)
    else:
        root = os.geteuid() == 0
        mounts_it = "mounts as root" if root else "mounts in a user namespace"
        ok, found = True, mounts_it if driver == "overlay" else "needs no mounts"
    name = f"storage driver {driver}" if driver else "job directories"
    return Check(name, ok, found, "loading images", how_to_get)
