"""Fixtures that many test files share: running servers, and the async backend."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.live import LiveServer
from tests.registries import needs_containers


class Serve:
    """Starts servers of a test's own: `serve(job_concurrency=1)`. They are stopped at its end."""

    def __init__(self, directory: Path, running: ExitStack) -> None:
        self.servers: list[LiveServer] = []
        self._directory = directory
        self._running = running

    def __call__(self, **settings: Any) -> LiveServer:
        server = self._running.enter_context(LiveServer(self._directory, **settings))
        self.servers.append(server)
        return server


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A test that wants a registry is skipped, with the reason, where none can run."""
    for item in items:
        wanted = getattr(item, "fixturenames", ())
        if any(name.endswith("registry") for name in wanted):
            item.add_marker(needs_containers)


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """The one backend: uvicorn's."""
    return "asyncio"


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    """A server without callers and registries, for tests that leave it as they found it."""
    with LiveServer(tmp_path_factory.mktemp("server")) as running:
        yield running


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Serve]:
    """Start servers of one's own."""
    with ExitStack() as running:
        yield Serve(tmp_path, running)
