"""What a step needs to run by itself, without a worker: an upload, a document, and who writes it.

Knows: how a step context is made over a bench.
Must not know: which steps run.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import anyio.to_thread
import pytest

from hooks.job import Job
from hooks.pipeline import Step, StepContext
from hooks.report import Report
from tests.workers import Bench, Setup, bench

MIB = 1024**2


@asynccontextmanager
async def told(context: StepContext) -> AsyncIterator[None]:
    """Write the document behind the block, as a worker does."""
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(context.document.run)
        yield
        await context.document.flush()
        tasks.cancel_scope.cancel()


async def context_of(
    parts: Bench, archive: Path, steps: tuple[Step, ...], **metadata: str
) -> StepContext:
    upload_id = parts.uploads.add(archive, **metadata)
    upload = await parts.uploads.get(upload_id)
    assert upload
    record = upload.record.with_steps([step.name for step in steps])
    return StepContext(Job.of(upload), upload, Report(parts.status, record))


@pytest.fixture
async def parts(setup: Setup) -> AsyncIterator[Bench]:
    async with bench(setup) as made:
        yield made


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    path = tmp_path / "archive"
    path.write_bytes(os.urandom(3 * MIB + 17))
    return path
