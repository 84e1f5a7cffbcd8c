"""Proof: the checksum of one request's bytes, computed behind the writer.

Knows: algorithms, digests, how to read a file that still grows.
Must not know: header names, what happens when the proof fails.
"""

from __future__ import annotations

import hashlib
import os
import threading
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol

from server.space import MIB

_BLOCK_BYTES: Final = MIB
_POLL_SECONDS: Final = 0.005


class _Hash(Protocol):
    def update(self, data: memoryview, /) -> None: ...

    def digest(self) -> bytes: ...


class _Crc32:
    """zlib's CRC with the face of a hashlib object; four bytes, big-endian."""

    def __init__(self) -> None:
        self._value = 0

    def update(self, data: memoryview, /) -> None:
        self._value = zlib.crc32(data, self._value)

    def digest(self) -> bytes:
        return self._value.to_bytes(4, "big")


_HASHES: Final[dict[str, Callable[[], _Hash]]] = {
    "md5": lambda: hashlib.md5(usedforsecurity=False),
    "sha1": lambda: hashlib.sha1(usedforsecurity=False),
    "sha256": hashlib.sha256,
    "sha512": hashlib.sha512,
    "crc32": _Crc32,
}


@dataclass(frozen=True)
class Checksum:
    """A promised digest: `algorithm` is one of md5, sha1, sha256, sha512, crc32."""

    algorithm: str
    digest: bytes


@dataclass(frozen=True)
class Proof:
    """What one request's bytes must hash to: said beforehand, or in a trailer behind them."""

    checksum: Checksum | None
    trailer: Callable[[], Checksum]


class Prover:
    """Hashes a range of a file while it is written. Blocking: `run` lives in a thread."""

    def __init__(
        self, algorithm: str, descriptor: int, start: int, written: Callable[[], int]
    ) -> None:
        """Begin at `start` of an open file, never past what `written()` says is in it."""
        self._hash = _HASHES[algorithm]()
        self._descriptor = descriptor
        self._position = start
        self._written = written
        self._closed = threading.Event()

    def close(self) -> None:
        """Nothing is written any more: the range ends at `written()`."""
        self._closed.set()

    def run(self) -> bytes:
        """The digest of the whole range, once `close` was called."""
        block = memoryview(bytearray(_BLOCK_BYTES))
        while True:
            # In this order: what was written before the end was said is seen after it.
            closed = self._closed.is_set()
            count = min(_BLOCK_BYTES, self._written() - self._position)
            if count > 0:
                read = os.preadv(self._descriptor, [block[:count]], self._position)
                self._hash.update(block[:read])
                self._position += read
            elif closed:
                return self._hash.digest()
            else:
                self._closed.wait(_POLL_SECONDS)
