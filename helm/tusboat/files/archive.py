"""Writes the smallest image archive that says something: `python3 archive.py FILE`."""

import hashlib
import io
import json
import sys
import tarfile


def add(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    """Add a file."""
    entry = tarfile.TarInfo(name)
    entry.size = len(data)
    archive.addfile(entry, io.BytesIO(data))


layer = io.BytesIO()
with tarfile.open(fileobj=layer, mode="w") as files:
    add(files, "hello", b"from helm test\n")
digest = hashlib.sha256(layer.getvalue()).hexdigest()
config = json.dumps(
    {
        "architecture": "amd64",
        "os": "linux",
        "config": {},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest}"]},
    }
).encode()
name = f"{hashlib.sha256(config).hexdigest()}.json"
manifest = [{"Config": name, "RepoTags": ["tusboat/test:helm"], "Layers": [f"{digest}.tar"]}]
with tarfile.open(sys.argv[1], "w") as archive:
    add(archive, name, config)
    add(archive, f"{digest}.tar", layer.getvalue())
    add(archive, "manifest.json", json.dumps(manifest).encode())
