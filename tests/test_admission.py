"""Admission: each refusal has a code, a reason and a hint, and what is allowed passes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from buildah.errors import RegistryUnreachable
from buildah.registry import Registries, Registry
from hooks.admission import Admission
from hooks.budget import Budget
from hooks.errors import AdmissionRefused, ImageForbidden, InvalidImage
from tests.archives import write_docker_archive
from tests.registries import RunningRegistry, free_port, needs_containers, plain_registry
from tests.workers import Setup, bench, one_redis, setup, working

__all__ = ["one_redis", "plain_registry", "setup"]

REGISTRIES = Registries(
    [
        Registry("harbor.example"),
        Registry("shared.example:5000", repositories=("team/*",)),
    ]
)


@dataclass(frozen=True)
class Someone:
    repositories: tuple[str, ...]
    name: str = "ci"


EVERYTHING = Someone(("*",))


def refused(image: str, caller: Someone = EVERYTHING) -> AdmissionRefused:
    with pytest.raises(AdmissionRefused) as raised:
        Admission(REGISTRIES).check({"image": image}, caller)
    return raised.value


@pytest.mark.parametrize("metadata", [{}, {"filename": "a.tar"}])
def test_without_an_image_anyone_may_send(metadata: dict[str, str]) -> None:
    Admission(Registries([])).check(metadata, Someone(()))


def test_an_empty_image_is_a_mistake_and_not_no_image() -> None:
    with pytest.raises(InvalidImage):
        Admission(Registries([])).check({"image": ""}, Someone(("*",)))


@pytest.mark.parametrize(
    ("image", "repositories"),
    [
        ("harbor.example/a/b:1", ("*",)),
        ("harbor.example/team/deep/er/b:1", ("harbor.example/team/*",)),
        ("harbor.example/team/b", ("other/*", "harbor.example/team/b")),
        ("shared.example:5000/team/b:1", ("shared.example:5000/*",)),
    ],
)
def test_what_is_allowed_passes(image: str, repositories: tuple[str, ...]) -> None:
    Admission(REGISTRIES).check({"image": image}, Someone(repositories))


@pytest.mark.parametrize(
    "image",
    [
        "not a reference",
        "docker://harbor.example/a/b:1",
        "oci-archive:/etc/x",
        "--help",
        "harbor.example/A/b:1",
        "harbor.example/a/b:1\n",
    ],
)
def test_what_is_no_reference_is_invalid(image: str) -> None:
    error = refused(image)
    assert isinstance(error, InvalidImage)
    assert error.code == "invalid_image"
    assert error.message
    assert error.hint


def test_a_registry_that_is_not_configured_is_named(tmp_path: Path) -> None:
    error = refused("elsewhere.example/a/b:1")
    assert isinstance(error, ImageForbidden)
    assert error.code == "registry_not_allowed"
    assert "elsewhere.example" in error.message
    assert error.hint


def test_a_repository_that_its_registry_does_not_allow_is_named() -> None:
    error = refused("shared.example:5000/private/b:1")
    assert error.code == "repository_not_allowed"
    assert "private/b" in error.message
    assert error.hint


@pytest.mark.parametrize(
    "repositories",
    [
        (),
        ("harbor.example/team",),
        ("harbor.example/other/*",),
        ("HARBOR.EXAMPLE/*",),
        ("team/*",),
        ("harbor.example/team/x",),
    ],
)
def test_a_caller_hears_what_it_may_write_to(repositories: tuple[str, ...]) -> None:
    error = refused("harbor.example/team/b:1", Someone(repositories))
    assert isinstance(error, ImageForbidden)
    assert error.code == "caller_not_allowed"
    assert "ci" in error.message
    assert "harbor.example/team/b" in error.message
    assert all(pattern in error.hint for pattern in repositories)


def test_working_space_is_asked_for_an_image_only() -> None:
    image = {"image": "harbor.example/a/b:1"}
    budgets = Budget("overlay"), Budget("vfs"), Budget("overlay", loads=False)
    overlay, vfs, skopeo = (Admission(REGISTRIES, budget=budget) for budget in budgets)
    assert overlay.working_space({}, 100) == 0
    # The storage, a copy in TMPDIR, and the layout of an archive that may be an OCI one.
    assert (overlay.working_space(image, 100), vfs.working_space(image, 100)) == (300, 500)
    assert skopeo.working_space(image, 100) == 100
    own_names = Admission(REGISTRIES, default_repository="harbor.example/a")
    assert own_names.working_space({}, 100) == 300


@pytest.mark.anyio
async def test_exists_tells_the_digest_that_is_there(
    setup: Setup, plain_registry: RunningRegistry, tmp_path: Path
) -> None:
    archive = write_docker_archive(tmp_path / "a.tar")
    image = f"{plain_registry.host}/team/there:1"
    async with bench(Setup(setup.directory, setup.redis_url, (plain_registry.host,))) as parts:
        async with working(parts.worker()):
            upload_id = parts.uploads.add(archive.path, image=image)
            await parts.queue.enqueue(upload_id)
            outcome = await parts.outcome(upload_id)
        assert await parts.admission.exists(image) == outcome.results[0].digest
        assert await parts.admission.exists(f"{plain_registry.host}/team/none:1") is None


@needs_containers
@pytest.mark.anyio
async def test_exists_refuses_and_fails_by_name(tmp_path: Path) -> None:
    host = f"127.0.0.1:{free_port()}"
    admission = Admission(Registries([Registry(host, plain_http=True)]))
    with pytest.raises(InvalidImage):
        await admission.exists("not a reference")
    with pytest.raises(ImageForbidden):
        await admission.exists("elsewhere.example/a/b:1")
    with pytest.raises(RegistryUnreachable):
        await admission.exists(f"{host}/a/b:1")
