"""A file of gigabytes in a tab of little memory."""

from __future__ import annotations

import contextlib
import json
import os
import tarfile
import threading
from pathlib import Path

import psutil
import pytest
from playwright.sync_api import expect

from tests.archives import GIB, write_docker_archive
from tests.browser.console import Open
from tests.live import LiveServer
from tests.uploading import documents

MIB = 2**20
TAB_LIMIT_BYTES = 300 * MIB
LOOK_SECONDS = 0.2


class Watch:
    """The most that any renderer below this process has had to itself."""

    def __init__(self) -> None:
        self.most_bytes = 0
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._done.wait(LOOK_SECONDS):
            for process in psutil.Process().children(recursive=True):
                with contextlib.suppress(psutil.Error):
                    if "--type=renderer" in process.cmdline():
                        self.most_bytes = max(self.most_bytes, process.memory_full_info().uss)


def test_a_hundred_gibibytes_are_looked_into_and_not_read(
    server: LiveServer, tmp_path: Path, open_console: Open
) -> None:
    """A layer of 100 GiB that takes no room on the disk; the list of what is in it comes last."""
    path = tmp_path / "huge.tar"
    config = json.dumps({"os": "linux", "architecture": "amd64"}).encode()
    rows = [{"Config": "config.json", "RepoTags": ["team/huge:1"], "Layers": ["layer.tar"]}]
    small = {"config.json": config, "manifest.json": json.dumps(rows).encode()}
    with path.open("wb") as file:
        layer = tarfile.TarInfo("layer.tar")
        layer.size = 100 * 2**30
        file.write(layer.tobuf(tarfile.GNU_FORMAT))
        file.seek(layer.size, os.SEEK_CUR)
        for name, data in small.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            file.write(entry.tobuf(tarfile.GNU_FORMAT) + data + bytes(-len(data) % 512))
        file.write(bytes(1024))
    console = open_console(server.url)
    console.choose(path)
    chips = console.draft("huge.tar").locator(".chip")
    expect(chips).to_have_text(["Docker archive", "team/huge:1", "linux/amd64", "1 layer"])
    expect(console.draft("huge.tar").locator(".size")).to_have_text("100 GiB")
    assert path.stat().st_blocks * 512 < 2**20


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_two_gibibytes(tmp_path: Path, open_console: Open) -> None:
    archive = write_docker_archive(tmp_path / "large.tar", [GIB, GIB])
    with LiveServer(tmp_path) as server, Watch() as watch:
        console = open_console(server.url)
        console.send(archive.path, "")
        expect(console.row("large.tar")).to_have_attribute(
            "data-state", "state.kept", timeout=600_000
        )
        [document] = documents(server.url)
    assert document["steps"][0]["state"] == "done", "the page's own md5 was compared"
    assert watch.most_bytes > 10 * MIB, "it looked at nothing"
    assert watch.most_bytes < TAB_LIMIT_BYTES, watch.most_bytes // MIB
