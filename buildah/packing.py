"""Makes one OCI archive of the files of an image that was pulled into a directory.

Knows: what skopeo writes into a directory (`dir:`); the OCI image layout, in a tar.
Must not know: registries, where the archive goes.

skopeo's own way would not do: it writes everything twice, refuses names with two underscores, and
makes a new config, with another image id, of an image that docker pushed. Here config and layers
stay what they are, byte for byte. It blocks, is for a worker thread that the event loop waits for,
and stops when the waiting task is cancelled.

Source: OCI image specification v1.1, image layout.
"""

from __future__ import annotations

import json
import os
import tarfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from anyio import from_thread

from buildah.errors import ToolFailed
from buildah.manifests import (
    OCI_INDEX,
    OCI_MANIFEST,
    Descriptor,
    Index,
    Manifest,
    digest_of,
    parse,
)

_STEP_BYTES = 16 * 2**20
_TAR_BLOCK_BYTES = 512
_LAYOUT = b'{"imageLayoutVersion":"1.0.0"}'
# containerd and docker read the first, skopeo and podman the second.
_NAME_KEYS = ("io.containerd.image.name", "org.opencontainers.image.ref.name")


def pack(pulled: Path, archive: Path, name: str, report: Callable[[int], None]) -> None:
    """Write the archive; `report` gets the bytes of blobs written so far.

    The lists come first, so that who reads it from a pipe knows what comes. Blobs are removed from
    `pulled` as they are written: both together need little more room than one.

    Raises:
        ImageUnsupported: the image cannot be said in OCI's words.
        OSError: it cannot be written.
    """
    documents: dict[str, bytes] = {}
    manifests = []
    top = parse((pulled / "manifest.json").read_bytes())
    if isinstance(top, Index):
        manifests = list(_manifests(pulled, top))
        replaced = {}
        for digest, manifest in manifests:
            data = manifest.as_oci()
            documents[digest_of(data)] = data
            if data != manifest.data:
                replaced[digest] = data
        data, media_type = top.as_oci(replaced), OCI_INDEX
    else:
        manifests = [("", top)]
        data, media_type = top.as_oci(), OCI_MANIFEST
    documents[digest_of(data)] = data
    blobs = {digest: blob for _, manifest in manifests for digest, blob in manifest.blobs.items()}
    with archive.open("xb") as out:
        _entry(out, "index.json", _index(data, media_type, name))
        _entry(out, "oci-layout", _LAYOUT)
        for digest, document in documents.items():
            _entry(out, _path(digest), document)
        _blobs(out, pulled, blobs, report)
        out.write(bytes(2 * _TAR_BLOCK_BYTES))


def _manifests(pulled: Path, index: Index) -> Iterator[tuple[str, Manifest]]:
    for row in index.rows:
        manifest = parse((pulled / f"{row.hex}.manifest.json").read_bytes())
        if isinstance(manifest, Manifest):
            yield row.digest, manifest


def _index(data: bytes, media_type: str, name: str) -> bytes:
    row: dict[str, Any] = {
        "mediaType": media_type,
        "digest": digest_of(data),
        "size": len(data),
        "annotations": dict.fromkeys(_NAME_KEYS, name),
    }
    return json.dumps({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [row]}).encode()


def _blobs(
    out: IO[bytes], pulled: Path, blobs: Mapping[str, Descriptor], report: Callable[[int], None]
) -> None:
    done = 0
    for digest, blob in blobs.items():
        path = pulled / blob.hex
        with path.open("rb") as source:
            size_bytes = os.fstat(source.fileno()).st_size
            out.write(_header(_path(digest), size_bytes))
            out.flush()
            position = 0
            while position < size_bytes:
                from_thread.check_cancelled()
                step = min(_STEP_BYTES, size_bytes - position)
                sent = os.sendfile(out.fileno(), source.fileno(), position, step)
                if not sent:
                    raise ToolFailed(f"Packing the image: {digest} became shorter meanwhile.")
                position += sent
                report(done + position)
        done += size_bytes
        out.seek(0, os.SEEK_END)
        out.write(bytes(-size_bytes % _TAR_BLOCK_BYTES))
        path.unlink()


def _path(digest: str) -> str:
    return "blobs/" + digest.replace(":", "/")


def _header(name: str, size_bytes: int) -> bytes:
    entry = tarfile.TarInfo(name)
    entry.size = size_bytes
    return entry.tobuf(tarfile.GNU_FORMAT)


def _entry(out: IO[bytes], name: str, data: bytes) -> None:
    out.write(_header(name, len(data)) + data + bytes(-len(data) % _TAR_BLOCK_BYTES))
