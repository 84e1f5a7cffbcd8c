"""Small genuine image archives, and broken ones, made without any container program.

The same arguments give the same bytes. Everything is written in a stream: an archive of gigabytes
costs no more memory than one of kilobytes.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import random
import shutil
import sys
import tarfile
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

KIB = 1024
MIB = 1024 * KIB
GIB = 1024 * MIB

PLATFORM = "linux/amd64"

# A config as docker writes it says more than OCI knows of, and in another order: whatever reads it
# and writes it again has made another image of it.
DOCKER_CONFIG: Mapping[str, Any] = {
    "config": {"Hostname": "", "Cmd": ["/bin/true"], "ArgsEscaped": True, "OnBuild": None},
    "container": "f" * 64,
    "container_config": {"Hostname": "f" * 12, "Cmd": ["/bin/sh", "-c", "#(nop) "]},
    "created": "2023-01-02T03:04:05.000000006Z",
    "docker_version": "20.10.24",
}

# Blocks do not repeat within gzip's window, so layers do not shrink when they are pushed.
_BLOCK_BYTES = MIB
_TAR_BLOCK_BYTES = 512
_TAR_END = bytes(2 * _TAR_BLOCK_BYTES)


@dataclass(frozen=True)
class Archive:
    """An archive on disk, the id (sha256 of the config, hex) and the name of the image in it."""

    path: Path
    image_id: str
    tag: str

    @property
    def size(self) -> int:
        """Bytes of the file."""
        return self.path.stat().st_size


@dataclass(frozen=True)
class Layer:
    """One layer: a tar with one file of `size` bytes that `seed` decides; maybe compressed."""

    size: int
    seed: str
    name: str = "data"
    gzipped: bool = False
    zstd: bool = False

    def tar(self) -> Iterator[bytes]:
        """The bytes of the uncompressed tar."""
        yield _header(self.name, self.size)
        block = random.Random(self.seed).randbytes(_BLOCK_BYTES - 8)
        left = self.size
        for number in range(-(-self.size // _BLOCK_BYTES)):
            chunk = number.to_bytes(8, "big") + block
            yield chunk[:left]
            left -= _BLOCK_BYTES
        yield bytes(-self.size % _TAR_BLOCK_BYTES) + _TAR_END

    def blob(self) -> Iterator[bytes]:
        """The bytes as the archive holds them."""
        if not self.gzipped and not self.zstd:
            yield from self.tar()
            return
        packer = zstd.ZstdCompressor() if self.zstd else zlib.compressobj(1, wbits=31)
        for chunk in self.tar():
            yield packer.compress(chunk)
        yield packer.flush()


def write_docker_archive(
    path: Path,
    sizes: Sequence[int] = (64 * KIB,),
    *,
    tag: str = "example/app:1",
    seed: str = "tusboat",
    config: Mapping[str, Any] | None = None,
) -> Archive:
    """An archive as `docker save` and skopeo make them: uncompressed layers, manifest.json.

    `config` is what its config says beside what it has to (`DOCKER_CONFIG`).
    """
    image = _image(_layers(sizes, seed), config)
    with path.open("wb") as out:
        _write_docker_image(out, image)
        _write_docker_manifest(out, [(image, tag)])
    return Archive(path, image.image_id, tag)


def write_several_images(
    path: Path, tags: Sequence[str], *, sizes: Sequence[int] = (16 * KIB,)
) -> Archive:
    """A docker archive with one image for each tag; the id is the first one's."""
    return write_images(path, dict.fromkeys(tags, sizes))


def write_images(path: Path, sizes: Mapping[str, Sequence[int]]) -> Archive:
    """A docker archive with an image for each tag, and layers of these sizes."""
    images = [_image(_layers(its, tag)) for tag, its in sizes.items()]
    with path.open("wb") as out:
        for image in images:
            _write_docker_image(out, image)
        _write_docker_manifest(out, list(zip(images, sizes, strict=True)))
    return Archive(path, images[0].image_id, next(iter(sizes)))


def write_oci_archive(
    path: Path,
    sizes: Sequence[int] = (64 * KIB,),
    *,
    tag: str = "1",
    seed: str = "tusboat",
    gzipped: bool = False,
    zstd: bool = False,
) -> Archive:
    """An OCI layout in a tar, as `skopeo copy ... oci-archive:` makes them."""
    image = _image(_layers(sizes, seed, gzipped=gzipped, zstd=zstd))
    with path.open("wb") as out:
        manifest = _write_oci_image(out, image)
        _write_oci_index(out, [(manifest, tag)])
    return Archive(path, image.image_id, tag)


def write_several_oci_images(
    path: Path, tags: Sequence[str], *, sizes: Sequence[int] = (16 * KIB,)
) -> Archive:
    """An OCI archive with one image for each tag; the id is the first one's."""
    images = [_image(_layers(sizes, tag)) for tag in tags]
    with path.open("wb") as out:
        manifests = [_write_oci_image(out, image) for image in images]
        _write_oci_index(out, list(zip(manifests, tags, strict=True)))
    return Archive(path, images[0].image_id, tags[0])


def write_corrupt_layer(path: Path, *, oci: bool = False) -> Archive:
    """A whole archive in which one byte in the middle of the layer is another one."""
    archive = (write_oci_archive if oci else write_docker_archive)(path, [MIB], seed="corrupt")
    with path.open("r+b") as file:
        file.seek(MIB // 2)
        byte = file.read(1)
        file.seek(MIB // 2)
        file.write(bytes([byte[0] ^ 0xFF]))
    return archive


def write_truncated(path: Path, *, oci: bool = False, sizes: Sequence[int] = (MIB,)) -> Path:
    """An archive of which the second half is missing."""
    archive = (write_oci_archive if oci else write_docker_archive)(path, sizes, seed="cut")
    with path.open("r+b") as file:
        file.truncate(archive.size // 2)
    return path


def write_without_image(path: Path) -> Path:
    """A good tar with a file in it, and no image."""
    with path.open("wb") as out:
        _entry(out, "etc/hostname", b"nobody\n")
        out.write(_TAR_END)
    return path


def write_random(path: Path, size: int = 300 * KIB) -> Path:
    """Bytes without a meaning."""
    path.write_bytes(random.Random(1).randbytes(size))
    return path


def write_gzipped(path: Path, source: Path) -> Path:
    """The whole file, compressed by gzip."""
    with source.open("rb") as plain, gzip.GzipFile(path, "wb", 1, mtime=0) as packed:
        shutil.copyfileobj(plain, packed, MIB)
    return path


@dataclass(frozen=True)
class _Image:
    layers: tuple[Layer, ...]
    diff_ids: tuple[str, ...]
    diff_sizes: tuple[int, ...]
    config: bytes

    @property
    def image_id(self) -> str:
        return hashlib.sha256(self.config).hexdigest()


def _layers(
    sizes: Sequence[int], seed: str, *, gzipped: bool = False, zstd: bool = False
) -> list[Layer]:
    return [
        Layer(size, f"{seed}:{number}", f"data-{number}", gzipped, zstd)
        for number, size in enumerate(sizes)
    ]


def _image(layers: Sequence[Layer], said: Mapping[str, Any] | None = None) -> _Image:
    sums = [_sha256(layer.tar()) for layer in layers]
    diff_ids = tuple(digest for digest, _ in sums)
    operating_system, architecture = PLATFORM.split("/")
    config = {
        "architecture": architecture,
        "os": operating_system,
        "config": {},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest}" for digest in diff_ids]},
        "history": [{"created_by": "tests/archives.py"} for _ in layers],
    }
    if said:
        config = dict(sorted((config | dict(said)).items()))
    return _Image(tuple(layers), diff_ids, tuple(size for _, size in sums), _json(config))


def _write_docker_image(out: io.BufferedWriter, image: _Image) -> None:
    rows = zip(image.layers, image.diff_ids, image.diff_sizes, strict=True)
    for layer, diff_id, size in rows:
        _stream(out, f"{diff_id}.tar", size, layer.tar())
    _entry(out, f"{image.image_id}.json", image.config)


def _write_docker_manifest(out: io.BufferedWriter, images: Sequence[tuple[_Image, str]]) -> None:
    manifest = [
        {
            "Config": f"{image.image_id}.json",
            "RepoTags": [tag],
            "Layers": [f"{diff_id}.tar" for diff_id in image.diff_ids],
        }
        for image, tag in images
    ]
    _entry(out, "manifest.json", _json(manifest))
    out.write(_TAR_END)


def _write_oci_image(out: io.BufferedWriter, image: _Image) -> dict[str, Any]:
    descriptors = []
    for layer in image.layers:
        digest, length = _sha256(layer.blob())
        _stream(out, f"blobs/sha256/{digest}", length, layer.blob())
        suffix = "+gzip" if layer.gzipped else "+zstd" if layer.zstd else ""
        descriptors.append(
            _descriptor(f"application/vnd.oci.image.layer.v1.tar{suffix}", digest, length)
        )
    manifest = _json(
        {
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": _blob(out, "application/vnd.oci.image.config.v1+json", image.config),
            "layers": descriptors,
        }
    )
    return _blob(out, "application/vnd.oci.image.manifest.v1+json", manifest)


def _write_oci_index(
    out: io.BufferedWriter, manifests: Sequence[tuple[dict[str, Any], str]]
) -> None:
    index = {
        "schemaVersion": 2,
        "manifests": [
            manifest | {"annotations": {"org.opencontainers.image.ref.name": tag}}
            for manifest, tag in manifests
        ],
    }
    _entry(out, "index.json", _json(index))
    _entry(out, "oci-layout", _json({"imageLayoutVersion": "1.0.0"}))
    out.write(_TAR_END)


def _blob(out: io.BufferedWriter, media_type: str, data: bytes) -> dict[str, Any]:
    digest = hashlib.sha256(data).hexdigest()
    _entry(out, f"blobs/sha256/{digest}", data)
    return _descriptor(media_type, digest, len(data))


def _descriptor(media_type: str, digest: str, size: int) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": f"sha256:{digest}", "size": size}


def _header(name: str, size: int) -> bytes:
    entry = tarfile.TarInfo(name)
    entry.size = size
    return entry.tobuf(tarfile.GNU_FORMAT)


def _entry(out: io.BufferedWriter, name: str, data: bytes) -> None:
    _stream(out, name, len(data), [data])


def _stream(out: io.BufferedWriter, name: str, size: int, chunks: Iterable[bytes]) -> None:
    out.write(_header(name, size))
    for chunk in chunks:
        out.write(chunk)
    out.write(bytes(-size % _TAR_BLOCK_BYTES))


def _sha256(chunks: Iterable[bytes]) -> tuple[str, int]:
    digest, length = hashlib.sha256(), 0
    for chunk in chunks:
        digest.update(chunk)
        length += len(chunk)
    return digest.hexdigest(), length


def _json(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


# Layouts of writers that are not on every machine, each in the documented order of its entries.


def write_docker_up_to_24(path: Path, *, tag: str = "example/old:1") -> Archive:
    """As docker up to 24: folders of v1 ids; a duplicate layer is a link to a later one."""
    image = _image(_layers([16 * KIB], tag) * 2, DOCKER_CONFIG)
    body = b"".join(image.layers[0].tar())
    first, second = "1" * 64, "2" * 64
    items: dict[str, bytes | str] = {
        f"{first}/VERSION": b"1.0",
        f"{first}/json": b'{"id":"1"}',
        f"{first}/layer.tar": f"../{second}/layer.tar",
        f"{second}/VERSION": b"1.0",
        f"{second}/json": b'{"id":"2"}',
        f"{second}/layer.tar": body,
        f"{image.image_id}.json": image.config,
        "manifest.json": _docker_list(
            f"{image.image_id}.json", tag, [f"{first}/layer.tar", f"{second}/layer.tar"]
        ),
        "repositories": b"{}",
    }
    _write_items(path, items)
    return Archive(path, image.image_id, tag)


def write_docker_from_25(
    path: Path, *, tag: str = "example/new:1", scrambled: bool = False
) -> Archive:
    """As docker 25 and later: blobs in the order of their digests, then both lists.

    `scrambled` is as docker 25.0.0: the layers of the OCI manifest are in another order.
    """
    image = _image(_layers([16 * KIB, KIB], tag), DOCKER_CONFIG)
    blobs, manifest = _blobs_of(image)
    if scrambled:
        name = "blobs/sha256/" + manifest["digest"].removeprefix("sha256:")
        document = json.loads(blobs.pop(name))
        data = _json(document | {"layers": document["layers"][::-1]})
        digest = hashlib.sha256(data).hexdigest()
        blobs[f"blobs/sha256/{digest}"] = data
        manifest = _descriptor(manifest["mediaType"], digest, len(data))
    names = [f"blobs/sha256/{digest}" for digest in image.diff_ids]
    config = f"blobs/sha256/{image.image_id}"
    items = dict(sorted(blobs.items())) | {
        "index.json": _index_list([_named(manifest, tag)]),
        "manifest.json": _docker_list(config, tag, names),
        "oci-layout": _json({"imageLayoutVersion": "1.0.0"}),
        "repositories": b"{}",
    }
    _write_items(path, items)
    return Archive(path, image.image_id, tag)


def write_containerd(
    path: Path,
    platforms: Sequence[str] = (PLATFORM,),
    *,
    absent: Sequence[str] = (),
    tag: str = "docker.io/example/any:1",
    docker_list: bool = True,
    attested: bool = True,
) -> Archive:
    """As containerd and nerdctl: names sorted, layers gzipped, maybe an index within the index.

    The blobs of the platforms that are `absent` are named and missing; the id is the first one's.
    """
    images = [_image_for(one, tag) for one in platforms]
    blobs: dict[str, bytes | str] = {}
    rows = []
    for platform, image in zip(platforms, images, strict=True):
        its, manifest = _blobs_of(image)
        if platform not in absent:
            blobs |= its
        system, architecture, *variant = platform.split("/")
        said = {"os": system, "architecture": architecture} | (
            {"variant": variant[0]} if variant else {}
        )
        rows.append(manifest | {"platform": said})
    top = rows[0]
    if len(rows) > 1:
        attestation = {"os": "unknown", "architecture": "unknown"}
        about = rows[0] | {"digest": f"sha256:{'0' * 64}", "platform": attestation}
        nested = _index_list([*rows, about] if attested else rows)
        digest = hashlib.sha256(nested).hexdigest()
        blobs[f"blobs/sha256/{digest}"] = nested
        top = _descriptor("application/vnd.oci.image.index.v1+json", digest, len(nested))
    items = blobs | {
        "index.json": _index_list([_named(top, tag)]),
        "oci-layout": _json({"imageLayoutVersion": "1.0.0"}),
    }
    if docker_list:
        names = [name for name in _blobs_of(images[0])[0] if name in _layer_names(images[0])]
        items["manifest.json"] = _docker_list(f"blobs/sha256/{images[0].image_id}", tag, names)
    _write_items(path, dict(sorted(items.items())))
    return Archive(path, images[0].image_id, tag)


def write_crane(
    path: Path, sizes: Sequence[int] = (16 * KIB,), *, tag: str = "example/crane:1"
) -> Archive:
    """As crane and kaniko: the config is named by its digest, layers are gzipped."""
    image = _image(_layers(sizes, tag, gzipped=True), DOCKER_CONFIG)
    layers = {
        f"{diff_id}.tar.gz": b"".join(layer.blob())
        for diff_id, layer in zip(image.diff_ids, image.layers, strict=True)
    }
    config = f"sha256:{image.image_id}"
    items = {config: image.config, **layers}
    _write_items(path, items | {"manifest.json": _docker_list(config, tag, list(layers))})
    return Archive(path, image.image_id, tag)


def without_tags(path: Path, source: Path) -> Path:
    """A docker archive as it is saved by its id: `RepoTags` is null."""
    with tarfile.open(source) as old, tarfile.open(path, "w", format=tarfile.GNU_FORMAT) as new:
        for entry in old:
            body = old.extractfile(entry)
            data = body.read() if body else b""
            if entry.name == "manifest.json":
                data = _json([row | {"RepoTags": None} for row in json.loads(data)])
                entry.size = len(data)
            new.addfile(entry, io.BytesIO(data))
    return path


def write_regctl(path: Path, *, tag: str = "example/reg:1") -> Archive:
    """As regctl: the lists come first."""
    image = _image(_layers([16 * KIB], tag, gzipped=True))
    blobs, manifest = _blobs_of(image)
    lists: dict[str, bytes | str] = {
        "oci-layout": _json({"imageLayoutVersion": "1.0.0"}),
        "index.json": _index_list([_named(manifest, tag)]),
        "manifest.json": _docker_list(
            f"blobs/sha256/{image.image_id}", tag, sorted(_layer_names(image))
        ),
    }
    _write_items(path, lists | blobs)
    return Archive(path, image.image_id, tag)


def _image_for(platform: str, seed: str) -> _Image:
    image = _image(_layers([16 * KIB], f"{seed}{platform}", gzipped=True))
    system, architecture, *variant = platform.split("/")
    config = json.loads(image.config) | {"os": system, "architecture": architecture}
    if variant:
        config["variant"] = variant[0]
    return replace(image, config=_json(config))


def _layer_names(image: _Image) -> set[str]:
    return {f"blobs/sha256/{_sha256(layer.blob())[0]}" for layer in image.layers}


def _blobs_of(image: _Image) -> tuple[dict[str, bytes | str], dict[str, Any]]:
    """The blobs of an image by their names in a layout, and the descriptor of its manifest."""
    out = io.BytesIO()
    manifest = _write_oci_image(out, image)  # type: ignore[arg-type]
    out.write(_TAR_END)
    with tarfile.open(fileobj=io.BytesIO(out.getvalue())) as tar:
        blobs = {entry.name: tar.extractfile(entry).read() for entry in tar}  # type: ignore[union-attr]
    return blobs, manifest


def _named(descriptor: dict[str, Any], tag: str) -> dict[str, Any]:
    return descriptor | {"annotations": {"io.containerd.image.name": tag}}


def _index_list(rows: Sequence[dict[str, Any]]) -> bytes:
    return _json({"schemaVersion": 2, "manifests": list(rows)})


def _docker_list(config: str, tag: str, layers: Sequence[str]) -> bytes:
    return _json([{"Config": config, "RepoTags": [tag], "Layers": list(layers)}])


def _write_items(path: Path, items: Mapping[str, bytes | str]) -> None:
    """A tar of files and, where the value is text, symbolic links."""
    with path.open("wb") as out:
        for name, value in items.items():
            if isinstance(value, bytes):
                _entry(out, name, value)
                continue
            entry = tarfile.TarInfo(name)
            entry.type, entry.linkname = tarfile.SYMTYPE, value
            out.write(entry.tobuf(tarfile.GNU_FORMAT))
        out.write(_TAR_END)
