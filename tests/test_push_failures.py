"""Each way in which a push fails; the registries are real ones wherever that can be had."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Protocol

import pytest

from buildah import errors
from buildah.errors import BuildahError
from buildah.push import StoredImage
from buildah.reference import ImageReference
from buildah.registry import Registry
from buildah.workspace import Workspace
from tests.archives import KIB, MIB, write_docker_archive
from tests.failures import SickRegistry, check_words, tiny_disk
from tests.moving import load, make_ready, push
from tests.proxy import CuttingProxy
from tests.pushing import ENGINE_NAMES
from tests.registries import (
    PASSWORD,
    RunningRegistry,
    free_port,
    needs_containers,
    plain_registry,
    secure_registry,
    serving,
    write_authfile,
)

__all__ = ["plain_registry", "secure_registry"]

pytestmark = [needs_containers, pytest.mark.anyio]

JOB = "0123456789abcdef0123456789abcdef"


@pytest.fixture
def workspace(tmp_path: Path) -> Iterator[Workspace]:
    with Workspace.open(tmp_path / "jobs", JOB, storage_driver="overlay") as opened:
        yield opened


class Failing(Protocol):
    """Pushes an archive to a registry, and gives the error that comes of it."""

    async def __call__(
        self,
        registry: Registry,
        workspace: Workspace,
        tmp_path: Path,
        *,
        size: int = 64 * KIB,
        tag: str = "v1",
    ) -> BuildahError: ...


@pytest.fixture(params=ENGINE_NAMES)
def push_failure(request: pytest.FixtureRequest) -> Failing:
    async def fail(
        registry: Registry,
        workspace: Workspace,
        tmp_path: Path,
        *,
        size: int = 64 * KIB,
        tag: str = "v1",
    ) -> BuildahError:
        archive = write_docker_archive(tmp_path / "a", [size], seed=f"failure-{size}")
        lines: list[str] = []
        image = await make_ready(
            archive.path,
            workspace,
            engine=request.param,
            progress=lambda *_: None,
            log=lines.append,
        )
        destination = ImageReference.parse(f"{registry.host}/team/app:{tag}")
        with pytest.raises(BuildahError) as failed:
            await push(
                image,
                destination,
                registry,
                workspace,
                progress=lambda *_: None,
                log=lines.append,
            )
        check_words(failed.value, f"Pushing {destination}: ")
        assert PASSWORD not in "".join([*lines, failed.value.message])
        return failed.value

    return fail


async def test_no_room_to_push(plain_registry: RunningRegistry, tmp_path: Path) -> None:
    archive = write_docker_archive(tmp_path / "a", [40 * MIB])
    registry = plain_registry.registry()
    destination = ImageReference.parse(f"{registry.host}/team/app:v1")
    with (
        tiny_disk(tmp_path / "disk", "100m") as disk,
        Workspace.open(disk / "jobs", JOB, storage_driver="overlay") as workspace,
    ):
        image = await load(archive.path, workspace, progress=lambda *_: None, log=lambda _: None)
        (disk / "filler").write_bytes(bytes(40 * MIB))
        with pytest.raises(errors.StorageFull):
            await push(
                image,
                destination,
                registry,
                workspace,
                progress=lambda *_: None,
                log=lambda _: None,
            )


async def test_wrong_password_and_none(
    secure_registry: RunningRegistry, workspace: Workspace, tmp_path: Path, push_failure: Failing
) -> None:
    wrong = write_authfile(tmp_path / "wrong.json", secure_registry.host, password="wrong-one")
    for authfile in (wrong, None):
        row = secure_registry.registry(authfile=authfile)
        error = await push_failure(row, workspace, tmp_path)
        assert type(error) is errors.RegistryUnauthorized
        assert not error.retryable
        assert "authfile" in error.hint


async def test_a_certificate_that_is_not_trusted(
    secure_registry: RunningRegistry, workspace: Workspace, tmp_path: Path, push_failure: Failing
) -> None:
    error = await push_failure(secure_registry.registry(ca_file=None), workspace, tmp_path)
    assert type(error) is errors.RegistryUntrusted
    assert "ca_file" in error.hint


async def test_a_plain_registry_is_not_spoken_to_silently(
    plain_registry: RunningRegistry, workspace: Workspace, tmp_path: Path, push_failure: Failing
) -> None:
    error = await push_failure(plain_registry.registry(plain_http=False), workspace, tmp_path)
    assert type(error) is errors.RegistryUntrusted
    assert "plain_http" in error.hint
    assert plain_registry.tags("team/app") == []


async def test_without_verification_it_is_still_tls(
    secure_registry: RunningRegistry, workspace: Workspace, tmp_path: Path
) -> None:
    archive = write_docker_archive(tmp_path / "a")
    image = await load(archive.path, workspace, progress=lambda *_: None, log=lambda _: None)
    row = secure_registry.registry(ca_file=None, tls_verify=False)
    destination = ImageReference.parse(f"{row.host}/team/app:v1")
    await push(image, destination, row, workspace, progress=lambda *_: None, log=lambda _: None)
    assert secure_registry.config_digest(str(destination)) == archive.image_id


async def test_a_registry_that_is_down(
    workspace: Workspace, tmp_path: Path, push_failure: Failing
) -> None:
    row = Registry(f"127.0.0.1:{free_port()}", plain_http=True)
    error = await push_failure(row, workspace, tmp_path)
    assert type(error) is errors.RegistryUnreachable
    assert error.retryable


async def test_a_host_that_does_not_exist(
    workspace: Workspace, tmp_path: Path, push_failure: Failing
) -> None:
    error = await push_failure(Registry("no-such-host.invalid"), workspace, tmp_path)
    assert type(error) is errors.RegistryUnknownHost
    assert not error.retryable
    assert "no-such-host.invalid" in error.message


async def test_a_line_that_is_cut_in_the_middle(
    plain_registry: RunningRegistry, workspace: Workspace, tmp_path: Path, push_failure: Failing
) -> None:
    with CuttingProxy(plain_registry.port) as proxy:
        # buildah tries four times.
        proxy.cut_after(*(number * 5 * MIB for number in range(1, 9)))
        row = Registry(f"127.0.0.1:{proxy.port}", plain_http=True)
        error = await push_failure(row, workspace, tmp_path, size=60 * MIB)
    assert type(error) is errors.RegistryError
    assert error.code == "registry_error"
    assert error.retryable
    assert "cut" in error.message


async def test_after_a_cut_the_same_push_once_more_ends_well(
    plain_registry: RunningRegistry, workspace: Workspace, tmp_path: Path
) -> None:
    archive = write_docker_archive(tmp_path / "a", [40 * MIB], seed="cut")
    image = await load(archive.path, workspace, progress=lambda *_: None, log=lambda _: None)
    cuts = 0
    with CuttingProxy(plain_registry.port) as proxy:
        proxy.cut_after(*(number * 5 * MIB for number in range(1, 5)))
        row = Registry(f"127.0.0.1:{proxy.port}", plain_http=True)
        destination = ImageReference.parse(f"{row.host}/team/app:v1")
        for _ in range(6):
            try:
                await push(
                    image,
                    destination,
                    row,
                    workspace,
                    progress=lambda *_: None,
                    log=lambda _: None,
                )
                break
            except errors.RegistryError:
                cuts += 1
    assert cuts, "it was cut"
    name = f"{plain_registry.host}/team/app:v1"
    assert plain_registry.config_digest(name) == archive.image_id


@pytest.mark.parametrize("secure", [False, True], ids=["plain", "secure"])
async def test_a_registry_that_is_full(
    secure: bool, workspace: Workspace, tmp_path: Path, push_failure: Failing
) -> None:
    with ExitStack() as stack:
        stack.enter_context(tiny_disk(tmp_path / "registry" / "storage", "8m"))
        server = stack.enter_context(serving(tmp_path / "registry", secure=secure))
        error = await push_failure(server.registry(), workspace, tmp_path, size=20 * MIB)
    assert type(error) is errors.RegistryFull
    assert not error.retryable
    assert "room" in error.message


def denied(message: str) -> str:
    return json.dumps({"errors": [{"code": "DENIED", "message": message}]})


QUOTA = (
    "adding 51.3 MiB of storage resource, which when updated to current usage of 0 Bytes will "
    "exceed the configured upper limit of 10 MiB."
)
NO_SPACE = (
    '{"errors":[{"code":"UNKNOWN","detail":{"DriverName":"filesystem","Enclosed":{"Err":28}}}]}'
)

SICK: dict[str, tuple[int, str, type[BuildahError], bool]] = {
    "denied": (403, denied("requested access is denied"), errors.RegistryForbidden, False),
    "forbidden": (403, "nope", errors.RegistryForbidden, False),
    "no project": (
        404,
        '{"errors":[{"code":"NAME_UNKNOWN","message":"x"}]}',
        errors.RegistryProjectMissing,
        False,
    ),
    "quota": (403, denied(QUOTA), errors.RegistryFull, False),
    "too large": (413, "<html>too large</html>", errors.RegistryForbidden, False),
    "immutable": (412, denied("tag is immutable"), errors.RegistryTagImmutable, False),
    "failing": (500, '{"errors":[{"code":"UNKNOWN"}]}', errors.RegistryError, True),
    "bad gateway": (502, "bad gateway", errors.RegistryError, True),
    "unavailable": (503, "", errors.RegistryError, True),
    "insufficient storage": (507, "", errors.RegistryFull, False),
    "no space": (500, NO_SPACE, errors.RegistryFull, False),
}


@pytest.mark.parametrize("case", SICK)
async def test_what_a_sick_registry_answers_is_understood(
    case: str, workspace: Workspace, tmp_path: Path, push_failure: Failing
) -> None:
    status, body, kind, retryable = SICK[case]
    with SickRegistry(status, body, at="POST") as sick:
        row = Registry(sick.host, plain_http=True)
        error = await push_failure(row, workspace, tmp_path)
    assert type(error) is kind, error.message
    assert error.retryable is retryable


async def test_a_full_registry_behind_token_authentication(
    workspace: Workspace, tmp_path: Path, push_failure: Failing
) -> None:
    with SickRegistry(500, NO_SPACE, at="PATCH", token=True) as sick:
        row = Registry(
            sick.host,
            plain_http=True,
            authfile=write_authfile(tmp_path / "auth.json", sick.host),
        )
        error = await push_failure(row, workspace, tmp_path)
        assert type(error) is errors.RegistryFull, error.message
        assert sick.seen[-1] == "DELETE", "what was begun to find out is taken back"


@pytest.mark.slow
async def test_a_registry_that_is_too_busy(
    workspace: Workspace, tmp_path: Path, push_failure: Failing
) -> None:
    with SickRegistry(429, "", at="POST") as sick:
        error = await push_failure(Registry(sick.host, plain_http=True), workspace, tmp_path)
    assert type(error) is errors.RegistryError
    assert error.retryable


async def test_a_destination_that_this_buildah_does_not_understand(
    workspace: Workspace, tmp_path: Path, push_failure: Failing
) -> None:
    error = await push_failure(Registry("[::1]:5999", plain_http=True), workspace, tmp_path)
    assert type(error) in (errors.InvalidReference, errors.RegistryUnreachable)


async def test_another_push_to_the_same_tag_is_noticed(
    plain_registry: RunningRegistry, workspace: Workspace, tmp_path: Path
) -> None:
    """The log is called before the digest is asked for: there, somebody else is quicker."""
    mine, other = (write_docker_archive(tmp_path / seed, seed=seed) for seed in ("mine", "other"))
    image = await load(mine.path, workspace, progress=lambda *_: None, log=lambda _: None)
    destination = ImageReference.parse(f"{plain_registry.host}/team/app:v1")

    def overwrite(line: str) -> None:
        if "Storing signatures" in line:
            subprocess.run(
                [
                    *("skopeo", "copy", "--quiet", "--dest-tls-verify=false"),
                    *(f"docker-archive:{other.path}", f"docker://{destination}"),
                ],
                check=True,
            )

    with pytest.raises(errors.RegistryConflict) as failed:
        await push(
            image,
            destination,
            plain_registry.registry(),
            workspace,
            progress=lambda *_: None,
            log=overwrite,
        )
    check_words(failed.value, f"Pushing {destination}: ")


async def test_a_program_that_fails_for_no_known_reason(
    plain_registry: RunningRegistry, workspace: Workspace
) -> None:
    destination = ImageReference.parse(f"{plain_registry.host}/team/app:v1")
    with pytest.raises(errors.ToolFailed, match="image not known") as failed:
        await push(
            StoredImage("0" * 64, "linux/amd64"),
            destination,
            plain_registry.registry(),
            workspace,
            progress=lambda *_: None,
            log=lambda _: None,
        )
    check_words(failed.value, f"Pushing {destination}: ")
