"""`make demo`'s program: what it shows, what stays on a terminal, and what it leaves behind."""

from __future__ import annotations

import os
import pty
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.registries import needs_containers

pytestmark = needs_containers

DEMO = Path(__file__).resolve().parent.parent / "examples" / "cli" / "demo.py"
END_SECONDS = 60


def environment(tmp_path: Path) -> dict[str, str]:
    """Its directories are made below `tmp_path`, so what it leaves is seen."""
    return {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "TMPDIR": str(tmp_path)}


def ports(said: str) -> set[int]:
    return {int(port) for port in re.findall(r"127\.0\.0\.1:(\d+)", said)}


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def commands_that_name(directory: Path) -> list[str]:
    """Processes of this machine whose command line has the directory in it."""
    found = []
    for process in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            command = process.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except (FileNotFoundError, ProcessLookupError):
            continue
        if str(directory) in command:
            found.append(command)
    return found


def assert_nothing_is_left(said: str, tmp_path: Path) -> None:
    assert len(ports(said)) == 2
    assert not any(listens(port) for port in ports(said))
    assert commands_that_name(tmp_path) == []
    assert list(tmp_path.iterdir()) == []


def test_without_a_terminal_it_proves_the_image_and_stops_everything(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, DEMO],
        env=environment(tmp_path),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    digest = re.search(r"the image's digest: (sha256:[0-9a-f]{64})", done.stdout)
    assert digest, done.stdout
    assert f'"Digest": "{digest[1]}"' in done.stdout
    assert "$ skopeo inspect --tls-verify=false docker://127.0.0.1:" in done.stdout
    assert done.stdout.splitlines()[-1].endswith(f"@{digest[1]} is in the registry")
    assert "load: done" in done.stderr
    assert_nothing_is_left(done.stdout, tmp_path)


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGHUP])
def test_on_a_terminal_the_server_stays_until_it_is_told_to_stop(
    tmp_path: Path, stop: signal.Signals
) -> None:
    ours, its = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, DEMO], env=environment(tmp_path), stdin=its, stdout=its, stderr=its
    )
    os.close(its)
    try:
        said = read_until(ours, "Ctrl-C stops")
        assert all(listens(port) for port in ports(said))
        assert process.poll() is None
        process.send_signal(stop)
        said += read_until(ours, "stopping")
        assert process.wait(END_SECONDS) == 0
    finally:
        process.kill()
        process.wait()
        os.close(ours)
    assert_nothing_is_left(said, tmp_path)


def test_it_stops_what_it_started_when_interrupted_early(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-u", DEMO], env=environment(tmp_path), stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        said = ""
        for line in process.stdout:
            said += line
            if "a server:" in line:
                process.send_signal(signal.SIGINT)
        assert process.wait(END_SECONDS) == 130
    assert said.endswith("stopped\n")
    assert_nothing_is_left(said, tmp_path)


def read_until(terminal: int, words: str) -> str:
    """What the terminal shows, up to and with these words."""
    said = ""
    while words not in said:
        said += os.read(terminal, 4096).decode(errors="replace")
    return said
