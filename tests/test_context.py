from __future__ import annotations

import contextlib
import functools
import os
import tarfile
import tempfile
import threading
from collections.abc import Mapping
from pathlib import Path

import anyio
import anyio.to_thread
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from buildah.archive import inspect
from buildah.contents import Format
from buildah.context import Context, Limits, unpack_context
from buildah.errors import ArchiveTruncated, ContextInvalid, StorageFull
from tests.archives import MIB
from tests.contexts import entry, write_context
from tests.failures import tiny_disk

pytestmark = pytest.mark.anyio

FILE = "FROM scratch\nCOPY . /\n"
Entries = Mapping[str, str | bytes | tarfile.TarInfo]


async def unpack(archive: Path, directory: Path, limits: Limits | None = None) -> Context:
    return await anyio.to_thread.run_sync(unpack_context, archive, directory, limits)


def names(directory: Path) -> set[str]:
    return {path.name for path in directory.iterdir()}


@pytest.mark.parametrize("name", ["Containerfile", "Dockerfile", "./Dockerfile"])
async def test_a_context_is_told_and_unpacked(tmp_path: Path, name: str) -> None:
    archive = write_context(
        tmp_path / "context.tar",
        {
            "./": entry("./", tarfile.DIRTYPE, mode=0o755),
            name: FILE,
            "src": entry("src", tarfile.DIRTYPE, mode=0o750),
            "src/main.sh": b"#!/bin/sh\n",
            "deep/er/still": b"x" * (3 * MIB),
            "src/link": entry("src/link", tarfile.SYMTYPE, "../deep/er/still"),
            "same": entry("same", tarfile.LNKTYPE, "src/main.sh"),
        },
    )
    contents = inspect(archive)
    assert contents.format is Format.BUILD_CONTEXT
    assert not contents.refusals

    context = await unpack(archive, tmp_path / "context")

    assert context.build_file == name.removeprefix("./")
    assert context.text == FILE
    top = context.directory
    assert (top / "src/link").read_bytes() == b"x" * (3 * MIB)
    assert (top / "same").samefile(top / "src/main.sh")
    assert (top / "src").stat().st_mode & 0o777 == 0o750
    assert (top / "src/main.sh").stat().st_mtime == 1_600_000_000
    assert names(tmp_path) == {"context.tar", "context"}


HOSTILE: dict[str, Entries] = {
    "upwards": {"../evil": b"x"},
    "upwards-hidden": {"a/b/../../../evil": b"x"},
    "absolute": {"/evil": b"x"},
    "link-upwards": {"l": entry("l", tarfile.SYMTYPE, "../outside")},
    "link-absolute": {"l": entry("l", tarfile.SYMTYPE, "/etc/shadow")},
    "link-empty": {"l": entry("l", tarfile.SYMTYPE, "")},
    # Each stays inside if one reads it word by word, the second is outside if one follows it.
    "link-by-link": {
        "f/x": b"x",
        "c/e": entry("c/e", tarfile.SYMTYPE, "../f"),
        "c/d": entry("c/d", tarfile.SYMTYPE, "e/../../outside"),
    },
    "through-a-link": {
        "in/x": b"x",
        "l": entry("l", tarfile.SYMTYPE, "in"),
        "l/y": b"y",
    },
    "directory-through-a-link": {
        "in/x": b"x",
        "l": entry("l", tarfile.SYMTYPE, "in"),
        "l/d": entry("l/d", tarfile.DIRTYPE),
    },
    "hard-link-outwards": {"h": entry("h", tarfile.LNKTYPE, "../secret")},
    "hard-link-absolute": {"h": entry("h", tarfile.LNKTYPE, "/etc/shadow")},
    "hard-link-nowhere": {"h": entry("h", tarfile.LNKTYPE, "not/there")},
    "hard-link-to-the-top": {"h": entry("h", tarfile.LNKTYPE, ".")},
    # A link that is harmless where it is, and would not be one level higher.
    "hard-link-of-a-link": {
        "d/l": entry("d/l", tarfile.SYMTYPE, "../inside"),
        "h": entry("h", tarfile.LNKTYPE, "d/l"),
    },
    "character-device": {"n": entry("n", tarfile.CHRTYPE, devmajor=1, devminor=3)},
    "block-device": {"b": entry("b", tarfile.BLKTYPE, devmajor=8, devminor=0)},
    "pipe": {"p": entry("p", tarfile.FIFOTYPE)},
    "file-on-a-directory": {"d/x": b"x", "d": b"now a file"},
    "long-name": {"n" * 300: b"x"},
    "too-deep": {"d/" * 200 + "x": b"x"},
}


@pytest.mark.parametrize("case", HOSTILE)
async def test_what_would_leave_the_context_is_refused(tmp_path: Path, case: str) -> None:
    outside = {"secret": b"of this machine", "outside": b"too"}
    for name, data in outside.items():
        (tmp_path / name).write_bytes(data)
    archive = write_context(tmp_path / "context.tar", {"Containerfile": FILE} | dict(HOSTILE[case]))

    with pytest.raises(ContextInvalid) as refused:
        await unpack(archive, tmp_path / "context")

    assert refused.value.hint
    assert {name: (tmp_path / name).read_bytes() for name in outside} == outside
    assert names(tmp_path) == {*outside, "context.tar", "context"}
    for path in (tmp_path / "context").rglob("*"):
        assert path.is_symlink() or path.resolve().is_relative_to(tmp_path / "context")
        assert path.lstat().st_nlink == 1 or path.is_dir()


@pytest.mark.parametrize("target", ["/etc/shadow", "other", "../../etc/shadow"])
async def test_the_build_file_is_a_file_and_no_link(tmp_path: Path, target: str) -> None:
    archive = write_context(
        tmp_path / "context.tar",
        {"other": FILE, "Containerfile": entry("Containerfile", tarfile.SYMTYPE, target)},
    )
    with pytest.raises(ContextInvalid):
        await unpack(archive, tmp_path / "context")


async def test_too_many_and_too_much_are_refused(tmp_path: Path) -> None:
    many = write_context(
        tmp_path / "many.tar", {"Containerfile": FILE} | {f"f{n}": b"" for n in range(50)}
    )
    large = write_context(tmp_path / "large.tar", {"Containerfile": FILE, "f": bytes(2 * MIB)})
    with pytest.raises(ContextInvalid, match="more than 50 entries"):
        await unpack(many, tmp_path / "context", Limits(entries=50))
    with pytest.raises(ContextInvalid, match="more than 1048576 bytes"):
        await unpack(large, tmp_path / "context", Limits(size_bytes=MIB))
    huge = write_context(tmp_path / "huge.tar", {"Containerfile": b"#" * (2 * MIB)})
    with pytest.raises(ContextInvalid, match="Containerfile has more"):
        await unpack(huge, tmp_path / "context")


async def test_what_is_set_for_other_users_is_not_kept(tmp_path: Path) -> None:
    risen = tarfile.TarInfo("risen")
    risen.mode, risen.uid, risen.gid = 0o4755, 12345, 12345
    archive = write_context(tmp_path / "c.tar", {"Dockerfile": FILE, "risen": risen})
    context = await unpack(archive, tmp_path / "context")
    facts = (context.directory / "risen").stat()
    assert (facts.st_mode & 0o7777, facts.st_uid) == (0o755, os.geteuid())


async def test_later_entries_replace_earlier_ones(tmp_path: Path) -> None:
    archive = tmp_path / "context.tar"
    first, second = tmp_path / "first", tmp_path / "second"
    first.write_text("old")
    second.write_text("new")
    write_context(archive, {"Dockerfile": FILE})
    with tarfile.open(archive, "a") as tar:
        tar.add(first, "f")
        tar.addfile(entry("g", tarfile.SYMTYPE, "f"))
        tar.add(second, "f")
        tar.add(second, "g")
    context = await unpack(archive, tmp_path / "context")
    assert (context.directory / "f").read_text() == "new"
    assert not (context.directory / "g").is_symlink()
    # Once more, over what the first time left there.
    assert (await unpack(archive, tmp_path / "context")) == context


async def test_a_context_that_is_cut_is_truncated(tmp_path: Path) -> None:
    archive = write_context(tmp_path / "c.tar", {"Dockerfile": FILE, "f": bytes(MIB)})
    archive.write_bytes(archive.read_bytes()[: MIB // 2])
    with pytest.raises(ArchiveTruncated):
        await unpack(archive, tmp_path / "context")


async def test_no_room_is_said(tmp_path: Path) -> None:
    archive = write_context(tmp_path / "c.tar", {"Dockerfile": FILE, "f": bytes(8 * MIB)})
    with tiny_disk(tmp_path / "small", "4m") as disk, pytest.raises(StorageFull):
        await unpack(archive, disk / "context")


async def test_unpacking_ends_when_the_job_is_canceled(tmp_path: Path) -> None:
    archive = write_context(
        tmp_path / "c.tar", {"Dockerfile": FILE} | {f"d/f{n}": b"x" for n in range(20_000)}
    )
    before = threading.active_count()
    with anyio.move_on_after(0.05) as scope:
        await unpack(archive, tmp_path / "context")
    assert scope.cancelled_caught
    assert not (tmp_path / "context/d/f19999").exists()
    assert threading.active_count() <= before + 1


PLAIN = st.sampled_from(["a", "b", "c"])
ODD = st.sampled_from(["..", ".", "", "d e", "\udcff", "n" * 200, "\n", "\0x", "-r"])
# Mostly what is let in: only then what follows is looked at, too.
PATHS = st.lists(PLAIN | PLAIN | PLAIN | ODD, min_size=1, max_size=3).map("/".join)
TARGETS = st.tuples(st.sampled_from(["", "", "/", "../", "../../"]), PATHS).map("".join)
KINDS = st.sampled_from([*[b"0", b"1", b"2", b"5"] * 4, b"3", b"4", b"6", b"7", b"\0", b"Z"])


@st.composite
def entries(draw: st.DrawFn) -> tarfile.TarInfo:
    kind = draw(KINDS)
    made = entry("x", kind, draw(TARGETS), mode=draw(st.integers(0, 0o7777)))
    # By a pax header: there any name can be, also one that no file can have.
    made.pax_headers = {"path": draw(PATHS), "linkpath": made.linkname}
    made.linkname = "x"
    return made


@settings(max_examples=100, deadline=None)
@given(st.lists(entries(), max_size=12))
def test_whatever_the_entries_nothing_is_outside(made: list[tarfile.TarInfo]) -> None:
    with tempfile.TemporaryDirectory() as name:
        top = Path(name).resolve()
        with tarfile.open(
            top / "c.tar", "w", format=tarfile.PAX_FORMAT, errors="surrogateescape"
        ) as tar:
            for one in [*made, tarfile.TarInfo("Dockerfile")]:
                tar.addfile(one)
        run = functools.partial(unpack, top / "c.tar", top / "deep" / "context")
        (top / "deep").mkdir()
        with contextlib.suppress(ContextInvalid):
            anyio.run(run)
        assert names(top) == {"c.tar", "deep"}
        assert names(top / "deep") <= {"context"}
        for path in (top / "deep").rglob("*"):
            assert path.is_symlink() or path.is_dir() or path.is_file()
            # Links in a circle lead nowhere; Python says so in its own way.
            with contextlib.suppress(RuntimeError, OSError):
                assert path.resolve().is_relative_to(top / "deep" / "context")
