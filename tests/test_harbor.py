"""Pushes to what answers as Harbor does: its refusals, its robot accounts, other hosts."""

from __future__ import annotations

from pathlib import Path

import pytest

from buildah import errors
from buildah.errors import BuildahError
from buildah.registry import Registry
from buildah.workspace import Workspace
from tests.archives import KIB, write_docker_archive
from tests.harbor import (
    IMMUTABLE,
    MANIFEST,
    MAY_NOT_PUSH,
    PROJECT_MISSING,
    PROJECT_MISSING_401,
    QUOTA,
    READ_ONLY,
    Harbor,
    Saying,
    harbor_error,
)
from tests.pushing import ENGINE_NAMES, Pusher, workspace
from tests.registries import RunningRegistry, needs_containers, plain_registry
from tests.token_server import TokenServer, serving_with_tokens

__all__ = ["plain_registry", "workspace"]

pytestmark = [needs_containers, pytest.mark.anyio]

POLICY = harbor_error(
    "PROJECTPOLICYVIOLATION",
    "current image without vulnerability scanning cannot be pulled due to configured policy in "
    "'Prevent images with vulnerability severity of \"High\" or higher from running.'",
)
POLICY_FOR_PUSHES = Saying("PUT", MANIFEST, 412, POLICY)

SAYINGS: dict[str, tuple[Saying, type[BuildahError], bool]] = {
    "project missing": (PROJECT_MISSING, errors.RegistryProjectMissing, False),
    "project missing, 401": (PROJECT_MISSING_401, errors.RegistryProjectMissing, False),
    "may not push": (MAY_NOT_PUSH, errors.RegistryForbidden, False),
    "read only": (READ_ONLY, errors.RegistryReadOnly, True),
    "quota": (QUOTA, errors.RegistryFull, False),
    "immutable": (IMMUTABLE, errors.RegistryTagImmutable, False),
    "policy": (POLICY_FOR_PUSHES, errors.RegistryForbidden, False),
}


@pytest.mark.parametrize("engine", ENGINE_NAMES)
@pytest.mark.parametrize("case", SAYINGS)
async def test_what_harbor_says_of_a_push_is_understood(
    case: str, engine: str, plain_registry: RunningRegistry, workspace: Workspace, tmp_path: Path
) -> None:
    saying, kind, retryable = SAYINGS[case]
    with Harbor(plain_registry.port, saying) as front:
        pusher = Pusher(workspace, Registry(front.host, plain_http=True), engine=engine)
        archive = write_docker_archive(tmp_path / "a", [64 * KIB], seed=case)
        error = await pusher.fail(await pusher.load(archive))
    assert (type(error), error.retryable) == (kind, retryable), error.message


async def test_an_image_that_nobody_may_pull_yet_is_pushed(
    plain_registry: RunningRegistry, workspace: Workspace, tmp_path: Path
) -> None:
    with Harbor(plain_registry.port, Saying("GET", MANIFEST, 412, POLICY)) as front:
        pusher = Pusher(workspace, Registry(front.host, plain_http=True))
        archive = write_docker_archive(tmp_path / "a")
        await pusher.push(await pusher.load(archive))
    assert "not read back" in pusher.lines[-1]
    assert plain_registry.config_digest(f"{plain_registry.host}/team/app:v1") == archive.image_id


@pytest.mark.parametrize("engine", ENGINE_NAMES)
async def test_a_robot_account_pushes(engine: str, workspace: Workspace, tmp_path: Path) -> None:
    robot, secret = "robot$team+ci", "a$HOME`id`$(id)'\"b"
    with (
        TokenServer(user=robot, password=secret) as tokens,
        serving_with_tokens(tmp_path / "registry", tokens, user=robot, password=secret) as registry,
    ):
        row = registry.registry(trusted_hosts=(tokens.host,))
        pusher = Pusher(workspace, row, engine=engine)
        archive = write_docker_archive(tmp_path / "a")
        pushed = await pusher.push(await pusher.load(archive))
        assert pushed.digest
        assert set(tokens.logins) == {f"{robot}:{secret}"}
        assert secret not in "".join(pusher.lines)
        tokens.may = {"pull"}
        other = await pusher.load(write_docker_archive(tmp_path / "b", seed="other"))
        error = await pusher.fail(other)
        assert type(error) is errors.RegistryForbidden
        assert secret not in error.message


@pytest.mark.parametrize("engine", ENGINE_NAMES)
async def test_a_push_is_not_sent_elsewhere(
    engine: str, workspace: Workspace, tmp_path: Path
) -> None:
    with (
        TokenServer() as tokens,
        serving_with_tokens(tmp_path / "registry", tokens) as registry,
    ):
        pusher = Pusher(workspace, registry.registry(), engine=engine)
        image = await pusher.load(write_docker_archive(tmp_path / "a"))
        error = await pusher.fail(image)
        assert type(error) is errors.RegistryElsewhere
        assert tokens.asked == []
