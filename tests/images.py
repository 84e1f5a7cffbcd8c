"""Our image, built where no base image can be pulled, and programs in it as a container has them.

Knows: debootstrap, `make image`, `buildah mount`, namespaces, where this machine has packages from.
Must not know: what a test wants to prove.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psutil  # type: ignore[import-untyped]

from buildah.removal import remove_tree
from tests.live import ROOT, STOP_SECONDS, LiveServer

BASE = "localhost/base"
BUILT = "localhost/tusboat"
# Nobody answers there: what is installed came from the mirror that the build was told.
ABSENT_MIRROR = "http://mirror.invalid/debian"
SOURCES = "etc/apt/sources.list.d/debian.sources"
# What a container's start does: a root that nothing leads out of and that stays as it was built,
# and the first process in it. A mere chroot would do for all but user namespaces, which the kernel
# makes for nobody in one.
ENTER = """\
set -eu
root=$1 data=$2 user=$3
shift 3
mount --bind "$root" "$root"
mount --rbind /dev "$root/dev"
mount -t proc proc "$root/proc"
mount -t tmpfs tmpfs "$root/run"
mount -t tmpfs tmpfs "$root/tmp"
mount --bind "$data" "$root/data"
mount -o remount,bind,ro "$root"
cd "$root"
pivot_root . .
umount -l .
cd /data
exec setpriv --reuid "$user" --regid "$user" --clear-groups --pdeathsig KILL env -i "$@"
"""


def run(*argv: str | Path, seconds: float = 600) -> str:
    """Run a program with this machine's own environment (proxies are in it); its stdout.

    Raises:
        AssertionError: it failed; what it said is in the message.
    """
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=seconds)
    assert done.returncode == 0, f"{argv}: {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def debian_archive() -> tuple[str, bool]:
    """Where this machine gets Debian's packages from, and whether the updates are beside it."""
    # Known from the sources, also where no lists were fetched yet.
    targets = ("--no-release-info", "--format", "$(REPO_URI)", "Created-By: Packages")
    found = [uri.rstrip("/") for uri in run("apt-get", "indextargets", *targets).splitlines()]
    archive = next(uri for uri in found if uri.endswith("/debian"))
    return archive, f"{archive}-security" in found


def python_index() -> str:
    """Where this machine's pip gets packages from; empty: pip's own default."""
    config = run(sys.executable, "-m", "pip", "config", "list")
    found = re.findall(r"^(?:global|:env:)\.index-url='(.*)'$", config, re.MULTILINE)
    return str(found[-1]) if found else ""


def source(archive: str, suite: str, keys: str) -> str:
    """A paragraph of SOURCES."""
    return f"Types: deb\nURIs: {archive}\nSuites: {suite}\nComponents: main\nSigned-By: {keys}\n"


def slim(root: Path) -> None:
    """Remove from a new system what debian:...-slim has not."""
    shares = [f"usr/share/{name}" for name in ("doc", "info", "lintian", "locale", "man")]
    for place in (*shares, "var/lib/apt/lists", "var/cache/apt"):
        files = [path for path in (root / place).rglob("*") if path.is_symlink() or path.is_file()]
        for path in files:
            if path.name != "copyright":
                path.unlink()
    for log in ("bootstrap.log", "dpkg.log", "alternatives.log", "apt/history.log", "apt/term.log"):
        (root / "var/log" / log).unlink(missing_ok=True)


class ImageStore:
    """Container storage of a test's own, of which nothing is left."""

    def __init__(self, directory: Path) -> None:
        """Keep everything below `directory`, which is removed at the end."""
        self.directory = directory
        self._home, self._tmp = directory / "home", directory / "tmp"
        self._environment = ("env", f"HOME={self._home}", f"TMPDIR={self._tmp}")
        self._engine = (
            *("buildah", "--storage-driver=overlay"),
            *(f"--root={directory / 'storage'}", f"--runroot={directory / 'run'}"),
        )

    def __enter__(self) -> Self:
        """Make the directories."""
        for directory in (self._home, self._tmp):
            directory.mkdir(parents=True)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Unmount and remove everything."""
        remove_tree(self.directory)

    def buildah(self, *arguments: str | Path) -> str:
        """Run buildah on this storage; its stdout."""
        return run(*self._environment, *self._engine, *arguments).strip()

    def bootstrap(self, suite: str, name: str = BASE, *, platform: str = "") -> None:
        """Make an image of Debian's smallest system, which gets its packages from nowhere.

        It has and lacks what debian:...-slim has and lacks. From this machine it has what an image
        of its owner would have: the certificates that are trusted here, and how packages are
        fetched.
        """
        archive, has_updates = debian_archive()
        container = self.buildah("from", "scratch")
        root = Path(self.buildah("mount", container))
        script = Path("/usr/share/debootstrap/scripts", suite)
        # Each release is made as its predecessors are; an older debootstrap lacks only the name.
        known = script if script.exists() else script.with_name("sid")
        foreign = [f"--arch={platform.rpartition('/')[2]}"] if platform else []
        run("debootstrap", "--variant=minbase", *foreign, suite, root, archive, known)
        slim(root)
        keys = "/usr/share/keyrings/debian-archive-keyring.gpg"
        sources = [source(ABSENT_MIRROR, suite, keys)]
        if has_updates:
            sources.append(source(f"{ABSENT_MIRROR}-security", f"{suite}-security", keys))
        (root / "etc/apt/sources.list").unlink(missing_ok=True)
        (root / SOURCES).write_text("\n".join(sources))
        # An archive of a test's own is on this machine, and behind no proxy.
        direct = 'Acquire::http::Proxy::127.0.0.1 "DIRECT";\n'
        fetching = run("apt-config", "dump", "Acquire") + direct
        (root / "etc/apt/apt.conf.d/99machine").write_text(fetching)
        trusted = root / "usr/local/share/ca-certificates"
        trusted.mkdir(exist_ok=True)
        for certificate in Path("/usr/local/share/ca-certificates").glob("*.crt"):
            (trusted / certificate.name).write_bytes(certificate.read_bytes())
        self.buildah("unmount", container)
        if platform:
            self.buildah("config", f"--arch={platform.rpartition('/')[2]}", container)
        self.buildah("commit", "--quiet", "--rm", container, name)

    def make(self, target: str, **variables: str) -> None:
        """Run a target of the Makefile on this storage; what it is to set up is there already."""
        given = {"ENGINE": " ".join(self._engine), "IMAGE": BUILT, **variables}
        arguments = [f"{name}={value}" for name, value in given.items()]
        # The make that runs these tests has a say in nothing here.
        make = ("env", "--unset=MAKEFLAGS", "make", f"--directory={ROOT}", "--assume-old=setup")
        run(*self._environment, *make, target, *arguments, seconds=1800)

    def build(self, **variables: str) -> None:
        """`make image` on BASE, with this machine's mirrors."""
        given = {"BASE": BASE, "APT_MIRROR": debian_archive()[0]}
        if index := python_index():
            given["PIP_INDEX_URL"] = index
        self.make("image", **(given | variables))

    def image(self, name: str = BUILT) -> Image:
        """An image that is here, mounted."""
        document = json.loads(self.buildah("inspect", "--type=image", name))
        root = Path(self.buildah("mount", self.buildah("from", "--pull-never", name)))
        return Image(root, document["OCIv1"])


class Image:
    """A built image: its root, and what its configuration says."""

    def __init__(self, root: Path, document: Mapping[str, Any]) -> None:
        """`document` is the OCI image configuration; `root` is a mount."""
        self.root = root
        self.config: dict[str, Any] = document["config"]

    def entering(
        self, data: Path, *argv: str, user: int | None = None, env: Mapping[str, str] | None = None
    ) -> list[str]:
        """The command line of a program in a container of this image; `data` is its /data.

        It is the first process there, has the machine's network, and the image's user and
        environment, to which `env` is added. All mounts are in namespaces of its own.
        """
        owner = str(self.config["User"]).partition(":")[0] if user is None else str(user)
        added = [f"{name}={value}" for name, value in (env or {}).items()]
        return [
            *("unshare", "--mount", "--pid", "--fork", "sh", "-c", ENTER, "sh"),
            *(str(self.root), str(data), owner, *self.config["Env"], *added, *argv),
        ]

    def run(
        self, data: Path, *argv: str, env: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run a program in it to its end."""
        command = self.entering(data, *argv, env=env)
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


class ImageServer(LiveServer):
    """What the image starts by itself, in a container of it; else as `LiveServer`."""

    def __init__(self, image: Image, tmp_path: Path, *, user: int, **settings: Any) -> None:
        """Its /data is below `tmp_path`, and belongs to the user."""
        super().__init__(tmp_path, **settings)
        self._image, self._user = image, user
        self.data_dir.mkdir()
        os.chown(self.data_dir, user, user)

    @property
    def command(self) -> list[str]:
        """ENTRYPOINT and CMD, in a container."""
        given = {name: value for name, value in self.env.items() if name.startswith("TUSBOAT_")}
        given["TUSBOAT_DATA_DIR"] = "/data"
        argv: Sequence[str] = (*self._image.config["Entrypoint"], *self._image.config["Cmd"])
        return self._image.entering(self.data_dir, *argv, user=self._user, env=given)

    @property
    def first(self) -> psutil.Process:
        """The first process of the container."""
        [process] = psutil.Process(self.pid).children()
        return process

    def stop(self, *, seconds: float = STOP_SECONDS) -> int:
        """SIGTERM to the first process of the container, and its exit code."""
        self.first.terminate()
        return self._running().wait(seconds)
