"""A small genuine image archive, as `docker save` writes one, from nothing but Python.

Knows: the docker-archive format: layers, config, manifest.json.
Must not know: who wants it.
"""

from __future__ import annotations

import hashlib
import io
import json
import random
import tarfile
from pathlib import Path

MIB = 2**20
# The same bytes every time, so the same digest every time; noise, so that it stays a few MB.
SEED = 20
NOISE_BYTES = 3 * MIB


def write_archive(path: Path, tag: str) -> None:
    """Write an image of three layers and a few MB to `path`, tagged `tag` inside the archive."""
    noise = random.Random(SEED).randbytes(NOISE_BYTES)  # noqa: S311 - content, not a secret
    layers = [
        _tar({"etc/os-release": b'NAME="Tusboat demo"\nID=tusboat-demo\n'}),
        _tar({"srv/weights.bin": noise}),
        _tar({"srv/README": b"An image that came over a bad network.\n"}),
    ]
    config = json.dumps(_config(layers), sort_keys=True).encode()
    config_name = hashlib.sha256(config).hexdigest() + ".json"
    names = [hashlib.sha256(layer).hexdigest() + ".tar" for layer in layers]
    manifest = [{"Config": config_name, "RepoTags": [tag], "Layers": names}]
    path.write_bytes(
        _tar(
            {
                **dict(zip(names, layers, strict=True)),
                config_name: config,
                "manifest.json": json.dumps(manifest).encode(),
            }
        )
    )


def _config(layers: list[bytes]) -> dict[str, object]:
    return {
        "architecture": "amd64",
        "os": "linux",
        "created": "2026-01-01T00:00:00Z",
        "config": {"Cmd": ["/bin/sh"], "WorkingDir": "/srv"},
        "rootfs": {
            "type": "layers",
            "diff_ids": ["sha256:" + hashlib.sha256(layer).hexdigest() for layer in layers],
        },
        "history": [
            {"created": "2026-01-01T00:00:00Z", "created_by": "examples/cli/archive.py"}
            for _ in layers
        ],
    }


def _tar(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return buffer.getvalue()
