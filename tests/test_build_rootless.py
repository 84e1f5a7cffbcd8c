"""A build by a worker that is not root: the same sandbox, entered through a user namespace."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.contexts import (
    base_archive,
    files_of_image,
    push_base_image,
    write_context,
)
from tests.live import ROOT
from tests.registries import RunningRegistry, needs_containers, plain_registry

__all__ = ["base_archive", "plain_registry"]

pytestmark = needs_containers

# What the worker needs is below /mnt; Python itself stays where it is, with a way there that all
# may go. /etc/subuid and /etc/subgid are replaced for this worker alone.
ENTER = """\
set -e
repository=$1 work=$2 venv=$3 base=$4 ids=$5
shift 5
mount -t tmpfs -o mode=0755 tmpfs /mnt
mkdir /mnt/repository /mnt/work /mnt/venv /mnt/base
mount --bind "$repository" /mnt/repository
mount --bind "$work" /mnt/work
mount --bind "$venv" /mnt/venv
mount --bind "$base" /mnt/base
# A worker's own /dev, whatever has become of this machine's.
mknod -m 0666 /mnt/null c 1 3
mount --bind /mnt/null /dev/null
nobody() { setpriv --reuid=65534 --regid=65534 --clear-groups -- "$@"; }
for name in base venv; do
  eval place=\\$$name
  if ! nobody test -r "$place/bin"; then
    top=/$(echo "$place" | cut -d/ -f2)
    [ -e "$top/.open" ] || { mount -t tmpfs -o mode=0755 tmpfs "$top"; touch "$top/.open"; }
    mkdir -p "$place"
    mount --bind "/mnt/$name" "$place"
  fi
done
for range in $ids; do echo "nobody:$range"; done > /mnt/ids
mount --bind /mnt/ids /etc/subuid
mount --bind /mnt/ids /etc/subgid
cd /mnt/work
nobody env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/mnt/work PYTHONPATH=/mnt/repository "$@"
"""
WORKER = """\
import anyio, anyio.to_thread, json, sys
from pathlib import Path

from buildah.bases import BaseImages
from buildah.build import BuildOptions, build
from buildah.context import unpack_context
from buildah.errors import BuildTooBig
from buildah.pushed import LayerCompression
from buildah.reference import ImageReference
from buildah.registry import Registries, Registry
from buildah.workspace import Workspace

host, driver = sys.argv[1:]
registry = Registry(host, plain_http=True)
lines = []

async def one(archive, **options):
    with Workspace.open(Path("jobs"), "job", storage_driver=driver) as workspace:
        context = await anyio.to_thread.run_sync(
            unpack_context, Path(archive), workspace.directory / "context")
        image = await build(
            context, workspace, BuildOptions(BaseImages((), Registries([registry])), **options),
            note=lambda note: None, log=lines.append)
        await image.push(
            ImageReference.parse(f"{host}/team/rootless:{driver}"), registry, workspace,
            progress=lambda done, total: None, log=lines.append, compression=LayerCompression())

async def main():
    await one("context.tar")
    try:
        await one("large.tar", size_bytes=150 * 2**20)
    except BuildTooBig:
        lines.append("too big")

anyio.run(main)
print(json.dumps(lines))
print(json.dumps([str(path) for path in Path("jobs").iterdir()]))
"""


@pytest.mark.parametrize(
    ("driver", "ids", "mapped"),
    [
        ("overlay", "1000000:65536", [["0", "1", "65536"]]),
        ("vfs", "1000000:65536", [["0", "1", "65536"]]),
        # Several ranges are several rows: none may reach over the end of one of them.
        ("vfs", "2000000:999 3000000:64535", [["0", "1", "999"], ["999", "1000", "64535"]]),
    ],
    ids=["overlay", "vfs", "vfs with two ranges of ids"],
)
def test_a_worker_that_is_not_root_builds_too(
    plain_registry: RunningRegistry,
    base_archive: Path,
    tmp_path: Path,
    driver: str,
    ids: str,
    mapped: list[list[str]],
) -> None:
    base = push_base_image(plain_registry, base_archive, "library/base:1")
    work = tmp_path / "work"
    work.mkdir()
    step = "id; cat /proc/self/uid_map; ls -ln /dev/null; cat /proc/net/dev; echo x > /tmp/made"
    gone = "mkdir /tmp/d && touch /tmp/d/f"
    again = "rm -r /tmp/d && mkdir /tmp/d && chmod 700 /tmp/d"
    write_context(
        work / "context.tar",
        {
            "Containerfile": f"FROM {base} AS one\nRUN {step}\nRUN {gone}\nRUN {again}\n"
            "FROM scratch\nCOPY --from=one /tmp/made /made\n"
        },
    )
    hidden = "mkdir -m 700 /tmp/h; dd if=/dev/zero of=/tmp/h/f bs=1M count=300; sleep 1000"
    write_context(work / "large.tar", {"Containerfile": f"FROM {base}\nRUN {hidden}\n"})
    (work / "worker.py").write_text(WORKER)
    for path in (work, *work.iterdir()):
        shutil.chown(path, 65534, 65534)
    ran = subprocess.run(
        [
            *("unshare", "--mount", "sh", "-c", ENTER, "enter"),
            *(str(ROOT), str(work), sys.prefix, sys.base_prefix, ids),
            *(sys.executable, "worker.py", plain_registry.host, driver),
        ],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    lines, left = (json.loads(line) for line in ran.stdout.splitlines())
    # What stays is no job's: the list of blobs that registries have.
    assert left == ["jobs/.known"]
    words = [line.split() for line in lines]
    assert ["uid=0", "gid=0", "groups=0"] in words, lines
    # Root of the step is the first of the worker's subordinate ids, not the worker.
    assert [row for row in mapped if row not in words] == [], lines
    assert not [line for line in lines if "eth0" in line], lines
    assert "too big" in lines
    image = f"{plain_registry.host}/team/rootless:{driver}"
    assert files_of_image(plain_registry, image, tmp_path / "pulled") == {"made": b"x\n"}
