"""Whether a directory's file system can hold container storage: by its name, and by trying.

Knows: file systems by name, what images are made of, what each storage driver needs.
Must not know: what is stored there. Nothing that is tried out stays.

A name is known at once, and says more to a person; but many object stores are mounted as a bare
`fuse`, and a file server's options decide what it can do. So what storage needs is also done once.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import subprocess
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from buildah.environment import PATH
from buildah.errors import OverlayNotPermitted, StorageUnsuitable
from buildah.removal import Mount, mounts, remove_tree

# Object storage made to look like files has no links, owners or renames worth the name.
_OBJECT_STORAGE = frozenset(
    {
        "blobfuse", "blobfuse2", "csi-s3", "gcsfuse", "geesefs", "goofys", "mount-s3",
        "mountpoint-s3", "ossfs", "rclone", "s3fs", "s3ql", "yas3fs",
    }
)  # fmt: skip
# The kernel's overlay cannot have its upper directory there.
_NO_OVERLAY_UPPER = frozenset(
    {"nfs", "nfs4", "cifs", "smb3", "9p", "overlay", "vfat", "exfat", "ceph", "virtiofs"}
)
# They separate the directories and options of an overlay mount.
_MOUNT_OPTION_MARKS = frozenset(":,\\")

_OVERLAY_HINT = "Put the data directory on a local disk, or use the storage driver vfs."
_UNUSUAL_MODE = 0o4751
_TRIAL_SECONDS = 20
# First where it works if anywhere, then where it has to. In a mount namespace of its own: all of it
# is gone with the shell.
_TRIAL = """\
set -e
mkdir reference
mount -t tmpfs tmpfs reference || exit 3
for where in reference .; do
    mkdir "$where/lower" "$where/upper" "$where/work" "$where/merged"
    : >"$where/lower/file"
    options="lowerdir=$where/lower,upperdir=$where/upper,workdir=$where/work$1"
    status=4
    [ "$where" = . ] || status=3
    mount -t overlay overlay -o "$options" "$where/merged" || exit "$status"
    rm "$where/merged/file" || exit "$status"
    : >"$where/merged/file" || exit "$status"
done
"""
_NOT_HERE = 4

# What is said where it does not work, and how it is tried.
_Trial = tuple[str, Callable[[Path], bool]]


def require_suitable(directory: Path, storage_driver: str | None) -> None:
    """Try out whether container storage of that driver can live below a directory. Blocking.

    With None there is no storage, only what is unpacked on the way to a registry. It takes a few
    milliseconds on a local disk; with `overlay`, some tens more.

    Raises:
        OverlayNotPermitted: this process may not mount an overlay anywhere.
        StorageUnsuitable: the file system cannot hold it; the message names it, and what it lacks.
        OSError: the directory cannot be written to at all.
    """
    directory = directory.resolve()
    mounted = mounts()
    refuse_unsuitable(directory, storage_driver or "vfs", mounted)
    scratch = Path(tempfile.mkdtemp(prefix=".storage-trial-", dir=directory))
    try:
        for lacking in _lacking(scratch, _TRIALS if storage_driver else _FEW_TRIALS):
            raise StorageUnsuitable(
                f"Trying out {directory}: its file system, {_name(directory, mounted)}, cannot "
                f"hold images: {lacking}."
            )
        if storage_driver == "overlay":
            _try_overlay(scratch, directory, _name(directory, mounted))
    finally:
        remove_tree(scratch)


def refuse_unsuitable(directory: Path, storage_driver: str, mounted: list[Mount]) -> None:
    """Refuse a directory whose file system, or name, is known not to hold container storage.

    Raises:
        StorageUnsuitable: with the file system's name.
    """
    overlay = storage_driver == "overlay"
    if overlay and _MOUNT_OPTION_MARKS & set(str(directory)):
        raise StorageUnsuitable(
            f"Opening a workspace in {directory}: the storage driver overlay cannot work in a "
            "directory with a colon, a comma or a backslash in its path.",
            hint="Give the data directory another name, or use the storage driver vfs.",
        )
    holder = _holder(directory, mounted)
    if holder is None:
        return
    kind, name = holder.filesystem, _name(directory, mounted)
    # What is mounted as a bare `fuse` often says in the other field what it is.
    if kind.removeprefix("fuse.") in _OBJECT_STORAGE or (
        kind == "fuse" and holder.source.partition("#")[0] in _OBJECT_STORAGE
    ):
        raise StorageUnsuitable(
            f"Opening a workspace in {directory}: its file system, {name}, is object storage."
        )
    if overlay and (kind in _NO_OVERLAY_UPPER or kind.startswith("fuse")):
        raise StorageUnsuitable(
            f"Opening a workspace in {directory}: the storage driver overlay cannot work on its "
            f"file system, {name}.",
            hint=_OVERLAY_HINT,
        )


def _holder(directory: Path, mounted: list[Mount]) -> Mount | None:
    """The mount in which a directory is: the deepest; of two at one place, the later covers."""
    holders = [mount for mount in mounted if directory.is_relative_to(mount.path)]
    return max(reversed(holders), key=lambda mount: len(mount.path.parts), default=None)


def _name(directory: Path, mounted: list[Mount]) -> str:
    holder = _holder(directory, mounted)
    if holder is None:
        return "unknown"
    # The type alone says nothing of these.
    return f"fuse ({holder.source})" if holder.filesystem == "fuse" else holder.filesystem


def _lacking(scratch: Path, trials: Iterable[_Trial]) -> Iterator[str]:
    """What is tried and does not work, in the words of a person."""
    (scratch / "file").write_bytes(b"data")
    for words, trial in trials:
        try:
            if not trial(scratch):
                yield words
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise
            yield f"{words} ({error.strerror})"


def _tells_case(scratch: Path) -> bool:
    return not (scratch / "FILE").exists()


def _links(scratch: Path) -> bool:
    (scratch / "link").hardlink_to(scratch / "file")
    return os.path.samestat((scratch / "link").stat(), (scratch / "file").stat())


def _symlinks(scratch: Path) -> bool:
    (scratch / "symlink").symlink_to("file")
    return (scratch / "symlink").read_bytes() == b"data"


def _pipes(scratch: Path) -> bool:
    os.mkfifo(scratch / "pipe")
    return (scratch / "pipe").is_fifo()


def _renames(scratch: Path) -> bool:
    (scratch / "directory").mkdir()
    (scratch / "directory" / "inner").touch()
    (scratch / "directory").rename(scratch / "renamed")
    return (scratch / "renamed" / "inner").exists()


def _keeps_modes(scratch: Path) -> bool:
    (scratch / "file").chmod(_UNUSUAL_MODE)
    return stat.S_IMODE((scratch / "file").stat().st_mode) == _UNUSUAL_MODE


def _keeps_owners(scratch: Path) -> bool:
    if os.geteuid() != 0 or not _is_mapped(1):
        # Whoever is not root works with what belongs to itself.
        return True
    os.chown(scratch / "file", 1, 1)
    owner = (scratch / "file").stat()
    return (owner.st_uid, owner.st_gid) == (1, 1)


def _is_mapped(user_id: int) -> bool:
    """Whether this namespace has such a user."""
    for line in Path("/proc/self/uid_map").read_text().splitlines():
        inside, _, count = map(int, line.split())
        if inside <= user_id < inside + count:
            return True
    return False


def _locks(scratch: Path) -> bool:
    with (scratch / "file").open("r+b") as file:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    return True


_FEW_TRIALS: tuple[_Trial, ...] = (
    ("there are no symbolic links", _symlinks),
    ("files cannot be locked", _locks),
)
_TRIALS = (
    ("names there do not tell upper case from lower case", _tells_case),
    ("there are no hard links", _links),
    ("there are no named pipes", _pipes),
    ("directories cannot be renamed", _renames),
    ("permissions are not kept", _keeps_modes),
    ("files cannot be given to another owner", _keeps_owners),
    *_FEW_TRIALS,
)


def _try_overlay(scratch: Path, directory: Path, name: str) -> None:
    root = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
    options = ",userxattr" if root else ""
    argv = ["unshare", *root, "--mount", "sh", "-c", _TRIAL, "trial", options]
    try:
        done = subprocess.run(
            argv,
            cwd=scratch,
            env={"PATH": PATH, "LC_ALL": "C"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            timeout=_TRIAL_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise OverlayNotPermitted(f"Trying out {directory}: {error}.") from error
    said = next(iter(done.stderr.decode(errors="replace").splitlines()), "").strip(" .")
    if done.returncode == _NOT_HERE:
        raise StorageUnsuitable(
            f"Trying out {directory}: the storage driver overlay cannot work on its file system, "
            f"{name} ({said}).",
            hint=_OVERLAY_HINT,
        )
    if done.returncode:
        raise OverlayNotPermitted(
            f"Trying out {directory}: this process may not mount an overlay ({said})."
        )
