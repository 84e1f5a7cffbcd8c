"""tuspy, unmodified: in one request and in chunks, with checksums, resumed after cuts."""

from __future__ import annotations

from pathlib import Path

import pytest
from tusclient.client import TusClient
from tusclient.exceptions import TusUploadFailed
from tusclient.uploader import AsyncUploader, Uploader

from tests.live import LiveServer, wait_until
from tests.proxy import CuttingProxy
from tests.resumable import finished, stored
from tests.uploading import documents, write_archive

pytest_plugins = ("tests.client_fixtures",)

MIB = 2**20
ODD = 3 * MIB + 4711


def assert_arrived(server: LiveServer, uploader: Uploader | AsyncUploader, path: Path) -> None:
    """The server has exactly these bytes."""
    data = path.read_bytes()
    finished(server, str(uploader.url), data)
    assert stored(server, str(uploader.url)).read_bytes() == data


@pytest.mark.parametrize("checksum", [False, True], ids=["plain", "checksum"])
@pytest.mark.parametrize(
    ("size", "chunk_bytes"),
    [(ODD, None), (ODD, MIB), (3 * MIB, MIB), (0, None)],
    ids=["one request", "chunks", "whole chunks", "empty"],
)
def test_ways_of_sending(
    server: LiveServer, tmp_path: Path, size: int, chunk_bytes: int | None, checksum: bool
) -> None:
    """Without metadata, tuspy sends that header all the same, empty."""
    path = write_archive(tmp_path / "llm.tar", size)
    options = {"chunk_size": chunk_bytes} if chunk_bytes else {}
    with path.open("rb") as stream:
        uploader = TusClient(f"{server.url}/files/").uploader(
            file_stream=stream, upload_checksum=checksum, **options
        )
        uploader.upload()
        assert_arrived(server, uploader, path)
        assert uploader.get_offset() == size


@pytest.mark.anyio
async def test_the_asynchronous_uploader(server: LiveServer, tmp_path: Path) -> None:
    path = write_archive(tmp_path / "llm.tar", ODD)
    with path.open("rb") as stream:
        uploader = TusClient(f"{server.url}/files/").async_uploader(
            file_stream=stream, chunk_size=MIB, upload_checksum=True
        )
        await uploader.upload()
        assert_arrived(server, uploader, path)


@pytest.mark.parametrize("checksum", [False, True], ids=["plain", "checksum"])
def test_resumed_by_its_url_after_a_cut(
    server: LiveServer, line: CuttingProxy, tmp_path: Path, checksum: bool
) -> None:
    """What a cut request brought is kept; with a checksum it never was proven, and is not."""
    path = write_archive(tmp_path / "llm.tar", 8 * MIB)
    client = TusClient(f"{line.url}/files/")
    options = {"chunk_size": 4 * MIB, "upload_checksum": checksum}
    line.at(6 * MIB, lambda: wait_until(lambda: documents(server.url)[0]["offset"] >= 4 * MIB))
    line.cut_after(6 * MIB)
    with path.open("rb") as stream:
        first = client.uploader(file_stream=stream, **options)
        with pytest.raises(TusUploadFailed):
            first.upload()
        second = client.uploader(file_stream=stream, url=first.url, **options)
        if checksum:
            assert second.offset == 4 * MIB
        else:
            assert 4 * MIB <= second.offset < 6 * MIB
        second.upload()
    assert_arrived(server, second, path)


@pytest.mark.parametrize("checksum", [False, True], ids=["plain", "checksum"])
def test_cut_lines_are_gone_on_with(
    server: LiveServer, line: CuttingProxy, tmp_path: Path, checksum: bool
) -> None:
    path = write_archive(tmp_path / "llm.tar", 8 * MIB)
    line.cut_after(2 * MIB, 5 * MIB, 7 * MIB)
    with path.open("rb") as stream:
        uploader = TusClient(f"{line.url}/files/").uploader(
            file_stream=stream,
            chunk_size=4 * MIB,
            upload_checksum=checksum,
            retries=20,
            metadata={"filename": path.name},
        )
        uploader.retry_delay = 0.1
        uploader.upload()
        assert_arrived(server, uploader, path)
    assert line.connections > 4
