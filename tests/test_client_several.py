"""Several archives in one command: what each becomes, in which order it is told, and who fails."""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.archives import write_docker_archive
from tests.journeys import row
from tests.live import COMMAND, LiveServer, environment, run_tusboat, wait_until
from tests.proxy import CuttingProxy
from tests.registries import RunningRegistry, serving
from tests.uploading import (
    CHUNK,
    HEADERS,
    MIB,
    documents,
    interrupted,
    remembered,
    write_archive,
)

pytest_plugins = ("tests.client_fixtures",)

KEPT = "verified, and kept on the server"


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningRegistry]:
    with serving(tmp_path_factory.mktemp("registry")) as running:
        yield running


@pytest.fixture(scope="module")
def wired(
    registry: RunningRegistry, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[LiveServer]:
    """A server that may push to the registry, and does so without being told where to."""
    settings = {
        "registries": [row(registry)],
        "default_repository": f"{registry.host}/incoming",
        "engine": "skopeo",
    }
    with LiveServer(tmp_path_factory.mktemp("server"), **settings) as server:
        yield server


def test_each_becomes_an_image_and_the_digests_are_in_order(
    wired: LiveServer, registry: RunningRegistry, tmp_path: Path, home: Path
) -> None:
    one = write_docker_archive(tmp_path / "one.tar", [16 * MIB], seed="one")
    two = write_docker_archive(tmp_path / "two.tar", [1000], seed="two")
    image = f"{registry.host}/team/{{name}}:v1"
    arguments = (str(one.path), str(two.path), "--image", image, "--server", wired.url)
    ran = run_tusboat(home, "upload", *arguments)
    assert ran.code == 0, ran
    for archive, name, digest in zip((one, two), ("one", "two"), ran.stdout.split(), strict=True):
        assert registry.config_digest(f"{registry.host}/team/{name}@{digest}") == archive.image_id
        assert f"{archive.path}: {registry.host}/team/{name}:v1 is in the registry" in ran.stderr
    assert remembered(home) == []
    said = run_tusboat(home, "log", documents(wired.url)[0]["id"], "--server", wired.url)
    assert said.code == 0, said
    assert "push: " in said.stdout


def test_without_an_image_each_goes_under_its_own_name(
    wired: LiveServer, registry: RunningRegistry, tmp_path: Path, home: Path
) -> None:
    archives = [
        write_docker_archive(tmp_path / f"{name}.tar", tag=f"own/{name}:1", seed=name)
        for name in ("left", "right")
    ]
    names = [str(archive.path) for archive in archives]
    ran = run_tusboat(home, "upload", *names, "--server", wired.url)
    assert ran.code == 0, ran
    for archive, name in zip(archives, ("left", "right"), strict=True):
        image = f"{registry.host}/incoming/own/{name}:1"
        assert registry.config_digest(image) == archive.image_id


def test_one_that_fails_leaves_the_others_and_the_exit_code(
    wired: LiveServer, registry: RunningRegistry, tmp_path: Path, home: Path
) -> None:
    bad = write_archive(tmp_path / "bad.tar", MIB)
    good = write_docker_archive(tmp_path / "good.tar", seed="good")
    missing = tmp_path / "empty.tar"
    missing.touch()
    image = f"{registry.host}/team/{{name}}:v1"
    names = [str(path) for path in (missing, bad, good.path)]
    arguments = ("--image", image, "--server", wired.url, "--no-check", "--quiet")
    ran = run_tusboat(home, "upload", *names, *arguments)
    assert ran.code == 1, ran
    [digest] = ran.stdout.split()
    assert registry.config_digest(f"{registry.host}/team/good@{digest}") == good.image_id
    errors = [line for line in ran.stderr.splitlines() if "error: " in line]
    assert [line.split(":")[0] for line in errors] == [str(missing), str(bad)]
    assert "is empty" in errors[0]
    assert all("error: " in line or "hint: " in line for line in ran.stderr.splitlines())
    assert remembered(home) == []


def test_interrupted_and_given_again_what_is_there_is_not_sent_again(
    server: LiveServer, line: CuttingProxy, tmp_path: Path, home: Path
) -> None:
    names = [str(write_archive(tmp_path / f"{n}.tar", size * MIB)) for n, size in ((1, 8), (2, 12))]
    command = ("upload", *names, "--server", line.url, *CHUNK)
    before = len(documents(server.url))
    first = interrupted(line, 16 * MIB, home, command, signal.SIGINT)
    assert first.code == 130, first
    assert "the same command again goes on" in first.stderr
    assert len(remembered(home)) == 2
    sent = line.bytes_up
    second = run_tusboat(home, *command)
    assert second.code == 0, second
    assert second.stderr.count("verified, and kept") == 2
    assert line.bytes_up - sent < 12 * MIB
    assert len(documents(server.url)) == before + 2
    assert remembered(home) == []


def test_json_says_which_archive(server: LiveServer, tmp_path: Path, home: Path) -> None:
    names = [str(write_archive(tmp_path / f"{name}.tar", 1000)) for name in "ab"]
    ran = run_tusboat(home, "upload", *names, "--server", server.url, "--json")
    assert (ran.code, ran.stderr) == (0, ""), ran
    events = [json.loads(text) for text in ran.stdout.splitlines()]
    assert {event["archive"] for event in events} == set(names)
    ends = [event for event in events if event["event"] == "finished"]
    assert sorted(end["archive"] for end in ends) == names


def test_nobody_there_is_asked_once(tmp_path: Path, home: Path, server: LiveServer) -> None:
    names = [str(write_archive(tmp_path / f"{name}.tar", 1000)) for name in "abcd"]
    with CuttingProxy(server.port) as line:
        url = line.url
    arguments = ("--server", url, "--give-up-after", "1", "--at-once", "2")
    ran = run_tusboat(home, "upload", *names, *arguments)
    assert ran.code == 1
    assert ran.stderr.count("gave up") == 2
    for name in names[2:]:
        assert f"{name}: not sent" in ran.stderr


def test_what_is_sent_first_is_followed_while_others_are_sent(
    server: LiveServer, line: CuttingProxy, tmp_path: Path, home: Path
) -> None:
    large = write_archive(tmp_path / "large.tar", 24 * MIB)
    small = [write_archive(tmp_path / f"small-{number}.tar", MIB) for number in (1, 2)]
    said = tmp_path / "said"
    # Nothing more of the large one arrives until the command has told of the others.
    line.when_one_has_carried(
        4 * MIB, lambda: wait_until(lambda: said.read_text().count(KEPT) == 2)
    )
    names = map(str, (large, *small))
    with said.open("w") as stderr:
        command = (*COMMAND, "upload", *names, "--server", line.url, "--at-once", "2", *CHUNK)
        ran = subprocess.run(command, env=environment(home), stderr=stderr, timeout=60, check=False)
    assert ran.returncode == 0, said.read_text()
    ends = [text.split(":")[0] for text in said.read_text().splitlines() if KEPT in text]
    assert ends[2:] == [str(large)]


def test_no_more_than_that_at_once(
    server: LiveServer, line: CuttingProxy, tmp_path: Path, home: Path
) -> None:
    names = [str(write_archive(tmp_path / f"{number}.tar", 8 * MIB)) for number in range(3)]
    seen: list[int] = []
    before = len(documents(server.url))
    line.at(6 * MIB, lambda: seen.append(len(documents(server.url)) - before))
    command = ("upload", *names, "--server", line.url, "--at-once", "1", *CHUNK)
    assert run_tusboat(home, *command).code == 0
    assert seen == [1]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("a.tar", "b.tar", "--image", "host.example/team/app:1"), "cannot become one image"),
        (("a.tar", "b.tar", "--image", "host.example/team/app:{name}", "--ref", "@0"), "--ref"),
        (("a.tar", "b.tar", "--name", "c.tar"), "--name"),
        (("a.tar", "./a.tar"), "named twice"),
        (("a.tar", "a.tar.gz", "--image", "host.example/team/{name}:1"), "would become"),
        (("a.tar", "UPPER.tar", "--image", "host.example/team/{name}:1"), "UPPER"),
        (("a.tar", "missing.tar"), "does not exist"),
    ],
)
def test_what_can_be_meant_in_two_ways_is_wrong_usage(
    arguments: tuple[str, ...], words: str, line: CuttingProxy, home: Path
) -> None:
    for name in ("a.tar", "b.tar", "a.tar.gz", "UPPER.tar"):
        (home / name).write_bytes(b"x")
    ran = run_tusboat(home, "upload", *arguments, "--server", line.url, env={"COLUMNS": "1000"})
    assert (ran.code, ran.stdout) == (2, ""), ran
    assert words in ran.stderr
    assert line.bytes_up == 0


@pytest.mark.parametrize(
    ("name", "stem"),
    [
        ("llm.tar", "llm"),
        ("llm.v1.tar.gz", "llm.v1"),
        ("llm.TGZ", "llm"),
        ("llm.tar.zst", "llm"),
        ("llm", "llm"),
        ("llm.gz", "llm"),
    ],
)
def test_the_name_is_what_is_before_the_ending(
    name: str, stem: str, server: LiveServer, line: CuttingProxy, home: Path
) -> None:
    (home / name).write_bytes(b"x")
    arguments = ("--image", "nowhere.example/a/{name}:1", "--no-check", "--server", line.url)
    ran = run_tusboat(home, "upload", name, *arguments)
    assert ran.code == 1
    assert f"nowhere.example/a/{stem}:1" in ran.stderr
    assert line.bytes_up < HEADERS
