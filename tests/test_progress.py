"""How far a program is, by the temporary files that buildah's versions make on their way."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from buildah.load import _LAYER_FILES as LOADING
from buildah.progress import FileActivity
from buildah.push import _LAYER_FILES as PUSHING

MIB = 2**20
# Writes 3 MiB, reads 1 MiB of them back, closes; waits before each further step until it is told.
PROGRAM = """
import sys
from pathlib import Path

path, anonymous = Path(sys.argv[1]), sys.argv[2] == "anonymous"
path.parent.mkdir(exist_ok=True)

def tell():
    print("here", flush=True)
    input()

with open(path, "w+b", buffering=0) as file:
    if anonymous:
        path.unlink()
    file.write(bytes(3 * 2**20))
    tell()
    if anonymous:
        file.seek(0)
        file.read(2**20)
        tell()
if not anonymous:
    with open(path, "rb", buffering=0) as file:
        file.read(2**20)
        tell()
tell()
"""


@pytest.mark.parametrize(
    ("pattern", "name", "kind"),
    [
        (LOADING, "storage123/1", "named"),
        (LOADING, "container_images_storage123/1", "named"),
        (PUSHING, "123", "named"),
        (PUSHING, "container_images_123", "anonymous"),
    ],
    ids=["load with 1.28", "load with 1.45", "push with 1.28", "push with 1.45"],
)
def test_a_layer_is_followed_while_it_is_written_and_read_back(
    pattern: re.Pattern[str], name: str, kind: str, tmp_path: Path
) -> None:
    activity = FileActivity(tmp_path, pattern)
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(tmp_path / name), kind],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as program:
        assert program.stdin
        assert program.stdout
        seen = []
        for _ in range(3):
            assert program.stdout.readline() == "here\n"
            activity.scan(program.pid)
            seen.append((activity.written_bytes, activity.read_bytes))
            program.stdin.write("\n")
            program.stdin.flush()
    assert program.returncode == 0
    assert seen == [(3 * MIB, 0), (3 * MIB, MIB), (3 * MIB, 3 * MIB)]
