"""The client of the benchmark, and what a server's processes cost meanwhile.

Knows: tus over a socket with `sendfile` (the file is in the page cache, so the client costs
little), CPU seconds of a process tree, peak memory.
Must not know: which server it is, or how the numbers are shown.
"""

from __future__ import annotations

import os
import socket
import struct
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import psutil

from tests.benchmarks.peers import Running
from tests.raw import OCTETS, TUS, Raw, metadata

MIB = 2**20
GIB = 2**30
# A server that does neither read nor answer for this long has failed.
STUCK_SECONDS = 300
PACE_BYTES = 4 * MIB


@dataclass(frozen=True)
class Cost:
    """One upload or several at once: times from the first byte, CPU and memory of the server."""

    size: int
    answered_seconds: float
    on_disk_seconds: float
    cpu_seconds: float
    peak_rss_bytes: int


def make_source(path: Path, size: int) -> None:
    """A file of random bytes, on the disk and in the page cache."""
    with path.open("wb") as file:
        for start in range(0, size, MIB):
            file.write(os.urandom(min(MIB, size - start)))
        file.flush()
        os.fsync(file.fileno())


class Sender:
    """One connection that uploads the first bytes of a file (again from its start if need be)."""

    def __init__(self, port: int, source: Path) -> None:
        self._raw = Raw(port)
        # Blocking without Python's own time-out: one sendfile call moves all that it can.
        self._raw.socket.settimeout(None)
        for option in (socket.SO_SNDTIMEO, socket.SO_RCVTIMEO):
            wait = struct.pack("ll", STUCK_SECONDS, 0)
            self._raw.socket.setsockopt(socket.SOL_SOCKET, option, wait)
        self._file = source.open("rb")
        self._source_size = source.stat().st_size

    def close(self) -> None:
        self._raw.socket.close()
        self._file.close()

    def create(self, size: int) -> str:
        """The path of a new upload."""
        names = metadata(filename="bench.tar", filetype="application/x-tar")
        headers = {**TUS, "Upload-Length": str(size), **names}
        answer = self._raw.request("POST", "/files/", headers)
        if answer.status in (307, 308):  # some spell the collection without the slash
            answer = self._raw.request("POST", "/files", headers)
        assert answer.status == 201, answer
        return urlsplit(answer["Location"]).path

    def upload(self, path: str, size: int, patch: int, mib_per_second: float = 0) -> None:
        """Send in PATCHes of `patch` bytes, as fast as it goes or evenly at a rate."""
        begun = time.monotonic()
        for offset in range(0, size, patch):
            count = min(patch, size - offset)
            place = {"Upload-Offset": str(offset), "Content-Length": str(count)}
            self._raw.head("PATCH", path, {**TUS, **OCTETS, **place})
            step = PACE_BYTES if mib_per_second else count
            for start in range(offset, offset + count, step):
                self._send(start, min(step, offset + count - start))
                if mib_per_second:
                    due = begun + (start + step) / (mib_per_second * MIB)
                    time.sleep(max(0.0, due - time.monotonic()))
            answer = self._raw.answer("PATCH")
            assert answer.status == 204, answer
            assert answer["Upload-Offset"] == str(offset + count), answer

    def _send(self, start: int, count: int) -> None:
        while count:
            place = start % self._source_size
            room = min(count, self._source_size - place)
            sent = os.sendfile(self._raw.socket.fileno(), self._file.fileno(), place, room)
            start += sent
            count -= sent


def measure(server: Running, source: Path, *, size: int, patch: int, at_once: int = 1) -> Cost:
    """Upload `size` bytes `at_once` times at the same time, each in PATCHes of `patch` bytes."""
    senders = [Sender(server.port, source) for _ in range(at_once)]
    try:
        senders[0].upload(senders[0].create(MIB), MIB, MIB)  # whatever is done only once
        paths = [sender.create(size) for sender in senders]
        with ThreadPoolExecutor(at_once) as threads:
            cpu_before, begun = _cpu_seconds(server.pid), time.monotonic()
            jobs = [
                threads.submit(sender.upload, path, size, patch)
                for sender, path in zip(senders, paths, strict=True)
            ]
            for job in jobs:
                job.result()
            answered = time.monotonic() - begun
            cpu = _cpu_seconds(server.pid) - cpu_before
        _flush(server.directory, size)
        on_disk = time.monotonic() - begun
    finally:
        for sender in senders:
            sender.close()
    return Cost(size * at_once, answered, on_disk, cpu, _peak_rss_bytes(server.pid))


def _cpu_seconds(pid: int) -> float:
    main = psutil.Process(pid)
    times = [process.cpu_times() for process in (main, *main.children(recursive=True))]
    return sum(one.user + one.system for one in times)


def _peak_rss_bytes(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


def _flush(directory: Path, size: int) -> None:
    """Bring every uploaded file of that size to the disk."""
    files = [path for path in directory.rglob("*") if path.is_file()]
    whole = [path for path in files if path.stat().st_size == size]
    assert whole, f"no file of {size} bytes in {directory}"
    for path in whole:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        os.fdatasync(descriptor)
        os.close(descriptor)
