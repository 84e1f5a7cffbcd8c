"""The store: what is on disk after each step, also under tuspyserver's own router."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import anyio
import anyio.to_thread
import pytest
import uvicorn
from fastapi import FastAPI
from tuspyserver import create_tus_router
from tuspyserver.params import TusUploadParams

from server.errors import BadRequest, InsufficientStorage, NotFound, UploadLocked
from server.locker import Locker
from server.store import UploadStore
from server.upload import Upload, new_upload_id
from tests.live import wait_until
from tests.raw import OCTETS, TUS, ask, metadata

MIB = 2**20


async def nobody(_upload_id: str, _force: bool) -> None:
    """No other process is asked."""


def store_at(directory: Path) -> UploadStore:
    directory.mkdir(exist_ok=True)
    return UploadStore(
        directory, Locker(directory, idle_seconds=0.25, wait_seconds=0.2, ask=nobody)
    )


def an_upload(length: int | None = 8, **changes: str) -> Upload:
    return Upload(
        id=new_upload_id(), length=length, owner="anna", created_at=time.time(), metadata=changes
    )


def test_an_upload_reserves_its_space_and_keeps_its_size(tmp_path: Path) -> None:
    store = store_at(tmp_path / "uploads")
    upload = an_upload(20 * MIB, filename="x")
    store.begin(upload)
    assert store.measure(upload.id) == 0
    assert store.stored_bytes(upload.id) >= 20 * MIB
    assert store.find(upload.id) == upload


def test_a_sidecar_is_tuspyservers(tmp_path: Path) -> None:
    store = store_at(tmp_path / "uploads")
    upload = an_upload(8, filename="x.tar", image="r.test/a/b:1")
    store.begin(upload)
    document = json.loads((tmp_path / "uploads" / f"{upload.id}.info").read_text())
    params = TusUploadParams.model_validate(document)
    assert (params.size, params.metadata) == (8, {"filename": "x.tar", "image": "r.test/a/b:1"})


def test_a_directory_of_tuspyserver_is_adopted(tmp_path: Path) -> None:
    store = store_at(tmp_path / "uploads")
    identifier = new_upload_id()
    (tmp_path / "uploads" / identifier).write_bytes(b"1234")
    params = TusUploadParams(
        metadata={"filename": "old.tar", "filetype": "application/x-tar"},
        size=8,
        offset=0,
        created_at="2026-11-01 10:00:00",
        expires="2026-11-02T10:00:00",
    )
    (tmp_path / "uploads" / f"{identifier}.info").write_text(params.model_dump_json(indent=4))
    found = store.find(identifier)
    assert found is not None
    assert (found.length, found.owner, found.filename) == (8, "local", "old.tar")
    assert store.measure(identifier) == 4


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"size": 3}', '{"metadata": 1}'])
def test_a_torn_sidecar_is_no_upload(tmp_path: Path, text: str) -> None:
    store = store_at(tmp_path / "uploads")
    identifier = new_upload_id()
    (tmp_path / "uploads" / f"{identifier}.info").write_text(text)
    assert store.find(identifier) is None


@pytest.mark.parametrize(
    "name", ["../../etc/passwd", "", "A" * 32, "0" * 31, "0" * 33, "0" * 32 + "\n"]
)
def test_only_ids_of_ours_become_paths(tmp_path: Path, name: str) -> None:
    store = store_at(tmp_path / "uploads")
    with pytest.raises(BadRequest):
        store.path(name)
    assert store.find(name) is None


def test_what_a_kill_left_is_found(tmp_path: Path) -> None:
    store = store_at(tmp_path / "uploads")
    kept = an_upload()
    store.begin(kept)
    orphan = tmp_path / "uploads" / new_upload_id()
    orphan.write_bytes(b"data without a sidecar")
    draft = tmp_path / "uploads" / f"{kept.id}.info.1.ab.tmp"
    draft.write_text("half")
    assert set(store.leftovers(-1)) == {orphan, draft}
    assert store.leftovers(3600) == []


def test_an_upload_too_large_for_the_disk_leaves_nothing(tmp_path: Path) -> None:
    store = store_at(tmp_path / "uploads")
    with pytest.raises(InsufficientStorage, match="free"):
        store.begin(an_upload(2**50))
    assert list((tmp_path / "uploads").iterdir()) == []


def _hold_for_ever(directory: str, upload_id: str, held: str) -> None:
    async def hold() -> None:
        locker = Locker(Path(directory), idle_seconds=1, wait_seconds=1, ask=nobody)
        async with locker.hold(upload_id):
            await anyio.Path(held).touch()
            await anyio.sleep_forever()

    anyio.run(hold)


@pytest.mark.anyio
async def test_a_lock_dies_with_its_process(tmp_path: Path) -> None:
    store = store_at(tmp_path / "uploads")
    upload = an_upload()
    store.begin(upload)
    held = tmp_path / "held"
    process = multiprocessing.get_context("spawn").Process(
        target=_hold_for_ever, args=(str(store.directory), upload.id, str(held))
    )
    process.start()
    await anyio.to_thread.run_sync(lambda: wait_until(held.exists, what="the lock is held"))
    with pytest.raises(UploadLocked):
        async with store.lock(upload.id):
            pass
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    async with store.lock(upload.id):
        pass


@pytest.mark.anyio
async def test_a_lock_on_a_removed_file_protects_nothing(tmp_path: Path) -> None:
    store = store_at(tmp_path / "uploads")
    upload = an_upload()
    store.begin(upload)

    async def wait_for_it() -> None:
        with pytest.raises(NotFound):
            async with Locker(store.directory, idle_seconds=1, wait_seconds=5, ask=nobody).hold(
                upload.id
            ):
                pass

    async with anyio.create_task_group() as tasks, store.lock(upload.id):
        tasks.start_soon(wait_for_it)
        await anyio.sleep(0.1)
        store.erase(upload.id)


# tuspyserver's own router over our store: a differential peer.


@pytest.fixture
def peer(tmp_path: Path) -> Iterator[tuple[int, UploadStore]]:
    store = store_at(tmp_path / "uploads")
    app = FastAPI()
    app.include_router(
        create_tus_router(files_dir=str(store.directory), prefix="files", storage=store)
    )
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_config=None, lifespan="off"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    yield listener.getsockname()[1], store
    server.should_exit = True
    thread.join()


def test_tuspyservers_router_works_over_our_store(peer: tuple[int, UploadStore]) -> None:
    port, store = peer
    described = metadata(filename="a.tar", filetype="application/x-tar")
    created = ask(port, "POST", "/files", {**TUS, "Upload-Length": "8", **described})
    assert created.status == 201, created
    path = "/files/" + created["Location"].rsplit("/", 1)[-1]
    for start, piece in ((0, b"1234"), (4, b"5678")):
        headers = {**TUS, **OCTETS, "Upload-Offset": str(start)}
        assert ask(port, "PATCH", path, headers, piece).status == 204
        head = ask(port, "HEAD", path, TUS)
        assert head["Upload-Offset"] == str(start + 4)
    identifier = path.rsplit("/", 1)[-1]
    assert Path(store.location(identifier)).read_bytes() == b"12345678"
    found = store.find(identifier)
    assert found is not None
    assert found.length == 8
