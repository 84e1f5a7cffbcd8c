"""Archives made by the programs themselves: buildah, podman, skopeo, umoci.

Knows: their commands; a container storage of its own in which one image is built from nothing.
Must not know: what a test wants to prove.
"""

from __future__ import annotations

import hashlib
import random
import subprocess
from pathlib import Path

from tests.archives import KIB, Archive
from tests.live import environment

# Both in one storage: a tag, and another image with two of its own.
NAME = "localhost/team/app:1"
OTHER_NAME = "localhost/team/other:2"


class Workshop:
    """A storage with two images of two layers each."""

    def __init__(self, directory: Path) -> None:
        """Build them; seconds."""
        self._directory = directory
        self._env = environment(directory)
        self._storage: tuple[str, ...] = ("--storage-driver=vfs", f"--root={directory / 's'}")
        self._storage += (f"--runroot={directory / 'r'}",)
        for number in range(3):
            content = random.Random(number).randbytes(20 * KIB)
            (directory / f"file-{number}").write_bytes(content)
        base = self._built("scratch", 0, "localhost/base:0")
        self.image_id = self._built("localhost/base:0", 1, NAME)
        self.other_id = self._built("localhost/base:0", 2, OTHER_NAME)
        assert len({base, self.image_id, self.other_id}) == 3

    def podman_docker(self, path: Path) -> Archive:
        """`podman save`."""
        return self._podman(path, "docker-archive", NAME)

    def podman_oci(self, path: Path) -> Archive:
        """`podman save --format oci-archive`."""
        return self._podman(path, "oci-archive", NAME)

    def podman_several(self, path: Path) -> Archive:
        """`podman save --multi-image-archive` of both."""
        return self._podman(path, "docker-archive", "--multi-image-archive", NAME, OTHER_NAME)

    def podman_by_id(self, path: Path) -> Archive:
        """`podman save` of an id: no name comes along."""
        return self._podman(path, "docker-archive", self.image_id)

    def buildah_docker(self, path: Path) -> Archive:
        """`buildah push IMAGE docker-archive:`."""
        return self._buildah_push(path, "docker-archive", "team/app:1")

    def buildah_oci(self, path: Path) -> Archive:
        """`buildah push IMAGE oci-archive:`."""
        return self._buildah_push(path, "oci-archive", "1")

    def skopeo_docker(self, path: Path) -> Archive:
        """`skopeo copy IMAGE docker-archive:`."""
        return self._skopeo(path, f"docker-archive:{path}:team/app:1")

    def skopeo_oci(self, path: Path) -> Archive:
        """`skopeo copy IMAGE oci-archive:`."""
        return self._skopeo(path, f"oci-archive:{path}:1")

    def skopeo_zstd(self, path: Path) -> Archive:
        """`skopeo copy --dest-compress-format zstd IMAGE oci-archive:`."""
        options = ("--dest-compress", "--dest-compress-format=zstd")
        return self._skopeo(path, f"oci-archive:{path}:1", *options)

    def umoci(self, path: Path) -> Archive:
        """`umoci new`, `insert` and `config` on a layout, which then goes into a tar."""
        layout = path.with_name("layout")
        self._run("umoci", "init", "--layout", str(layout))
        image = f"{layout}:v1"
        self._run("umoci", "new", "--image", image)
        for number in range(2):
            source = str(self._directory / f"file-{number}")
            self._run("umoci", "insert", "--image", image, source, f"/file-{number}")
        self._run("umoci", "config", "--image", image, "--config.cmd", "/file-0")
        self._run("tar", "-C", str(layout), "-cf", str(path), ".")
        digest = self._run("skopeo", "inspect", "--config", "--raw", f"oci:{layout}:v1")
        return Archive(path, _sha256(digest), "v1")

    def _built(self, base: str, number: int, name: str) -> str:
        container = self._buildah("from", "--pull-never", base)
        self._buildah("copy", container, str(self._directory / f"file-{number}"), f"/{number}")
        self._buildah("config", "--cmd=/0", "--label=made=by-tests", container)
        return self._buildah("commit", "--quiet", "--rm", container, name)

    def _podman(self, path: Path, form: str, *arguments: str) -> Archive:
        save = ("save", "--quiet", f"--format={form}", f"--output={path}")
        self._run("podman", *self._storage, *save, *arguments)
        return Archive(path, self.image_id, NAME)

    def _buildah_push(self, path: Path, form: str, name: str) -> Archive:
        self._buildah("push", "--quiet", NAME, f"{form}:{path}:{name}")
        return Archive(path, self.image_id, name)

    def _skopeo(self, path: Path, target: str, *options: str) -> Archive:
        storage = f"[vfs@{self._directory / 's'}+{self._directory / 'r'}]"
        source = f"containers-storage:{storage}{NAME}"
        self._run("skopeo", "copy", "--quiet", *options, source, target)
        return Archive(path, self.image_id, target.rpartition(":")[2])

    def _buildah(self, *arguments: str) -> str:
        return self._run("buildah", *self._storage, *arguments).decode().strip()

    def _run(self, *argv: str) -> bytes:
        done = subprocess.run(argv, env=self._env, capture_output=True, check=False)
        assert done.returncode == 0, (argv, done.stderr)
        return done.stdout


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
