"""Makes archives of the files of an image that was pulled into a directory.

Knows: what skopeo writes into a directory (`dir:`); the OCI image layout, in a tar.
Must not know: registries, where the archive goes.

skopeo's own way to an OCI archive would not do: it writes everything twice, refuses names with two
underscores, and makes a new config, with another image id, of an image that docker pushed. Here
config and layers stay what they are, byte for byte. The functions block, are for a worker thread
that the event loop waits for, and stop when the waiting task is cancelled.

Source: OCI image specification v1.1, image layout.
"""

from __future__ import annotations

import hashlib
import json
import os
import tarfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from anyio import from_thread

from buildah.compression import Compression, Unpacked
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
_CHUNK_BYTES = 2**20
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


def unpack_zstd(pulled: Path, report: Callable[[float], None]) -> None:
    """Unpack what is compressed with zstd, of an image for one platform; skopeo (1.9) cannot.

    It makes a docker-archive of the rest, whose layers have no compression anyway. `report` gets
    the share that is done. Layers are removed as they are unpacked.

    Raises:
        ArchiveError: a layer is damaged, or grows beyond reason.
        OSError: there is no room for it.
    """
    path = pulled / "manifest.json"
    document = json.loads(path.read_bytes())
    rows = [row for row in document["layers"] if row["mediaType"].endswith("zstd")]
    total_bytes = sum(row["size"] for row in rows)
    unpacked: dict[str, dict[str, Any]] = {}
    done_bytes = 0
    for row in rows:
        packed = pulled / row["digest"].removeprefix("sha256:")
        if row["digest"] not in unpacked:

            def count(packed_bytes: int, before_bytes: int = done_bytes) -> None:
                report((before_bytes + packed_bytes) / max(total_bytes, 1))

            unpacked[row["digest"]] = _unpacked(packed, count)
        done_bytes += row["size"]
        media_type = row["mediaType"].removesuffix("zstd").rstrip(".+")
        row.update(unpacked[row["digest"]], mediaType=media_type)
    if rows:
        path.write_text(json.dumps(document))


def _unpacked(packed: Path, report: Callable[[int], None]) -> dict[str, Any]:
    """Digest and size of the layer, which is there under its new digest."""
    plain, hashed = packed.with_name("unpacking"), hashlib.sha256()
    with packed.open("rb") as source, plain.open("wb") as out:
        reader = Unpacked(source, Compression.ZSTD, os.fstat(source.fileno()).st_size)
        while chunk := reader.read(_CHUNK_BYTES):
            from_thread.check_cancelled()
            hashed.update(chunk)
            out.write(chunk)
            report(source.tell())
        size_bytes = out.tell()
    packed.unlink()
    plain.rename(packed.with_name(hashed.hexdigest()))
    return {"digest": f"sha256:{hashed.hexdigest()}", "size": size_bytes}


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
