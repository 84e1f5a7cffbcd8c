"""The archive on this machine: reading, its identity, its digest beside the sender."""

from __future__ import annotations

import base64
import hashlib
import os
import random
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from server.client.archive import BLOCK_BYTES, Archive, Slice, TrailingDigest
from server.client.errors import ArchiveChanged, ArchiveUnusable
from server.client.sizes import MIB, format_size, parse_size
from tests.live import wait_until


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "llm.tar"
    path.write_bytes(random.Random(1).randbytes(3 * MIB + 17))
    return path


def md5(path: Path) -> str:
    return base64.b64encode(hashlib.md5(path.read_bytes(), usedforsecurity=False).digest()).decode()


def no_wait(_: int) -> None:
    pass


def make_pipe(path: Path) -> None:
    os.mkfifo(path)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (Path.touch, "is empty"),
        (Path.mkdir, "not a regular file"),
        (make_pipe, "not a regular file"),
        (lambda _path: None, "No such file"),
        (lambda path: path.symlink_to(path), "symbolic links"),
    ],
    ids=["empty", "directory", "pipe", "missing", "loop"],
)
def test_what_cannot_be_an_archive_is_refused_by_name(
    make: Callable[[Path], None], words: str, tmp_path: Path
) -> None:
    make(tmp_path / "x.tar")
    with pytest.raises(ArchiveUnusable, match=words) as caught:
        Archive(tmp_path / "x.tar")
    assert str(tmp_path / "x.tar") in caught.value.message


def test_a_slice_is_that_part_and_says_where_it_is(path: Path) -> None:
    positions: list[int] = []
    with Archive(path) as archive:
        part = Slice(archive, 100, MIB + 5, positions.append)
        assert len(part) == MIB + 5
        assert b"".join(part) == path.read_bytes()[100 : 100 + MIB + 5]
        assert b"".join(part) == path.read_bytes()[100 : 100 + MIB + 5], "it can be sent again"
    assert positions[0] == 100 + BLOCK_BYTES
    assert positions[-1] == 100 + MIB + 5


def test_a_file_that_grew_shrank_or_was_touched_has_changed(path: Path) -> None:
    def grow() -> None:
        with path.open("ab") as stream:
            stream.write(b"x")

    def shrink() -> None:
        os.truncate(path, 10)

    def touch() -> None:
        os.utime(path, ns=(1, 1))

    for change in (grow, shrink, touch):
        with Archive(path) as archive:
            archive.check_unchanged()
            change()
            with pytest.raises(ArchiveChanged, match=r"llm\.tar changed"):
                archive.check_unchanged()


def test_a_file_that_became_shorter_is_noticed_while_it_is_read(path: Path) -> None:
    with Archive(path) as archive:
        os.truncate(path, 1000)
        with pytest.raises(ArchiveChanged):
            list(Slice(archive, 0, archive.length, no_wait))
        digest = TrailingDigest(archive)
        with digest, pytest.raises(ArchiveChanged):
            digest.base64(no_wait)


def test_the_fingerprint_is_the_same_until_something_differs(path: Path) -> None:
    def fingerprint(*parts: str | None) -> str:
        with Archive(path) as archive:
            return archive.fingerprint(*parts)

    before = fingerprint("http://a", "x/y:1")
    assert before == fingerprint("http://a", "x/y:1")
    others = {
        fingerprint("http://b", "x/y:1"),
        fingerprint("http://a", None),
        fingerprint("ax", "y"),
    }
    status = path.stat()
    with path.open("r+b") as stream:
        stream.seek(-1, os.SEEK_END)
        stream.write(b"!")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    others.add(fingerprint("http://a", "x/y:1"))
    os.utime(path, ns=(1, 1))
    others.add(fingerprint("http://a", "x/y:1"))
    assert len(others) == 5
    assert before not in others


def test_a_name_that_is_not_utf8_can_be_said(tmp_path: Path) -> None:
    raw = os.fsencode(tmp_path) + b"/caf\xe9.tar"
    path = Path(os.fsdecode(raw))
    path.write_bytes(b"x")
    with Archive(path) as archive:
        assert archive.name.encode().startswith(b"caf")
        assert archive.fingerprint("http://a")


class WatchedArchive(Archive):
    """Tells what was read, and waits with each read until it may go on."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.read_up_to: list[int] = []
        self.may_read = threading.Event()

    def read(self, offset: int, length: int) -> bytes:
        assert self.may_read.wait(10)
        self.read_up_to.append(offset + length)
        return super().read(offset, length)


def test_the_digest_never_reads_ahead_of_the_sender_and_ends_with_it(path: Path) -> None:
    with WatchedArchive(path) as archive, TrailingDigest(archive) as digest:
        archive.may_read.set()
        for allowed, reached in ((MIB, MIB), (10, MIB), (2 * MIB + 3, 2 * MIB + 3)):
            digest.allow(allowed)
            wait_until(lambda up_to=reached: up_to in archive.read_up_to[-1:])  # type: ignore[misc]
        assert max(archive.read_up_to) == 2 * MIB + 3
        assert digest.base64(no_wait) == md5(path)
        assert digest.base64(no_wait) == md5(path), "a last chunk that was lost asks again"


def test_the_digest_says_where_it_is_while_it_is_waited_for(path: Path) -> None:
    with WatchedArchive(path) as archive, TrailingDigest(archive) as digest:
        heard: list[int] = []

        def on_wait(hashed: int) -> None:
            heard.append(hashed)
            archive.may_read.set()

        assert digest.base64(on_wait) == md5(path)
        assert heard == [0]


def test_leaving_stops_the_digest_wherever_it_is(path: Path) -> None:
    with Archive(path) as archive:
        before = threading.active_count()
        with TrailingDigest(archive) as digest:
            digest.allow(MIB)
        assert threading.active_count() == before


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("64MiB", 64 * MIB),
        ("64M", 64 * MIB),
        ("64 mb", 64 * MIB),
        ("1.5GiB", 1536 * MIB),
        ("123", 123),
        ("0", 0),
    ],
)
def test_sizes_as_people_write_them(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "MiB", "-1", "1e9", "64 parsecs", "1,5M", "0x10", "inf"])
def test_what_is_not_a_size(text: str) -> None:
    with pytest.raises(ValueError, match="not a size"):
        parse_size(text)


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (20 * 2**30, "20 GiB"), (2**50, "1024 TiB")],
)
def test_sizes_as_people_read_them(size: int, text: str) -> None:
    assert format_size(size) == text
