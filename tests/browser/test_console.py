"""The console: from an archive on this machine to an image in a registry, by a person's hand."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import expect

from tests.archives import write_docker_archive
from tests.browser.console import Open
from tests.journeys import MIB, assert_image, row
from tests.live import LiveServer
from tests.registries import RunningRegistry, serving
from tests.uploading import documents


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningRegistry]:
    with serving(tmp_path_factory.mktemp("registry")) as running:
        yield running


@pytest.fixture(scope="module")
def wired(
    registry: RunningRegistry, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[LiveServer]:
    """A server that may push to the registry."""
    with LiveServer(tmp_path_factory.mktemp("server"), registries=[row(registry)]) as server:
        yield server


def test_from_a_file_to_the_registry(
    wired: LiveServer, registry: RunningRegistry, tmp_path: Path, open_console: Open
) -> None:
    archive = write_docker_archive(tmp_path / "hello.tar", [3 * MIB, MIB], tag="team/hello:1")
    console = open_console(wired.url)
    expect(console.page.get_by_text("No uploads yet")).to_be_visible()
    console.shot("empty")
    console.choose(archive.path)
    draft = console.draft("hello.tar")
    expect(draft.locator(".chip")).to_have_text(
        ["Docker archive", "team/hello:1", "linux/amd64", "2 layers"]
    )
    expect(draft.get_by_label("Destination")).to_have_value(f"{registry.host}/team/hello:1")
    expect(draft.get_by_text("You may write there.")).to_be_visible()
    console.shot("draft")
    console.begin("hello.tar")
    done = console.wait_for("hello.tar", "state.done")
    expect(done.locator(".step-done .step-name")).to_have_text(["Upload", "Verify", "Load", "Push"])
    console.shot("done")
    document = documents(wired.url)[0]
    assert_image(registry, archive, document)
    [result] = document["results"]
    exact = f"{registry.host}/team/hello@{result['digest']}"
    assert console.digest("hello.tar") == exact
    # The digest of all of it was handed over, and compared.
    assert {step["name"]: step["state"] for step in document["steps"]}["verify"] == "done"
