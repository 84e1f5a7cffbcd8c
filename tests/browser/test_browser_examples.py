"""The pages of `examples/browser/`, in a browser, from another origin than the server's."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.archives import Archive, write_docker_archive
from tests.clients import tus_js
from tests.journeys import MIB, assert_image, row
from tests.live import ROOT, LiveServer
from tests.registries import RunningRegistry, serving
from tests.uploading import documents


class Quiet(SimpleHTTPRequestHandler):
    """Files of a folder, without a line for each on stderr."""

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@pytest.fixture
def site(tmp_path: Path) -> Iterator[str]:
    """The examples beside which their clients are installed, as `npm install` there would do."""
    tus_js.node()
    copy = tmp_path / "site"
    shutil.copytree(ROOT / "examples" / "browser", copy)
    for name in ("least", "uppy"):
        (copy / name / "node_modules").symlink_to(tus_js.MODULES)
    handler = partial(Quiet, directory=str(copy))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[RunningRegistry]:
    with serving(tmp_path / "registry") as running:
        yield running


@pytest.fixture
def wired(registry: RunningRegistry, site: str, tmp_path: Path) -> Iterator[LiveServer]:
    """A server that lets the examples' origin in."""
    with LiveServer(tmp_path, registries=[row(registry)], cors_origins=[site]) as server:
        yield server


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    context = browser.new_context()
    yield context.new_page()
    context.close()


@pytest.fixture
def archive(tmp_path: Path) -> Archive:
    return write_docker_archive(tmp_path / "llm.tar", [2 * MIB], tag="llm:v1")


def test_the_least_page(
    wired: LiveServer, registry: RunningRegistry, site: str, page: Page, archive: Archive
) -> None:
    page.goto(f"{site}/least/?server={wired.url}")
    page.get_by_label("Archive").set_input_files(archive.path)
    page.get_by_label("Image").fill(f"{registry.host}/least/llm:v1")
    page.get_by_role("button", name="Send").click()
    expect(page.locator("#said")).to_contain_text(f"done {registry.host}/least/llm:v1 sha256:")
    assert_image(registry, archive, documents(wired.url)[0])


def test_uppys_dashboard(
    wired: LiveServer, registry: RunningRegistry, site: str, page: Page, archive: Archive
) -> None:
    image = f"{registry.host}/uppy/llm:v1"
    page.goto(f"{site}/uppy/?server={wired.url}&image={image}")
    page.locator("input[type=file]").first.set_input_files(archive.path)
    page.get_by_role("button", name="Upload 1 file").click()
    expect(page.locator("#said")).to_contain_text(f"llm.tar done {image} sha256:")
    document = documents(wired.url)[0]
    assert document["filename"] == "llm.tar"
    assert_image(registry, archive, document)


def test_the_least_page_is_short() -> None:
    lines = (ROOT / "examples" / "browser" / "least" / "upload.js").read_text().splitlines()
    assert len(lines) <= 40
