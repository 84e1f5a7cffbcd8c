"""User namespaces that a test makes: a process waits in one until it has its ids.

Knows: /proc, and that such a process reads its standard input first.
Must not know: what runs in it.
"""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

from tests.live import wait_until


def map_ids(process: subprocess.Popen[Any], ids: str) -> None:
    """Give the user namespace that the process makes its users and groups, and let it go on.

    `ids` are rows of: first inside, first outside, how many.
    """
    ours = Path("/proc/self/ns/user").readlink()
    of_process = Path("/proc", str(process.pid))
    wait_until(
        lambda: process.poll() is not None or (of_process / "ns/user").readlink() != ours,
        seconds=10,
        what="a user namespace",
    )
    for name in ("uid_map", "gid_map"):
        (of_process / name).write_text(ids)
    assert process.stdin is not None
    process.stdin.close()
    # `communicate` would write to it.
    process.stdin = None
