from __future__ import annotations

import bz2
import contextlib
import io
import json
import lzma
import os
import tarfile
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from buildah.archive import inspect
from buildah.compression import Compression, compression
from buildah.contents import Format
from buildah.errors import ArchiveError, ArchiveInvalid, ArchiveNoImage, ArchiveTruncated
from buildah.tar import Entry, TarError, entries
from tests.archives import (
    GIB,
    MIB,
    write_docker_archive,
    write_oci_archive,
    write_random,
    write_truncated,
    write_without_image,
)

Files = dict[str, bytes]


def write_tar(path: Path, files: Files, form: int = tarfile.GNU_FORMAT) -> Path:
    with tarfile.open(path, "w", format=form) as tar:
        for name, data in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    return path


def read_entries(path: Path) -> list[Entry]:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        return list(entries(descriptor))
    finally:
        os.close(descriptor)


def manifest(**changes: Any) -> bytes:
    return json.dumps(
        [{"Config": "c.json", "RepoTags": ["a:1"], "Layers": ["l.tar"]} | changes]
    ).encode()


INDEX = json.dumps({"manifests": [{"digest": "sha256:ab"}]}).encode()


def test_where_both_forms_are_there_the_docker_list_is_believed(tmp_path: Path) -> None:
    path = write_tar(
        tmp_path / "a",
        {"index.json": INDEX, "manifest.json": manifest(), "l.tar": b"123", "c.json": b"{}"},
    )
    contents = inspect(path)
    assert contents.format is Format.BOTH
    assert [layer.name for layer in contents.images[0].platforms[0].layers] == ["l.tar"]


def test_names_may_begin_with_a_dot(tmp_path: Path) -> None:
    files = {"./manifest.json": manifest(), "./l.tar": b"12", "./c.json": b"{}"}
    contents = inspect(write_tar(tmp_path / "a", files))
    assert contents.images[0].platforms[0].size_bytes == 2
    assert not contents.refusals


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
@pytest.mark.parametrize("name", ["short", "d" * 90 + "/" + "n" * 90, "ü" * 40, "x/" * 60 + "y"])
def test_names_are_read_in_every_form(tmp_path: Path, form: int, name: str) -> None:
    path = write_tar(tmp_path / "a", {name: b"123", "after": b""}, form)
    with tarfile.open(path) as tar:
        expected = [(entry.name, entry.offset_data, entry.size) for entry in tar]
    assert [entry[:3] for entry in read_entries(path)] == expected


def test_links_and_directories_have_no_bytes_whatever_their_size_says(tmp_path: Path) -> None:
    path = tmp_path / "a"
    with path.open("wb") as out:
        for kind in (tarfile.LNKTYPE, tarfile.SYMTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE):
            entry = tarfile.TarInfo("x")
            entry.type, entry.size = kind, 5000
            out.write(entry.tobuf(tarfile.GNU_FORMAT))
        out.write(tarfile.TarInfo("end").tobuf(tarfile.GNU_FORMAT))
    assert [(row.name, row.size, row.regular) for row in read_entries(path)] == [
        *[("x", 0, False)] * 4,
        ("end", 0, True),
    ]


def test_a_size_of_eight_gibibytes_and_more(tmp_path: Path) -> None:
    path = tmp_path / "a"
    with path.open("wb") as out:
        for form in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
            entry = tarfile.TarInfo("big")
            entry.size = 9 * GIB
            out.write(entry.tobuf(form))
            out.seek(9 * GIB, os.SEEK_CUR)
        out.write(bytes(1024))
    assert [row.size for row in read_entries(path)] == [9 * GIB] * 2


BROKEN: dict[str, tuple[Callable[[Path], object], type[ArchiveError], str]] = {
    "empty": (lambda path: path.write_bytes(b""), ArchiveInvalid, "empty"),
    "zeros": (lambda path: path.write_bytes(bytes(10240)), ArchiveInvalid, "empty"),
    "random": (write_random, ArchiveInvalid, "not a tar"),
    "text": (lambda path: path.write_text("FROM scratch\n" * 100), ArchiveInvalid, "not a tar"),
    "tiny": (lambda path: path.write_bytes(b"x"), ArchiveTruncated, "header"),
    "docker cut": (write_truncated, ArchiveTruncated, "ends at byte"),
    "oci cut": (lambda path: write_truncated(path, oci=True), ArchiveTruncated, "ends at byte"),
    "no image": (write_without_image, ArchiveNoImage, "neither"),
    "not json": (
        lambda path: write_tar(path, {"manifest.json": b"{nope"}),
        ArchiveInvalid,
        "not JSON",
    ),
    "deep json": (
        lambda path: write_tar(path, {"manifest.json": b"[" * 500_000}),
        ArchiveInvalid,
        "not JSON",
    ),
    "wrong json": (
        lambda path: write_tar(path, {"manifest.json": b'{"a": 1}'}),
        ArchiveInvalid,
        "not a list",
    ),
    "huge manifest": (
        lambda path: write_tar(path, {"manifest.json": b" " * (MIB + 1)}),
        ArchiveInvalid,
        "1048577 bytes",
    ),
    "a manifest that is a directory": (
        lambda path: write_tar(path, {"manifest.json/x": b""}),
        ArchiveNoImage,
        "neither",
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_what_is_wrong_with_an_archive_is_said(tmp_path: Path, case: str) -> None:
    write, error, words = BROKEN[case]
    write(tmp_path / "a")
    with pytest.raises(ArchiveError) as refused:
        inspect(tmp_path / "a")
    assert type(refused.value) is error
    assert words in refused.value.message
    assert refused.value.hint
    assert not refused.value.retryable


@pytest.mark.parametrize(
    "files", [{"manifest.json": b"[]"}, {"index.json": b'{"manifests": []}'}], ids=["docker", "oci"]
)
def test_an_empty_list_of_images_is_refused(tmp_path: Path, files: Files) -> None:
    (refusal,) = inspect(write_tar(tmp_path / "a", files)).refusals
    assert refusal.code == ArchiveNoImage.code
    assert "list of images is empty" in refusal.message


@pytest.mark.parametrize(
    "json_text",
    ['[{"RepoTags": 5, "Layers": "x"}]', '[{"RepoTags": [null, {}], "Layers": [1]}]', "[{}]"],
)
def test_a_manifest_of_wrong_types_is_refused(tmp_path: Path, json_text: str) -> None:
    with pytest.raises(ArchiveInvalid):
        inspect(write_tar(tmp_path / "a", {"manifest.json": json_text.encode()}))


def test_a_header_that_announces_gigabytes_is_refused_without_reading_them(tmp_path: Path) -> None:
    path = tmp_path / "a"
    entry = tarfile.TarInfo("x")
    entry.type, entry.size = tarfile.XHDTYPE, 8 * GIB
    with path.open("wb") as out:
        out.write(entry.tobuf(tarfile.GNU_FORMAT))
        out.truncate(9 * GIB)
    tracemalloc.start()
    try:
        with pytest.raises(ArchiveInvalid, match="extended header"):
            inspect(path)
        assert tracemalloc.get_traced_memory()[1] < MIB
    finally:
        tracemalloc.stop()


def test_entries_without_end_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(tarfile.TarInfo("x").tobuf(tarfile.GNU_FORMAT) * 100_001)
    with pytest.raises(ArchiveInvalid, match="more than 100000 entries"):
        inspect(path)


def test_a_sparse_entry_is_refused(tmp_path: Path) -> None:
    entry = tarfile.TarInfo("x")
    entry.type = tarfile.GNUTYPE_SPARSE
    (tmp_path / "a").write_bytes(entry.tobuf(tarfile.GNU_FORMAT) + bytes(1024))
    with pytest.raises(ArchiveInvalid, match="sparse"):
        inspect(tmp_path / "a")


def test_looking_costs_no_time_and_memory_by_size(tmp_path: Path) -> None:
    path = tmp_path / "a"
    with path.open("wb") as out:
        for number in range(20):
            entry = tarfile.TarInfo(f"layer-{number}")
            entry.size = GIB
            out.write(entry.tobuf(tarfile.GNU_FORMAT))
            out.seek(GIB, os.SEEK_CUR)
        out.write(tarfile.TarInfo("index").tobuf(tarfile.GNU_FORMAT))
    started = time.monotonic()
    with pytest.raises(ArchiveNoImage):
        inspect(path)
    assert time.monotonic() - started < 1


@pytest.mark.parametrize(
    ("write", "kind"),
    [
        (lambda data: data, Compression.NONE),
        (bz2.compress, Compression.BZIP2),
        (lzma.compress, Compression.XZ),
        (lambda _: b"\x28\xb5\x2f\xfd rest", Compression.ZSTD),
        (lambda _: b"\x1f\x8b\x08 rest", Compression.GZIP),
        (lambda _: b"", Compression.NONE),
    ],
)
def test_compression_is_told_by_the_first_bytes(
    tmp_path: Path, write: Callable[[bytes], bytes], kind: Compression
) -> None:
    data = write_docker_archive(tmp_path / "a").path.read_bytes()
    (tmp_path / "b").write_bytes(write(data))
    assert compression(tmp_path / "b") is kind


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_whatever_the_bytes_only_archive_errors_are_raised(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    path = tmp_path_factory.getbasetemp() / "damaged"
    write = data.draw(st.sampled_from([write_docker_archive, write_oci_archive]))
    whole = bytearray(write(path, [100]).path.read_bytes())
    for _ in range(data.draw(st.integers(1, 8))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(whole[: data.draw(st.integers(0, len(whole)))])
    with contextlib.suppress(ArchiveError):
        inspect(path)


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=400), st.sampled_from([b"x", b"g", b"L", b"K"]))
def test_whatever_an_extended_header_says_only_tar_errors_are_raised(
    tmp_path_factory: pytest.TempPathFactory, data: bytes, kind: bytes
) -> None:
    path = tmp_path_factory.getbasetemp() / "extended"
    header = tarfile.TarInfo("x")
    header.type, header.size = kind, len(data)
    blocks = header.tobuf(tarfile.GNU_FORMAT) + data + bytes(-len(data) % 512)
    path.write_bytes(blocks + tarfile.TarInfo("y").tobuf(tarfile.GNU_FORMAT))
    with contextlib.suppress(TarError):
        read_entries(path)


@pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
@pytest.mark.parametrize("folder", ["a", "d" * 120])
def test_a_link_names_the_entry_that_it_means(tmp_path: Path, form: int, folder: str) -> None:
    """A symbolic link says it from its own folder, a hard one from the top."""
    with tarfile.open(tmp_path / "a", "w", format=form) as tar:
        for kind, target in (
            (tarfile.SYMTYPE, f"../{folder}/layer.tar"),
            (tarfile.LNKTYPE, f"{folder}/layer.tar"),
        ):
            entry = tarfile.TarInfo("b/layer.tar")
            entry.type, entry.linkname = kind, target
            tar.addfile(entry)
        tar.addfile(tarfile.TarInfo("after"))
    assert [row.target for row in read_entries(tmp_path / "a")] == [
        f"{folder}/layer.tar",
        f"{folder}/layer.tar",
        None,
    ]
