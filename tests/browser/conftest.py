"""A real browser, and people in front of it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, expect, sync_playwright

from tests.browser.console import Console, Open

MILLISECONDS = 1000
PATIENCE_SECONDS = 60


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Headless Chromium.

    A machine without is no reason to pass over a test: it fails, and says what to run.
    """
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.fail("this test needs Chromium: run .ci/setup", pytrace=False)
    expect.set_options(timeout=PATIENCE_SECONDS * MILLISECONDS)
    # Within the module only: Playwright's loop would be in the way of other tests' own.
    with sync_playwright() as playwright:
        # Its sandbox does not work for root, which containers and CI are.
        running = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield running
        running.close()


@pytest.fixture
def open_console(browser: Browser) -> Iterator[Open]:
    """Opens the page of a server: `open_console(url)`; several calls are several people."""
    opened: list[Console] = []

    def open_console(url: str, **context: Any) -> Console:
        made = browser.new_context(
            **{"viewport": {"width": 1100, "height": 900}, "locale": "en-US", **context}
        )
        made.set_default_timeout(PATIENCE_SECONDS * MILLISECONDS)
        opened.append(Console(made.new_page(), url))
        return opened[-1]

    yield open_console
    for console in opened:
        complaints = console.complaints
        console.page.context.close()
        assert not complaints, complaints
