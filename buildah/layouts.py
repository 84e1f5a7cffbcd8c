"""Reads the images of an archive out of the two lists that writers make: docker's and OCI's.

Knows: manifest.json and configs; index.json, manifests and indexes within indexes.
Must not know: how an entry is read, what is refused.

Source: docker image specification v1.2; OCI image specification v1.1, image layout and index.
"""

from __future__ import annotations

import hashlib
import posixpath
import re
from collections.abc import Iterator
from typing import Any

from buildah.catalog import CONFIG_BYTES, INDEX_BYTES, MANIFEST_BYTES, Catalog, shown
from buildah.compression import Compression
from buildah.contents import KEPT_ELSEWHERE, Image, Layer, PlatformImage
from buildah.errors import ArchiveCorrupt, ArchiveInvalid

_IMAGES = 100
_LAYERS = 1000
_DESCRIPTORS = 1000
_DEPTH = 4
_TAGS = 1000

DIGEST = re.compile(r"(sha256:[0-9a-f]{64}|sha384:[0-9a-f]{96}|sha512:[0-9a-f]{128})")
_NAME_KEYS = ("io.containerd.image.name", "org.opencontainers.image.ref.name")
_DOCKER_LAYER = "application/vnd.docker.image.rootfs.diff.tar"
_SUFFIX = {Compression.GZIP: ".gzip", Compression.ZSTD: ".zstd"}
_PLATFORM_KEYS = ("os", "architecture", "variant")
# Of docker's list; of OCI's lists, manifests, descriptors and platforms. Apart, since `Layers` is
# right in docker's, and would be taken for `layers` in OCI's.
_DOCKER_KEYS = frozenset({"Config", "RepoTags", "Layers", "LayerSources", "Parent"})
_OCI_KEYS = frozenset(
    {
        *("schemaVersion", "mediaType", "artifactType", "config", "layers", "manifests", "subject"),
        *("digest", "size", "urls", "annotations", "data", "platform"),
        *("architecture", "os", "os.version", "os.features", "variant", "features"),
    }
)


def docker_images(catalog: Catalog) -> tuple[Image, ...]:
    """The images of manifest.json.

    Raises:
        ArchiveInvalid: it is not the list it should be, or beyond reason.
    """
    rows = _list(_document(catalog, "manifest.json", MANIFEST_BYTES), "manifest.json")
    _require_most(len(rows), _IMAGES, "images")
    return tuple(_docker_image(catalog, _dict(row, "manifest.json")) for row in rows)


def _docker_image(catalog: Catalog, row: dict[str, Any]) -> Image:
    _exact(row, _DOCKER_KEYS)
    tags = _strings(row.get("RepoTags"), "RepoTags")
    names = _strings(row.get("Layers"), "Layers")
    _require_most(len(names), _LAYERS, "layers")
    _require_most(len(tags), _TAGS, "tags")
    config_name = _string(row.get("Config"), "Config")
    missing = []
    platform, image_id = None, None
    diff_ids: tuple[str, ...] = ()
    config_entry = catalog.find(posixpath.normpath(config_name))
    if config_entry is None:
        missing.append(config_name)
    else:
        data = catalog.bytes_of(config_entry, CONFIG_BYTES)
        image_id = "sha256:" + hashlib.sha256(data).hexdigest()
        promised = re.search(r"[0-9a-f]{64}", config_name)
        if promised and f"sha256:{promised[0]}" != image_id:
            raise _differs(config_name)
        config = _dict(catalog.parse(data, config_name), config_name)
        platform, diff_ids = _platform(config), _diff_ids(config)
        if diff_ids and len(diff_ids) != len(names):
            raise ArchiveInvalid(
                f"Reading the archive: its config names {len(diff_ids)} layers, its manifest.json "
                f"{len(names)}."
            )
    layers = []
    for number, name in enumerate(names):
        layer = _docker_layer(catalog, name, diff_ids[number] if diff_ids else None)
        layers.append(layer)
        if layer.size_bytes is None:
            missing.append(name)
    image = PlatformImage(platform, image_id, tuple(layers), tuple(missing))
    return Image(tuple(tags), None, (image,))


def _docker_layer(catalog: Catalog, name: str, digest: str | None) -> Layer:
    entry = catalog.find(posixpath.normpath(name))
    if entry is None:
        return Layer(name, digest, None, _DOCKER_LAYER, None)
    kind = catalog.compression(entry)
    media_type = _DOCKER_LAYER + _SUFFIX.get(kind, "")
    return Layer(name, digest, entry.size, media_type, kind)


def _diff_ids(config: dict[str, Any]) -> tuple[str, ...]:
    root = config.get("rootfs")
    return (
        () if root is None else tuple(_strings(_dict(root, "rootfs").get("diff_ids"), "diff_ids"))
    )


def oci_images(catalog: Catalog) -> tuple[Image, ...]:
    """The images of index.json; a multi-arch one, an index within it, has several platforms.

    Raises:
        ArchiveInvalid: it is not the index it should be, or beyond reason.
        ArchiveCorrupt: a manifest or a config is not what its digest says.
    """
    return _Index(catalog).images()


class _Index:
    """One reading of index.json, with a budget for all that it leads to."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog
        self._left = _DESCRIPTORS

    def images(self) -> tuple[Image, ...]:
        index = _exact(_dict(_document(self._catalog, "index.json", INDEX_BYTES), "index.json"))
        tags: dict[str, list[str]] = {}
        rows: dict[str, dict[str, Any]] = {}
        for row in self._manifests(index):
            # containerd lists an image once for each of its names.
            digest = _digest(row)
            rows.setdefault(digest, row)
            tags.setdefault(digest, []).extend(_names(row))
        _require_most(len(rows), _IMAGES, "images")
        return tuple(
            Image(tuple(dict.fromkeys(tags[digest])), digest, tuple(self._platforms(row, 1)))
            for digest, row in rows.items()
        )

    def _manifests(self, index: dict[str, Any]) -> Iterator[dict[str, Any]]:
        for row in _list(index.get("manifests"), "manifests"):
            self._left -= 1
            if self._left < 0:
                raise _beyond(_DESCRIPTORS, "manifests")
            descriptor = _exact(_dict(row, "manifests"))
            if not is_attestation(descriptor):
                yield descriptor

    def _platforms(self, row: dict[str, Any], depth: int) -> Iterator[PlatformImage]:
        if depth > _DEPTH:
            raise _beyond(_DEPTH, "indexes within indexes")
        digest = _digest(row)
        said = row.get("platform")
        platform = None if said is None else _platform(_exact(_dict(said, "platform")))
        document = self._blob(row, INDEX_BYTES)
        if document is None:
            yield PlatformImage(platform, None, (), (digest,))
        elif "manifests" in _exact(document):
            if "layers" in document or "config" in document:
                raise ArchiveInvalid("Reading the archive: one document is an image and a list.")
            for inner in self._manifests(document):
                yield from self._platforms(inner, depth + 1)
        else:
            yield self._image(document, platform)

    def _image(self, manifest: dict[str, Any], platform: str | None) -> PlatformImage:
        descriptor = _exact(_dict(manifest.get("config"), "config"))
        rows = _list(manifest.get("layers"), "layers")
        _require_most(len(rows), _LAYERS, "layers")
        missing = []
        config = self._blob(descriptor, CONFIG_BYTES)
        if config is None:
            missing.append(_digest(descriptor))
        elif is_fetched(descriptor):
            missing.append(f"{_digest(descriptor)}{KEPT_ELSEWHERE}")
        else:
            platform = _platform(config) or platform
        layers = []
        for row in rows:
            layer = self._layer(_exact(_dict(row, "layers")))
            layers.append(layer)
            if is_fetched(row):
                missing.append(f"{layer.name}{KEPT_ELSEWHERE}")
            elif layer.size_bytes is None:
                missing.append(layer.name)
        return PlatformImage(platform, _digest(descriptor), tuple(layers), tuple(missing))

    def _layer(self, row: dict[str, Any]) -> Layer:
        digest, media_type = _digest(row), _string(row.get("mediaType"), "mediaType")
        entry = self._catalog.find(_path(digest))
        if entry is None:
            return Layer(digest, digest, None, media_type, None)
        if row.get("size") != entry.size:
            raise _differs(digest)
        return Layer(digest, digest, entry.size, media_type, self._catalog.compression(entry))

    def _blob(self, row: dict[str, Any], limit_bytes: int) -> dict[str, Any] | None:
        """The JSON that a descriptor means; None where it is missing."""
        digest = _digest(row)
        entry = self._catalog.find(_path(digest))
        if entry is None:
            return None
        data = self._catalog.bytes_of(entry, limit_bytes)
        algorithm, _, expected = digest.partition(":")
        if hashlib.new(algorithm, data).hexdigest() != expected:
            raise _differs(digest)
        return _dict(self._catalog.parse(data, entry.name), entry.name)


def is_attestation(row: dict[str, Any]) -> bool:
    """Whether it is about an image instead of being one (docker's buildx adds such rows)."""
    annotations, platform = row.get("annotations"), row.get("platform")
    return (isinstance(annotations, dict) and "vnd.docker.reference.type" in annotations) or (
        isinstance(platform, dict)
        and platform.get("os") == platform.get("architecture") == "unknown"
    )


def is_fetched(row: dict[str, Any]) -> bool:
    """Whether programs would fetch it from an address that it names, though it were here.

    Wherever a stranger's archive sends us, there we do not go: such a part counts as missing.
    """
    return bool(row.get("urls"))


def is_exact(document: dict[str, Any], keys: frozenset[str] = _OCI_KEYS) -> bool:
    """Whether no key of it could be taken for another one.

    The programs, written in Go, read `URLS` as `urls`; we do not, so we would not see it.
    """
    return not _odd(document, keys)


def _odd(document: dict[str, Any], keys: frozenset[str]) -> list[str]:
    folded = {key.casefold() for key in keys}
    return [key for key in document if key not in keys and key.casefold() in folded]


def _exact(document: dict[str, Any], keys: frozenset[str] = _OCI_KEYS) -> dict[str, Any]:
    for odd in _odd(document, keys):
        raise ArchiveInvalid(f"Reading the archive: what is {shown(odd)!r} in its lists?")
    return document


def _names(row: dict[str, Any]) -> list[str]:
    """The image's full name, if containerd or docker wrote it, else its tag."""
    annotations = row.get("annotations")
    found = _dict({} if annotations is None else annotations, "annotations")
    return [_string(found[key], key) for key in _NAME_KEYS if found.get(key) is not None][:1]


def _platform(values: dict[str, Any]) -> str | None:
    parts = [_string(values.get(key, ""), key) for key in _PLATFORM_KEYS]
    return "/".join(part for part in parts if part) if parts[0] and parts[1] else None


def _digest(row: dict[str, Any]) -> str:
    digest = _string(row.get("digest"), "digest")
    if not DIGEST.fullmatch(digest):
        raise ArchiveInvalid(f"Reading the archive: {shown(digest)!r} is not a digest.")
    return digest


def _path(digest: str) -> str:
    return "blobs/" + digest.replace(":", "/")


def _document(catalog: Catalog, name: str, limit_bytes: int) -> Any:
    entry = catalog.find(name)
    if entry is None:
        raise ArchiveInvalid(f"Reading the archive: its {name} is not a file.")
    return catalog.parse(catalog.bytes_of(entry, limit_bytes), name)


def _dict(value: Any, name: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise _wrong(name, "an object")
    return value


def _list(value: Any, name: str) -> list[Any]:
    if not isinstance(value, list):
        raise _wrong(name, "a list")
    return value


def _string(value: Any, name: str) -> str:
    if not isinstance(value, str):
        raise _wrong(name, "text")
    return value


def _strings(value: Any, name: str) -> list[str]:
    return [] if value is None else [_string(row, name) for row in _list(value, name)]


def _require_most(count: int, most: int, what: str) -> None:
    if count > most:
        raise _beyond(most, what)


def _beyond(most: int, what: str) -> ArchiveInvalid:
    return ArchiveInvalid(f"Reading the archive: it has more than {most} {what}.")


def _wrong(name: str, what: str) -> ArchiveInvalid:
    return ArchiveInvalid(f"Reading the archive: {shown(name)} in its lists is not {what}.")


def _differs(name: str) -> ArchiveCorrupt:
    return ArchiveCorrupt(f"Reading the archive: {shown(name)} is not what its digest says.")
