"""Reads what container storage notes about an image's layers.

Knows: images.json and layers.json below a storage root, as far as sizes go.
Must not know: who asks; nothing is ever written here.
"""

from __future__ import annotations

import contextlib
import json
from typing import Any

from buildah.workspace import Workspace


def layers_bytes(workspace: Workspace, image_id: str) -> int:
    """Uncompressed bytes of an image's layers, each counted once; 0 if it cannot be told.

    Blocking. It is for progress only: another version may keep its notes elsewhere.
    """
    driver = workspace.storage_driver
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        images = _rows(workspace, f"{driver}-images/images.json")
        layers = {row["id"]: row for row in _rows(workspace, f"{driver}-layers/layers.json")}
        sizes: dict[str, int] = {}
        (layer_id,) = (row["layer"] for row in images if row["id"] == image_id)
        while layer_id:
            # Taken out, so that a ring of parents would end too.
            row = layers.pop(layer_id)
            sizes[row["diff-digest"]] = int(row["diff-size"])
            layer_id = row.get("parent")
        return sum(sizes.values())
    return 0


def _rows(workspace: Workspace, name: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads((workspace.root / name).read_text())
    return rows
