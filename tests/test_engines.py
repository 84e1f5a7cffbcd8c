"""Every layout goes through both engines and arrives as what it was; and what they refuse."""

from __future__ import annotations

import gzip
import hashlib
import io
import itertools
import json
import os
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
import pytest

from buildah import compression, errors
from buildah.compression import Compression
from buildah.engine import ENGINES, ready_images
from buildah.errors import BuildahError
from buildah.opening import open_archive
from buildah.progress import Meter
from buildah.pushed import LayerCompression, PushedImage
from buildah.reference import ImageReference
from buildah.selection import Order, choose
from buildah.workspace import Workspace
from tests.archives import (
    KIB,
    MIB,
    Archive,
    write_containerd,
    write_corrupt_layer,
    write_crane,
    write_docker_archive,
    write_docker_from_25,
    write_docker_up_to_24,
    write_images,
    write_oci_archive,
    write_regctl,
    write_several_images,
    write_several_oci_images,
)
from tests.registries import RunningRegistry, needs_containers, plain_registry

__all__ = ["plain_registry"]

pytestmark = [needs_containers, pytest.mark.anyio]

JOB = "0123456789abcdef0123456789abcdef"
MULTI = ("linux/amd64", "linux/arm64/v8", "linux/s390x")


@pytest.fixture(params=sorted(ENGINES))
def engine(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture
def workspace(tmp_path: Path) -> Iterator[Workspace]:
    with Workspace.open(tmp_path / "jobs", JOB, storage_driver="overlay") as opened:
        yield opened
    assert list((tmp_path / "jobs").iterdir()) == []


@dataclass
class Journey:
    """Archives on their way through one engine into one registry."""

    engine: str
    workspace: Workspace
    registry: RunningRegistry

    def __post_init__(self) -> None:
        self.compression = LayerCompression()
        self.seen: list[tuple[int, int]] = []
        self.lines: list[str] = []

    @property
    def name(self) -> str:
        return f"{self.registry.host}/team/app:v1"

    async def run(self, archive: Path, **order: Any) -> dict[str, PushedImage]:
        """Everything that is meant, by where it went."""
        size_bytes = (await anyio.to_thread.run_sync(archive.stat)).st_size
        meter = Meter(lambda *_: None, size_bytes)
        opened = await open_archive(archive, self.workspace, meter.report)
        wanted = Order(ImageReference.parse(self.name), **order)
        choices = choose(opened.contents.images, wanted)
        images = await ready_images(
            ENGINES[self.engine],
            opened,
            [choice.position for choice in choices],
            self.workspace,
            share=meter.report,
            log=self.lines.append,
        )
        return {
            str(destination): await image.push(
                destination,
                self.registry.registry(),
                self.workspace,
                progress=lambda done, total: self.seen.append((done, total)),
                log=self.lines.append,
                compression=self.compression,
            )
            for image, choice in zip(images, choices, strict=True)
            for destination in choice.destinations
        }


@pytest.fixture
def journey(engine: str, workspace: Workspace, plain_registry: RunningRegistry) -> Journey:
    return Journey(engine, workspace, plain_registry)


LAYOUTS: dict[str, Callable[[Path], Archive]] = {
    "docker up to 24": write_docker_up_to_24,
    "docker 25": write_docker_from_25,
    "containerd": write_containerd,
    "podman": write_docker_archive,
    "crane": write_crane,
    "regctl": write_regctl,
    "oci": write_oci_archive,
    "oci, gzipped layers": lambda path: write_oci_archive(path, [MIB], gzipped=True),
}


@pytest.mark.parametrize("layout", LAYOUTS)
async def test_an_image_arrives_as_it_was_saved(
    layout: str, journey: Journey, tmp_path: Path
) -> None:
    archive = LAYOUTS[layout](tmp_path / "a")
    (pushed,) = (await journey.run(archive.path)).values()
    assert pushed.platforms == ("linux/amd64",)
    assert journey.registry.config_digest(journey.name) == archive.image_id
    done, total = zip(*journey.seen, strict=True)
    assert list(done) == sorted(done)
    assert (done[-1], len(set(total))) == (total[-1], 1)


@pytest.mark.parametrize("packed", [one for one in Compression if one is not Compression.NONE])
@pytest.mark.parametrize("write", [write_docker_archive, write_oci_archive])
async def test_a_whole_archive_may_be_compressed(
    packed: Compression, write: Callable[[Path], Archive], journey: Journey, tmp_path: Path
) -> None:
    archive = write(tmp_path / "a")
    program = [packed.value, "--quiet", "--keep", "--stdout", str(archive.path)]
    done = await anyio.run_process(program)
    (tmp_path / "packed").write_bytes(done.stdout)
    await journey.run(tmp_path / "packed")
    assert journey.registry.config_digest(journey.name) == archive.image_id


@pytest.mark.parametrize("write", [write_several_images, write_several_oci_images])
async def test_several_images_go_each_under_its_own_tag(
    write: Callable[..., Archive], journey: Journey, tmp_path: Path
) -> None:
    archive = write(tmp_path / "a", ["a/x:1", "b/y:2", "c:3"])
    pushed = await journey.run(archive.path)
    repository = f"{journey.registry.host}/team/app"
    assert list(pushed) == [f"{repository}:{tag}" for tag in (1, 2, 3)]
    found = [journey.registry.config_digest(name) for name in pushed]
    assert len(set(found)) == 3
    (chosen,) = await journey.run(archive.path, ref="b/y:2")
    assert chosen == journey.name
    assert journey.registry.config_digest(chosen) == found[1]


async def test_a_multi_arch_image_goes_whole_and_stays_byte_for_byte(
    journey: Journey, tmp_path: Path
) -> None:
    archive = write_containerd(tmp_path / "a", MULTI, attested=False)
    (pushed,) = (await journey.run(archive.path)).values()
    assert pushed.platforms == MULTI
    assert pushed.digest == named_in(archive.path)
    rows = journey.registry.manifest(journey.name)["manifests"]
    assert [row["platform"]["architecture"] for row in rows] == ["amd64", "arm64", "s390x"]
    assert journey.seen[-1][0] == journey.seen[-1][1] > 0


def named_in(archive: Path) -> str:
    with tarfile.open(archive) as tar:
        member = tar.extractfile("index.json")
        assert member
        digest: str = json.load(member)["manifests"][0]["digest"]
    return digest


async def test_an_attestation_that_is_not_there_is_left_out(
    journey: Journey, tmp_path: Path
) -> None:
    archive = write_containerd(tmp_path / "a", MULTI, attested=True)
    (pushed,) = (await journey.run(archive.path)).values()
    assert pushed.platforms == MULTI
    assert len(journey.registry.manifest(journey.name)["manifests"]) == 3


async def test_of_platforms_that_are_not_whole_the_others_go_if_a_part_will_do(
    journey: Journey, tmp_path: Path
) -> None:
    archive = write_containerd(tmp_path / "a", MULTI, absent=MULTI[1:2])
    with pytest.raises(errors.ArchiveIncomplete, match="linux/arm64/v8"):
        await journey.run(archive.path)
    (pushed,) = (await journey.run(archive.path, allow_partial=True)).values()
    assert pushed.platforms == (MULTI[0], MULTI[2])
    rows = journey.registry.manifest(journey.name)["manifests"]
    assert [row["platform"]["architecture"] for row in rows] == ["amd64", "s390x"]


def nest(archive: Path, target: Path, depth: int = 2) -> None:
    """The same archive with its index within more indexes."""
    with tarfile.open(archive) as tar:
        files = {entry.name: tar.extractfile(entry).read() for entry in tar}  # type: ignore[union-attr]
    files.pop("manifest.json", None)
    top = json.loads(files["index.json"])
    for _ in range(depth):
        data = json.dumps({"schemaVersion": 2, "manifests": top["manifests"]}).encode()
        digest = hashlib.sha256(data).hexdigest()
        files[f"blobs/sha256/{digest}"] = data
        kind = "application/vnd.oci.image.index.v1+json"
        row = {"mediaType": kind, "digest": f"sha256:{digest}", "size": len(data)}
        top = {"schemaVersion": 2, "manifests": [row]}
    files["index.json"] = json.dumps(top).encode()
    target.parent.mkdir(exist_ok=True)
    with tarfile.open(target, "w") as tar:
        for name, data in files.items():
            add_file(tar, name, data)


def add_file(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size = len(data)
    tar.addfile(entry, io.BytesIO(data))


async def test_indexes_within_indexes_arrive_as_one(journey: Journey, tmp_path: Path) -> None:
    nest(write_containerd(tmp_path / "a", MULTI, attested=False).path, tmp_path / "nested")
    (pushed,) = (await journey.run(tmp_path / "nested")).values()
    assert pushed.platforms == MULTI
    assert len(journey.registry.manifest(journey.name)["manifests"]) == 3


async def test_zstd_on_the_way_when_it_is_asked_for(journey: Journey, tmp_path: Path) -> None:
    journey.compression = LayerCompression("zstd", 3)
    archive = write_docker_archive(tmp_path / "a", [MIB])
    await journey.run(archive.path)
    assert journey.registry.config_digest(journey.name) == archive.image_id
    layers = journey.registry.manifest(journey.name)["layers"]
    assert all(layer["mediaType"].endswith("zstd") for layer in layers)


@pytest.mark.parametrize("oci", [False, True])
async def test_a_layer_that_is_not_what_its_digest_says_makes_no_image(
    oci: bool, journey: Journey, tmp_path: Path
) -> None:
    archive = write_corrupt_layer(tmp_path / "a", oci=oci)
    with pytest.raises(errors.ArchiveCorrupt) as failed:
        await journey.run(archive.path)
    assert not failed.value.retryable
    assert journey.registry.tags("team/app") == []


async def test_a_damaged_gzipped_layer_makes_no_image(journey: Journey, tmp_path: Path) -> None:
    archive = write_crane(tmp_path / "a")
    data = bytearray(archive.path.read_bytes())
    start = data.index(b"\x1f\x8b")
    data[start + 5000 : start + 5010] = bytes(10)
    archive.path.write_bytes(data)
    with pytest.raises(BuildahError) as failed:
        await journey.run(archive.path)
    assert isinstance(failed.value, errors.ArchiveError), failed.value.message
    assert journey.registry.tags("team/app") == []


def is_own(path: Path) -> bool:
    return path.is_file() and not path.is_symlink()


async def test_skopeo_needs_no_storage(
    workspace: Workspace, plain_registry: RunningRegistry, tmp_path: Path
) -> None:
    journey = Journey("skopeo", workspace, plain_registry)
    await journey.run(write_docker_archive(tmp_path / "a", [8 * MIB]).path)
    assert not workspace.root.exists()
    kept = sum(one.stat().st_size for one in workspace.directory.rglob("*") if is_own(one))
    assert kept < MIB


@pytest.mark.parametrize("oci", [False, True])
async def test_a_layer_that_grows_beyond_reason_is_stopped(
    oci: bool,
    workspace: Workspace,
    plain_registry: RunningRegistry,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Zeros, a thousand times what their layer is: a disk that fills would hurt other jobs."""
    monkeypatch.setattr(compression, "_FREE_BYTES", 64 * MIB)
    archive = write_bomb(tmp_path / "a", 320 * MIB, oci=oci)
    journey = Journey("buildah", workspace, plain_registry)
    with pytest.raises(errors.ArchiveInvalid, match="grow to more than") as refused:
        await journey.run(archive.path)
    assert not refused.value.retryable
    assert plain_registry.tags("team/app") == []


def write_bomb(path: Path, size: int, *, oci: bool) -> Archive:
    """An image whose one layer is small, and is not when it is unpacked."""
    layer, plain = path.with_name("layer.gz"), hashlib.sha256()
    header = tarfile.TarInfo("zeros")
    header.size = size
    with gzip.open(layer, "wb") as out:
        for chunk in (
            header.tobuf(tarfile.GNU_FORMAT),
            *itertools.repeat(bytes(16 * MIB), size // (16 * MIB)),
            bytes(1024),
        ):
            out.write(chunk)
            plain.update(chunk)
    packed = layer.read_bytes()
    config = json.dumps(
        {
            "os": "linux",
            "architecture": "amd64",
            "config": {},
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{plain.hexdigest()}"]},
        }
    ).encode()
    image_id = hashlib.sha256(config).hexdigest()
    with tarfile.open(path, "w") as tar:
        if oci:
            write_layout(tar, config, packed)
        else:
            add_file(tar, "layer.tar", packed)
            add_file(tar, f"{image_id}.json", config)
            listed = [{"Config": f"{image_id}.json", "RepoTags": ["a:1"], "Layers": ["layer.tar"]}]
            add_file(tar, "manifest.json", json.dumps(listed).encode())
    return Archive(path, image_id, "a:1")


def write_layout(tar: tarfile.TarFile, config: bytes, layer: bytes) -> None:
    def blob(kind: str, data: bytes) -> dict[str, Any]:
        digest = hashlib.sha256(data).hexdigest()
        add_file(tar, f"blobs/sha256/{digest}", data)
        media_type = f"application/vnd.oci.image.{kind}"
        return {"mediaType": media_type, "digest": f"sha256:{digest}", "size": len(data)}

    rows = [blob("config.v1+json", config), blob("layer.v1.tar+gzip", layer)]
    manifest = {"schemaVersion": 2, "config": rows[0], "layers": rows[1:]}
    row = blob("manifest.v1+json", json.dumps(manifest).encode())
    add_file(tar, "index.json", json.dumps({"schemaVersion": 2, "manifests": [row]}).encode())
    add_file(tar, "oci-layout", b'{"imageLayoutVersion": "1.0.0"}')


@pytest.mark.parametrize("order", [["x/large:1", "y/small:2"], ["y/small:2", "x/large:1"]])
async def test_a_small_image_may_come_before_or_after_a_large_one(
    order: list[str],
    workspace: Workspace,
    plain_registry: RunningRegistry,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What a storage held before is none of the next image's growth."""
    monkeypatch.setattr(compression, "_FREE_BYTES", MIB)
    sizes = {"x/large:1": [24 * MIB], "y/small:2": [1000]}
    archive = write_images(tmp_path / "a", {tag: sizes[tag] for tag in order})
    pushed = await Journey("buildah", workspace, plain_registry).run(archive.path)
    assert len(pushed) == 2


def rewritten(archive: Path, change: Callable[[tarfile.TarFile, str, bytes], object]) -> None:
    """The same archive, each of its entries written by `change`."""
    with tarfile.open(archive) as tar:
        files = {entry.name: tar.extractfile(entry).read() for entry in tar}  # type: ignore[union-attr]
    with tarfile.open(archive, "w") as tar:
        for name, data in files.items():
            change(tar, name, data)


@pytest.mark.parametrize("kind", [tarfile.LNKTYPE, tarfile.SYMTYPE])
async def test_a_blob_may_be_a_link_to_another_entry(
    kind: bytes, journey: Journey, tmp_path: Path
) -> None:
    """So tar writes a layout in which files are linked to each other."""
    archive = write_oci_archive(tmp_path / "a", [MIB])

    def link(tar: tarfile.TarFile, name: str, data: bytes) -> None:
        if len(data) > MIB:
            entry = tarfile.TarInfo(name)
            entry.type = kind
            elsewhere = f"blobs/sha256/{'f' * 64}"
            entry.linkname = elsewhere if kind == tarfile.LNKTYPE else "f" * 64
            tar.addfile(entry)
            name = elsewhere
        add_file(tar, name, data)

    rewritten(archive.path, link)
    await journey.run(archive.path)
    assert journey.registry.config_digest(journey.name) == archive.image_id


async def test_what_a_layout_says_beside_its_image_does_no_harm(
    journey: Journey, tmp_path: Path
) -> None:
    """An attestation that names nothing, a folder whose name no file system takes."""
    archive = write_oci_archive(tmp_path / "a")

    def worsen(tar: tarfile.TarFile, name: str, data: bytes) -> None:
        if name == "index.json":
            index = json.loads(data)
            about = {"annotations": {"vnd.docker.reference.type": "attestation-manifest"}}
            data = json.dumps({**index, "manifests": [about, *index["manifests"]]}).encode()
            add_file(tar, f"blobs/{'a' * 300}/{'0' * 64}", b"x")
        add_file(tar, name, data)

    rewritten(archive.path, worsen)
    await journey.run(archive.path)
    assert journey.registry.config_digest(journey.name) == archive.image_id


async def test_many_layers_in_vfs_are_no_bomb(
    plain_registry: RunningRegistry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There each layer holds the files of all that are below it, once more."""
    monkeypatch.setattr(compression, "_FREE_BYTES", MIB)
    layers = []
    for number in range(8):
        plain = io.BytesIO()
        with tarfile.open(fileobj=plain, mode="w") as tar:
            add_file(tar, f"file{number}", os.urandom(8 * KIB) + bytes(MIB))
        layers.append(plain.getvalue())
    diff_ids = [f"sha256:{hashlib.sha256(layer).hexdigest()}" for layer in layers]
    rootfs = {"type": "layers", "diff_ids": diff_ids}
    config = json.dumps({"os": "linux", "architecture": "amd64", "rootfs": rootfs}).encode()
    image_id = hashlib.sha256(config).hexdigest()
    names = [f"{number}.tar.gz" for number in range(len(layers))]
    with tarfile.open(tmp_path / "a", "w") as tar:
        for name, layer in zip(names, layers, strict=True):
            add_file(tar, name, gzip.compress(layer))
        add_file(tar, f"{image_id}.json", config)
        listed = [{"Config": f"{image_id}.json", "RepoTags": ["a:1"], "Layers": names}]
        add_file(tar, "manifest.json", json.dumps(listed).encode())
    with Workspace.open(tmp_path / "jobs", JOB, storage_driver="vfs") as workspace:
        journey = Journey("buildah", workspace, plain_registry)
        await journey.run(tmp_path / "a")
    assert plain_registry.config_digest(journey.name) == image_id
