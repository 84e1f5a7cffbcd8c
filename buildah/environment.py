"""The surroundings in which buildah and skopeo run: nothing of this machine's own reaches them.

Knows: which files and variables the two read.
Must not know: what they are asked to do.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

# Signatures are not checked here: what may be pushed was decided before. A machine need not have
# a policy of its own.
ANYTHING = json.dumps({"default": [{"type": "insecureAcceptAnything"}]})
# For a program that does what a stranger wrote: no image may come from anywhere.
NOTHING = json.dumps({"default": [{"type": "reject"}]})
# No short names, and no rewriting of one registry's name into another's.
_REGISTRIES = "unqualified-search-registries = []\n"
# Root that may not mount (in a pod without SYS_ADMIN): buildah would start itself again in a user
# namespace, which it cannot have. It does not when it takes itself for one that was started so.
_ROOT_WITHOUT_MOUNTS = {"_CONTAINERS_ROOTLESS_UID": "1"}
_CAP_SYS_ADMIN = 21


def tool_environment(home: Path, tmp: Path, policy: str = ANYTHING) -> dict[str, str]:
    """The whole environment of a tool, whose configuration is written below `home`.

    `policy` says where images may come from. Both directories must exist. Credentials are found
    nowhere but in the authfile that is named on the command line, since the default places are
    below `home` too.
    """
    configuration = home / ".config" / "containers"
    configuration.mkdir(parents=True, exist_ok=True)
    (configuration / "policy.json").write_text(policy)
    registries = configuration / "registries.conf"
    registries.write_text(_REGISTRIES)
    known = {} if os.geteuid() != 0 or _may_mount() else _ROOT_WITHOUT_MOUNTS
    return {
        **known,
        "PATH": PATH,
        "HOME": str(home),
        "TMPDIR": str(tmp),
        "XDG_RUNTIME_DIR": str(home),
        "CONTAINERS_REGISTRIES_CONF": str(registries),
    }


def _may_mount() -> bool:
    status = Path("/proc/self/status").read_text()
    effective = next(line for line in status.splitlines() if line.startswith("CapEff:"))
    return bool(int(effective.split()[1], 16) >> _CAP_SYS_ADMIN & 1)
