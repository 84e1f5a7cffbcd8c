"""Metrics: what is counted and timed, for whoever scrapes it.

Knows: every metric, its labels and their few values, and Prometheus' text format.
Must not know: who asks, and how numbers that exist already (free space, the queue) are found.

A number is added once for each request, step or sweep, never for a block of bytes. Labels have
listed values only, so neither an id nor a name can get into one. Several processes of one server
count in rows of one shared memory (`share`): each adds to its own row, and any of them can tell the
sum. A process that is started again in a row goes on from what its predecessor counted.
"""

from __future__ import annotations

import itertools
import threading
from array import array
from collections.abc import Iterator, MutableSequence, Sequence
from dataclasses import dataclass
from typing import Final, Literal

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
OTHER: Final = "other"
Kind = Literal["counter", "gauge", "histogram"]
# (label, its values); every combination is a series.
Labels = tuple[tuple[str, tuple[str, ...]], ...]


class _Memory:
    """Rows of numbers; this process adds to one of them."""

    def __init__(self) -> None:
        """Nothing is reserved yet, and nobody shares it."""
        self.width = 0
        self._rows: MutableSequence[float] = array("d")
        self._row = 0
        # Followers and steps count from threads.
        self._lock = threading.Lock()

    def reserve(self, count: int) -> int:
        """The first of `count` new places in a row."""
        first, self.width = self.width, self.width + count
        self._rows.extend([0.0] * count)
        return first

    def add(self, place: int, amount: float) -> None:
        with self._lock:
            self._rows[self._row * self.width + place] += amount

    def put(self, place: int, value: float) -> None:
        with self._lock:
            self._rows[self._row * self.width + place] = value

    def sum(self, place: int) -> float:
        return sum(self._rows[place :: self.width])

    def share(self, rows: MutableSequence[float], row: int) -> None:
        """Count in a row of `rows` from now on."""
        self._rows, self._row = rows, row


_memory = _Memory()
_families: list[Family] = []


class Family:
    """One metric with all its series."""

    kind: Kind
    places = 1

    def __init__(self, name: str, text: str, *labels: tuple[str, tuple[str, ...]]) -> None:
        """A metric `tusboat_NAME`; `text` says what is counted, and in which unit."""
        self.name = f"tusboat_{name}"
        self.text = text
        self.labels: Labels = labels
        self._series = {
            values: _memory.reserve(self.places)
            for values in itertools.product(*(known for _, known in labels))
        }
        _families.append(self)

    def lines(self) -> Iterator[str]:
        """Its samples, summed over all processes."""
        for values, place in self._series.items():
            pairs = [
                f'{label}="{value}"' for (label, _), value in zip(self.labels, values, strict=True)
            ]
            yield from self._samples(pairs, place)

    def clear(self) -> None:
        """Forget what a dead process of this row left, where that is no count."""

    def _samples(self, pairs: list[str], place: int) -> Iterator[str]:
        yield _sample(self.name, pairs, _memory.sum(place))

    def _place(self, values: tuple[str, ...]) -> int:
        """Where a series is; what is not listed counts as `other` (or as the last one)."""
        known = self._series.get(values)
        if known is not None:
            return known
        fitting = (
            value if value in listed else OTHER if OTHER in listed else listed[-1]
            for value, (_, listed) in zip(values, self.labels, strict=True)
        )
        return self._series[tuple(fitting)]


class Counter(Family):
    """It only grows."""

    kind = "counter"

    def add(self, amount: float = 1, *values: str) -> None:
        """Count `amount` for these label values."""
        _memory.add(self._place(values), amount)


class Gauge(Family):
    """How it is now, in this process; the sum is what the server tells."""

    kind = "gauge"

    def add(self, amount: float) -> None:
        """Change it."""
        _memory.add(self._place(()), amount)

    def put(self, value: float) -> None:
        """Set it."""
        _memory.put(self._place(()), value)

    def clear(self) -> None:
        """Nothing of a dead process goes on."""
        self.put(0)


class Histogram(Family):
    """How long things took, in buckets of seconds."""

    kind = "histogram"

    def __init__(
        self, name: str, text: str, bounds: Sequence[float], *labels: tuple[str, tuple[str, ...]]
    ) -> None:
        """Buckets up to each of `bounds`, and one for whatever is longer."""
        self._bounds = tuple(bounds)
        self.places = len(self._bounds) + 2
        super().__init__(name, text, *labels)

    def observe(self, seconds: float, *values: str) -> None:
        """Count one that took so long."""
        first = self._place(values)
        bucket = sum(seconds > bound for bound in self._bounds)
        _memory.add(first + bucket, 1)
        _memory.add(first + self.places - 1, seconds)

    def _samples(self, pairs: list[str], place: int) -> Iterator[str]:
        counted = 0.0
        for index, bound in enumerate((*self._bounds, "+Inf")):
            counted += _memory.sum(place + index)
            yield _sample(f"{self.name}_bucket", [*pairs, f'le="{bound}"'], counted)
        yield _sample(f"{self.name}_sum", pairs, _memory.sum(place + self.places - 1))
        yield _sample(f"{self.name}_count", pairs, counted)


@dataclass(frozen=True)
class Reading:
    """A gauge that is read when somebody asks, not counted."""

    name: str
    text: str
    value: float


def exposition(readings: Sequence[Reading] = ()) -> str:
    """Everything, in Prometheus' text format."""
    lines = []
    for family in _families:
        lines += _head(family.name, family.kind, family.text)
        lines += family.lines()
    for reading in readings:
        name = f"tusboat_{reading.name}"
        lines += [*_head(name, "gauge", reading.text), _sample(name, [], reading.value)]
    return "\n".join(lines) + "\n"


def row_width() -> int:
    """How many numbers a row of shared memory holds."""
    return _memory.width


def share(rows: MutableSequence[float], row: int) -> None:
    """Count in a row of memory that other processes share; `rows` holds `row_width()` for each."""
    _memory.share(rows, row)
    for family in _families:
        family.clear()


def _head(name: str, kind: str, text: str) -> list[str]:
    return [f"# HELP {name} {text}", f"# TYPE {name} {kind}"]


def _sample(name: str, pairs: list[str], value: float) -> str:
    shown = f"{{{','.join(pairs)}}}" if pairs else ""
    return f"{name}{shown} {int(value) if float(value).is_integer() else value}"


# The first six have the names that tusd gives them, after its own prefix.
REQUESTS = Counter(
    "requests_total",
    "Requests, except those of probes.",
    ("method", ("DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", OTHER)),
)
ERRORS = Counter(
    "errors_total",
    "Answers with a status of 400 or more.",
    (
        "status",
        (
            *("400", "401", "403", "404", "405", "408", "409", "410", "411", "412", "413", "415"),
            *("422", "423", "424", "431", "460", "500", "503", "507", OTHER),
        ),
    ),
)
BYTES_RECEIVED = Counter("bytes_received", "Bytes of bodies that were written to the disk.")
UPLOADS_CREATED = Counter("uploads_created", "Uploads that were created.")
UPLOADS_FINISHED = Counter("uploads_finished", "Uploads whose last byte is on the disk.")
UPLOADS_TERMINATED = Counter("uploads_terminated", "Uploads that somebody deleted or canceled.")

ACTIVE_UPLOADS = Gauge("uploads_active", "Bodies that are being received now.")
LOCK_WAIT = Histogram(
    "lock_wait_seconds",
    "How long a request or a job waited for the lock of an upload.",
    (0.01, 0.1, 0.5, 1, 5),
    ("outcome", ("taken", "refused")),
)
CHECKSUM_FAILURES = Counter(
    "checksum_failures_total",
    "Bytes that were others than promised: of one request, or of a whole archive.",
    ("of", ("request", "archive")),
)
STEP_SECONDS = Histogram(
    "step_seconds",
    "How long a step of a job took, with all its attempts.",
    (1, 5, 15, 60, 300, 900, 1800, 3600),
    ("step", ("assemble", "verify", "build", "load", "push", "cleanup", OTHER)),
    ("outcome", ("done", "failed", "skipped", "interrupted")),
)
REDELIVERIES = Counter("redeliveries_total", "Jobs that were begun again after a worker died.")
RECLAIMED_BYTES = Counter("reclaimed_bytes_total", "Bytes that sweeps gave back to the disk.")
FOLLOWER_LAG = Gauge(
    "follower_lag_bytes", "Bytes that have arrived and that no follower has read yet."
)
