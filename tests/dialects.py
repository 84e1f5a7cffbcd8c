"""Every protocol behind one interface: create, append, head, remove.

Knows: which headers each protocol wants, and which status it gives for which event.
Must not know: what a test wants to prove, what is on the server's disk.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from tests.raw import OCTETS, TUS, Answer, Raw, ask
from tests.resumable import VERSIONS, chunks, ending, part, speaking


@dataclass(frozen=True)
class Place:
    """What HEAD says of an upload. `length` None: not known yet."""

    offset: int
    length: int | None
    complete: bool


@dataclass(frozen=True)
class Asked:
    """The head of an append, without the framing of its body."""

    method: str
    headers: Mapping[str, str]


class Speaker(ABC):
    """One protocol as a client speaks it.

    `protocol` is its name in the status document. `gone` is the answer for what was canceled or has
    expired, `finished` and `appended` for an append that ends the upload, or does not; `overlong`
    for a body longer than the upload, `unproven` for one whose checksum is wrong.
    """

    name: str
    protocol: str
    gone: int
    finished: int
    appended: int
    overlong: int
    unproven: int

    def __repr__(self) -> str:
        return self.name

    def create(self, port: int, length: int | None) -> str:
        """The path of a new upload without bytes; `length` None: it is said later."""
        answer = ask(port, "POST", "/files/", self.creation(length))
        assert answer.status == 201, answer
        return answer["Location"]

    def append(
        self,
        port: int,
        upload: str,
        offset: int,
        data: bytes,
        *,
        last: bool = False,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """Append bytes in one request with Content-Length; `last`: the upload ends there."""
        asked = self.appending(offset, offset + len(data) if last else None)
        return ask(port, asked.method, upload, {**asked.headers, **(headers or {})}, data)

    def append_chunked(
        self,
        port: int,
        upload: str,
        offset: int,
        data: bytes,
        *,
        last: bool = False,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """The same in chunks, so that nobody knows the body's size beforehand."""
        asked = self.appending(offset, offset + len(data) if last else None)
        coding = {"Transfer-Encoding": "chunked"}
        with Raw(port) as raw:
            raw.head(asked.method, upload, {**asked.headers, **(headers or {}), **coding})
            raw.send(chunks(data[: len(data) // 2], data[len(data) // 2 :]))
            return raw.answer(asked.method)

    @contextmanager
    def sender(
        self,
        port: int,
        upload: str,
        offset: int,
        declared: int,
        *,
        last: bool = False,
        headers: Mapping[str, str] | None = None,
    ) -> Iterator[Raw]:
        """An append of `declared` bytes that has sent its head only; it is hung up at the end."""
        asked = self.appending(offset, offset + declared if last else None)
        length = {"Content-Length": str(declared)}
        with Raw(port) as raw:
            raw.head(asked.method, upload, {**asked.headers, **(headers or {}), **length})
            yield raw

    @abstractmethod
    def creation(self, length: int | None) -> Mapping[str, str]:
        """The headers of an empty creation."""

    @abstractmethod
    def appending(self, offset: int, end: int | None) -> Asked:
        """The head of an append at `offset`; `end` is the upload's when the body ends it."""

    @abstractmethod
    def head(self, port: int, upload: str) -> Place:
        """Where the upload is."""

    @abstractmethod
    def ask(self, port: int, upload: str) -> Answer:
        """The bare answer to HEAD."""

    @abstractmethod
    def remove(self, port: int, upload: str) -> Answer:
        """DELETE."""


class Tus(Speaker):
    """tus 1.0.0; with `overridden`, PATCH and DELETE travel inside POST."""

    protocol = "tus"
    gone, finished, appended, overlong, unproven = 410, 204, 204, 413, 460

    def __init__(self, *, overridden: bool) -> None:
        self.name = "tus overridden" if overridden else "tus"
        self._overridden = overridden

    def creation(self, length: int | None) -> Mapping[str, str]:
        known = {"Upload-Defer-Length": "1"} if length is None else {"Upload-Length": str(length)}
        return {**TUS, **known}

    def appending(self, offset: int, end: int | None) -> Asked:
        method, override = self._method("PATCH")
        # The end goes without saying where the length is known; saying it again is harmless.
        length = {} if end is None else {"Upload-Length": str(end)}
        return Asked(method, {**TUS, **OCTETS, **override, "Upload-Offset": str(offset), **length})

    def head(self, port: int, upload: str) -> Place:
        answer = self.ask(port, upload)
        assert answer.status == 200, answer
        offset = int(answer["Upload-Offset"])
        deferred = answer.headers.get("upload-defer-length") == "1"
        length = None if deferred else int(answer["Upload-Length"])
        return Place(offset, length, offset == length)

    def ask(self, port: int, upload: str) -> Answer:
        return ask(port, "HEAD", upload, TUS)

    def remove(self, port: int, upload: str) -> Answer:
        method, override = self._method("DELETE")
        return ask(port, method, upload, {**TUS, **override})

    def _method(self, method: str) -> tuple[str, dict[str, str]]:
        if self._overridden:
            return "POST", {"X-HTTP-Method-Override": method}
        return method, {}


class Ietf(Speaker):
    """One interop version of the draft."""

    protocol = "ietf"
    # Interop 3 to 6 answer every append with 201, and have no 410.
    finished, overlong, unproven = 201, 400, 400

    def __init__(self, version: int) -> None:
        self.version = version
        self.name = f"interop {version}"
        self.gone = 404 if version <= 6 else 410
        self.appended = 201 if version <= 6 else 204

    def creation(self, length: int | None) -> Mapping[str, str]:
        known = {} if length is None else {"Upload-Length": str(length)}
        return {**speaking(self.version), **ending(self.version, complete=False), **known}

    def appending(self, offset: int, end: int | None) -> Asked:
        return Asked("PATCH", part(self.version, offset, complete=end is not None))

    def head(self, port: int, upload: str) -> Place:
        answer = self.ask(port, upload)
        assert answer.status == 204, answer
        name, done = ("Upload-Incomplete", "?0") if self.version == 3 else ("Upload-Complete", "?1")
        length = answer.headers.get("upload-length")
        known = None if length is None else int(length)
        return Place(int(answer["Upload-Offset"]), known, answer[name] == done)

    def ask(self, port: int, upload: str) -> Answer:
        return ask(port, "HEAD", upload, speaking(self.version))

    def remove(self, port: int, upload: str) -> Answer:
        return ask(port, "DELETE", upload, speaking(self.version))


SPEAKERS: tuple[Speaker, ...] = (
    Tus(overridden=False),
    Tus(overridden=True),
    *(Ietf(version) for version in VERSIONS),
)
