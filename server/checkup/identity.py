"""Checks of whom the kernel takes us for: whether root here is root of the machine.

Knows: user namespaces, as /proc tells of them.
Must not know: who makes them, what root is needed for.
"""

from __future__ import annotations

from pathlib import Path

from server.checkup.check import Check

_UID_MAP = Path("/proc/self/uid_map")


def user_namespace() -> Check:
    """Whether root here is nobody outside.

    A node without the feature leaves `hostUsers: false` out of a pod, and says so to nobody.
    """
    outside = _root_outside(_UID_MAP.read_text())
    ok = outside != 0
    found = f"root here is {outside} outside" if ok else "root here is root of the node"
    return Check(
        "user namespace",
        ok,
        found,
        "keeping what breaks out of an image away from the node",
        "switch the feature gate UserNamespacesSupport on for the API server and this node "
        "(Kubernetes 1.33 has it on; containerd 2.0 or CRI-O 1.25, Linux 6.3), or take the "
        "chart's worker.mode=restricted",
    )


def _root_outside(uid_map: str) -> int | str:
    """Who root of here is outside.

    Rows are: first id inside, first id outside, how many. Source: user_namespaces(7).
    """
    rows = (map(int, row.split()) for row in uid_map.splitlines())
    return next((outside for inside, outside, _ in rows if inside == 0), "nobody")
