"""Whoever wrote an archive: it goes up, into a registry, and back out as the same image.

Archives are made by the real program where Debian has it (buildah, podman, skopeo, umoci), else
written in the order and with the names that the program gives them.
"""

from __future__ import annotations

import bz2
import gzip
import hashlib
import json
import lzma
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.archives import (
    DOCKER_CONFIG,
    KIB,
    MIB,
    Archive,
    without_tags,
    write_containerd,
    write_crane,
    write_docker_archive,
    write_docker_from_25,
    write_docker_up_to_24,
    write_oci_archive,
    write_regctl,
    write_several_images,
)
from tests.journeys import ended, nothing_left, row, upload_by_tuspy
from tests.live import LiveServer, run_tusboat
from tests.registries import PLAIN_ENVIRONMENT, RunningRegistry, missing_programs, serving
from tests.writers import Workshop

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

ENGINES = ("buildah", "skopeo")
MULTI = ("linux/amd64", "linux/arm64/v8", "linux/s390x")

needs_writers = pytest.mark.skipif(
    bool(missing_programs("podman", "umoci")), reason="needs podman and umoci"
)

# From nothing, or with a program of this machine.
Written = Callable[[Path], Archive]
Made = Callable[[Workshop, Path], Archive]


def untagged(path: Path) -> Archive:
    archive = write_docker_up_to_24(path.with_name("tagged"))
    return Archive(without_tags(path, archive.path), archive.image_id, "")


WRITTEN: dict[str, Written] = {
    "docker up to 24": write_docker_up_to_24,
    "docker up to 24, by id": untagged,
    "docker 25": write_docker_from_25,
    "docker 25.0.0": lambda path: write_docker_from_25(path, scrambled=True),
    "containerd": lambda path: write_containerd(path, attested=False),
    "containerd, OCI only": lambda path: write_containerd(path, docker_list=False),
    "crane": write_crane,
    "kaniko": lambda path: write_crane(path, [64 * KIB, 3 * KIB, 5], tag="example/kaniko:1"),
    "regctl": write_regctl,
    "oci, zstd layers": lambda path: write_oci_archive(path, [64 * KIB, 5], zstd=True),
    "oci, plain layers": lambda path: write_oci_archive(path, [64 * KIB, 5]),
}
MADE: dict[str, Made] = {
    "podman save": Workshop.podman_docker,
    "podman save, by id": Workshop.podman_by_id,
    "podman save, oci-archive": Workshop.podman_oci,
    "buildah push docker-archive": Workshop.buildah_docker,
    "buildah push oci-archive": Workshop.buildah_oci,
    "skopeo copy docker-archive": Workshop.skopeo_docker,
    "skopeo copy oci-archive": Workshop.skopeo_oci,
    "skopeo copy oci-archive, zstd layers": Workshop.skopeo_zstd,
    "umoci, in a tar": Workshop.umoci,
}
PACKED: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "zstd": zstd.compress,
    "xz": lzma.compress,
    "bzip2": bz2.compress,
}
PACKABLE = ("docker up to 24", "docker 25", "containerd", "oci, zstd layers")


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningRegistry]:
    with serving(tmp_path_factory.mktemp("registry")) as running:
        yield running


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    return Workshop(tmp_path_factory.mktemp("workshop"))


@pytest.fixture(scope="module", params=ENGINES)
def engine(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture(scope="module")
def server(
    engine: str, registry: RunningRegistry, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[LiveServer]:
    directory = tmp_path_factory.mktemp(engine)
    with LiveServer(directory, registries=[row(registry)], engine=engine) as running:
        yield running


@dataclass(frozen=True)
class Back:
    """An image that was pulled back: its id and what its layers really are, hex."""

    image_id: str
    layers: list[str]
    diff_ids: list[str]


def pulled_back(registry: RunningRegistry, image: str, directory: Path) -> Back:
    """Pull an image into a docker-archive, by skopeo, and read that with nothing of ours."""
    path = directory / "back"
    subprocess.run(
        [
            *("skopeo", "copy", "--quiet", "--src-tls-verify=false"),
            *(f"docker://{image}", f"docker-archive:{path}:back/here:1"),
        ],
        check=True,
        env=PLAIN_ENVIRONMENT,
    )
    with tarfile.open(path) as tar:

        def read(name: str) -> bytes:
            body = tar.extractfile(name)
            assert body
            return body.read()

        [manifest] = json.loads(read("manifest.json"))
        config = read(manifest["Config"])
        layers = [hashlib.sha256(read(name)).hexdigest() for name in manifest["Layers"]]
    path.unlink()
    diff_ids = json.loads(config)["rootfs"]["diff_ids"]
    plain = [digest.removeprefix("sha256:") for digest in diff_ids]
    return Back(hashlib.sha256(config).hexdigest(), layers, plain)


def sent(
    server: LiveServer, registry: RunningRegistry, path: Path, name: str, **metadata: str
) -> dict[str, Any]:
    """The document of an upload that is pushed to `name:v1`."""
    image = f"{registry.host}/{name}:v1"
    upload = upload_by_tuspy(server, path, {"image": image, **metadata})
    document = ended(server, upload)
    assert nothing_left(server)
    return document


def assert_there_and_back(
    server: LiveServer, registry: RunningRegistry, archive: Archive, name: str, directory: Path
) -> None:
    document = sent(server, registry, archive.path, name)
    assert document["status"] == "done", document
    [result] = document["results"]
    assert result["platforms"] == ["linux/amd64"]
    back = pulled_back(registry, result["image"], directory)
    assert back.image_id == archive.image_id
    assert back.layers == back.diff_ids
    at_digest = f"{registry.host}/{name}@{result['digest']}"
    assert registry.config_digest(at_digest) == archive.image_id


def repository(*parts: str) -> str:
    """A repository of a test's own."""
    return "/".join("".join(c if c.isalnum() else "-" for c in part).lower() for part in parts)


@pytest.mark.parametrize("writer", WRITTEN)
def test_written_as_the_program_does(
    writer: str, engine: str, server: LiveServer, registry: RunningRegistry, tmp_path: Path
) -> None:
    archive = WRITTEN[writer](tmp_path / "a")
    name = repository(engine, writer)
    assert_there_and_back(server, registry, archive, name, tmp_path)


@needs_writers
@pytest.mark.parametrize("writer", MADE)
def test_made_by_the_program(
    writer: str,
    engine: str,
    server: LiveServer,
    registry: RunningRegistry,
    workshop: Workshop,
    tmp_path: Path,
) -> None:
    archive = MADE[writer](workshop, tmp_path / "a")
    name = repository(engine, writer)
    assert_there_and_back(server, registry, archive, name, tmp_path)


@pytest.mark.parametrize("packed", PACKED)
@pytest.mark.parametrize("writer", PACKABLE)
def test_compressed_as_a_whole(
    writer: str,
    packed: str,
    engine: str,
    server: LiveServer,
    registry: RunningRegistry,
    tmp_path: Path,
) -> None:
    archive = WRITTEN[writer](tmp_path / "a")
    archive.path.write_bytes(PACKED[packed](archive.path.read_bytes()))
    name = repository(engine, packed, writer)
    assert_there_and_back(server, registry, archive, name, tmp_path)


def test_zstd_on_the_way_makes_another_image_of_what_docker_saved(
    engine: str, server: LiveServer, registry: RunningRegistry, tmp_path: Path
) -> None:
    """The programs write its config anew for OCI, without the words that only docker has."""
    kept = write_oci_archive(tmp_path / "oci", [64 * KIB], seed=f"kept {engine}")
    changed = write_docker_archive(
        tmp_path / "docker", [64 * KIB], seed=f"new {engine}", config=DOCKER_CONFIG
    )
    for archive in (kept, changed):
        name = f"{engine}/zstd-{archive.path.name}"
        document = sent(server, registry, archive.path, name, compression="zstd")
        assert document["status"] == "done", document
        image = f"{registry.host}/{name}:v1"
        [layer] = registry.manifest(image)["layers"]
        assert layer["mediaType"] == "application/vnd.oci.image.layer.v1.tar+zstd"
        assert (registry.config_digest(image) == archive.image_id) == (archive is kept)
        config = config_in(registry, image)
        assert config["rootfs"] == config_of(archive)["rootfs"]
        assert config["config"].get("Cmd") == config_of(archive)["config"].get("Cmd")


def config_in(registry: RunningRegistry, image: str) -> dict[str, Any]:
    """The config of an image in the registry, by skopeo."""
    inspect = ["skopeo", "inspect", "--config", "--raw", "--tls-verify=false", f"docker://{image}"]
    done = subprocess.run(inspect, check=True, capture_output=True, env=PLAIN_ENVIRONMENT)
    config: dict[str, Any] = json.loads(done.stdout)
    return config


def config_of(archive: Archive) -> dict[str, Any]:
    """The config in an archive."""
    with tarfile.open(archive.path) as tar:
        for entry in tar:
            body = tar.extractfile(entry)
            if body and archive.image_id in entry.name:
                config: dict[str, Any] = json.loads(body.read())
                return config
    raise AssertionError(archive)


@needs_writers
def test_by_the_command_line(
    engine: str,
    server: LiveServer,
    registry: RunningRegistry,
    workshop: Workshop,
    tmp_path: Path,
) -> None:
    archive = workshop.podman_docker(tmp_path / "a")
    image = f"{registry.host}/{engine}/command:v1"
    ran = run_tusboat(
        tmp_path, "upload", str(archive.path), "--image", image, "--server", server.url
    )
    assert ran.code == 0, ran
    digest = ran.stdout.splitlines()[-1]
    assert registry.config_digest(f"{registry.host}/{engine}/command@{digest}") == archive.image_id
    assert pulled_back(registry, image, tmp_path).image_id == archive.image_id


@pytest.mark.slow
@pytest.mark.parametrize("sizes", [[200 * MIB, 100 * MIB, 5]])
def test_a_larger_one(
    sizes: list[int], engine: str, server: LiveServer, registry: RunningRegistry, tmp_path: Path
) -> None:
    archive = write_docker_archive(tmp_path / "a", sizes, config=DOCKER_CONFIG)
    assert_there_and_back(server, registry, archive, f"{engine}/larger", tmp_path)


# --- more than one ---


@needs_writers
def test_several_images_of_podman(
    engine: str,
    server: LiveServer,
    registry: RunningRegistry,
    workshop: Workshop,
    tmp_path: Path,
) -> None:
    """`podman save --multi-image-archive`: layers that both have are there once."""
    archive = workshop.podman_several(tmp_path / "a")
    document = sent(server, registry, archive.path, f"{engine}/several")
    assert document["status"] == "done", document
    images = {
        result["image"]: pulled_back(registry, result["image"], tmp_path).image_id
        for result in document["results"]
    }
    assert images == {
        f"{registry.host}/{engine}/several:1": workshop.image_id,
        f"{registry.host}/{engine}/several:2": workshop.other_id,
    }


@needs_writers
def test_one_of_several_images_of_podman(
    engine: str,
    server: LiveServer,
    registry: RunningRegistry,
    workshop: Workshop,
    tmp_path: Path,
) -> None:
    archive = workshop.podman_several(tmp_path / "a")
    document = sent(server, registry, archive.path, f"{engine}/one", ref="team/other:2")
    assert document["status"] == "done", document
    [result] = document["results"]
    assert result["image"] == f"{registry.host}/{engine}/one:v1"
    assert pulled_back(registry, result["image"], tmp_path).image_id == workshop.other_id


def test_several_images_written_as_docker_does(
    engine: str, server: LiveServer, registry: RunningRegistry, tmp_path: Path
) -> None:
    archive = write_several_images(tmp_path / "a", ["a/x:1", "b/y:2", "c/z:3"])
    document = sent(server, registry, archive.path, f"{engine}/three")
    assert [result["image"] for result in document["results"]] == [
        f"{registry.host}/{engine}/three:{tag}" for tag in (1, 2, 3)
    ]
    first = pulled_back(registry, f"{registry.host}/{engine}/three:1", tmp_path)
    assert first.image_id == archive.image_id


@pytest.mark.parametrize("docker_list", [True, False], ids=["both lists", "OCI only"])
@pytest.mark.parametrize("attested", [True, False], ids=["attested", "plain"])
def test_every_platform_of_containerd_and_nerdctl(
    docker_list: bool,
    attested: bool,
    engine: str,
    server: LiveServer,
    registry: RunningRegistry,
    tmp_path: Path,
) -> None:
    path = tmp_path / "a"
    archive = write_containerd(path, MULTI, docker_list=docker_list, attested=attested)
    name = f"{engine}/multi-{docker_list}-{attested}".lower()
    document = sent(server, registry, path, name)
    assert document["status"] == "done", document
    [result] = document["results"]
    assert result["platforms"] == list(MULTI)
    assert platforms(registry, result["image"]) == saved_platforms(path)
    assert pulled_back(registry, result["image"], tmp_path).image_id == archive.image_id


def test_platforms_that_are_missing_are_refused_unless_a_part_will_do(
    engine: str, server: LiveServer, registry: RunningRegistry, tmp_path: Path
) -> None:
    """As docker and nerdctl save what was pulled for one machine only."""
    path = tmp_path / "a"
    write_containerd(path, MULTI, absent=MULTI[2:])
    document = sent(server, registry, path, f"{engine}/partial")
    assert document["status"] == "failed"
    assert "linux/s390x" in document["error"]["message"]
    assert registry.tags(f"{engine}/partial") == []
    document = sent(server, registry, path, f"{engine}/partial", allow_partial="true")
    assert document["status"] == "done", document
    [result] = document["results"]
    assert result["platforms"] == list(MULTI[:2])
    left = {name: digest for name, digest in saved_platforms(path).items() if name != MULTI[2]}
    assert platforms(registry, result["image"]) == left


def platforms(registry: RunningRegistry, image: str) -> dict[str, str]:
    """The image id of each platform of a multi-arch image in the registry."""
    name = image.rpartition(":")[0]
    return {
        _platform(one): registry.config_digest(f"{name}@{one['digest']}")
        for one in registry.manifest(image)["manifests"]
        if one["platform"]["os"] != "unknown"
    }


def saved_platforms(path: Path) -> dict[str, str]:
    """The same of an archive, as far as its blobs name it."""
    with tarfile.open(path) as tar:
        blobs = {entry.name.rpartition("/")[2]: tar.extractfile(entry) for entry in tar}
        read = {name: body.read() for name, body in blobs.items() if body}
    top = json.loads(read["index.json"])["manifests"][0]
    rows = json.loads(read[top["digest"].removeprefix("sha256:")])["manifests"]
    found = {}
    for one in rows:
        manifest = read.get(one["digest"].removeprefix("sha256:"))
        if one["platform"]["os"] != "unknown":
            config = json.loads(manifest)["config"]["digest"] if manifest else ""
            found[_platform(one)] = config.removeprefix("sha256:")
    return found


def _platform(descriptor: dict[str, Any]) -> str:
    said = descriptor["platform"]
    return "/".join(said[key] for key in ("os", "architecture", "variant") if said.get(key))
