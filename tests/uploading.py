"""Archives to upload, and what an upload left.

Uploads here have no image, so that only Python and redis-server are needed: the server verifies
and keeps them. What it holds is judged by the SHA-256 that it computed over the stored bytes.
"""

from __future__ import annotations

import hashlib
import random
import re
import subprocess
from pathlib import Path
from typing import Any

import requests

from tests.live import Ran, finish, spawn_tusboat
from tests.proxy import CuttingProxy

MIB = 2**20
SIZE = 24 * MIB
CHUNK = ("--chunk-size", "4MiB")
# What request and answer headers add to the bytes of a file, generously.
HEADERS = 64 * 1024


def write_archive(path: Path, size: int) -> Path:
    path.write_bytes(random.Random(str(path)).randbytes(size))
    return path


def remembered(home: Path) -> list[Path]:
    return list((home / ".local/state/tusboat/uploads").glob("*.json"))


def documents(server_url: str) -> list[dict[str, Any]]:
    """Every upload's document, newest first, over all pages."""
    rows: list[dict[str, Any]] = []
    cursor: str | None = ""
    while cursor is not None:
        query = {"cursor": cursor} if cursor else {}
        page = requests.get(f"{server_url}/api/uploads", query, timeout=10).json()
        rows += page["uploads"]
        cursor = page["next"]
    return rows


def document(server_url: str, upload_id: str) -> dict[str, Any]:
    answer = requests.get(f"{server_url}/api/uploads/{upload_id}", timeout=10)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def upload_id_of(ran: Ran) -> str:
    """The last upload that the command spoke of."""
    found: list[str] = re.findall(r"upload ([0-9a-f]{32})", ran.stderr)
    return found[-1]


def interrupted(
    proxy: CuttingProxy, place: int, home: Path, command: tuple[str, ...], number: int
) -> Ran:
    """Run the command, and send it a signal when it has come to this place."""
    started: list[subprocess.Popen[str]] = []
    proxy.at(place, lambda: started[0].send_signal(number))
    started.append(spawn_tusboat(home, *command))
    return finish(started[0])


def assert_kept(ran: Ran, server_url: str, archive: Path, *, verified: bool = True) -> str:
    """The command says that it went well, and the server has the same bytes."""
    assert (ran.code, ran.stdout) == (0, ""), ran
    words = "verified, and kept" if verified else "not verified, but kept"
    assert f"{words} on the server as upload" in ran.stderr
    upload_id = upload_id_of(ran)
    found = document(server_url, upload_id)
    assert found["status"] == "done"
    assert found["filename"] == archive.name
    assert found["digests"]["sha256"] == hashlib.sha256(archive.read_bytes()).hexdigest()
    states = {step["name"]: step["state"] for step in found["steps"]}
    assert states["verify"] == ("done" if verified else "skipped")
    return upload_id
