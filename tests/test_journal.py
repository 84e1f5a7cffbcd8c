"""Journals of indexed uploads: what counts, what a torn line does, several writers."""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from server.journal import Chunk, Journals, Proven

ID = "0" * 32


@pytest.fixture
def journals(tmp_path: Path) -> Journals:
    journals = Journals(tmp_path, durable=True)
    journals.begin(ID)
    return journals


def read(journals: Journals) -> Proven:
    proven = journals.read(ID)
    assert proven is not None
    return proven


def file_of(tmp_path: Path) -> Path:
    return tmp_path / f"{ID}.chunks"


def test_no_journal_is_no_indexed_upload(tmp_path: Path) -> None:
    assert Journals(tmp_path, durable=True).read(ID) is None


def test_the_prefix_ends_at_the_first_gap(journals: Journals) -> None:
    assert read(journals).prefix == 0
    journals.add(ID, Chunk(10, 10, "b"))
    assert read(journals).prefix == 0
    journals.add(ID, Chunk(0, 10, "a"))
    assert read(journals).prefix == 20
    journals.add(ID, Chunk(30, 5))
    proven = read(journals)
    assert (proven.prefix, proven.end) == (20, 35)
    assert proven.spans == ((0, 20), (30, 35))
    assert [chunk.offset for chunk in proven.chunks] == [0, 10, 30]


def test_begun_with_what_another_protocol_sent(tmp_path: Path) -> None:
    journals = Journals(tmp_path, durable=True)
    journals.begin(ID, 17)
    assert read(journals).prefix == 17


def test_gaps_are_what_no_range_covers() -> None:
    """Against the plainest model: a set of numbers."""
    chance = random.Random(5)
    for _ in range(300):
        proven, there = Proven(), set[int]()
        for _ in range(chance.randrange(8)):
            start = chance.randrange(40)
            end = start + chance.randrange(8)
            proven = proven.with_span(start, end)
            there |= set(range(start, end))
        assert {at for start, end in proven.spans for at in range(start, end)} == there
        assert all(a[1] < b[0] for a, b in zip(proven.spans, proven.spans[1:], strict=False))
        start = chance.randrange(45)
        end = start + chance.randrange(12)
        missing = {at for gap in proven.gaps(start, end) for at in range(*gap)}
        assert missing == set(range(start, end)) - there
        assert proven.covers(start, end) == (not missing)
        assert proven.prefix == next(at for at in range(60) if at not in there)


def test_a_torn_line_is_ignored_and_the_next_one_counts(tmp_path: Path, journals: Journals) -> None:
    journals.add(ID, Chunk(0, 10))
    whole = file_of(tmp_path).read_bytes()
    journals.add(ID, Chunk(10, 10))
    line = file_of(tmp_path).read_bytes()[len(whole) :]
    # Without its newline alone it says all that it meant to say.
    for cut in range(len(line) - 1):
        file_of(tmp_path).write_bytes(whole + line[:cut])
        fresh = Journals(tmp_path, durable=True)
        assert read(fresh).prefix == 10, line[:cut]
        fresh.add(ID, Chunk(10, 7))
        assert read(fresh).prefix == 17
        assert read(Journals(tmp_path, durable=True)).prefix == 17


def test_a_damaged_line_does_not_count(tmp_path: Path, journals: Journals) -> None:
    for offset in (0, 10, 20):
        journals.add(ID, Chunk(offset, 10))
    data = bytearray(file_of(tmp_path).read_bytes())
    data[data.index(b"chunk 10 10") + 6] ^= 1
    file_of(tmp_path).write_bytes(data)
    assert read(Journals(tmp_path, durable=True)).spans == ((0, 10), (20, 30))


def test_a_tail_ends_with_the_next_chunk(journals: Journals) -> None:
    journals.add(ID, Chunk(0, 10))
    journals.open_tail(ID, 10)
    assert read(journals).tail == 10
    journals.add(ID, Chunk(10, 0))
    proven = read(journals)
    assert (proven.tail, proven.prefix, len(proven.chunks)) == (None, 10, 1)


def test_a_journal_that_began_anew_is_read_anew(tmp_path: Path, journals: Journals) -> None:
    other = Journals(tmp_path, durable=True)
    journals.add(ID, Chunk(0, 10))
    assert read(other).prefix == 10
    journals.begin(ID)
    journals.add(ID, Chunk(0, 3))
    journals.add(ID, Chunk(3, 3))
    assert read(other).prefix == 6


def test_many_writers_of_several_processes_tear_nothing(tmp_path: Path) -> None:
    Journals(tmp_path, durable=False).begin(ID)
    several = [Journals(tmp_path, durable=False) for _ in range(4)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda n: several[n % 4].add(ID, Chunk(n * 10, 10, f"{n}")), range(400)))
    assert all(read(journals).spans == ((0, 4000),) for journals in several)
    assert [chunk.md5 for chunk in read(several[0]).chunks] == [f"{n}" for n in range(400)]
