"""Who may use the console, and who can: tokens, screen readers, keyboards, screens, languages."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from tests.archives import write_docker_archive, write_without_image
from tests.browser.console import Console, Open
from tests.conftest import Serve
from tests.journeys import upload_by_tuspy
from tests.live import ROOT, LiveServer
from tests.uploading import write_archive

AXE = ROOT / "server" / "console" / "node_modules" / "axe-core" / "axe.min.js"
RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]
ANNA, BEN = "anna's token", "ben's token"


def violations(page: Page) -> list[tuple[str, list[str]]]:
    """What axe finds: the rule, and where."""
    page.evaluate(AXE.read_text())
    found: dict[str, Any] = page.evaluate(
        "(tags) => axe.run(document, { runOnly: { type: 'tag', values: tags } })", RULES
    )
    assert found["passes"], "it looked at nothing"
    return [(one["id"], [node["html"] for node in one["nodes"]]) for one in found["violations"]]


def widths(page: Page) -> tuple[int, int]:
    """What the page needs, and what it has."""
    needed, has = page.evaluate("[document.documentElement.scrollWidth, innerWidth]")
    return needed, has


@pytest.mark.parametrize(
    ("scheme", "width", "locale"),
    [
        ("light", 1100, "en-US"),
        ("dark", 360, "en-US"),
        ("light", 360, "zh-CN"),
        ("dark", 1100, "zh-CN"),
    ],
)
def test_axe_finds_nothing(
    server: LiveServer, tmp_path: Path, open_console: Open, scheme: str, width: int, locale: str
) -> None:
    console = open_console(
        server.url,
        color_scheme=scheme,
        viewport={"width": width, "height": 800},
        locale=locale,
        reduced_motion="reduce",
    )
    name = f"axe-{scheme}-{width}-{locale}.tar"
    long = "a-very-long-name-" * 8 + ".tar"
    upload_by_tuspy(server, write_archive(tmp_path / name, 1000), {"filename": name})
    console.wait_for(name, "state.unproven")
    console.row(name).locator("summary").click()
    console.choose(
        write_docker_archive(tmp_path / long, [4096, 4096], tag="team/app:1").path,
        write_without_image(tmp_path / "no-image.tar"),
    )
    console.draft("no-image.tar").locator("input.field").fill("nowhere.example/x:1")
    expect(console.draft("no-image.tar").locator(".verdict.bad")).to_be_visible()
    console.draft(long).locator(".inside summary").click()
    console.draft(long).locator(".more summary").click()
    assert violations(console.page) == []
    needed, has = widths(console.page)
    assert needed <= has, "nobody has to scroll sideways"
    console.shot(f"all-{scheme}-{width}-{locale}")


def test_dialogs_are_found_good_too(serve: Serve, tmp_path: Path, open_console: Open) -> None:
    server = serve(tokens_file=tokens(tmp_path))
    console = open_console(server.url)
    expect(console.page.get_by_role("dialog")).to_be_visible()
    assert violations(console.page) == []
    console.shot("token")


def test_by_keyboard_alone(server: LiveServer, tmp_path: Path, open_console: Open) -> None:
    path = write_archive(tmp_path / "keys.tar", 4711)
    console = open_console(server.url)
    page = console.page
    expect(page.get_by_text("Live", exact=True)).to_be_visible()
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to the uploads")).to_be_focused()
    page.keyboard.press("Tab")
    expect(page.get_by_label("Language")).to_be_focused()
    page.keyboard.press("Tab")
    expect(page.get_by_role("button", name="Choose files")).to_be_focused()
    with page.expect_file_chooser() as chosen:
        page.keyboard.press("Enter")
    chosen.value.set_files(path)
    # Where the person goes on, the focus is.
    expect(console.draft("keys.tar").get_by_label("Destination")).to_be_focused()
    expect(console.draft("keys.tar").get_by_text("no registry", exact=False)).to_be_visible()
    page.keyboard.press("Enter")
    console.wait_for("keys.tar", "state.kept")
    expect(page.locator("[aria-live]").last).to_have_text("keys.tar: done")


def test_in_chinese_and_in_english(server: LiveServer, tmp_path: Path, open_console: Open) -> None:
    console = open_console(server.url, locale="zh-CN")
    page = console.page
    expect(page.get_by_role("button", name="选择文件")).to_be_visible()
    assert page.evaluate("document.documentElement.lang") == "zh-CN"
    page.get_by_label("语言").select_option("en")
    expect(page.get_by_role("button", name="Choose files")).to_be_visible()
    page.reload()
    expect(page.get_by_role("button", name="Choose files")).to_be_visible()
    assert page.evaluate("document.documentElement.lang") == "en"
    # A draft survives the change of the language.
    console.choose(write_archive(tmp_path / "kept.tar", 10))
    console.aim("kept.tar", "x.example/y:1")
    page.get_by_label("Language").select_option("zh")
    expect(console.draft("kept.tar").get_by_label("目标")).to_have_value("x.example/y:1")
    # What is wrong with it, too; the particulars are in the server's own words.
    bad = console.draft("kept.tar").locator(".verdict.bad")
    expect(bad).to_contain_text("不允许推送到该镜像仓库")
    expect(bad).to_contain_text("x.example")
    expect(bad).to_contain_text("请选择允许的镜像仓库")


def tokens(directory: Path) -> Path:
    path = directory / "tokens.toml"
    rows = [
        f'[[token]]\nname = "{name}"\nsha256 = "{hashlib.sha256(token.encode()).hexdigest()}"\n'
        f'repositories = ["registry.example/{name}/*"]\n'
        for name, token in (("anna", ANNA), ("ben", BEN))
    ]
    path.write_text("\n".join(rows))
    return path


def sign_in(console: Console, token: str) -> None:
    dialog = console.page.get_by_role("dialog")
    dialog.get_by_label("Token", exact=True).fill(token)
    dialog.get_by_role("button", name="Continue").click()


def test_a_token_opens_ones_own_uploads(serve: Serve, tmp_path: Path, open_console: Open) -> None:
    rows = [{"host": "registry.example", "repositories": ["anna/*", "ben/*"]}]
    server = serve(tokens_file=tokens(tmp_path), registries=rows)
    path = write_archive(tmp_path / "bens.tar", 1000)
    bens = {"Authorization": f"Bearer {BEN}"}
    upload_by_tuspy(server, path, {"filename": "bens.tar"}, headers=bens)

    console = open_console(server.url)
    asked: list[str] = []
    console.page.on("request", lambda request: asked.append(request.url))
    sign_in(console, "nobody's token")
    expect(console.page.get_by_role("dialog")).to_contain_text("does not know this token")
    sign_in(console, ANNA)
    expect(console.page.get_by_text("Signed in as anna")).to_be_visible()
    annas = write_docker_archive(tmp_path / "annas.tar", [4096], tag="some/app:3").path
    console.choose(annas)
    # What she may write to is proposed.
    destination = console.draft("annas.tar").get_by_label("Destination")
    expect(destination).to_have_value("registry.example/anna/app:3")
    console.aim("annas.tar", "")
    console.begin("annas.tar")
    console.wait_for("annas.tar", "state.kept")
    expect(console.row("bens.tar")).to_have_count(0)
    console.page.reload()
    console.wait_for("annas.tar", "state.kept")
    console.page.get_by_role("button", name="Change token").click()
    sign_in(console, BEN)
    console.wait_for("bens.tar", "state.unproven")
    expect(console.row("annas.tar")).to_have_count(0)
    assert len(asked) > 5
    assert not [url for url in asked if "token" in url], "no token in an address"


def test_a_token_that_ends_in_the_middle(serve: Serve, tmp_path: Path, open_console: Open) -> None:
    """The operator takes the token back: the page asks for another, and the upload goes on."""
    file = tokens(tmp_path)
    server = serve(tokens_file=file)
    console = open_console(server.url)
    sign_in(console, ANNA)
    expect(console.page.get_by_text("Signed in as anna")).to_be_visible()
    path = write_archive(tmp_path / "late.tar", 2**20)
    console.choose(path)
    console.aim("late.tar", "")
    expect(console.draft("late.tar").get_by_text("no registry")).to_be_visible()
    new = "anna's new token"
    old = hashlib.sha256(ANNA.encode()).hexdigest()
    file.write_text(file.read_text().replace(old, hashlib.sha256(new.encode()).hexdigest()))
    server.stop()
    server.start()
    expect(console.page.get_by_role("dialog")).to_be_visible()
    sign_in(console, new)
    console.begin("late.tar")
    console.wait_for("late.tar", "state.kept")
