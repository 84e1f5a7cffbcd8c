"""The console in a real browser, as a person uses it: a page object.

Knows: Playwright, what the page shows and how it is used.
Must not know: what a test wants to prove.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from playwright.sync_api import ConsoleMessage, Locator, Page, expect

from tests.live import ROOT

# Pictures of every state, for people; in no commit.
SHOTS = ROOT / ".screenshots"
# What the browser itself says of a line or an answer that a test made go wrong.
EXPECTED = re.compile(r"Failed to load resource|net::ERR_")

Open = Callable[..., "Console"]


class Console:
    """One tab."""

    def __init__(self, page: Page, url: str) -> None:
        self.page = page
        # Errors of scripts, and violations of the policy.
        self.complaints: list[str] = []
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("console", self._listen)
        # Leaving the page while something is sent asks; a person says yes.
        page.on("dialog", lambda dialog: dialog.accept())
        # From the beginning, not from the moment on at which somebody waits for it.
        page.on("filechooser", lambda _: None)
        page.goto(f"{url}/")

    def _listen(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning") and not EXPECTED.search(message.text):
            self.complaints.append(message.text)

    def choose(self, *paths: Path) -> None:
        """Choose these files with the browser's own dialog, in any language."""
        with self.page.expect_file_chooser() as chosen:
            self.page.locator(".drop button").click()
        chosen.value.set_files(list(paths))

    def draft(self, name: str) -> Locator:
        """The card of a file that is not sent yet."""
        return self.page.locator(f".draft[data-draft='{name}']")

    def aim(self, name: str, image: str) -> None:
        """Write a destination for that file."""
        self.draft(name).get_by_label("Destination").fill(image)

    def begin(self, name: str) -> None:
        """Send it, once the server has said that it may be sent."""
        start = self.draft(name).get_by_role("button", name="Upload", exact=True)
        expect(start).to_have_attribute("aria-disabled", "false")
        start.click()

    def send(self, path: Path, image: str) -> None:
        """From the choice to the beginning."""
        self.choose(path)
        self.aim(path.name, image)
        self.begin(path.name)

    def row(self, name: str) -> Locator:
        """The card of an upload; the newest of that name."""
        return self.page.locator(f".upload[data-upload='{name}']").first

    def wait_for(self, name: str, state: str) -> Locator:
        """The card once it is in that state: `state.done`, `phase.paused`."""
        row = self.row(name)
        expect(row).to_have_attribute("data-state", state)
        return row

    def press(self, name: str, action: str) -> None:
        """Press a button of an upload's card."""
        self.row(name).get_by_role("button", name=re.compile(f"^{action}")).click()

    def choose_again(self, name: str, path: Path) -> None:
        """Choose a file for an upload that has lost its own."""
        with self.page.expect_file_chooser() as chosen:
            self.press(name, "Choose the file")
        chosen.value.set_files(path)

    def digest(self, name: str) -> str:
        """The exact name of the image that came of it, as one would copy it."""
        return self.row(name).locator(".copyable code").first.inner_text()

    def shot(self, name: str) -> None:
        """A picture of the whole page, for people."""
        SHOTS.mkdir(exist_ok=True)
        self.page.screenshot(path=SHOTS / f"{name}.png", full_page=True)
