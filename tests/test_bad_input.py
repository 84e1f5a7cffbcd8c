"""Bad input has a clear answer, and nothing is lost: each row of the table in the README."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.archives import (
    write_corrupt_layer,
    write_docker_archive,
    write_random,
    write_truncated,
    write_without_image,
)
from tests.conftest import Serve
from tests.journeys import MIB, assert_image, ended, nothing_left, row, upload_by_tuspy
from tests.live import LiveServer, run_tusboat, wait_until
from tests.raw import TUS, ask, metadata, status
from tests.registries import (
    RunningRegistry,
    needs_containers,
    plain_registry,
    prepare,
    secure_registry,
    serving,
    write_authfile,
)

__all__ = ["plain_registry", "secure_registry"]


def failed(server: LiveServer, upload: str, step: str) -> dict[str, Any]:
    """The error of an upload that failed in that step, its archive still there."""
    document = ended(server, upload)
    assert document["status"] == "failed", document
    error: dict[str, Any] = document["error"]
    assert error["step"] == step, error
    assert error["message"], error
    assert error["hint"], error
    assert document["results"] == []
    assert (server.data_dir / "uploads" / upload.rsplit("/", 1)[-1]).exists()
    assert nothing_left(server)
    return error


@pytest.mark.parametrize(
    ("write", "code"),
    [
        (write_random, "archive_invalid"),
        (write_truncated, "archive_truncated"),
        (write_without_image, "archive_no_image"),
        (lambda path: write_corrupt_layer(path).path, "archive_corrupt"),
        (lambda path: path.touch() or path, "archive_invalid"),
    ],
    ids=["random", "truncated", "no image", "corrupt layer", "empty"],
)
def test_what_is_no_image_archive_fails_at_load(
    serve: Serve,
    plain_registry: RunningRegistry,
    tmp_path: Path,
    write: Callable[[Path], Path],
    code: str,
) -> None:
    server = serve(registries=[row(plain_registry)])
    path = write(tmp_path / "bad.tar")
    upload = upload_by_tuspy(server, path, {"image": f"{plain_registry.host}/bad/archive"})
    error = failed(server, upload, "load")
    assert (error["code"], error["retryable"]) == (code, False)
    assert plain_registry.tags("bad/archive") == []
    retried = ask(server.port, "POST", f"/api/uploads/{upload.rsplit('/', 1)[-1]}/retry")
    assert retried.status == 202
    failed(server, upload, "load")


def test_a_wrong_digest_fails_at_verify(
    serve: Serve, plain_registry: RunningRegistry, tmp_path: Path
) -> None:
    server = serve(registries=[row(plain_registry)])
    archive = write_docker_archive(tmp_path / "llm.tar")
    wrong = {"image": f"{plain_registry.host}/bad/digest", "md5": "0" * 32}
    upload = upload_by_tuspy(server, archive.path, wrong)
    error = failed(server, upload, "verify")
    assert error["code"] == "digest_mismatch"
    assert "0" * 32 in error["message"]
    assert plain_registry.tags("bad/digest") == []


def test_a_wrong_password(serve: Serve, secure_registry: RunningRegistry, tmp_path: Path) -> None:
    authfile = write_authfile(
        tmp_path / "wrong.json", secure_registry.host, password="not-the-password"
    )
    server = serve(registries=[row(secure_registry, authfile=authfile)], preflight=False)
    archive = write_docker_archive(tmp_path / "llm.tar")
    upload = upload_by_tuspy(server, archive.path, {"image": f"{secure_registry.host}/a/b"})
    error = failed(server, upload, "push")
    assert (error["code"], error["retryable"]) == ("registry_unauthorized", False)
    log = server.log_path.read_text()
    assert "not-the-password" not in log + str(error)


def test_a_certificate_that_is_not_trusted(
    serve: Serve, secure_registry: RunningRegistry, tmp_path: Path
) -> None:
    server = serve(registries=[row(secure_registry, ca_file=None)], preflight=False)
    archive = write_docker_archive(tmp_path / "llm.tar")
    upload = upload_by_tuspy(server, archive.path, {"image": f"{secure_registry.host}/a/b"})
    error = failed(server, upload, "push")
    assert (error["code"], error["retryable"]) == ("registry_tls_untrusted", False)
    assert "ca_file" in error["hint"]


@needs_containers
def test_a_registry_that_is_down_is_waited_for(serve: Serve, tmp_path: Path) -> None:
    registry = prepare(tmp_path / "registry")
    server = serve(registries=[row(registry)])
    archive = write_docker_archive(tmp_path / "llm.tar")
    upload = upload_by_tuspy(server, archive.path, {"image": f"{registry.host}/late/llm"})
    wait_until(
        lambda: "trying again" in str(status(server.port, upload)["steps"]),
        seconds=60,
        what="a retry is announced",
    )
    registry.start()
    try:
        assert_image(registry, archive, ended(server, upload))
    finally:
        registry.stop()


@needs_containers
def test_a_registry_that_does_not_exist(serve: Serve, tmp_path: Path) -> None:
    host = "no-such-host.invalid:5000"
    server = serve(registries=[{"host": host, "plain_http": True}], preflight=False)
    archive = write_docker_archive(tmp_path / "llm.tar")
    upload = upload_by_tuspy(server, archive.path, {"image": f"{host}/a/b"})
    error = failed(server, upload, "push")
    assert error["code"] == "registry_unknown_host"
    assert "no-such-host.invalid" in error["message"]


@pytest.fixture
def tiny_registry(tmp_path: Path) -> Iterator[RunningRegistry]:
    """A registry on a file system of 8 MiB."""
    if os.geteuid() != 0:
        pytest.skip("mounting a tmpfs needs root")
    storage = tmp_path / "registry" / "storage"
    storage.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(storage)], check=True)
    try:
        with serving(tmp_path / "registry") as running:
            yield running
    finally:
        subprocess.run(["umount", "--lazy", str(storage)], check=True)


def test_a_registry_that_is_full(
    serve: Serve, tiny_registry: RunningRegistry, tmp_path: Path
) -> None:
    server = serve(registries=[row(tiny_registry)])
    archive = write_docker_archive(tmp_path / "llm.tar", [20 * MIB])
    upload = upload_by_tuspy(server, archive.path, {"image": f"{tiny_registry.host}/a/b"})
    error = failed(server, upload, "push")
    assert error["code"] == "registry_full"


def test_a_disk_that_would_hold_the_archive_but_not_the_work(serve: Serve, tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("mounting a tmpfs needs root")
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(disk)], check=True)
    try:
        server = serve(data_dir=disk / "data", registries=[{"host": "r.test"}], preflight=False)
        length = {**TUS, "Upload-Length": str(30 * MIB)}
        kept = ask(server.port, "POST", "/files/", length)
        assert kept.status == 201
        ask(server.port, "DELETE", kept["Location"], TUS)
        refused = ask(server.port, "POST", "/files/", {**length, **metadata(image="r.test/a/b")})
        assert refused.status == 507
        assert str(30 * MIB) in refused.problem["detail"]
        server.stop()
    finally:
        subprocess.run(["umount", "--lazy", str(disk)], check=True)


def test_a_port_that_is_taken(serve: Serve, tmp_path: Path) -> None:
    server = serve()
    port = str(server.port)
    refused = run_tusboat(tmp_path, "serve", "--port", port, "--data-dir", str(tmp_path / "other"))
    assert refused.code == 2
    assert port in refused.stderr
    assert "in use" in refused.stderr
