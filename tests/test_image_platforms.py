"""The image for several platforms, from a base that is pinned by its digest, and into a registry.

The second platform is one by name only: its base has this machine's programs. So nothing has to be
emulated, and all that `make` and buildah do for several platforms is done. What an emulated machine
makes of it is in buildah/images/README.md.
"""

from __future__ import annotations

import json
import platform
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.images import BASE, BUILT, ImageStore
from tests.registries import RunningRegistry, missing_programs, needs_containers, serving
from tests.test_images import default_base

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1200),
    needs_containers,
    pytest.mark.skipif(bool(missing_programs("debootstrap")), reason="needs debootstrap"),
]
HERE = {"x86_64": "amd64", "aarch64": "arm64"}[platform.machine()]
ELSEWHERE = "riscv64"
PLATFORMS = f"linux/{HERE},linux/{ELSEWHERE}"
PLAIN = "--tls-verify=false --quiet"


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[RunningRegistry]:
    with serving(tmp_path / "registry") as running:
        yield running


@pytest.fixture
def store(tmp_path: Path) -> Iterator[ImageStore]:
    with ImageStore(tmp_path / "images") as store:
        yield store


def pinned_base(store: ImageStore, registry: RunningRegistry) -> str:
    """The name by digest of a base for all platforms, which is in the registry and nowhere else."""
    store.bootstrap(default_base().partition(":")[2].removesuffix("-slim"), f"{BASE}-{HERE}")
    lie = store.buildah("from", f"{BASE}-{HERE}")
    store.buildah("config", f"--arch={ELSEWHERE}", lie)
    store.buildah("commit", "--quiet", "--rm", lie, f"{BASE}-{ELSEWHERE}")
    store.buildah("manifest", "create", BASE)
    for arch in (HERE, ELSEWHERE):
        store.buildah("manifest", "add", BASE, f"{BASE}-{arch}")
    name = f"{registry.host}/base"
    push = ("manifest", "push", "--all", "--tls-verify=false", f"--digestfile={store.directory}/d")
    store.buildah(*push, BASE, f"docker://{name}:moving")
    store.buildah("rmi", "--all", "--force")
    return f"{name}@{(store.directory / 'd').read_text()}"


def configuration(registry: RunningRegistry, repository: str, digest: str) -> dict[str, Any]:
    manifest = registry.manifest(f"{registry.host}/{repository}@{digest}")
    blob = manifest["config"]["digest"].removeprefix("sha256:")
    [path] = registry.storage.rglob(f"{blob}/data")
    document: dict[str, Any] = json.loads(path.read_text())
    return document


def test_an_image_for_several_platforms_reaches_a_registry(
    store: ImageStore, registry: RunningRegistry
) -> None:
    base = pinned_base(store, registry)
    # A list that is there already is replaced.
    store.buildah("manifest", "create", BUILT)
    store.buildah("manifest", "add", "--tls-verify=false", BUILT, f"docker://{base}")
    store.build(BASE=base, PLATFORMS=PLATFORMS, IMAGE_ARGS=PLAIN)
    store.make("image-push", TO=f"{registry.host}/tusboat:1", PUSH_ARGS=PLAIN)
    entries = registry.manifest(f"{registry.host}/tusboat:1")["manifests"]
    assert {row["platform"]["architecture"] for row in entries} == {HERE, ELSEWHERE}
    assert len(entries) == 2
    for row in entries:
        found = configuration(registry, "tusboat", row["digest"])
        assert found["architecture"] == row["platform"]["architecture"]
        assert found["config"]["Entrypoint"] == ["tusboat"]
    assert store.image(BUILT).root.joinpath("opt/tusboat/bin/tusboat").is_file()
