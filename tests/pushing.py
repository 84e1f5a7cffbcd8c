"""One archive on its way to one place, as often as a test wants.

Knows: load and push, in a workspace of the test's own.
Must not know: what is in the way.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from buildah.errors import BuildahError
from buildah.pushed import PushedImage, ReadyImage
from buildah.reference import ImageReference
from buildah.registry import Registry
from buildah.workspace import Workspace
from tests.archives import Archive
from tests.failures import check_words
from tests.moving import make_ready, push
from tests.registries import PASSWORD

ENGINE_NAMES = ("buildah", "skopeo")
JOB = "0123456789abcdef0123456789abcdef"


@pytest.fixture
def workspace(tmp_path: Path) -> Iterator[Workspace]:
    with Workspace.open(tmp_path / "jobs", JOB, storage_driver="overlay") as opened:
        yield opened


class Pusher:
    """Loads one archive, and pushes it to one place as often as wanted."""

    def __init__(self, workspace: Workspace, row: Registry, *, engine: str = "buildah") -> None:
        self.lines: list[str] = []
        self.destination = ImageReference.parse(f"{row.host}/team/app:v1")
        self._engine = engine
        self._workspace = workspace
        self._row = row

    async def load(self, archive: Archive) -> ReadyImage:
        return await make_ready(
            archive.path,
            self._workspace,
            engine=self._engine,
            progress=lambda *_: None,
            log=self.lines.append,
        )

    async def push(self, image: ReadyImage) -> PushedImage:
        return await push(
            image,
            self.destination,
            self._row,
            self._workspace,
            progress=lambda *_: None,
            log=self.lines.append,
        )

    async def fail(self, image: ReadyImage) -> BuildahError:
        with pytest.raises(BuildahError) as failed:
            await self.push(image)
        check_words(failed.value, f"Pushing {self.destination}: ")
        assert PASSWORD not in "".join(self.lines) + failed.value.message
        return failed.value
