"""What a person's day does to an upload in the browser, and that nothing sent is lost by it."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Request, expect

from tests.browser.console import Console, Open
from tests.conftest import Serve
from tests.live import LiveServer, wait_until
from tests.proxy import CuttingProxy
from tests.raw import TUS, ask
from tests.uploading import HEADERS, documents, write_archive

pytest_plugins = ("tests.client_fixtures",)

MIB = 2**20
SIZE = 24 * MIB


def document_of(server: LiveServer, name: str) -> dict[str, Any]:
    """The only upload of that name."""
    [found] = [one for one in documents(server.url) if one["filename"] == name]
    return found


def received(server: LiveServer, name: str) -> int:
    """How much the server has of the upload of that name."""
    return sum(one["offset"] for one in documents(server.url) if one["filename"] == name)


def keep(console: Console, path: Path) -> None:
    """Send a file without a destination: it is verified and kept."""
    console.send(path, "")


def assert_kept(server: LiveServer, console: Console, path: Path) -> dict[str, Any]:
    """The page is content, and the server has proven every byte by the page's own md5."""
    console.wait_for(path.name, "state.kept")
    document = document_of(server, path.name)
    stored = server.data_dir / "uploads" / document["id"]
    assert stored.read_bytes() == path.read_bytes()
    assert {step["name"]: step["state"] for step in document["steps"]}["verify"] == "done"
    return document


@contextmanager
def held(line: CuttingProxy, place: int) -> Iterator[threading.Event]:
    """Nothing passes this place on the line while the context lasts."""
    reached, go_on = threading.Event(), threading.Event()

    def hold() -> None:
        reached.set()
        go_on.wait(60)

    line.at(place, hold)
    try:
        yield reached
    finally:
        go_on.set()


def stalled(line: CuttingProxy, server: LiveServer, console: Console, path: Path) -> int:
    """Send until the line dies silently; the bytes that the server has then."""
    place = line.bytes_up + 10 * MIB
    line.stall_after(place)
    keep(console, path)
    wait_until(lambda: line.bytes_up >= place, what="the line is dead")
    wait_until(lambda: received(server, path.name) > MIB, what="some bytes")
    console.wait_for(path.name, "phase.sending")
    return received(server, path.name)


def test_reloaded_in_the_middle(
    server: LiveServer, line: CuttingProxy, tmp_path: Path, open_console: Open
) -> None:
    path = write_archive(tmp_path / "reloaded.tar", SIZE)
    console = open_console(line.url)
    stalled(line, server, console, path)
    # As after any stop of the browser: the page is gone, and what it remembers is on its disk.
    console.page.reload()
    row = console.wait_for(path.name, "phase.left")
    expect(row.get_by_text("choose reloaded.tar again", exact=False)).to_be_visible()
    console.shot("interrupted")
    known, before = received(server, path.name), line.bytes_up
    console.choose_again(path.name, path)
    assert_kept(server, console, path)
    assert line.bytes_up - before < SIZE - known + 4 * HEADERS, "only the rest was sent"


def test_a_laptop_that_slept_goes_on_when_it_wakes(
    server: LiveServer, line: CuttingProxy, tmp_path: Path, open_console: Open
) -> None:
    path = write_archive(tmp_path / "slept.tar", SIZE)
    console = open_console(line.url)
    console.page.clock.install()
    stalled(line, server, console, path)
    # Every timer that was due meanwhile comes now, once.
    console.page.clock.fast_forward("02:00")
    assert_kept(server, console, path)


def test_the_browser_is_closed_and_opened_again(
    server: LiveServer, line: CuttingProxy, browser: Browser, tmp_path: Path
) -> None:
    path = write_archive(tmp_path / "closed.tar", SIZE)

    @contextmanager
    def browsing() -> Iterator[Console]:
        context = browser.browser_type.launch_persistent_context(
            tmp_path / "profile",
            executable_path=shutil.which("chromium"),
            args=["--no-sandbox"],
            locale="en-US",
        )
        yield Console(context.pages[0], line.url)
        context.close()

    with browsing() as console:
        stalled(line, server, console, path)
    known, before = received(server, path.name), line.bytes_up
    with browsing() as console:
        console.wait_for(path.name, "phase.left")
        console.choose_again(path.name, path)
        assert_kept(server, console, path)
    assert line.bytes_up - before < SIZE - known + 4 * HEADERS, "only the rest was sent"


def test_dropped_again_it_goes_on_by_itself(
    server: LiveServer, line: CuttingProxy, tmp_path: Path, open_console: Open
) -> None:
    path = write_archive(tmp_path / "dropped.tar", SIZE)
    console = open_console(line.url)
    stalled(line, server, console, path)
    console.page.reload()
    console.wait_for(path.name, "phase.left")
    console.choose(path)
    assert_kept(server, console, path)


def test_another_file_of_that_name_is_not_taken_for_the_first(
    server: LiveServer, line: CuttingProxy, tmp_path: Path, open_console: Open
) -> None:
    path = write_archive(tmp_path / "twin.tar", SIZE)
    (tmp_path / "other").mkdir()
    other = write_archive(tmp_path / "other" / "twin.tar", SIZE)
    console = open_console(line.url)
    stalled(line, server, console, path)
    console.page.reload()
    console.wait_for("twin.tar", "phase.left")
    known = received(server, "twin.tar")
    console.choose_again("twin.tar", other)
    console.wait_for("twin.tar", "phase.other-file")
    console.shot("other-file")
    assert received(server, "twin.tar") == known
    console.choose_again("twin.tar", path)
    assert_kept(server, console, path)


def test_a_copy_of_the_file_is_proven_before_it_goes_on(
    server: LiveServer, line: CuttingProxy, tmp_path: Path, open_console: Open
) -> None:
    """The copy is the same up to where it was sent, and in all places that are sampled."""
    path = write_archive(tmp_path / "copied.tar", SIZE)
    (tmp_path / "other").mkdir()
    copy = Path(shutil.copy(path, tmp_path / "other" / "copied.tar"))
    os.utime(copy, (1_700_000_000, 1_700_000_000))
    changed = tmp_path / "changed" / "copied.tar"
    changed.parent.mkdir()
    shutil.copy(path, changed)
    with changed.open("r+b") as file:
        # Between two samples, at the beginning.
        file.seek(MIB)
        file.write(b"tampered")
    os.utime(changed, (1_600_000_000, 1_600_000_000))
    console = open_console(line.url)
    stalled(line, server, console, path)
    # The whole file was read by now, long before it was sent.
    remembered = "Object.values(localStorage).some((one) => one.includes('\"offset\":%d'))"
    console.page.wait_for_function(remembered % SIZE)
    console.page.reload()
    console.wait_for("copied.tar", "phase.left")
    console.choose_again("copied.tar", changed)
    console.wait_for("copied.tar", "phase.other-file")
    console.choose_again("copied.tar", copy)
    assert_kept(server, console, path)


def test_paused_and_resumed(
    server: LiveServer, line: CuttingProxy, tmp_path: Path, open_console: Open
) -> None:
    # What the browser has handed over by then arrives all the same.
    path = write_archive(tmp_path / "paused.tar", 3 * SIZE)
    console = open_console(line.url)
    with held(line, 10 * MIB) as reached:
        keep(console, path)
        assert reached.wait(60)
        console.wait_for(path.name, "phase.sending")
        console.shot("sending")
        console.press(path.name, "Pause")
        console.wait_for(path.name, "phase.paused")
    console.shot("paused")
    assert received(server, path.name) < path.stat().st_size
    console.press(path.name, "Resume")
    assert_kept(server, console, path)


def test_canceled(
    server: LiveServer, line: CuttingProxy, tmp_path: Path, open_console: Open
) -> None:
    path = write_archive(tmp_path / "unwanted.tar", SIZE)
    console = open_console(line.url)
    with held(line, 10 * MIB) as reached:
        keep(console, path)
        assert reached.wait(60)
        console.press(path.name, "Cancel")
        console.shot("cancel-question")
        console.page.get_by_role("button", name="Keep it").click()
        console.wait_for(path.name, "phase.sending")
        console.press(path.name, "Cancel")
        console.page.get_by_role("button", name="Cancel the upload").click()
        console.wait_for(path.name, "state.canceled")
    document = document_of(server, path.name)
    assert document["status"] == "canceled"
    assert ask(server.port, "HEAD", f"/files/{document['id']}", TUS).status == 410
    assert not (server.data_dir / "uploads" / document["id"]).exists()
    console.page.reload()
    console.wait_for(path.name, "state.canceled")


def test_a_line_that_breaks_costs_nothing(
    server: LiveServer, line: CuttingProxy, tmp_path: Path, open_console: Open
) -> None:
    path = write_archive(tmp_path / "cut.tar", SIZE)
    line.cut_after(5 * MIB, 9 * MIB, 17 * MIB)
    console = open_console(line.url)
    keep(console, path)
    assert_kept(server, console, path)


def test_the_server_is_killed_and_comes_back(tmp_path: Path, open_console: Open) -> None:
    path = write_archive(tmp_path / "killed.tar", SIZE)
    with LiveServer(tmp_path) as server, CuttingProxy(server.port) as line:
        killed = threading.Event()

        def kill() -> None:
            wait_until(lambda: received(server, path.name) > MIB)
            server.kill()
            killed.set()

        line.at(10 * MIB, kill)
        console = open_console(line.url)
        keep(console, path)
        assert killed.wait(60)
        row = console.row(path.name)
        expect(row.get_by_role("button", name="Try now")).to_be_visible()
        console.shot("retrying")
        expect(console.page.get_by_text("Connection lost")).to_be_visible()
        server.start()
        assert_kept(server, console, path)
        expect(console.page.get_by_text("Live", exact=True)).to_be_visible()


def test_only_three_connections_at_once(
    server: LiveServer, tmp_path: Path, open_console: Open
) -> None:
    names = [f"queued-{number}.tar" for number in range(4)]
    paths = [write_archive(tmp_path / name, MIB) for name in names]
    console = open_console(server.url)
    console.choose(*paths)
    for name in names:
        console.aim(name, "")
        start = console.draft(name).get_by_role("button", name="Upload", exact=True)
        expect(start).to_have_attribute("aria-disabled", "false")
    console.page.context.set_offline(True)
    console.page.get_by_role("button", name="Upload all 4").click()
    for name in names[:3]:
        expect(console.row(name).get_by_role("button", name="Try now")).to_be_visible()
    console.wait_for(names[3], "phase.queued")
    console.shot("queued")
    console.page.context.set_offline(False)
    for path in paths:
        assert_kept(server, console, path)


def test_as_the_operator_wants_it(serve: Serve, tmp_path: Path, open_console: Open) -> None:
    paths = [write_archive(tmp_path / f"decided-{number}.tar", 3 * MIB) for number in range(2)]
    patches: list[Request] = []
    server = serve(console_uploads=1, console_chunk_size=MIB)
    console = open_console(server.url)
    expect(console.page.get_by_text("Live", exact=True)).to_be_visible()
    console.page.on("request", lambda one: one.method == "PATCH" and patches.append(one))
    console.choose(*paths)
    for path in paths:
        console.aim(path.name, "")
        expect(console.draft(path.name).get_by_label("Connections")).to_have_count(0)
    console.page.context.set_offline(True)
    console.page.get_by_role("button", name="Upload all 2").click()
    expect(console.row(paths[0].name).get_by_role("button", name="Try now")).to_be_visible()
    console.wait_for(paths[1].name, "phase.queued")
    console.page.context.set_offline(False)
    for path in paths:
        assert_kept(server, console, path)
    sizes = [int(one.headers["upload-offset"]) for one in patches if one.response()]
    assert sorted(sizes) == [0, 0, MIB, MIB, 2 * MIB, 2 * MIB]


def test_in_three_connections(server: LiveServer, tmp_path: Path, open_console: Open) -> None:
    path = write_archive(tmp_path / "parts.tar", SIZE + 4711)
    console = open_console(server.url)
    console.choose(path)
    draft = console.draft(path.name)
    draft.get_by_text("Options").click()
    draft.get_by_label("Connections for this file").select_option("3")
    console.aim(path.name, "")
    console.begin(path.name)
    document = assert_kept(server, console, path)
    assert document["steps"][0]["name"] == "assemble"


def test_a_file_that_changes_while_it_is_sent(
    server: LiveServer, line: CuttingProxy, tmp_path: Path, open_console: Open
) -> None:
    path = write_archive(tmp_path / "moved.tar", SIZE)
    console = open_console(line.url)
    with held(line, 10 * MIB) as reached:
        keep(console, path)
        assert reached.wait(60)
        console.press(path.name, "Pause")
    content = path.read_bytes()
    path.write_bytes(content[:MIB])
    console.press(path.name, "Resume")
    console.wait_for(path.name, "phase.unreadable")
    path.write_bytes(content)
    console.choose_again(path.name, path)
    assert_kept(server, console, path)


@pytest.mark.parametrize("parts", ["1", "3"])
def test_gone_from_the_server(
    server: LiveServer, line: CuttingProxy, tmp_path: Path, open_console: Open, parts: str
) -> None:
    """Somebody else canceled it: this page says so, and begins anew only when it is told to."""
    path = write_archive(tmp_path / f"gone-{parts}.tar", SIZE)
    console = open_console(line.url)
    with held(line, 10 * MIB) as reached:
        console.choose(path)
        console.draft(path.name).get_by_text("Options").click()
        console.draft(path.name).get_by_label("Connections").select_option(parts)
        console.aim(path.name, "")
        console.begin(path.name)
        assert reached.wait(60)
        console.press(path.name, "Pause")
        console.wait_for(path.name, "phase.paused")
    if parts == "1":
        document = document_of(server, path.name)
        ask(server.port, "DELETE", f"/files/{document['id']}", TUS)
        console.press(path.name, "Resume")
        console.wait_for(path.name, "phase.refused")
        console.press(path.name, "Send from the beginning")
    else:
        console.press(path.name, "Resume")
    assert_kept(server, console, path)
