from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import anyio
import pytest

from buildah.command import (
    GRACE_SECONDS,
    STDERR_TAIL_BYTES,
    GuardedProcess,
    group_members,
    run,
    start_guarded,
)
from buildah.errors import ToolMissing
from buildah.redaction import scrub
from tests.live import wait_until

ENV = {"PATH": "/usr/local/bin:/usr/bin:/bin"}
ROOT = Path(__file__).resolve().parent.parent


def ignore(_line: str) -> None:
    """Nobody wants this line."""


def gone(pgid: int) -> None:
    wait_until(lambda: not group_members(pgid), seconds=1.0, what=f"group {pgid} is gone")


@pytest.mark.anyio
async def test_a_program_says_how_it_ended_and_what_it_said() -> None:
    lines: list[str] = []
    completed = await run(
        ["sh", "-c", "echo out; echo one >&2; printf 'two\\rthree' >&2; exit 3"],
        env=ENV,
        on_line=lines.append,
    )
    assert (completed.returncode, completed.stdout) == (3, b"out\n")
    assert lines == ["one", "two", "three"]
    assert completed.stderr_tail == "one\ntwo\nthree\n"


@pytest.mark.anyio
async def test_its_environment_is_what_it_was_given_and_a_plain_locale(tmp_path: Path) -> None:
    show = "env; echo locale $LC_ALL; pwd; ls -l /proc/self/fd; cat"
    completed = await run(["sh", "-c", show], env={**ENV, "A": "b"}, cwd=tmp_path, on_line=ignore)
    output = completed.stdout.decode()
    variables = {line.partition("=")[0] for line in output.splitlines() if "=" in line}
    assert variables == {"PATH", "A", "LC_ALL", "PWD"}
    assert "locale C\n" in output
    assert f"{tmp_path}\n" in output
    descriptors = [line for line in output.splitlines() if "->" in line]
    # 3 is the directory that ls reads: nothing of ours is inherited.
    assert [line.split()[-3] for line in descriptors] == ["0", "1", "2", "3"]


@pytest.mark.anyio
async def test_signals_have_their_ordinary_meaning_for_it() -> None:
    completed = await run(
        ["sh", "-c", "grep SigIgn: /proc/self/status; kill -TERM $$"], env=ENV, on_line=ignore
    )
    ignored = int(completed.stdout.split()[1], 16)
    assert not ignored & (1 << signal.SIGTERM - 1 | 1 << signal.SIGINT - 1 | 1 << signal.SIGHUP - 1)
    assert completed.returncode == -signal.SIGTERM


@pytest.mark.anyio
async def test_a_program_that_is_not_there() -> None:
    with pytest.raises(ToolMissing, match="no-such-program") as missing:
        await run(["no-such-program"], env=ENV, on_line=ignore)
    assert missing.value.code == "tool_missing"


@pytest.mark.anyio
async def test_of_much_output_the_end_is_kept_and_every_line_is_handed_on() -> None:
    count = 40_000
    lines: list[str] = []
    completed = await run(
        ["sh", "-c", f"seq 1 {count} >&2; seq 1 2000000"], env=ENV, on_line=lines.append
    )
    assert lines == [str(number) for number in range(1, count + 1)]
    assert len(completed.stderr_tail) == STDERR_TAIL_BYTES
    assert completed.stderr_tail.endswith(f"{count}\n")
    assert len(completed.stdout) == 4 * 1024 * 1024


@pytest.mark.anyio
async def test_a_line_of_a_megabyte_is_cut_and_does_not_swallow_the_next() -> None:
    lines: list[str] = []
    await run(
        ["sh", "-c", "head -c 1000000 /dev/zero | tr '\\0' x >&2; echo >&2; echo next >&2"],
        env=ENV,
        on_line=lines.append,
    )
    assert [len(line) for line in lines] == [65536, 4]


@pytest.mark.anyio
async def test_a_listener_that_fails_does_not_stop_the_program(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fail(line: str) -> None:
        raise ValueError(line)

    completed = await run(["sh", "-c", "echo a >&2; echo b >&2"], env=ENV, on_line=fail)
    assert (completed.returncode, completed.stderr_tail) == (0, "a\nb\n")
    assert len(caplog.records) == 2


@pytest.mark.anyio
async def test_secrets_are_seen_nowhere() -> None:
    lines: list[str] = []
    script = "echo 'login hunter22 failed' >&2; echo 'Authorization: Bearer abc.def' >&2"
    completed = await run(["sh", "-c", script], env=ENV, on_line=lines.append, secrets=["hunter22"])
    assert lines == ["login *** failed", "Authorization: ***"]
    assert "hunter22" not in completed.stderr_tail


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("Authorization: Basic Y2k6cw==", "Authorization: ***"),
        ("Authorization:[Bearer eyJh.b.c] x", "Authorization:***] x"),
        ('"authorization": "Basic Y2k6cw==" x', '"authorization": ***" x'),
        ("token Bearer eyJhbGciOiJ9", "token Bearer ***"),
        ("Get https://ci:s3cret@r.example/v2/", "Get https://***@r.example/v2/"),
        ("Get https://token@r.example/v2/", "Get https://***@r.example/v2/"),
        ("GET /x?service=a&access_token=abc&b=c", "GET /x?service=a&access_token=***&b=c"),
        ("PUT https://s3/x?X-Amz-Signature=ab&y=1", "PUT https://s3/x?X-Amz-Signature=***&y=1"),
        ("to http://r/uploads/1?_state=ab-c&digest=d", "to http://r/uploads/1?_state=***&digest=d"),
        ('{"token": "abc", "expires": 3}', '{"token": "***", "expires": 3}'),
        ('{"password":"a b"}', '{"password":"***"}'),
        ("Copying blob sha256:ab", "Copying blob sha256:ab"),
        (
            'pushing image "ab" to "docker://127.0.0.1:5000/a/b:1": unauthorized',
            'pushing image "ab" to "docker://127.0.0.1:5000/a/b:1": unauthorized',
        ),
        ("a\x1b[2Jb\x00\tc", r"a\x1b[2Jb\x00" + "\tc"),
    ],
)
def test_scrub(line: str, expected: str) -> None:
    assert scrub(line) == expected


def test_scrub_masks_the_longer_secret_first_and_leaves_words_alone() -> None:
    assert scrub("ci:pass4567 pass4567 a", ["pass4567", "ci:pass4567", "a"]) == "*** *** a"


@pytest.mark.anyio
async def test_watch_is_called_in_a_thread_while_it_runs() -> None:
    seen: list[tuple[int, int]] = []

    def watch(pgid: int) -> None:
        seen.append((pgid, len(group_members(pgid))))
        assert threading.current_thread() is not threading.main_thread()

    await run(["sleep", "0.9"], env=ENV, on_line=ignore, watch=watch)
    assert 3 <= len(seen) <= 6
    assert seen[-2][1] == 2, "the program and its guard"
    gone(seen[0][0])


@pytest.mark.anyio
async def test_cancelling_ends_the_group_and_then_goes_on() -> None:
    pgids: list[int] = []
    started = time.monotonic()
    with anyio.move_on_after(0.5) as scope:
        await run(
            ["sh", "-c", "sleep 1000 & sleep 1000 & sleep 1000"],
            env=ENV,
            on_line=ignore,
            watch=pgids.append,
        )
    assert scope.cancelled_caught
    assert time.monotonic() - started < 0.5 + GRACE_SECONDS / 2
    assert not group_members(pgids[0])


@pytest.mark.anyio
async def test_what_does_not_end_when_told_to_is_killed_after_the_grace() -> None:
    pgids: list[int] = []
    started = time.monotonic()
    with anyio.move_on_after(0.5):
        await run(
            ["sh", "-c", "trap '' TERM; (sleep 1000; sleep 1000) & sleep 1000; sleep 1000"],
            env=ENV,
            on_line=ignore,
            watch=pgids.append,
        )
    assert GRACE_SECONDS < time.monotonic() - started - 0.5 < GRACE_SECONDS + 1.5
    assert not group_members(pgids[0])


@pytest.mark.anyio
async def test_a_daemon_left_behind_neither_delays_the_end_nor_survives_it() -> None:
    started = time.monotonic()
    completed = await run(
        ["sh", "-c", "(trap '' TERM HUP; sleep 1000) & echo $$"], env=ENV, on_line=ignore
    )
    assert time.monotonic() - started < 2
    assert not group_members(int(completed.stdout))


@pytest.mark.anyio
async def test_fifty_commands_at_once_leave_nothing() -> None:
    results: list[int] = []

    async def one(number: int) -> None:
        completed = await run(["sh", "-c", f"echo $$; exit {number}"], env=ENV, on_line=ignore)
        assert completed.returncode == number
        results.append(int(completed.stdout))

    async with anyio.create_task_group() as tasks:
        for number in range(50):
            tasks.start_soon(one, number)
    assert len(set(results)) == 50
    assert not [pgid for pgid in results if group_members(pgid)]


def test_programs_started_at_once_do_not_hold_each_others_guards() -> None:
    """A guard wakes at the end of its pipe: nobody else may hold the other end."""
    with ThreadPoolExecutor(20) as pool:
        argvs = [["sleep", "1000"], ["true"]] * 20
        processes = list(pool.map(lambda argv: start_guarded(argv, env=ENV), argvs))
    lasting, brief = processes[::2], processes[1::2]
    try:
        for process in brief:
            assert process.wait(10) == 0
            gone(process.pid)
        assert all(process.poll() is None for process in lasting)
    finally:
        for process in lasting:
            process.stop()
    assert not [process.pid for process in lasting if group_members(process.pid)]


def test_poll_lets_go_of_the_guard_too() -> None:
    process = start_guarded(["true"], env=ENV)
    wait_until(lambda: process.poll() is not None, seconds=5, what="the program ended")
    gone(process.pid)


def test_stopping_twice_and_at_once_is_stopping() -> None:
    process = start_guarded(["sleep", "1000"], env=ENV)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: process.stop(), range(4)))
    process.stop()
    assert process.poll() == -signal.SIGTERM
    assert not group_members(process.pid)


@pytest.mark.filterwarnings("ignore:subprocess .* is still running:ResourceWarning")
def test_a_process_that_nobody_holds_any_more_ends() -> None:
    def start() -> int:
        return start_guarded(["sleep", "1000"], env=ENV).pid

    pgid = start()
    gc.collect()
    gone(pgid)


PARENT = """
import sys, threading, time
from buildah.command import start_guarded

ENV = {"PATH": "/usr/bin:/bin"}
SCRIPT = sys.argv[1]
held = []

def start():
    # The thread that starts it ends at once: that must not end the program.
    held.append(start_guarded(["sh", "-c", SCRIPT], env=ENV))

threads = [threading.Thread(target=start) for _ in range(8)]
for thread in threads: thread.start()
for thread in threads: thread.join()
print(*[process.pid for process in held], flush=True)
time.sleep(1000)
"""

STUBBORN = "trap '' TERM HUP INT; (sleep 1000; sleep 1000) & (sleep 1000 & wait) & sleep 1000; wait"


@pytest.fixture
def parent() -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-c", PARENT, STUBBORN], stdout=subprocess.PIPE, text=True, cwd=ROOT
    )
    with process:
        yield process
        process.kill()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGSEGV])
def test_nothing_outlives_a_parent_that_dies(
    parent: subprocess.Popen[str], number: signal.Signals
) -> None:
    assert parent.stdout
    pgids = [int(word) for word in parent.stdout.readline().split()]
    assert len(pgids) == 8
    for pgid in pgids:
        wait_until(lambda pgid=pgid: len(group_members(pgid)) >= 6, what="grandchildren")  # type: ignore[misc]
    parent.send_signal(number)
    parent.wait()
    for pgid in pgids:
        gone(pgid)


def test_nothing_outlives_a_parent_that_dies_while_it_starts_programs() -> None:
    """Killed at any moment of the start: the guard that comes too late finds the pipe closed."""
    script = (
        "import sys\n"
        "from buildah.command import start_guarded\n"
        "held = []\n"
        "while True:\n"
        "    held.append(start_guarded(['sleep', sys.argv[1]], env={'PATH': '/usr/bin:/bin'}))\n"
        "    if len(held) == 1: print('started', flush=True)\n"
    )
    for attempt in range(10):
        mark = f"1000.{os.getpid()}{attempt}"
        with subprocess.Popen(
            [sys.executable, "-c", script, mark], stdout=subprocess.PIPE, text=True, cwd=ROOT
        ) as starter:
            assert starter.stdout
            starter.stdout.readline()
            time.sleep(attempt * 0.0037)
            starter.kill()
        wait_until(lambda mark=mark: not running(mark), seconds=1.0, what="all are gone")  # type: ignore[misc]


def running(mark: str) -> list[str]:
    """Command lines that have this word; a zombie has none."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                words = (entry / "cmdline").read_bytes().decode().split("\0")
            except OSError:
                continue
            if mark in words:
                found.append(entry.name)
    return found


@pytest.mark.skipif(os.geteuid() != 0, reason="a PID namespace of one's own needs root")
@pytest.mark.parametrize("leaves", ["(sleep 1000) &", ":"], ids=["a process", "only its guard"])
def test_the_first_process_of_a_container_is_left_no_zombies(leaves: str) -> None:
    script = (
        "import anyio, os, sys\n"
        "from buildah.command import run\n"
        "assert os.getpid() == 1\n"
        "for _ in range(40):\n"
        "    anyio.run(lambda: run(['sh', '-c', sys.argv[1]], env={'PATH': '/bin:/usr/bin'},\n"
        "                          on_line=print))\n"
        "print(sorted(name for name in os.listdir('/proc') if name.isdigit()))\n"
    )
    namespace = ["unshare", "--pid", "--fork", "--mount-proc", sys.executable, "-c", script, leaves]
    shown = subprocess.run(namespace, capture_output=True, text=True, check=True, cwd=ROOT)
    assert shown.stdout == "['1']\n"


def test_a_group_is_not_seen_by_another_name() -> None:
    """A process may call itself anything, also what looks like the fields after its name."""
    script = "printf 'x) R 1 1 1 (' > /proc/self/comm; exec sleep 1000"
    process: GuardedProcess = start_guarded(["sh", "-c", script], env=ENV)
    try:
        wait_until(lambda: len(group_members(process.pid)) == 2, what="program and guard")
    finally:
        process.stop()
