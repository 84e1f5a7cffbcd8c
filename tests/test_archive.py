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

from buildah.archive import ArchiveFacts, Compression, Transport, compression, examine
from buildah.errors import (
    ArchiveError,
    ArchiveInvalid,
    ArchiveNoImage,
    ArchiveSeveralImages,
    ArchiveTruncated,
)
from buildah.tar import Entry, TarError, entries
from tests.archives import (
    GIB,
    KIB,
    MIB,
    write_corrupt_layer,
    write_docker_archive,
    write_gzipped,
    write_oci_archive,
    write_random,
    write_several_images,
    write_several_oci_images,
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


def test_a_docker_archive(tmp_path: Path) -> None:
    archive = write_docker_archive(tmp_path / "a", [MIB, 3 * KIB])
    layers = [entry.size for entry in read_entries(archive.path) if entry.name.endswith(".tar")]
    assert examine(archive.path) == ArchiveFacts(Transport.DOCKER_ARCHIVE, sum(layers))
    assert sum(layers) > MIB + 3 * KIB


def test_an_oci_archive(tmp_path: Path) -> None:
    archive = write_oci_archive(tmp_path / "a", [MIB, 3 * KIB])
    facts = examine(archive.path)
    assert facts.transport is Transport.OCI_ARCHIVE
    assert MIB < facts.layers_bytes < archive.size


def test_where_both_forms_are_there_it_is_a_docker_archive(tmp_path: Path) -> None:
    path = write_tar(
        tmp_path / "a", {"index.json": INDEX, "manifest.json": manifest(), "l.tar": b"123"}
    )
    assert examine(path) == ArchiveFacts(Transport.DOCKER_ARCHIVE, 3)


def test_a_gzipped_layer_counts_unpacked(tmp_path: Path) -> None:
    plain = tmp_path / "layer"
    plain.write_bytes(bytes(5 * MIB))
    packed = write_gzipped(tmp_path / "layer.gz", plain).read_bytes()
    path = write_tar(tmp_path / "a", {"l.tar": packed, "manifest.json": manifest()})
    assert examine(path).layers_bytes == 5 * MIB


def test_a_size_beyond_what_gzip_can_say_is_estimated_from_below(tmp_path: Path) -> None:
    """Five gigabytes, of which gzip notes the remainder modulo four: a sparse file shows it."""
    path = tmp_path / "a"
    size = 4 * GIB + 10
    with path.open("wb") as out:
        entry = tarfile.TarInfo("l.tar")
        entry.size = size
        out.write(entry.tobuf(tarfile.GNU_FORMAT))
        out.write(b"\x1f\x8b")
        out.seek(512 + size - 4)
        out.write((7).to_bytes(4, "little"))
        out.seek(512 + -(-size // 512) * 512)
        text = io.BytesIO()
        with tarfile.open(fileobj=text, mode="w") as tail:
            name = tarfile.TarInfo("manifest.json")
            name.size = len(manifest())
            tail.addfile(name, io.BytesIO(manifest()))
        out.write(text.getvalue())
    assert examine(path).layers_bytes == 8 * GIB + 7


def test_names_may_begin_with_a_dot(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "a", {"./manifest.json": manifest(), "./l.tar": b"12"})
    assert examine(path) == ArchiveFacts(Transport.DOCKER_ARCHIVE, 2)


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
    "several": (
        lambda path: write_several_images(path, ["a/b:1", "c:2"]),
        ArchiveSeveralImages,
        "several images in it, 2 ('a/b:1', 'c:2')",
    ),
    "several oci": (
        lambda path: write_several_oci_images(path, ["one", "two"]),
        ArchiveSeveralImages,
        "several images in it, 2 ('one', 'two')",
    ),
    "no images": (
        lambda path: write_tar(path, {"manifest.json": b"[]"}),
        ArchiveNoImage,
        "list of images is empty",
    ),
    "no manifests": (
        lambda path: write_tar(path, {"index.json": b'{"manifests": []}'}),
        ArchiveNoImage,
        "list of images is empty",
    ),
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
        examine(tmp_path / "a")
    assert type(refused.value) is error
    assert words in refused.value.message
    assert refused.value.hint
    assert not refused.value.retryable


def test_the_tags_of_several_images_are_kept_and_few_are_shown(tmp_path: Path) -> None:
    tags = [f"a/b:{number}" for number in range(30)]
    write_several_images(tmp_path / "a", tags)
    with pytest.raises(ArchiveSeveralImages) as refused:
        examine(tmp_path / "a")
    assert refused.value.tags == tuple(tags)
    assert "a/b:9" in refused.value.message
    assert "a/b:10" not in refused.value.message


@pytest.mark.parametrize(
    "json_text",
    ['[{"RepoTags": 5, "Layers": "x"}]', '[{"RepoTags": [null, {}], "Layers": [1]}]', "[{}]"],
)
def test_a_manifest_of_wrong_types_is_left_to_buildah(tmp_path: Path, json_text: str) -> None:
    path = write_tar(tmp_path / "a", {"manifest.json": json_text.encode()})
    assert examine(path) == ArchiveFacts(Transport.DOCKER_ARCHIVE, 0)


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
            examine(path)
        assert tracemalloc.get_traced_memory()[1] < MIB
    finally:
        tracemalloc.stop()


def test_entries_without_end_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(tarfile.TarInfo("x").tobuf(tarfile.GNU_FORMAT) * 200_001)
    with pytest.raises(ArchiveInvalid, match="more than 200000 entries"):
        examine(path)


def test_a_sparse_entry_is_refused(tmp_path: Path) -> None:
    entry = tarfile.TarInfo("x")
    entry.type = tarfile.GNUTYPE_SPARSE
    (tmp_path / "a").write_bytes(entry.tobuf(tarfile.GNU_FORMAT) + bytes(1024))
    with pytest.raises(ArchiveInvalid, match="sparse"):
        examine(tmp_path / "a")


def test_examining_costs_no_time_and_memory_by_size(tmp_path: Path) -> None:
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
        examine(path)
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


def test_a_corrupt_layer_is_not_seen_by_headers(tmp_path: Path) -> None:
    assert examine(write_corrupt_layer(tmp_path / "a").path).layers_bytes > MIB


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
        examine(path)


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
