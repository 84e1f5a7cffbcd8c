"""A place from which a stranger's build sees nothing of this machine.

Knows: namespaces, mounts, user ids: how a program is shut in.
Must not know: which program, or what it builds.

`buildah build --isolation chroot` alone shuts nobody in (measured with 1.28.2, as root): a RUN
step has the machine's network, its processes and its /dev, and with CAP_SYS_CHROOT it walks out of
its directory and reads /etc/shadow. So the program runs in namespaces of its own for mounts,
processes, IPC, host name and, unless it is allowed one, network. Its root is an empty directory
with the programs of this machine (read-only), a /dev of six harmless devices, a /proc of its own
processes, and the directories it is given. It is process 1 there: when it ends, in whatever way,
the kernel ends everything that it started and unmounts everything that it mounted.
"""

from __future__ import annotations

import itertools
import logging
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import anyio.to_thread

from buildah.command import Completed, run
from buildah.environment import PATH
from buildah.errors import BuildUnsafe

logger = logging.getLogger(__name__)

_OPERATION = "Shutting the build in"

# Debian has moved the program of that name to a package that few have; both C libraries have it.
_PIVOT = """\
import ctypes, os, sys
if ctypes.CDLL(None, use_errno=True).pivot_root(b".", b"old"):
    sys.exit("pivot_root: " + os.strerror(ctypes.get_errno()))
"""
# Arguments: the mount point, the log, `host` or `none` for the network, Python, what makes the new
# root the root, directories, --, command.
# What buildah would know of being rootless is hidden from it: 1.28 cannot map ids if it does.
_SCRIPT = """\
set -e
unset _CONTAINERS_USERNS_CONFIGURED _CONTAINERS_ROOTLESS_UID _CONTAINERS_ROOTLESS_GID
root=$1 log=$2 network=$3 python=$4 pivot=$5
shift 5
cd /
mount -t tmpfs -o size=32m,mode=0755 tmpfs "$root"
cd "$root"
mkdir dev dev/pts dev/shm etc old proc run sys tmp var
chmod 1777 tmp
for name in usr bin sbin lib lib32 lib64 libx32; do
  if [ -L "/$name" ]; then
    cp -P "/$name" "$name"
  elif [ -d "/$name" ]; then
    mkdir "$name"
    mount --rbind "/$name" "$name"
    mount -o remount,bind,ro "$name"
  fi
done
files="passwd group nsswitch.conf ld.so.cache"
if [ "$network" = host ]; then
  files="$files resolv.conf hosts"
  if [ -d /etc/ssl/certs ]; then mkdir etc/ssl && cp -RL /etc/ssl/certs etc/ssl/certs; fi
fi
for name in $files; do
  if [ -e "/etc/$name" ]; then cp "/etc/$name" "etc/$name"; fi
done
for name in null zero full random urandom tty; do
  : > "dev/$name"
  mount --bind "/dev/$name" "dev/$name"
done
ln -s /proc/self/fd dev/fd
ln -s pts/ptmx dev/ptmx
mount -t devpts -o newinstance,ptmxmode=0666,mode=620 devpts dev/pts
mount -t tmpfs -o size=64m,mode=1777 tmpfs dev/shm
mount -t proc -o nosuid,nodev,noexec proc proc
ln -s "${TMPDIR:-/tmp}" var/tmp
while [ "$1" != -- ]; do
  mkdir -p ".$1"
  mount --bind "$1" ".$1"
  shift
done
shift
"$python" -I -S -c "$pivot"
cd /
umount -l old
rmdir old
exec > "$log" 2>&1
exec "$@"
"""

# Above every user of a machine, so that these ids own nothing on it.
_FIRST_ID = 2**30
_IDS = 2**24


@dataclass(frozen=True)
class BuildIds:
    """Ids of the machine (or of the namespace we are in) that a build's own ids are mapped to.

    `ranges` are pairs of the first and the count. A build's ids go through all of them, from 0 on;
    no range may be wider than one of those that our own namespace was given, says the kernel.
    """

    ranges: tuple[tuple[int, int], ...]

    @property
    def arguments(self) -> tuple[str, ...]:
        """The options for buildah: root in the build is nobody outside it."""
        ends = itertools.accumulate(count for _first, count in self.ranges)
        rows = [
            f"{end - count}:{first}:{count}"
            for end, (first, count) in zip(ends, self.ranges, strict=True)
        ]
        return tuple(f"--userns-{kind}-map={row}" for row in rows for kind in ("uid", "gid"))


def entering() -> tuple[str, ...]:
    """The command through which a program gets root's powers, over our own files only."""
    return () if os.geteuid() == 0 else ("buildah", "unshare", "--")


def sandboxed(
    argv: Sequence[str], *, mount_point: Path, log: Path, directories: Sequence[Path], network: bool
) -> list[str]:
    """The command that runs `argv` in a sandbox, by root or by who has user namespaces' root.

    `mount_point` is an empty directory; `directories` exist and are there under the same names.
    What the program says goes to the new file `log`; if there is none, the sandbox was not made,
    and stderr says why.
    """
    return [
        *("unshare", "--mount", "--pid", "--ipc", "--uts", *(() if network else ("--net",))),
        *("--fork", "--kill-child", "--", "/bin/sh", "-c", _SCRIPT, "sandbox"),
        *(str(mount_point), str(log), "host" if network else "none", sys.executable, _PIVOT),
        *map(str, directories),
        *("--", *argv),
    ]


async def build_ids(entering: Sequence[str], env: Mapping[str, str]) -> BuildIds:
    """Ids for a build, of those that there are after `entering` (a command that runs a command).

    Raises:
        BuildUnsafe: there are none to spare.
        ToolMissing: the program that enters is not installed.
    """
    lines: list[str] = []
    completed = await run([*entering, "cat", "/proc/self/uid_map"], env=env, on_line=lines.append)
    if completed.returncode:
        cause = lines[-1] if lines else f"status {completed.returncode}"
        raise BuildUnsafe(f"{_OPERATION}: no user namespace could be made ({cause}).")
    rows = [tuple(map(int, row.split())) for row in completed.stdout.decode().splitlines()]
    if any(first <= _FIRST_ID and first + count >= _FIRST_ID + _IDS for first, _, count in rows):
        return BuildIds(((_FIRST_ID, _IDS),))
    # Id 0 is ours: root, or who runs the worker.
    spare = [(max(first, 1), first + count - max(first, 1)) for first, _outside, count in rows]
    ranges = tuple((first, count) for first, count in sorted(spare) if count > 0)
    if not ranges:
        raise BuildUnsafe(f"{_OPERATION}: this user has no subordinate ids (/etc/subuid).")
    return BuildIds(ranges)


async def try_out(directory: Path, *, network: bool) -> None:
    """Make a sandbox for nothing, in an empty directory.

    Raises:
        BuildUnsafe: none can be made here.
        ToolMissing: what makes it is not installed.
    """
    root, log = directory / "root", directory / "log"
    await anyio.to_thread.run_sync(root.mkdir)
    env = {"PATH": PATH, **dict.fromkeys(("HOME", "TMPDIR", "XDG_RUNTIME_DIR"), str(directory))}
    await build_ids(entering(), env)
    completed = await run(
        [
            *entering(),
            *sandboxed(
                ["true"], mount_point=root, log=log, directories=[directory], network=network
            ),
        ],
        env=env,
        on_line=lambda line: logger.debug("sandbox: %s", line),
    )
    await refuse_unsafe(completed, log)


async def refuse_unsafe(completed: Completed, log: Path) -> None:
    """Say why the sandbox was not made, if it was not.

    Raises:
        BuildUnsafe: it was not.
    """
    if not await anyio.to_thread.run_sync(log.exists):
        lines = completed.stderr_tail.strip().splitlines() or [f"status {completed.returncode}"]
        raise BuildUnsafe(f"{_OPERATION}: {lines[-1]}.")
