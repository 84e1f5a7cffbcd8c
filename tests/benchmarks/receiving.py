"""How fast and how dear receiving is, beside other tus servers, on this machine, in one run.

Prints Markdown; says nothing about what is good. `make bench`, or with arguments
`make bench BENCH_ARGS="--gib 2 --rounds 5"`. See README.md beside this file.
"""

from __future__ import annotations

import argparse
import datetime
import os
import platform
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from http import HTTPStatus
from pathlib import Path
from typing import Final

import psutil

from tests.benchmarks.peers import Peer, Running, others, tusboat
from tests.benchmarks.sending import GIB, MIB, Cost, Sender, make_source, measure
from tests.live import ROOT
from tests.raw import TUS, Raw, ask

RESULTS: Final = Path(__file__).with_name("RESULTS.md")
PATCH_BYTES: Final = 64 * MIB
AT_ONCE: Final = 4
AT_ONCE_BYTES: Final = 512 * MIB
DIGEST_BYTES: Final = 2 * GIB
DIGEST_RATE: Final = 300  # MiB/s
DIGEST_UPLOADS: Final = 5
DIGEST_LIMIT_SECONDS: Final = 120
POLL_SECONDS: Final = 0.005

Measure = Callable[[Running], Cost]


def main() -> None:
    """Measure, print, and write RESULTS.md if asked."""
    asked = _arguments()
    # What was started is stopped, whichever way this ends.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    peers, left_out = others()
    peers = [tusboat("patch"), tusboat("never"), *peers]
    peers = [peer for peer in peers if asked.only in peer.name]
    with tempfile.TemporaryDirectory(prefix="tb-", dir=asked.directory) as made:
        place = Path(made)
        source = place / "source"
        make_source(source, int(asked.gib * GIB))
        sections = [f"# Receiving, measured\n\n{_machine(place)}"]
        for title, measured in _parts(asked, source):
            sections.append(f"## {title}\n\n{_compare(peers, measured, asked.rounds, place)}")
        if not asked.parts or "digests" in asked.parts:
            sections.append(_digests(place, source))
    sections += ["## Left out\n\n" + "\n".join(left_out)] if left_out else []
    text = "\n\n".join(sections) + "\n"
    print(text)
    if asked.write:
        RESULTS.write_text(text)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make bench BENCH_ARGS=...")
    parser.add_argument("--gib", type=float, default=1, help="bytes of one upload, in GiB")
    parser.add_argument("--rounds", type=int, default=3, help="alternated rounds over all servers")
    parser.add_argument("--only", default="", metavar="WORD", help="servers with WORD in the name")
    parser.add_argument(
        "--parts", nargs="*", choices=("one", "patches", "four", "digests"), help="not everything"
    )
    parser.add_argument("--directory", type=Path, help="where the data goes; default: TMPDIR")
    parser.add_argument("--write", action="store_true", help=f"write {RESULTS.name}, too")
    return parser.parse_args()


def _parts(asked: argparse.Namespace, source: Path) -> Iterator[tuple[str, Measure]]:
    size = source.stat().st_size
    upload = partial(measure, source=source)
    parts: dict[str, tuple[str, Measure]] = {
        "one": (f"One PATCH of {size / GIB:g} GiB", partial(upload, size=size, patch=size)),
        "patches": (
            f"{size / GIB:g} GiB in PATCHes of {PATCH_BYTES // MIB} MiB",
            partial(upload, size=size, patch=PATCH_BYTES),
        ),
        "four": (
            f"{AT_ONCE} uploads of {AT_ONCE_BYTES // MIB} MiB at once, one PATCH each",
            partial(upload, size=AT_ONCE_BYTES, patch=AT_ONCE_BYTES, at_once=AT_ONCE),
        ),
    }
    return (part for name, part in parts.items() if not asked.parts or name in asked.parts)


def _compare(peers: Sequence[Peer], measured: Measure, rounds: int, place: Path) -> str:
    """A table; the servers take turns, so that a slow minute of the machine hits them all."""
    costs: dict[Peer, list[Cost]] = {peer: [] for peer in peers}
    failures: dict[Peer, str] = {}
    for _ in range(rounds):
        for peer in peers:
            print(".", end="", file=sys.stderr, flush=True)
            try:
                with _started(peer, place) as server:
                    costs[peer].append(measured(server))
            except (AssertionError, OSError) as error:
                failures[peer] = str(error).splitlines()[0]
    print(file=sys.stderr)
    return _table(costs, failures)


@contextmanager
def _started(peer: Peer, place: Path) -> Iterator[Running]:
    """A fresh server in a fresh folder; afterwards the disk owes nothing to the next one."""
    with tempfile.TemporaryDirectory(dir=place) as home, peer.start(Path(home)) as server:
        os.sync()
        yield server
    os.sync()


def _table(costs: dict[Peer, list[Cost]], failures: dict[Peer, str]) -> str:
    lines = [
        "| server | on the disk at the 204 | MiB/s to the 204 | MiB/s to the disk "
        "| server CPU s per GiB | peak RSS MiB |",
        "|---|---|---|---|---|---|",
    ]
    for peer, rows in costs.items():
        columns = (
            [row.size / MIB / row.answered_seconds for row in rows],
            [row.size / MIB / row.on_disk_seconds for row in rows],
            [row.cpu_seconds / (row.size / GIB) for row in rows],
            [row.peak_rss_bytes / MIB for row in rows],
        )
        digits = (0, 0, 2, 0)
        cells = [_spread(column, places) for column, places in zip(columns, digits, strict=True)]
        flushed = "yes" if peer.flushes else "no"
        lines.append(f"| {peer.name} | {flushed} | {' | '.join(cells)} |")
    notes = [f"{peer.name} failed in a round: {words}" for peer, words in failures.items()]
    return "\n".join([*lines, *(["", *notes] if notes else [])])


def _spread(values: Sequence[float], digits: int) -> str:
    """Minimum / median / maximum."""
    if not values:
        return "-"
    three = (min(values), statistics.median(values), max(values))
    return " / ".join(f"{value:.{digits}f}" for value in three)


def _digests(place: Path, source: Path) -> str:
    """From the last 204 until the status document has the digests."""
    peer = tusboat("patch", run_worker=True)
    waits, rates = [], []
    with _started(peer, place) as server:
        for _ in range(DIGEST_UPLOADS):
            print(".", end="", file=sys.stderr, flush=True)
            sender = Sender(server.port, source)
            path, begun = sender.create(DIGEST_BYTES), time.monotonic()
            sender.upload(path, DIGEST_BYTES, PATCH_BYTES, DIGEST_RATE)
            answered = time.monotonic()
            waits.append(_digests_after(server.port, path) - answered)
            rates.append(DIGEST_BYTES / MIB / (answered - begun))
            sender.close()
            assert ask(server.port, "DELETE", path, TUS).status == HTTPStatus.NO_CONTENT
            os.sync()
    print(file=sys.stderr)
    return (
        f"## Digests behind the upload\n\n"
        f"{DIGEST_UPLOADS} uploads of {DIGEST_BYTES // GIB} GiB to {peer.name}, in PATCHes of "
        f"{PATCH_BYTES // MIB} MiB, paced at {DIGEST_RATE} MiB/s (came to {_spread(rates, 0)}): "
        f"seconds from the last 204 until the status document has MD5 and SHA-256 of the whole "
        f"file, asked every {POLL_SECONDS * 1000:g} ms:\n\n"
        f"median {statistics.median(waits):.3f}, maximum {max(waits):.3f}"
    )


def _digests_after(port: int, path: str) -> float:
    """The moment at which the verify step is over and both digests are there."""
    address = f"/api/uploads/{path.rsplit('/', 1)[-1]}"
    deadline = time.monotonic() + DIGEST_LIMIT_SECONDS
    with Raw(port) as raw:
        while time.monotonic() < deadline:
            found = raw.request("GET", address).problem
            states = {step["name"]: step["state"] for step in found["steps"]}
            whole = found["digests"].get("md5") and found["digests"].get("sha256")
            if states.get("verify") in ("done", "skipped") and whole:
                return time.monotonic()
            time.sleep(POLL_SECONDS)
    raise AssertionError(f"no digests within {DIGEST_LIMIT_SECONDS} s: {found}")


def _machine(place: Path) -> str:
    disks = [disk for disk in psutil.disk_partitions(all=True) if _holds(disk.mountpoint, place)]
    system = max(disks, key=lambda disk: len(disk.mountpoint)).fstype
    described = subprocess.run(
        ["git", "describe", "--always", "--dirty"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    commit = described.stdout.strip()
    cpu = next(
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    )
    return (
        f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d}, tusboat at {commit or 'no commit'}: "
        f"{os.cpu_count()} cores ({cpu}), {psutil.virtual_memory().total / GIB:.0f} GiB of memory, "
        f"Linux {platform.release()}, {system}, Python {platform.python_version()}, load average "
        f"of whatever else ran when it began {os.getloadavg()[0]:.1f}. "
        f"Each cell: minimum / median / maximum. README.md says how it was measured."
    )


def _holds(mountpoint: str, place: Path) -> bool:
    return place.resolve().is_relative_to(mountpoint)


if __name__ == "__main__":
    main()
