"""Runs a program that must not outlive us, and tells what it says while it runs.

Knows: processes, sessions, pipes, signals.
Must not know: what the programs are for, or what their words mean.

How nothing is left behind: a program starts as the leader of a session and process group of its
own, through a few lines of shell that first leave a guard in the same group. The guard reads from
a pipe whose write end only this process holds (it is never inherited), so it wakes when we let go
of that end, or die in whatever way, and kills the whole group. PR_SET_PDEATHSIG would not do: it
fires when the *thread* that started the child ends, and grandchildren survive it.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, cast

import anyio
import anyio.to_thread

from buildah.errors import ToolMissing
from buildah.redaction import scrub
from buildah.sizes import KIB, MIB

logger = logging.getLogger(__name__)

# How long a program may take to end by itself when it was told to.
GRACE_SECONDS = 2.0
WATCH_SECONDS = 0.25
STDERR_TAIL_BYTES = 64 * KIB

_STDOUT_BYTES = 4 * MIB
_LINE_BYTES = 64 * KIB
_READ_BYTES = 64 * KIB
# Killed processes are gone in milliseconds, unless the disk under them hangs.
_GONE_SECONDS = 10.0

# $$ stays the shell's, and after `exec` the program's, process id, which is also the group's. The
# guard ignores the signals that the group may be sent, and holds none of the program's pipes. While
# it lives the group's number cannot be given to other processes. If we died before it started, it
# finds the pipe already closed.
_GUARD = """\
exec 3<&0 </dev/null
trap '' HUP INT TERM
{ read -r _; kill -s KILL -- "-$$"; } <&3 3<&- >/dev/null 2>&1 &
trap - HUP INT TERM
exec "$@" 3<&-
"""


class GuardedProcess(subprocess.Popen[bytes]):
    """A child, and all its descendants, that end when we do or when this object is let go.

    `poll` and `wait` also let go of the guard once the child has ended, so nothing of its group
    stays behind it.
    """

    def __init__(
        self,
        argv: Sequence[str],
        *,
        env: Mapping[str, str],
        cwd: Path | None = None,
        stdout: int | IO[bytes] = subprocess.DEVNULL,
        stderr: int | IO[bytes] = subprocess.DEVNULL,
    ) -> None:
        """Start it; stdin is empty."""
        read_end, write_end = os.pipe()
        self._lifeline = os.fdopen(write_end, "wb", buffering=0)
        try:
            super().__init__(
                ["/bin/sh", "-c", _GUARD, "guard", *argv],
                env=env,
                cwd=cwd,
                stdin=read_end,
                stdout=stdout,
                stderr=stderr,
                start_new_session=True,
            )
        except BaseException:
            self._lifeline.close()
            raise
        finally:
            os.close(read_end)

    def poll(self) -> int | None:
        """The exit status, or None while the child runs."""
        status = super().poll()
        if status is not None:
            self._lifeline.close()
        return status

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the child and return its exit status (negative: the signal that ended it)."""
        status = super().wait(timeout)
        self._lifeline.close()
        return status

    def __del__(self) -> None:
        """Nobody can stop it any more, so it ends."""
        self._lifeline.close()
        super().__del__()

    def stop(self, grace_seconds: float = GRACE_SECONDS) -> None:
        """End the child and its descendants: TERM, after the grace KILL. Blocks until none runs."""
        if self.poll() is None:
            # The guard still has this number, so it can be nobody else's.
            # Unless somebody else stops it at this moment, and all of it is gone already.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.wait(grace_seconds)
        self._lifeline.close()
        super().wait()
        deadline = time.monotonic() + _GONE_SECONDS
        while _group_runs(self.pid):
            if time.monotonic() > deadline:
                logger.warning("killed processes linger: pgid=%d", self.pid)
                return
            time.sleep(0.002)


def start_guarded(
    argv: Sequence[str],
    *,
    env: Mapping[str, str],
    cwd: Path | None = None,
    stdout: int | IO[bytes] = subprocess.DEVNULL,
    stderr: int | IO[bytes] = subprocess.DEVNULL,
) -> GuardedProcess:
    """Start a long-lived child that ends when we do. Blocking for some milliseconds; any thread.

    `env` is the child's whole environment and has a PATH to find `argv[0]` on.

    Raises:
        ToolMissing: there is no such program.
    """
    program = shutil.which(argv[0], path=env.get("PATH", os.defpath))
    if program is None:
        raise ToolMissing(f"Starting {argv[0]}: the program is not installed.")
    return GuardedProcess([program, *argv[1:]], env=env, cwd=cwd, stdout=stdout, stderr=stderr)


@dataclass(frozen=True)
class Completed:
    """How a program ended: `stdout` at most 4 MiB, `stderr_tail` scrubbed, at most 64 KiB."""

    returncode: int
    stdout: bytes
    stderr_tail: str


async def run(
    argv: Sequence[str],
    *,
    env: Mapping[str, str],
    on_line: Callable[[str], None],
    cwd: Path | None = None,
    watch: Callable[[int], None] | None = None,
    secrets: Collection[str] = (),
    talks_on_stdout: bool = False,
) -> Completed:
    """Run a program to its end.

    `env` is its whole environment, to which a plain locale is added. `on_line` gets each line of
    stderr, and of stdout where that has only words for people; scrubbed of `secrets` and of
    whatever looks like one, on the event loop; if it fails, that is logged and the program goes on.
    `watch` is called about four times a second, in a worker thread, with the id of the process
    group. When the surrounding scope is cancelled the group gets TERM, KILL after two seconds, and
    is gone before the cancellation goes on.

    Raises:
        ToolMissing: there is no such program.
    """

    def start() -> GuardedProcess:
        return start_guarded(
            argv,
            env={**env, "LC_ALL": "C"},
            cwd=cwd,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    process = await anyio.to_thread.run_sync(start)
    output = _Output()
    lines, words = _Lines(on_line, secrets), _Lines(on_line, secrets)
    with process:
        try:
            async with anyio.create_task_group() as readers:
                closed = anyio.Event()
                heard = words.feed if talks_on_stdout else output.feed
                readers.start_soon(_drain, cast("IO[bytes]", process.stdout), heard)
                readers.start_soon(_drain, cast("IO[bytes]", process.stderr), lines.feed, closed)
                returncode = await _ended(process, closed, watch)
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.to_thread.run_sync(process.stop)
        lines.end()
        words.end()
    return Completed(returncode, bytes(output.data), lines.tail)


async def _drain(
    stream: IO[bytes], feed: Callable[[bytes], None], closed: anyio.Event | None = None
) -> None:
    descriptor = stream.fileno()
    os.set_blocking(descriptor, False)
    while True:
        await anyio.wait_readable(descriptor)
        with contextlib.suppress(BlockingIOError):
            data = os.read(descriptor, _READ_BYTES)
            if not data:
                break
            feed(data)
    if closed:
        closed.set()


async def _ended(
    process: GuardedProcess, closed: anyio.Event, watch: Callable[[int], None] | None
) -> int:
    """Wait for the child; that its stderr closed says that it is about to end."""
    while (status := process.poll()) is None:
        if watch:
            await anyio.to_thread.run_sync(watch, process.pid)
        if closed.is_set():
            await anyio.sleep(0.005)
        else:
            with anyio.move_on_after(WATCH_SECONDS):
                await closed.wait()
    return status


def group_members(pgid: int) -> list[int]:
    """Ids of the processes of a group that run (zombies do not)."""
    members = []
    for entry in os.scandir("/proc"):
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                # The name, in parentheses, may hold anything: what follows the last one is fixed.
                stat = Path(entry.path, "stat").read_text(errors="replace").rpartition(")")[2]
                state, _, group = stat.split()[:3]
                if int(group) == pgid and state not in "ZX":
                    members.append(int(entry.name))
    return members


def _group_runs(pgid: int) -> bool:
    try:
        os.killpg(pgid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    runs = bool(group_members(pgid))
    # The first process of a container inherits what its descendants leave, and has to reap it. Only
    # now: what ends between a reaping and the look would be left, since nobody asks once more.
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-pgid, os.WNOHANG)[0]:
            pass
    return runs


class _Output:
    """Keeps the beginning of stdout."""

    def __init__(self) -> None:
        self.data = bytearray()

    def feed(self, data: bytes) -> None:
        self.data += data[: _STDOUT_BYTES - len(self.data)]


class _Lines:
    """Cuts output into scrubbed lines, hands them on and keeps the last of them."""

    def __init__(self, on_line: Callable[[str], None], secrets: Collection[str]) -> None:
        self._on_line = on_line
        self._secrets = secrets
        self._rest = b""
        self.tail = ""

    def feed(self, data: bytes) -> None:
        *lines, rest = (self._rest + data).replace(b"\r", b"\n").split(b"\n")
        # What is too long is cut at its end, not into several lines: half a secret is not known
        # as one.
        self._rest = rest[:_LINE_BYTES]
        for line in lines:
            self._take(line[:_LINE_BYTES])

    def end(self) -> None:
        self._take(self._rest)
        self._rest = b""

    def _take(self, raw: bytes) -> None:
        line = scrub(raw.decode(errors="replace").rstrip(), self._secrets)
        if not line:
            return
        self.tail = f"{self.tail}{line}\n"[-STDERR_TAIL_BYTES:]
        try:
            self._on_line(line)
        except Exception:
            # A line for people is not worth the push of 20 GB that it tells about.
            logger.exception("a line of output could not be handed on")
