"""A bad line to the shared server, an archive and a user (a pytest plugin)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.live import LiveServer
from tests.proxy import CuttingProxy
from tests.uploading import SIZE, write_archive


@pytest.fixture
def line(server: LiveServer) -> Iterator[CuttingProxy]:
    with CuttingProxy(server.port) as proxy:
        yield proxy


@pytest.fixture
def llm(tmp_path: Path) -> Path:
    return write_archive(tmp_path / "llm.tar", SIZE)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    home = tmp_path / "home"
    home.mkdir(exist_ok=True)
    return home
