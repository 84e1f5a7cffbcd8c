"""How far a program is, seen from outside: by the files that it has open.

Knows: /proc/PID/fd and fdinfo.
Must not know: which program it is, or what the files hold.

A program that moves gigabytes through files tells more by its file positions than by its words:
buildah prints nothing without a terminal, and with one it counts only one of its passes.
"""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from anyio import from_thread

from buildah.command import group_members

_REPORT_SECONDS = 0.25

# Takes how far something is, 0 to 1.
Share = Callable[[float], None]


def part(whole: Share, start: float, end: float) -> Share:
    """How far a part is, told to the whole in which it lies between `start` and `end`."""
    return lambda share: whole(start + (end - start) * min(share, 1.0))


class Meter:
    """Hands a growing share of a total on, on the event loop: never less, not more than 4/s."""

    def __init__(self, progress: Callable[[int, int], None], total_bytes: int) -> None:
        """Report against `total_bytes`; nothing is reported while that is 0 (not known)."""
        self._progress = progress
        self._total = total_bytes
        self._done = -1
        self._due = 0.0

    def report(self, share: float) -> None:
        """Say how far it is, 0 to 1. For a worker thread that the event loop waits for.

        Less than all is said even at 1: `finish` says the rest, when nothing can fail any more.
        """
        done = min(int(self._total * share), self._total - 1)
        now = time.monotonic()
        if done > self._done and now >= self._due:
            self._done, self._due = done, now + _REPORT_SECONDS
            from_thread.run_sync(self._progress, done, self._total)

    def finish(self) -> None:
        """Say that all is done. For the event loop."""
        self._progress(self._total, self._total)


class FileActivity:
    """What a process group has written to, and read back from, temporary files of a pattern."""

    def __init__(self, directory: Path, pattern: re.Pattern[str]) -> None:
        """Watch the files below `directory` whose path from there matches the pattern wholly."""
        self._directory = f"{directory}/"
        self._pattern = pattern
        self._written: dict[str, int] = {}
        self._read: dict[str, int] = {}
        self._reading: set[str] = set()

    @property
    def written_bytes(self) -> int:
        """Bytes written so far."""
        return sum(self._written.values())

    @property
    def read_bytes(self) -> int:
        """Bytes read back so far; a file that was being read and is closed was read wholly."""
        return sum(self._read.values())

    def scan(self, pgid: int) -> None:
        """Look once. Blocking, a few milliseconds."""
        seen: set[str] = set()
        for pid in group_members(pgid):
            with contextlib.suppress(OSError):
                for descriptor in os.scandir(f"/proc/{pid}/fd"):
                    # A file may be closed, and a process end, at any moment.
                    with contextlib.suppress(OSError, ValueError):
                        self._look(pid, descriptor, seen)
        for name in self._reading - seen:
            self._read[name] = self._written.get(name, 0)
        self._reading &= seen

    def _look(self, pid: int, descriptor: os.DirEntry[str], seen: set[str]) -> None:
        target = str(Path(descriptor.path).readlink())
        name = target.removeprefix(self._directory)
        if name == target or not self._pattern.fullmatch(name):
            return
        # The size comes first: a file that is being written is then never beyond its position.
        size = descriptor.stat().st_size
        info = Path(f"/proc/{pid}/fdinfo/{descriptor.name}").read_text()
        fields = dict(line.split(":", 1) for line in info.splitlines())
        position, access = int(fields["pos"]), int(fields["flags"], 8) & os.O_ACCMODE
        self._written[name] = max(size, self._written.get(name, 0))
        if access == os.O_RDONLY or (access == os.O_RDWR and position < size):
            self._read[name] = max(position, self._read.get(name, 0))
            self._reading.add(name)
        if name in self._reading:
            seen.add(name)


@dataclass(frozen=True)
class Span:
    """Some bytes of a file, which are read from the first to the last."""

    file: Path
    offset: int
    size: int


class ReadPositions:
    """How much of some spans a process group has read, by where it stands in their files."""

    def __init__(self, spans: Sequence[Span]) -> None:
        """Watch these."""
        self._spans: dict[str, list[Span]] = {}
        for span in spans:
            self._spans.setdefault(str(span.file.resolve()), []).append(span)
        self._read: dict[Span, int] = {}

    @property
    def read_bytes(self) -> int:
        """Bytes read so far, as far as it was seen."""
        return sum(self._read.values())

    def scan(self, pgid: int) -> None:
        """Look once. Blocking, a few milliseconds."""
        for pid in group_members(pgid):
            with contextlib.suppress(OSError):
                for descriptor in os.scandir(f"/proc/{pid}/fd"):
                    # A file may be closed, and a process end, at any moment.
                    with contextlib.suppress(OSError, ValueError):
                        spans = self._spans.get(str(Path(descriptor.path).readlink()))
                        if spans:
                            self._look(spans, f"/proc/{pid}/fdinfo/{descriptor.name}")

    def _look(self, spans: list[Span], info: str) -> None:
        fields = dict(line.split(":", 1) for line in Path(info).read_text().splitlines())
        position = int(fields["pos"])
        for span in spans:
            if span.offset < position <= span.offset + span.size:
                self._read[span] = max(position - span.offset, self._read.get(span, 0))


def bytes_in(directory: Path) -> int:
    """What a program has written to the files of a directory so far. Blocking."""
    done_bytes = 0
    with contextlib.suppress(OSError):
        for entry in os.scandir(directory):
            with contextlib.suppress(OSError):
                done_bytes += entry.stat().st_size
    return done_bytes
