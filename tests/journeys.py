"""The way of an archive through a running server, as tests walk it.

Knows: tuspy, the status API, how an image is proven to be in a registry.
Must not know: what a test wants to prove.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tusclient.client import TusClient

from tests.archives import Archive
from tests.live import LiveServer, wait_until
from tests.raw import status
from tests.registries import RunningRegistry

MIB = 2**20
TERMINAL = ("done", "failed", "canceled", "expired")


def row(registry: RunningRegistry, **changes: object) -> dict[str, Any]:
    """The setting `registries` for this registry."""
    found = registry.registry(**changes)
    settings: dict[str, Any] = {
        "host": found.host,
        "plain_http": found.plain_http,
        "tls_verify": found.tls_verify,
    }
    if found.ca_file:
        settings["ca_file"] = str(found.ca_file)
    if found.authfile:
        settings["authfile"] = str(found.authfile)
    if found.trusted_hosts:
        settings["trusted_hosts"] = found.trusted_hosts
    return settings


def upload_by_tuspy(
    server: LiveServer,
    path: Path,
    metadata: Mapping[str, str],
    *,
    chunk_bytes: int = 4 * MIB,
    headers: Mapping[str, str] | None = None,
) -> str:
    """Upload the whole file with tuspy; the path of the upload on the server."""
    client = TusClient(f"{server.url}/files/", headers=dict(headers or {}))
    # Given a path, tuspy opens the file again for each chunk and leaves the closing to chance.
    with path.open("rb") as stream:
        uploader = client.uploader(
            file_stream=stream, chunk_size=chunk_bytes, metadata=dict(metadata), retries=20
        )
        uploader.retry_delay = 0.25
        uploader.upload()
    assert uploader.url is not None
    return str(uploader.url).removeprefix(server.url)


def ended(server: LiveServer, upload: str, *, seconds: float = 90) -> dict[str, Any]:
    """The status document once the upload has ended."""
    wait_until(
        lambda: status(server.port, upload)["status"] in TERMINAL, seconds=seconds, what="an end"
    )
    return status(server.port, upload)


def running_step(server: LiveServer, upload: str) -> str:
    """The name of the step that runs now; empty when none does."""
    for step in status(server.port, upload)["steps"]:
        if step["state"] == "running":
            return str(step["name"])
    return ""


def assert_image(registry: RunningRegistry, archive: Archive, document: Mapping[str, Any]) -> None:
    """The document says done, and the registry holds the archive's own image."""
    assert document["status"] == "done", document
    [result] = document["results"]
    assert result["digest"].startswith("sha256:")
    assert registry.config_digest(result["image"]) == archive.image_id
    by_digest = result["image"].rsplit(":", 1)[0] + "@" + result["digest"]
    assert registry.config_digest(by_digest) == archive.image_id


def nothing_left(server: LiveServer) -> bool:
    """Whether no job directory is left below the data directory."""
    # Who is not root keeps there, beside the jobs, what registries are known to have.
    left = {entry.name for entry in server.data_dir.joinpath("jobs").iterdir()}
    return left <= {".known"}
