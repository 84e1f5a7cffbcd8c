"""Looking into archives: every writer's layout, every compression, and what strangers make up."""

from __future__ import annotations

import bz2
import contextlib
import gzip
import hashlib
import io
import json
import lzma
import os
import subprocess
import sys
import tarfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from buildah.archive import inspect
from buildah.compression import Compression
from buildah.contents import Contents, Format, Image, Writer
from buildah.errors import ArchiveCorrupt, ArchiveError, ArchiveInvalid, ArchiveTruncated

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd
from tests.archives import (
    GIB,
    KIB,
    MIB,
    Archive,
    write_containerd,
    write_corrupt_layer,
    write_crane,
    write_docker_archive,
    write_docker_from_25,
    write_docker_up_to_24,
    write_gzipped,
    write_oci_archive,
    write_random,
    write_regctl,
    write_several_images,
    write_truncated,
    write_without_image,
)
from tests.live import environment, run_tusboat


def write_tar(path: Path, files: Mapping[str, bytes]) -> Path:
    with tarfile.open(path, "w", format=tarfile.GNU_FORMAT) as tar:
        for name, data in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    return path


def only(contents: Contents) -> Image:
    assert len(contents.images) == 1
    return contents.images[0]


def packed_by(program: str, data: bytes) -> bytes:
    done = subprocess.run([program, "-q", "-c"], input=data, capture_output=True, check=True)
    return done.stdout


Write = Callable[[Path], Archive]
LAYOUTS: dict[str, tuple[Write, Format, Writer, list[Compression]]] = {
    "docker up to 24": (
        write_docker_up_to_24,
        Format.DOCKER,
        Writer.DOCKER_UP_TO_24,
        [Compression.NONE] * 2,
    ),
    "docker 25": (
        write_docker_from_25,
        Format.BOTH,
        Writer.DOCKER_FROM_25,
        [Compression.NONE] * 2,
    ),
    "containerd": (write_containerd, Format.BOTH, Writer.CONTAINERD, [Compression.GZIP]),
    "podman": (write_docker_archive, Format.DOCKER, Writer.CONTAINERS, [Compression.NONE]),
    "crane": (write_crane, Format.DOCKER, Writer.CRANE, [Compression.GZIP]),
    "regctl": (write_regctl, Format.BOTH, Writer.REGCTL, [Compression.GZIP]),
    "oci": (write_oci_archive, Format.OCI, Writer.UNKNOWN, [Compression.NONE]),
}
PACKED: dict[str, tuple[Compression, Callable[[bytes], bytes]]] = {
    "plain": (Compression.NONE, lambda data: data),
    "gzip": (Compression.GZIP, lambda data: gzip.compress(data, 1)),
    "bzip2": (Compression.BZIP2, bz2.compress),
    "xz": (Compression.XZ, lzma.compress),
    "zstd": (Compression.ZSTD, lambda data: packed_by("zstd", data)),
    "zstd in parts": (
        Compression.ZSTD,
        lambda data: packed_by("zstd", data[:700]) + packed_by("zstd", data[700:]),
    ),
    "xz in parts": (
        Compression.XZ,
        lambda data: lzma.compress(data[:700]) + bytes(4) + lzma.compress(data[700:]),
    ),
}


@pytest.mark.parametrize("packed", PACKED)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_writers_layout_is_told_plain_and_compressed(
    tmp_path: Path, layout: str, packed: str
) -> None:
    write, form, writer, layers = LAYOUTS[layout]
    kind, pack = PACKED[packed]
    archive = write(tmp_path / "a")
    archive.path.write_bytes(pack(archive.path.read_bytes()))
    contents = inspect(archive.path)
    image = only(contents)
    assert (contents.format, contents.writer, contents.compression) == (form, writer, kind)
    assert contents.size_bytes == archive.size
    assert image.tags == (archive.tag,)
    assert [one.platform for one in image.platforms] == ["linux/amd64"]
    assert image.platforms[0].image_id == f"sha256:{archive.image_id}"
    assert [layer.compression for layer in image.platforms[0].layers] == layers
    assert all((layer.size_bytes or 0) > KIB for layer in image.platforms[0].layers)
    assert not image.platforms[0].missing
    assert not contents.refusals


MULTI = ("linux/amd64", "linux/arm64/v8", "linux/s390x")


@pytest.mark.parametrize("docker_list", [True, False])
def test_a_multi_arch_archive_names_its_platforms_and_what_is_missing(
    tmp_path: Path, docker_list: bool
) -> None:
    path = tmp_path / "a"
    write_containerd(path, MULTI, absent=MULTI[2:], docker_list=docker_list)
    contents = inspect(path)
    image = only(contents)
    # The third one's config is not there to say it: its descriptor does.
    assert [one.platform for one in image.platforms] == list(MULTI)
    assert [bool(one.missing) for one in image.platforms] == [False, False, True]
    assert image.platforms[2].missing[0].startswith("sha256:")
    assert "linux/amd64, linux/arm64/v8 would be pushed" in contents.notes[0]
    (refusal,) = contents.refusals
    assert refusal.code == "archive_incomplete"
    assert "linux/s390x" in refusal.message
    assert "allow_partial" in refusal.hint


def test_an_image_of_which_no_platform_is_whole_is_refused(tmp_path: Path) -> None:
    write_containerd(tmp_path / "a", MULTI, absent=MULTI, docker_list=False)
    assert [row.code for row in inspect(tmp_path / "a").refusals] == ["archive_corrupt"]


def test_a_missing_layer_is_named_and_refused(tmp_path: Path) -> None:
    manifest = [{"Config": "c.json", "RepoTags": None, "Layers": ["gone.tar"]}]
    path = write_tar(
        tmp_path / "a", {"c.json": b"{}", "manifest.json": json.dumps(manifest).encode()}
    )
    contents = inspect(path)
    assert only(contents).tags == ()
    assert only(contents).platforms[0].missing == ("gone.tar",)
    assert [row.code for row in contents.refusals] == ["archive_corrupt"]


@pytest.mark.parametrize("name", ["Containerfile", "./Dockerfile"])
def test_a_build_context_is_told(tmp_path: Path, name: str) -> None:
    contents = inspect(write_tar(tmp_path / "a", {"src/x": b"", name: b"FROM scratch\n"}))
    assert contents.format is Format.BUILD_CONTEXT
    assert contents.images == ()
    # Whether the server builds is not known here.
    assert not contents.refusals
    assert "`builds`" in contents.notes[0]


@pytest.mark.parametrize("packed", ["plain", "gzip"])
def test_several_images_are_listed(tmp_path: Path, packed: str) -> None:
    write_several_images(tmp_path / "a", ["a/b:1", "c:2"])
    if packed == "gzip":
        (tmp_path / "a").write_bytes(gzip.compress((tmp_path / "a").read_bytes()))
    contents = inspect(tmp_path / "a")
    assert [image.tags for image in contents.images] == [("a/b:1",), ("c:2",)]
    assert "several images" in contents.notes[0]
    assert not contents.refusals


def run(*command: str | Path, home: Path) -> str:
    done = subprocess.run(
        command, check=False, capture_output=True, text=True, env=environment(home), cwd=home
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("kind", ["docker-archive", "oci-archive"])
def test_what_skopeo_writes(tmp_path: Path, kind: str) -> None:
    source = write_docker_archive(tmp_path / "source", [MIB, 3 * KIB])
    to = f"{kind}:out:example/app:7" if kind == "docker-archive" else f"{kind}:out:7"
    run("skopeo", "copy", "docker-archive:source", to, home=tmp_path)
    contents = inspect(tmp_path / "out")
    image = only(contents)
    if kind == "docker-archive":
        assert contents.writer is Writer.CONTAINERS
        assert image.tags == ("docker.io/example/app:7",)
        assert image.platforms[0].image_id == f"sha256:{source.image_id}"
    else:
        assert (contents.format, image.tags) == (Format.OCI, ("7",))
    assert len(image.platforms[0].layers) == 2
    assert not contents.refusals


def test_what_skopeo_writes_of_a_multi_arch_image(tmp_path: Path) -> None:
    write_containerd(tmp_path / "source", MULTI, docker_list=False, attested=False)
    run("skopeo", "copy", "--all", "oci-archive:source", "oci-archive:out:1", home=tmp_path)
    image = only(inspect(tmp_path / "out"))
    assert [one.platform for one in image.platforms] == list(MULTI)
    assert not any(one.missing for one in image.platforms)


@pytest.mark.parametrize("kind", ["docker-archive", "oci-archive"])
def test_what_buildah_writes(tmp_path: Path, kind: str) -> None:
    source = write_docker_archive(tmp_path / "source", [3 * KIB])
    storage = ["--storage-driver", "vfs", "--root", "root", "--runroot", "run"]
    image_id = run(
        "buildah", *storage, "pull", "-q", "docker-archive:source", home=tmp_path
    ).strip()
    assert image_id == source.image_id
    run("buildah", *storage, "push", image_id, f"{kind}:out:example/app:3", home=tmp_path)
    contents = inspect(tmp_path / "out")
    assert contents.format.value == kind
    assert only(contents).platforms[0].platform == "linux/amd64"
    assert not contents.refusals


BROKEN: dict[str, tuple[Callable[[Path], object], str]] = {
    "empty": (lambda path: path.write_bytes(b""), "archive_invalid"),
    "random": (write_random, "archive_invalid"),
    "cut": (write_truncated, "archive_truncated"),
    "no image": (write_without_image, "archive_no_image"),
    "no image in gzip": (
        lambda path: write_gzipped(path, write_without_image(path.with_name("plain"))),
        "archive_no_image",
    ),
    "huge manifest": (
        lambda path: write_tar(path, {"manifest.json": b" " * (MIB + 1)}),
        "archive_invalid",
    ),
    "deep json": (
        lambda path: write_tar(path, {"manifest.json": b"[" * 500_000}),
        "archive_invalid",
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_what_cannot_be_told_is_a_typed_error(tmp_path: Path, case: str) -> None:
    write, code = BROKEN[case]
    write(tmp_path / "a")
    with pytest.raises(ArchiveError) as refused:
        inspect(tmp_path / "a")
    assert refused.value.code == code
    assert refused.value.hint


@pytest.mark.parametrize("packed", ["gzip", "bzip2", "xz", "zstd"])
def test_a_cut_compressed_archive_is_truncated_and_a_damaged_one_corrupt(
    tmp_path: Path, packed: str
) -> None:
    path = write_docker_archive(tmp_path / "a", [MIB]).path
    whole = PACKED[packed][1](path.read_bytes())
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ArchiveTruncated):
        inspect(path)
    damaged = bytearray(whole)
    damaged[len(whole) // 2 : len(whole) // 2 + 64] = bytes(64)
    path.write_bytes(damaged)
    with pytest.raises((ArchiveCorrupt, ArchiveInvalid)):
        inspect(path)


def test_frames_as_pzstd_writes_them_are_read(tmp_path: Path) -> None:
    """Each with a frame before it that decoders pass over; the file begins with one."""
    archive = write_docker_archive(tmp_path / "a", [MIB])
    plain = archive.path.read_bytes()
    passed_over = b"\x50\x2a\x4d\x18" + (4).to_bytes(4, "little") + b"size"
    step = len(plain) // 1500
    pieces = [plain[at : at + step] for at in range(0, len(plain), step)]
    archive.path.write_bytes(b"".join(passed_over + zstd.compress(one) for one in pieces))
    contents = inspect(archive.path)
    assert contents.compression is Compression.ZSTD
    assert contents.images[0].platforms[0].image_id == f"sha256:{archive.image_id}"


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("size", [b"-0000002000", b"+0000002000", b"0000_002000"])
def test_a_size_that_is_no_number_is_refused(tmp_path: Path, size: bytes, *, packed: bool) -> None:
    header = bytearray(tarfile.TarInfo("manifest.json").tobuf(tarfile.USTAR_FORMAT))
    header[124:136] = size + b"\0"
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    data = bytes(header) + bytes(4096)
    (tmp_path / "a").write_bytes(gzip.compress(data) if packed else data)
    with pytest.raises(ArchiveInvalid, match="no number"):
        inspect(tmp_path / "a")


def test_a_bomb_is_refused(tmp_path: Path) -> None:
    """More than a gigabyte of zeros, as five megabytes of gzip."""
    entry = tarfile.TarInfo("layer.tar")
    entry.size = 4 * GIB
    with gzip.open(tmp_path / "a", "wb", 1) as out:
        out.write(entry.tobuf(tarfile.GNU_FORMAT))
        for _ in range(1100 * MIB // (4 * MIB)):
            out.write(bytes(4 * MIB))
    assert (tmp_path / "a").stat().st_size < 6 * MIB
    with pytest.raises(ArchiveInvalid, match="grow to more than") as refused:
        inspect(tmp_path / "a")
    assert refused.value.hint == "Send it uncompressed."


@pytest.mark.parametrize("packed", ["gzip", "bzip2", "xz", "zstd"])
def test_frames_without_bytes_are_refused_before_they_cost_hours(
    tmp_path: Path, packed: str
) -> None:
    one = PACKED[packed][1](b"")
    (tmp_path / "a").write_bytes(one * 2000)
    with pytest.raises(ArchiveInvalid, match="1000 empty frames") as refused:
        inspect(tmp_path / "a")
    assert refused.value.hint == "Send it uncompressed."
    data = write_docker_archive(tmp_path / "b").path.read_bytes()
    (tmp_path / "b").write_bytes(one * 900 + PACKED[packed][1](data) + one * 90)
    assert len(inspect(tmp_path / "b").images) == 1


def test_an_xz_that_asks_for_gigabytes_of_memory_is_refused(tmp_path: Path) -> None:
    data = write_docker_archive(tmp_path / "a").path.read_bytes()
    packed = bytearray(lzma.compress(data))
    # The block's header: its length, flags, LZMA2 with one byte of properties (the dictionary's
    # size: 38 is 2 GiB), padding, checksum.
    assert packed[12:16] == b"\x02\x00\x21\x01"
    packed[16] = 38
    packed[20:24] = zlib.crc32(packed[12:20]).to_bytes(4, "little")
    (tmp_path / "a").write_bytes(packed)
    with pytest.raises(ArchiveCorrupt, match=r"[Mm]emory"):
        inspect(tmp_path / "a")


def _row(**changes: Any) -> dict[str, Any]:
    return {"Config": "c.json", "RepoTags": ["a:1"], "Layers": []} | changes


CAPS: dict[str, tuple[dict[str, bytes], str]] = {
    "images": ({"manifest.json": json.dumps([_row()] * 101).encode()}, "100 images"),
    "layers": ({"manifest.json": json.dumps([_row(Layers=["x"] * 1001)]).encode()}, "1000 layers"),
    "config": (
        {"manifest.json": json.dumps([_row()]).encode(), "c.json": b" " * (4 * MIB + 1)},
        "4194304 make sense",
    ),
    "index": ({"index.json": b" " * (4 * MIB + 1)}, "4194304 make sense"),
    "json in all": (
        {"manifest.json": json.dumps([_row()] * 20).encode(), "c.json": b"{}" + b" " * 4_000_000},
        "manifests and configs",
    ),
}


@pytest.mark.parametrize("case", CAPS)
def test_what_is_beyond_reason_is_refused(tmp_path: Path, case: str) -> None:
    files, words = CAPS[case]
    with pytest.raises(ArchiveInvalid, match=words):
        inspect(write_tar(tmp_path / "a", files))


def test_more_entries_than_make_sense_are_refused(tmp_path: Path) -> None:
    block = tarfile.TarInfo("x").tobuf(tarfile.GNU_FORMAT)
    (tmp_path / "a").write_bytes(block * 100_001)
    with pytest.raises(ArchiveInvalid, match="100000 entries"):
        inspect(tmp_path / "a")


def _nested(depth: int, width: int) -> dict[str, bytes]:
    files: dict[str, bytes] = {}
    rows: list[dict[str, Any]] = []
    for _ in range(depth):
        document = json.dumps({"manifests": rows}).encode()
        digest = hashlib.sha256(document).hexdigest()
        files[f"blobs/sha256/{digest}"] = document
        rows = [{"digest": f"sha256:{digest}"}] * width
    return files | {"index.json": json.dumps({"manifests": rows}).encode()}


@pytest.mark.parametrize(
    ("depth", "width", "words"), [(5, 1, "indexes within"), (4, 50, "1000 manifests")]
)
def test_indexes_within_indexes_end(tmp_path: Path, depth: int, width: int, words: str) -> None:
    """Fifty rows on each of four levels would be six million manifests, in a few kilobytes."""
    with pytest.raises(ArchiveInvalid, match=words):
        inspect(write_tar(tmp_path / "a", _nested(depth, width)))
    inspect(write_tar(tmp_path / "b", _nested(4, 1)))


def test_links_in_a_circle_are_a_missing_layer(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a", "w") as tar:
        for name, target in (("l.tar", "m.tar"), ("m.tar", "l.tar")):
            entry = tarfile.TarInfo(name)
            entry.type, entry.linkname = tarfile.SYMTYPE, target
            tar.addfile(entry)
        data = json.dumps([_row(Layers=["l.tar"])]).encode()
        entry = tarfile.TarInfo("manifest.json")
        entry.size = len(data)
        tar.addfile(entry, io.BytesIO(data))
    assert only(inspect(tmp_path / "a")).platforms[0].missing == ("c.json", "l.tar")


def test_a_config_that_is_not_what_its_name_says_is_corrupt(tmp_path: Path) -> None:
    manifest = json.dumps([_row(Config="0" * 64 + ".json")]).encode()
    path = write_tar(tmp_path / "a", {"0" * 64 + ".json": b"{}", "manifest.json": manifest})
    with pytest.raises(ArchiveCorrupt, match="digest"):
        inspect(path)


def test_an_oci_manifest_that_is_not_what_its_digest_says_is_corrupt(tmp_path: Path) -> None:
    digest = "sha256:" + "0" * 64
    index = json.dumps({"manifests": [{"digest": digest}]}).encode()
    manifest = json.dumps({"config": {"digest": digest}, "layers": []}).encode()
    files = {"blobs/sha256/" + "0" * 64: manifest, "index.json": index}
    with pytest.raises(ArchiveCorrupt, match="digest"):
        inspect(write_tar(tmp_path / "a", files))


def test_layers_are_not_verified_by_a_look(tmp_path: Path) -> None:
    assert not inspect(write_corrupt_layer(tmp_path / "a").path).refusals


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=6,
)


def _mutated(data: st.DataObject, document: Any) -> Any:
    """The document with another value at a place of it, or as it is."""
    if data.draw(st.booleans()) and isinstance(document, dict | list) and document:
        key = data.draw(st.sampled_from(sorted(document) if isinstance(document, dict) else [0]))
        document[key] = _mutated(data, document[key])
        return document
    return data.draw(JSON) if data.draw(st.booleans()) else document


def _blob(files: dict[str, bytes], document: Any) -> dict[str, Any]:
    body = json.dumps(document).encode()
    digest = hashlib.sha256(body).hexdigest()
    files[f"blobs/sha256/{digest}"] = body
    return {"digest": f"sha256:{digest}", "size": len(body), "mediaType": "application/x"}


@settings(max_examples=400, deadline=None)
@given(st.data())
def test_whatever_the_json_says_only_archive_errors_are_raised(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """Types change at any place, while every digest stays right, so that all of it is read."""
    files: dict[str, bytes] = {}
    config = {
        "os": "linux",
        "architecture": "arm",
        "variant": "v7",
        "rootfs": {"diff_ids": ["sha256:" + "0" * 64]},
    }
    config_row = _mutated(data, _blob(files, _mutated(data, config)))
    layer = _mutated(data, _blob(files, {}))
    manifest = _mutated(data, {"config": config_row, "layers": [layer]})
    row = _blob(files, manifest) | {"platform": {"os": "linux", "architecture": "arm"}}
    nested = _blob(files, _mutated(data, {"manifests": [row]})) | {"annotations": {"a": "b"}}
    documents = {
        "index.json": {"manifests": [nested]},
        "manifest.json": [_row(Config=sorted(files)[0], Layers=sorted(files)[:1])],
    }
    kept = data.draw(st.sampled_from([["index.json"], ["manifest.json"], sorted(documents)]))
    for name in kept:
        files[name] = json.dumps(_mutated(data, documents[name])).encode()
    path = write_tar(tmp_path_factory.getbasetemp() / "mutated", files)
    with contextlib.suppress(ArchiveError):
        json.dumps(inspect(path).as_json())


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_whatever_the_bytes_only_archive_errors_are_raised(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    path = tmp_path_factory.getbasetemp() / "damaged"
    layout = data.draw(st.sampled_from(sorted(LAYOUTS)))
    packed = data.draw(st.sampled_from(sorted(PACKED)))
    whole = bytearray(LAYOUTS[layout][0](path).path.read_bytes())
    if data.draw(st.booleans()):
        whole = bytearray(PACKED[packed][1](bytes(whole)))
    for _ in range(data.draw(st.integers(1, 6))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(whole[: data.draw(st.integers(0, len(whole)))])
    with contextlib.suppress(ArchiveError):
        inspect(path)


LOOK = """
import sys, time
from pathlib import Path
from buildah.archive import inspect
began = time.monotonic()
contents = inspect(Path(sys.argv[1]))
seconds = time.monotonic() - began
status = Path("/proc/self/status").read_text()
kib = int(status.split("VmHWM:")[1].split()[0])
print(sum(one.size_bytes for one in contents.images[0].platforms), seconds, kib)
"""


def _look(path: Path, home: Path) -> tuple[int, float, int]:
    size, seconds, kib = run(sys.executable, "-c", LOOK, path, home=home).split()
    return int(size), float(seconds), int(kib) * KIB


def test_twenty_gigabytes_cost_no_time_and_no_memory(tmp_path: Path) -> None:
    path = tmp_path / "a"
    names = [f"{number:064x}.tar" for number in range(20)]
    with path.open("wb") as out:
        for name in names:
            entry = tarfile.TarInfo(name)
            entry.size = GIB
            out.write(entry.tobuf(tarfile.GNU_FORMAT))
            out.seek(GIB, os.SEEK_CUR)
        write_tar(
            tmp_path / "tail",
            {"c.json": b"{}", "manifest.json": json.dumps([_row(Layers=names)]).encode()},
        )
        out.write((tmp_path / "tail").read_bytes())
    size, seconds, memory = _look(path, tmp_path)
    assert size == 20 * GIB
    assert seconds < 1
    assert memory < 60 * MIB


def test_a_compressed_archive_costs_no_memory(tmp_path: Path) -> None:
    archive = write_docker_archive(tmp_path / "a", [200 * MIB])
    size, _, memory = _look(write_gzipped(tmp_path / "z", archive.path), tmp_path)
    assert size > 200 * MIB
    assert memory < 60 * MIB


def test_the_command_tells_a_person(tmp_path: Path) -> None:
    archive = write_docker_archive(tmp_path / "my app.tar", [MIB], tag="harbor.example/team/app:3")
    ran = run_tusboat(tmp_path, "inspect", "my app.tar")
    assert (ran.code, ran.stderr) == (0, "")
    for words in (
        "docker-archive, laid out as by podman, skopeo or buildah",
        "compression  none",
        "harbor.example/team/app:3",
        "linux/amd64: 1 layers, 1 MiB",
        archive.image_id,
        "next: tusboat upload 'my app.tar' --image REGISTRY/team/app:3",
    ):
        assert words in ran.stdout


def test_the_command_tells_a_program(tmp_path: Path) -> None:
    archive = write_docker_archive(tmp_path / "a.tar", [MIB])
    document = json.loads(run_tusboat(tmp_path, "inspect", "a.tar", "--json").stdout)
    layer = document["images"][0]["platforms"][0]["layers"][0]
    digest = layer["name"].removesuffix(".tar")
    assert document == {
        "archive": "a.tar",
        "format": "docker-archive",
        "writer": "podman, skopeo or buildah",
        "compression": "none",
        "size_bytes": archive.size,
        "images": [
            {
                "tags": ["example/app:1"],
                "digest": None,
                "platforms": [
                    {
                        "platform": "linux/amd64",
                        "image_id": f"sha256:{archive.image_id}",
                        "size_bytes": layer["size_bytes"],
                        "layers": [
                            {
                                "name": f"{digest}.tar",
                                "digest": f"sha256:{digest}",
                                "size_bytes": layer["size_bytes"],
                                "media_type": "application/vnd.docker.image.rootfs.diff.tar",
                                "compression": "none",
                            }
                        ],
                        "missing": [],
                    }
                ],
            }
        ],
        "refused": [],
        "notes": [],
    }


def test_the_command_says_what_would_be_refused_instead_of_what_to_type(tmp_path: Path) -> None:
    write_containerd(tmp_path / "a", MULTI, absent=MULTI[1:])
    ran = run_tusboat(tmp_path, "inspect", "a")
    assert ran.code == 0
    assert "would be refused: " in ran.stdout
    assert "archive_incomplete" in ran.stdout
    assert "next:" not in ran.stdout


def test_names_that_would_move_a_cursor_are_escaped(tmp_path: Path) -> None:
    layer = "\x1b[2J\u202e\u009b.tar"
    manifest = json.dumps([_row(RepoTags=["a\x1b]0;x\x07\n\udc80:1"], Layers=[layer])]).encode()
    write_tar(tmp_path / "a", {"c.json": b"{}", layer: b"", "manifest.json": manifest})
    ran = run_tusboat(tmp_path, "inspect", "a")
    assert ran.code == 0
    assert r"a\x1b]0;x\x07\n\udc80:1" in ran.stdout
    assert r"\x1b[2J\u202e\x9b.tar" in ran.stdout
    assert all(one.isprintable() or one == "\n" for one in ran.stdout)


def test_what_cannot_be_inspected_is_said_with_a_hint(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    write_truncated(tmp_path / "cut")
    cases = [
        ("-", "standard input", "Write it to a file first"),
        ("missing", "No such file", "Check the path"),
        (".", "not a regular file", "into a tar"),
        ("pipe", "not a regular file", "into a tar"),
        ("cut", "ends too early", "save the image again"),
    ]
    for name, cause, hint in cases:
        ran = run_tusboat(tmp_path, "inspect", name, "--json")
        assert (ran.code, ran.stdout) == (1, "")
        first, second = ran.stderr.splitlines()
        assert first.startswith(f"tusboat: inspect {name}: ")
        assert cause in first
        assert second.startswith("hint: ")
        assert hint in second


def test_serving_does_not_pay_for_it(tmp_path: Path) -> None:
    words = "import sys, server.cli; print('buildah.archive' in sys.modules)"
    assert run(sys.executable, "-c", words, home=tmp_path).strip() == "False"
