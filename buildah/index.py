"""Makes an OCI layout of one image out of one of many: a list of its own, the blobs shared.

Knows: index.json, indexes within it, which blobs a manifest needs.
Must not know: programs, registries, how the blobs came there.

Source: OCI image specification 1.1, image layout and image index.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from buildah.catalog import INDEX_BYTES, Catalog
from buildah.errors import ArchiveInvalid
from buildah.layouts import DIGEST, is_attestation, is_exact, is_fetched

_LAYOUT = {"imageLayoutVersion": "1.0.0"}
_INDEX_TYPE = "application/vnd.oci.image.index.v1+json"


def single_out(shared: Path, digest: str, directory: Path) -> None:
    """Write to `directory` a layout with the image of that digest, as far as it is whole.

    An image for several platforms of which all blobs are there stays byte for byte what it is, so
    that its digest does; else its index is made anew, of what is whole and without indexes within
    indexes, which the programs do not copy. What is only about an image (an attestation) is kept
    where it is whole and left out where it is not. Blocking. `shared` and what it holds was looked
    at before: its lists are what their digests say.
    """
    directory.mkdir(mode=0o700)
    (directory / "blobs").symlink_to(shared / "blobs")
    (directory / "oci-layout").write_text(json.dumps(_LAYOUT))
    row = _row_of(shared, digest)
    inner = _read(shared, row)
    if "manifests" in inner:
        leaves = list(_leaves(shared, inner))
        if leaves != inner["manifests"]:
            row = _write_index(shared, {**inner, "manifests": leaves}, row)
    # The name it has is no matter here, and two rows of one name would be refused.
    row = {key: value for key, value in row.items() if key != "annotations"}
    (directory / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [row]}))


def _row_of(shared: Path, digest: str) -> dict[str, Any]:
    rows = json.loads((shared / "index.json").read_bytes())["manifests"]
    found: dict[str, Any] = next(row for row in rows if row.get("digest") == digest)
    return found


def _leaves(shared: Path, index: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The manifests of an index, and of indexes within it, of which every blob is there."""
    for row in index["manifests"]:
        document = _read(shared, row)
        # Nobody looked into an attestation: it may say anything.
        if "manifests" in document and not is_attestation(row):
            yield from _leaves(shared, document)
        elif _is_whole(shared, document):
            yield row


def _is_whole(shared: Path, manifest: dict[str, Any]) -> bool:
    config, layers = manifest.get("config"), manifest.get("layers")
    if not isinstance(layers, list):
        return False
    return all(_is_present(shared, row) for row in [config, *layers])


def _is_present(shared: Path, row: Any) -> bool:
    if not isinstance(row, dict):
        return False
    path = _path(shared, row)
    return path is not None and path.is_file() and is_exact(row) and not is_fetched(row)


def _write_index(shared: Path, index: dict[str, Any], row: dict[str, Any]) -> dict[str, Any]:
    data = json.dumps(index).encode()
    name = hashlib.sha256(data).hexdigest()
    (shared / "blobs" / "sha256" / name).write_bytes(data)
    return {"mediaType": _INDEX_TYPE, **row, "digest": f"sha256:{name}", "size": len(data)}


def _read(shared: Path, row: dict[str, Any]) -> dict[str, Any]:
    """What a descriptor means; an empty document where it is missing, or nothing to be read."""
    path = _path(shared, row)
    if path is None or not path.is_file() or path.stat().st_size > INDEX_BYTES:
        return {}
    try:
        document = Catalog.parse(path.read_bytes(), path.name)
    except ArchiveInvalid:
        return {}
    return document if isinstance(document, dict) and is_exact(document) else {}


def _path(shared: Path, row: dict[str, Any]) -> Path | None:
    digest = str(row.get("digest"))
    return shared / "blobs" / digest.replace(":", "/") if DIGEST.fullmatch(digest) else None
