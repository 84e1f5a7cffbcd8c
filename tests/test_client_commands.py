"""The commands as a user meets them: usage, streams, exit codes, callers, waiting."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import pty
import re
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.conftest import Serve
from tests.live import LiveServer, Ran, finish, run_tusboat, spawn_tusboat, wait_until
from tests.proxy import CuttingProxy
from tests.raw import create, metadata
from tests.uploading import (
    CHUNK,
    HEADERS,
    MIB,
    assert_kept,
    document,
    documents,
    remembered,
    upload_id_of,
    write_archive,
)

pytest_plugins = ("tests.client_fixtures",)


def test_a_name_with_markup_and_escapes_harms_nobody(
    server: LiveServer, tmp_path: Path, home: Path
) -> None:
    archive = write_archive(tmp_path / "[bold]x\x1b[2J, é.tar", 1000)
    ran = run_tusboat(home, "upload", str(archive), "--server", server.url)
    upload_id = assert_kept(ran, server.url, archive)
    for arguments in (("status",), ("status", upload_id)):
        shown = run_tusboat(home, *arguments, "--server", server.url)
        assert "[bold]x\ufffd[2J, é.tar" in shown.stdout
        assert "\x1b" not in shown.stdout + shown.stderr


def test_what_cannot_be_sent_is_said_before_anything_is(
    server: LiveServer, tmp_path: Path, home: Path
) -> None:
    before = len(documents(server.url))
    (tmp_path / "empty.tar").touch()
    os.mkfifo(tmp_path / "pipe")
    cases = [
        ("empty.tar", 1, "is empty"),
        ("pipe", 1, "not a regular file"),
        ("pipe --image registry.example/a:1", 1, "not a regular file"),
        ("missing.tar", 2, "does not exist"),
        (".", 2, "directory"),
    ]
    for name, code, words in cases:
        archive, *options = name.split()
        ran = run_tusboat(home, "upload", str(tmp_path / archive), *options, "--server", server.url)
        assert (ran.code, ran.stdout) == (code, ""), ran
        assert words in ran.stderr, name
    assert len(documents(server.url)) == before


@pytest.mark.parametrize(
    "arguments",
    [
        ("--chunk-size", "many"),
        ("--chunk-size", "1KiB"),
        ("--server", "tusboat.example"),
        ("--token", "two words"),
        ("--image", ""),
        ("--give-up-after", "-1"),
        ("--nonsense",),
    ],
)
def test_wrong_usage_is_exit_code_2(arguments: tuple[str, ...], llm: Path, home: Path) -> None:
    ran = run_tusboat(home, "upload", str(llm), *arguments)
    assert (ran.code, ran.stdout) == (2, ""), ran
    assert arguments[0] in ran.stderr


def test_events_as_json_lines(
    server: LiveServer, line: CuttingProxy, llm: Path, home: Path
) -> None:
    line.cut_after(10 * MIB)
    ran = run_tusboat(home, "upload", str(llm), "--server", line.url, "--json", *CHUNK)
    assert (ran.code, ran.stderr) == (0, ""), ran
    events = [json.loads(line) for line in ran.stdout.splitlines()]
    kinds = [event["event"] for event in events]
    assert kinds[0] == "created"
    assert kinds[-1] == "finished"
    assert {"upload", "notice", "resumed", "step", "status"} <= set(kinds)
    last = events[-1]["upload"]
    assert last == document(server.url, events[0]["id"])
    assert last["digests"]["sha256"] == hashlib.sha256(llm.read_bytes()).hexdigest()
    refused = run_tusboat(home, "upload", str(llm), "--server", line.url, "--json", "--image", "?")
    error = json.loads(refused.stdout.splitlines()[-1])
    assert (refused.code, refused.stderr, error["event"]) == (1, "", "error")
    assert error["message"]
    assert error["hint"]


def test_no_wait_prints_the_id_for_status_to_watch(
    server: LiveServer, llm: Path, home: Path
) -> None:
    ran = run_tusboat(home, "upload", str(llm), "--server", server.url, "--no-wait")
    assert (ran.code, remembered(home)) == (0, [])
    upload_id = ran.stdout.strip()
    watched = run_tusboat(home, "status", upload_id, "--watch", "--server", server.url)
    assert_kept(watched, server.url, llm)
    assert upload_id_of(watched) == upload_id


def test_status_shows_one_and_lists_all(server: LiveServer, tmp_path: Path, home: Path) -> None:
    archive = write_archive(tmp_path / "small.tar", 1000)
    uploaded = run_tusboat(home, "upload", str(archive), "--server", server.url)
    upload_id = upload_id_of(uploaded)
    run_tusboat(home, "upload", str(archive), "--server", server.url)

    one = run_tusboat(home, "status", upload_id, "--server", server.url)
    assert one.code == 0
    assert re.search(rf"^upload +{upload_id}$", one.stdout, re.MULTILINE)
    assert re.search(r"^step +verify: done", one.stdout, re.MULTILINE)

    listed = run_tusboat(home, "status", "--server", server.url, "--limit", "1000")
    rows = listed.stdout.splitlines()
    assert rows[0].split() == ["ID", "STATUS", "FILE", "SIZE", "DONE", "IMAGE", "UPDATED"]
    files = {one["part_of"] or one["id"] for one in documents(server.url)}
    assert len(rows) == 1 + len(files)
    assert any(row.startswith(upload_id) and "small.tar" in row for row in rows)

    as_json = run_tusboat(home, "status", "--json", "--limit", "2", "--server", server.url)
    assert [json.loads(line) for line in as_json.stdout.splitlines()] == documents(server.url)[:2]
    one_json = run_tusboat(home, "status", upload_id, "--json", "--server", server.url)
    assert json.loads(one_json.stdout) == document(server.url, upload_id)
    watched = run_tusboat(home, "status", "--watch", "--limit", "1", "--server", server.url)
    assert (watched.code, watched.stdout.split()[1:]) == (0, ["small.tar:", "done"])


def test_the_beginning_of_an_id_will_do(serve: Serve, tmp_path: Path, home: Path) -> None:
    server = serve(run_worker=False)
    ids = [
        create(server.port, 10, metadata(filename=f"{number}.tar")).rsplit("/", 1)[-1]
        for number in range(20)
    ]
    shown = run_tusboat(home, "status", ids[3][:12], "--json", "--server", server.url)
    assert json.loads(shown.stdout)["id"] == ids[3]
    canceled = run_tusboat(home, "cancel", ids[3][:12], "--server", server.url)
    assert canceled.code == 0, canceled
    assert document(server.url, ids[3])["status"] == "canceled"
    none = run_tusboat(home, "status", "0" * 31, "--server", server.url)
    assert (none.code, "begins with" in none.stderr) == (1, True), none


@pytest.mark.parametrize("command", ["status", "log", "cancel", "retry"])
def test_ids_that_are_none(command: str, server: LiveServer, home: Path) -> None:
    for upload_id in ("0" * 32, "../../livez", "a/b", "?"):
        ran = run_tusboat(home, command, upload_id, "--server", server.url)
        assert (ran.code, ran.stdout) == (1, ""), ran
        assert "error: " in ran.stderr
        assert "hint: " in ran.stderr


def test_what_is_done_is_neither_canceled_nor_retried(
    server: LiveServer, tmp_path: Path, home: Path
) -> None:
    archive = write_archive(tmp_path / "small.tar", 1000)
    upload_id = upload_id_of(run_tusboat(home, "upload", str(archive), "--server", server.url))
    for command in ("cancel", "retry"):
        ran = run_tusboat(home, command, upload_id, "--server", server.url)
        assert (ran.code, ran.stdout) == (1, ""), ran
        assert "HTTP 409" in ran.stderr
    assert document(server.url, upload_id)["status"] == "done"


def test_bars_on_a_terminal_and_nothing_else_on_stdout(
    server: LiveServer, llm: Path, home: Path
) -> None:
    main, side = pty.openpty()
    process = spawn_tusboat(
        home,
        "upload",
        str(llm),
        "--server",
        server.url,
        *CHUNK,
        stderr=side,
        env={"TERM": "xterm-256color", "COLUMNS": "100"},
    )
    os.close(side)
    shown = b""
    with contextlib.suppress(OSError):  # the end of a terminal is an error
        while block := os.read(main, 65536):
            shown += block
    os.close(main)
    ran = finish(process)
    assert (ran.code, ran.stdout) == (0, "")
    text = shown.decode()
    assert "\x1b[?25l" in text
    assert text.rstrip().endswith("\x1b[?25h"), "the cursor is back"
    plain = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", text)
    assert re.search(r"upload .*100% *24\.0/24\.0 MiB", plain)
    assert re.search(r"verify .*100%", plain)


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    directory = tmp_path_factory.mktemp("guarded")
    tokens = directory / "tokens.toml"
    rows = [
        f'[[token]]\nname = "{name}"\nsha256 = "{hashlib.sha256(name.encode()).hexdigest()}"\n'
        'repositories = ["*"]\n'
        for name in ("alice", "bob")
    ]
    tokens.write_text("\n".join(rows))
    registries = [{"host": "registry.example", "repositories": ["team/*"]}]
    with LiveServer(
        directory, tokens_file=tokens, registries=registries, preflight=False
    ) as server:
        yield server


def test_the_token_of_the_environment_or_of_the_option(
    guarded: LiveServer, llm: Path, home: Path
) -> None:
    command = ("upload", str(llm), "--server", guarded.url, *CHUNK)
    for arguments, env in ((("--token", "alice"), {}), ((), {"TUSBOAT_TOKEN": "alice"})):
        ran = run_tusboat(home, *command, *arguments, env=env)
        assert ran.code == 0, ran
    other = run_tusboat(
        home, "status", upload_id_of(ran), "--server", guarded.url, "--token", "bob"
    )
    assert (other.code, "404" in other.stderr) == (1, True)


@pytest.mark.parametrize("token", [(), ("--token", "wrong")])
def test_a_wrong_or_missing_token_is_said_at_once(
    token: tuple[str, ...], guarded: LiveServer, llm: Path, home: Path
) -> None:
    ran = run_tusboat(home, "upload", str(llm), "--server", guarded.url, *token)
    assert (ran.code, ran.stdout) == (1, "")
    assert "HTTP 401" in ran.stderr
    assert "hint: " in ran.stderr
    assert "wrong" not in ran.stderr
    assert remembered(home) == []


@pytest.mark.parametrize(
    ("image", "said"),
    [
        ("nowhere.example/a/b:1", ("HTTP 403", "nowhere.example")),
        # By the answer about what the archive holds, which comes before the creation.
        ("registry.example/other/b:1", ("is not allowed at registry.example", "other/b")),
        ("registry.example/UPPER:1", ("HTTP 400", "UPPER")),
    ],
)
def test_an_image_that_may_not_be_sent_is_refused_before_the_first_byte(
    image: str,
    said: tuple[str, ...],
    guarded: LiveServer,
    llm: Path,
    home: Path,
) -> None:
    with CuttingProxy(guarded.port) as proxy:
        arguments = ("--server", proxy.url, "--token", "alice", "--image", image)
        ran = run_tusboat(home, "upload", str(llm), "--no-check", *arguments)
        assert (ran.code, ran.stdout) == (1, ""), ran
        assert [words for words in (*said, "hint: ") if words not in ran.stderr] == [], ran
        assert proxy.bytes_up < HEADERS


@pytest.fixture
def idle(tmp_path: Path) -> Iterator[LiveServer]:
    with LiveServer(tmp_path, run_worker=False) as server:
        yield server


def interrupt_when(process: subprocess.Popen[str], condition: Callable[[], bool]) -> Ran:
    wait_until(condition)
    process.send_signal(signal.SIGINT)
    return finish(process)


def test_interrupted_while_waiting_and_taken_up_again(
    idle: LiveServer, llm: Path, home: Path
) -> None:
    def queued() -> bool:
        return [row["status"] for row in documents(idle.url)] == ["queued"]

    command = ("upload", str(llm), "--server", idle.url, *CHUNK)
    process = spawn_tusboat(home, *command)
    assert process.stderr is not None
    while "queued" not in process.stderr.readline():
        pass
    first = interrupt_when(process, queued)
    assert first.code == 130
    upload_id = documents(idle.url)[0]["id"]
    assert f"the server goes on: tusboat status {upload_id} --watch" in first.stderr
    assert len(remembered(home)) == 1

    with CuttingProxy(idle.port) as proxy:
        again = spawn_tusboat(home, "upload", str(llm), "--server", idle.url, *CHUNK)
        assert again.stderr is not None
        while "queued" not in again.stderr.readline():
            pass
        canceled = run_tusboat(home, "cancel", upload_id, "--server", proxy.url)
        assert canceled.code == 0, canceled
        assert re.search(r"^status +canceled$", canceled.stdout, re.MULTILINE)
    ended = finish(again)
    assert (ended.code, ended.stdout) == (1, "")
    assert f"upload {upload_id} was canceled" in ended.stderr
    assert remembered(home) == []
    assert len(documents(idle.url)) == 1, "nothing was sent again"


def test_a_restart_of_the_server_while_waiting_is_survived(
    idle: LiveServer, llm: Path, home: Path
) -> None:
    process = spawn_tusboat(home, "upload", str(llm), "--server", idle.url, *CHUNK)
    assert process.stderr is not None
    while "queued" not in process.stderr.readline():
        pass
    idle.kill()
    while "trying again" not in process.stderr.readline():
        pass
    idle.start()
    upload_id = documents(idle.url)[0]["id"]
    run_tusboat(home, "cancel", upload_id, "--server", idle.url)
    ended = finish(process)
    assert ended.code == 1
    assert f"upload {upload_id} was canceled" in ended.stderr
