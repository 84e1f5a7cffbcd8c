"""The console: from an archive on this machine to an image in a registry, by a person's hand."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tests.archives import (
    write_docker_archive,
    write_gzipped,
    write_oci_archive,
    write_random,
    write_several_images,
    write_truncated,
    write_without_image,
)
from tests.browser.console import Console, Open
from tests.journeys import MIB, assert_image, ended, row, upload_by_tuspy
from tests.live import LiveServer, wait_until
from tests.proxy import CuttingProxy
from tests.raw import append, create, metadata, status
from tests.registries import RunningRegistry, serving, write_authfile
from tests.uploading import HEADERS, documents, write_archive


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
    draft.get_by_text("What is in it").click()
    console.shot("draft")
    console.begin("hello.tar")
    done = console.wait_for("hello.tar", "state.done")
    expect(done.locator(".step-done .step-name")).to_have_text(["Upload", "Verify", "Load", "Push"])
    done.get_by_text("Details").click()
    done.get_by_text("What is in it").click()
    expect(done.locator(".inside")).to_contain_text("linux/amd64 · 2 layers · 4 MiB")
    console.shot("done")
    document = documents(wired.url)[0]
    assert_image(registry, archive, document)
    [result] = document["results"]
    exact = f"{registry.host}/team/hello@{result['digest']}"
    assert console.digest("hello.tar") == exact
    # The digest of all of it was handed over, and compared.
    assert {step["name"]: step["state"] for step in document["steps"]}["verify"] == "done"
    expect(done.locator(".facts")).to_contain_text(document["digests"]["sha256"])
    console.page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    done.get_by_role("button", name=f"Copy {exact}").click()
    expect(done.get_by_text("Copied")).to_be_visible()
    assert console.page.evaluate("navigator.clipboard.readText()") == exact
    # Whoever opens the page later reads what the steps said, too.
    late = open_console(wired.url)
    late.row("hello.tar").get_by_text("Details").click()
    expect(late.row("hello.tar").locator(".log")).to_contain_text("push: ")


def test_two_files_at_once(
    wired: LiveServer, registry: RunningRegistry, tmp_path: Path, open_console: Open
) -> None:
    archives = [
        write_docker_archive(tmp_path / f"{name}.tar", [MIB], tag=f"two/{name}:2", seed=name)
        for name in ("one", "other")
    ]
    console = open_console(wired.url)
    console.choose(*(archive.path for archive in archives))
    for archive in archives:
        draft = console.draft(archive.path.name)
        expect(draft.get_by_text("You may write there.")).to_be_visible()
    console.page.get_by_role("button", name="Upload all 2").click()
    for archive in archives:
        console.wait_for(archive.path.name, "state.done")
        [document] = [one for one in documents(wired.url) if one["filename"] == archive.path.name]
        assert_image(registry, archive, document)


def test_an_archive_damaged_on_the_way_is_found_out(
    wired: LiveServer, registry: RunningRegistry, tmp_path: Path, open_console: Open
) -> None:
    archive = write_docker_archive(tmp_path / "damaged.tar", [4 * MIB], tag="team/damaged:1")
    with CuttingProxy(wired.port) as line:
        line.corrupt_after(3 * MIB)
        console = open_console(line.url)
        console.send(archive.path, f"{registry.host}/team/damaged:1")
        failed = console.wait_for("damaged.tar", "state.failed")
        expect(failed.locator(".trouble-title")).to_have_text("Failed at: Verify")
        expect(failed.locator(".trouble")).to_contain_text("MD5", ignore_case=True)
        console.shot("failed")
        assert registry.tags("team/damaged") == []
        console.press("damaged.tar", "Send from the beginning")
        console.wait_for("damaged.tar", "state.done")
    assert registry.tags("team/damaged") == ["1"]


def test_what_the_operator_mends_is_tried_again_without_sending(
    tmp_path: Path, open_console: Open
) -> None:
    archive = write_docker_archive(tmp_path / "patient.tar", [MIB], tag="team/patient:1")
    with (
        serving(tmp_path / "registry", secure=True) as registry,
        LiveServer(tmp_path, registries=[row(registry)]) as server,
        CuttingProxy(server.port) as line,
    ):
        assert registry.authfile
        authfile = registry.authfile
        # The password ends while the archive is on its way.
        line.at(MIB // 2, lambda: write_authfile(authfile, registry.host, password="ended"))
        console = open_console(line.url)
        console.send(archive.path, f"{registry.host}/team/patient:1")
        failed = console.wait_for("patient.tar", "state.failed")
        expect(failed.locator(".step-failed")).to_have_count(1)
        expect(failed.locator(".trouble-title")).to_contain_text("Failed at:")
        expect(failed.locator(".hint")).to_be_visible()
        write_authfile(authfile, registry.host)
        before = line.bytes_up
        console.press("patient.tar", "Try again")
        console.wait_for("patient.tar", "state.done")
        assert_image(registry, archive, documents(server.url)[0])
        assert line.bytes_up - before < HEADERS, "nothing was sent again"


def test_a_destination_that_is_refused_is_refused_before_a_byte(
    wired: LiveServer, registry: RunningRegistry, tmp_path: Path, open_console: Open
) -> None:
    archive = write_docker_archive(tmp_path / "nowhere.tar", [4096])
    console = open_console(wired.url)
    console.choose(archive.path)
    for wrong, reason in [
        ("registry.example/team/x:1", "registry.example is not allowed"),
        ("not a reference", "spaces"),
        (f"{registry.host}/Upper:1", "upper-case"),
    ]:
        console.aim("nowhere.tar", wrong)
        draft = console.draft("nowhere.tar")
        expect(draft.locator(".verdict.bad")).to_contain_text(reason)
        expect(draft.get_by_label("Destination")).to_have_attribute("aria-invalid", "true")
        start = draft.get_by_role("button", name="Upload", exact=True)
        expect(start).to_have_attribute("aria-disabled", "true")
        # A person may press it all the same.
        start.click(force=True)
    console.shot("refused")
    assert "nowhere.tar" not in [one["filename"] for one in documents(wired.url)]


def chips(console: Console, name: str) -> list[str]:
    """What a draft says of its file, in short."""
    contents = console.draft(name).locator(".draft-contents")
    expect(contents).not_to_contain_text("Looking into")
    return [text.strip() for text in contents.locator("> p, .chip").all_inner_texts()]


def test_what_a_file_is_seen_to_be(server: LiveServer, tmp_path: Path, open_console: Open) -> None:
    plain = write_docker_archive(tmp_path / "plain.tar", [4096], tag="a/b:1").path
    several = write_several_images(tmp_path / "several.tar", ["a/x:1", "b/y:2", "c/z:3"]).path
    files = {
        plain: ["Docker archive", "a/b:1", "linux/amd64", "1 layer"],
        several: ["Docker archive", "3 images", "linux/amd64"],
        write_oci_archive(tmp_path / "oci.tar", [4096, 4096], tag="v3").path: [
            "OCI archive",
            "v3",
            "linux/amd64",
            "2 layers",
        ],
        write_gzipped(tmp_path / "packed.tar.gz", plain): ["Compressed with gzip"],
        write_truncated(tmp_path / "cut.tar"): ["The file ends too early"],
        write_without_image(tmp_path / "empty.tar"): ["A tar file, but no image"],
        write_random(tmp_path / "noise.bin"): ["This does not look like an image archive"],
    }
    console = open_console(server.url)
    console.choose(*files)
    for path, expected in files.items():
        found = chips(console, path.name)
        assert len(found) == len(expected), found
        assert all(text.startswith(begin) for text, begin in zip(found, expected, strict=True))
    console.shot("drafts")


def test_one_image_of_several(
    wired: LiveServer, registry: RunningRegistry, tmp_path: Path, open_console: Open
) -> None:
    archive = write_several_images(tmp_path / "choice.tar", ["a/x:1", "a/y:2"])
    console = open_console(wired.url)
    console.choose(archive.path)
    draft = console.draft("choice.tar")
    expect(draft.get_by_text("each keeps its own tag", exact=False)).to_be_visible()
    draft.get_by_label("Which image").select_option(label="a/y:2")
    console.aim("choice.tar", f"{registry.host}/chosen/y:9")
    console.begin("choice.tar")
    console.wait_for("choice.tar", "state.done")
    assert registry.tags("chosen/y") == ["9"]


def test_a_tag_that_is_taken_is_said_before_a_byte(
    registry: RunningRegistry, tmp_path: Path, open_console: Open
) -> None:
    archive = write_several_images(tmp_path / "taken.tar", ["a/x:1", "a/x:2"])
    repository = f"{registry.host}/taken"
    with LiveServer(tmp_path, registries=[row(registry)], overwrite="refuse") as strict:
        for tag in ("latest", "2"):
            only = write_docker_archive(tmp_path / f"{tag}.tar", [4096])
            wanted = {"image": f"{repository}:{tag}"}
            assert ended(strict, upload_by_tuspy(strict, only.path, wanted))["status"] == "done"
        console = open_console(strict.url)
        console.choose(archive.path)
        console.aim("taken.tar", repository)
        draft = console.draft("taken.tar")
        bad = draft.locator(".verdict.bad")
        expect(bad).to_contain_text("taken:2")
        console.shot("taken")
        # The first of them goes to a place that is free; that there is a `latest` is no matter.
        draft.get_by_label("Which image").select_option(label="a/x:1")
        expect(bad).to_have_count(0)
        console.aim("taken.tar", f"{repository}:1")
        console.begin("taken.tar")
        console.wait_for("taken.tar", "state.done")
    assert sorted(registry.tags("taken")) == ["1", "2", "latest"]


def test_uploads_of_others_appear_by_themselves(
    wired: LiveServer, registry: RunningRegistry, tmp_path: Path, open_console: Open
) -> None:
    console = open_console(wired.url)
    expect(console.page.get_by_text("Live", exact=True)).to_be_visible()
    archive = write_docker_archive(tmp_path / "elsewhere.tar", [MIB], seed="elsewhere")
    image = f"{registry.host}/team/elsewhere:1"
    upload = upload_by_tuspy(wired, archive.path, {"filename": "elsewhere.tar", "image": image})
    ended(wired, upload)
    done = console.wait_for("elsewhere.tar", "state.done")
    done.get_by_text("Details").click()
    expect(done.locator(".log")).to_contain_text("push:")
    console.page.get_by_label("Search").fill("no such thing")
    expect(console.page.get_by_text("Nothing fits")).to_be_visible()
    console.page.get_by_label("Search").fill("ELSEWHERE")
    console.wait_for("elsewhere.tar", "state.done")
    console.page.get_by_text("Failed", exact=True).click()
    expect(console.row("elsewhere.tar")).to_have_count(0)


def test_a_long_list_comes_in_pages(tmp_path: Path, open_console: Open) -> None:
    with LiveServer(tmp_path) as server:
        for number in range(53):
            create(server.port, 10, metadata(filename=f"many-{number}.tar"))
        console = open_console(server.url)
        expect(console.page.locator(".upload")).to_have_count(50)
        console.page.get_by_role("button", name="Show more").click()
        expect(console.page.locator(".upload")).to_have_count(53)
        expect(console.page.get_by_role("button", name="Show more")).to_be_hidden()


def test_what_is_far_down_the_list_is_found_by_its_state(
    tmp_path: Path, open_console: Open
) -> None:
    with LiveServer(tmp_path) as server:
        archive = write_archive(tmp_path / "old.tar", 1000)
        wrong = {"filename": "old.tar", "md5": "0" * 32}
        assert ended(server, upload_by_tuspy(server, archive, wrong))["status"] == "failed"
        for number in range(53):
            create(server.port, 10, metadata(filename=f"newer-{number}.tar"))
        console = open_console(server.url)
        expect(console.page.locator(".upload")).to_have_count(50)
        expect(console.row("old.tar")).to_have_count(0)
        console.page.get_by_text("Failed", exact=True).click()
        expect(console.page.locator(".upload")).to_have_count(1)
        failed = console.wait_for("old.tar", "state.failed")
        # Whoever was not there when it was sent has the file all the same, maybe.
        console.choose_again("old.tar", archive)
        console.page.get_by_text("All", exact=True).click()
        console.wait_for("old.tar", "state.kept")
        expect(failed).to_be_visible()


def test_parts_of_one_file_are_one_upload_to_others(
    server: LiveServer, tmp_path: Path, open_console: Open
) -> None:
    named = metadata(filename="apart.tar (part)", part_of="key")
    parts = [create(server.port, 10, named | {"Upload-Concat": "partial"}) for _ in range(3)]
    for part in parts[:2]:
        append(server.port, part, 0, b"12345")
    create(server.port, 10, metadata(filename="another.tar"))
    console = open_console(server.url)
    console.wait_for("another.tar", "state.receiving")
    row = console.wait_for("apart.tar", "state.receiving")
    expect(row.locator(".numbers")).to_have_text("10 B of 30 B")
    expect(console.page.get_by_text("(part)")).to_have_count(0)
    console.press("apart.tar", "Cancel")
    console.page.get_by_role("dialog").get_by_role("button", name="Cancel the upload").click()
    for part in parts:
        wait_until(lambda part=part: status(server.port, part)["status"] == "canceled")
    console.wait_for("another.tar", "state.receiving")


def test_how_fast_it_goes_and_how_long_it_takes(
    wired: LiveServer, registry: RunningRegistry, tmp_path: Path, open_console: Open
) -> None:
    archive = write_docker_archive(tmp_path / "fast.tar", [150 * MIB, 150 * MIB], seed="fast")
    console = open_console(wired.url)
    console.send(archive.path, f"{registry.host}/team/fast:1")
    numbers = console.row("fast.tar").locator(".numbers")
    moving = re.compile(r"[\d.]+ \S+ of [\d.]+ \S+ · [\d.]+ \S+/s · .+ left")
    expect(numbers).to_have_text(moving)
    for step in ("Load", "Push"):
        running = console.row("fast.tar").locator(".step-running .step-name")
        expect(running).to_have_text(step)
        expect(numbers).to_have_text(moving)
        console.shot(f"running-{step.lower()}")
    console.wait_for("fast.tar", "state.done")


def html_of(page: Page) -> int:
    """Elements that only markup in a name could have made."""
    return page.locator("main img, main b, main script, main iframe").count()


def test_markup_in_a_name_is_text(server: LiveServer, tmp_path: Path, open_console: Open) -> None:
    name = "<img src=x onerror=alert(1)><b>&amp;.tar"
    path = write_archive(tmp_path / name, 4711)
    tagged = write_docker_archive(tmp_path / "tagged.tar", [4096], tag="<b>bold</b>:<script>1")
    console = open_console(server.url)
    console.choose(path, tagged.path)
    expect(console.draft("tagged.tar").locator(".chip-name")).to_have_text("<b>bold</b>:<script>1")
    console.aim(name, "")
    console.begin(name)
    kept = console.wait_for(name, "state.kept")
    expect(kept.locator(".name")).to_have_text(name)
    console.page.reload()
    kept = console.wait_for(name, "state.kept")
    expect(kept.locator(".name")).to_have_text(name)
    assert html_of(console.page) == 0
