"""What a terminal shows: a bar for each thing, and a table that is kept up to date."""

from __future__ import annotations

import contextlib
import os
import pty
import re
import subprocess
import threading
from pathlib import Path

import pytest

from tests.archives import write_docker_archive
from tests.conftest import Serve
from tests.journeys import row
from tests.live import COMMAND, LiveServer, Ran, environment, run_tusboat, wait_until
from tests.proxy import CuttingProxy
from tests.raw import create, metadata
from tests.registries import RunningRegistry, plain_registry
from tests.uploading import CHUNK, MIB, documents, write_archive

__all__ = ["plain_registry"]

pytest_plugins = ("tests.client_fixtures",)


class Terminal:
    """A command on a terminal of its own: stderr, and stdout too if that is wanted."""

    def __init__(
        self, home: Path, *arguments: str, stdout: bool = False, stdin: int = subprocess.DEVNULL
    ) -> None:
        main, side = pty.openpty()
        self.raw = b""
        self._main = main
        self.process = subprocess.Popen(
            [*COMMAND, *arguments],
            env=environment(home, TERM="xterm-256color", COLUMNS="120", LINES="40"),
            cwd=home,
            stdin=stdin,
            stdout=side if stdout else subprocess.PIPE,
            stderr=side,
            text=True,
        )
        os.close(side)
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    @property
    def text(self) -> str:
        """What was shown so far, without the escapes."""
        return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", self.raw.decode(errors="replace"))

    def finish(self) -> Ran:
        """Wait for its end; stderr is the text."""
        stdout = self.process.communicate(timeout=60)[0]
        self._reader.join(10)
        os.close(self._main)
        return Ran(self.process.returncode, stdout or "", self.text)

    def _read(self) -> None:
        with contextlib.suppress(OSError):  # the end of a terminal is an error
            while block := os.read(self._main, 65536):
                self.raw += block


def test_several_archives_have_a_bar_each_that_goes_through_all_of_it(
    server: LiveServer, home: Path
) -> None:
    for name, size in (("first.tar", 6), ("a-name-that-leaves-no-room-for-a-bar.tar", 3)):
        write_archive(home / name, size * MIB)
    names = ("first.tar", "a-name-that-leaves-no-room-for-a-bar.tar")
    ran = Terminal(home, "upload", *names, "--server", server.url, *CHUNK).finish()
    assert (ran.code, ran.stdout) == (0, ""), ran
    assert re.search(r"first\.tar upload .*100% *6\.0/6\.0 MiB", ran.stderr)
    assert re.search(r"first\.tar verify .*100%", ran.stderr)
    assert re.search(r"a-name-that-leaves-no-r… upload .*100%", ran.stderr)
    # In the order of the command, however soon each is done.
    picture = ran.stderr[ran.stderr.rindex("first.tar ") :]
    assert picture.count("100%") == 2, "the last picture has one bar for each"


def test_every_step_has_a_bar_with_its_speed_and_what_is_left(
    serve: Serve, plain_registry: RunningRegistry, tmp_path: Path, home: Path
) -> None:
    server = serve(registries=[row(plain_registry)])
    archive = write_docker_archive(tmp_path / "llm.tar", [100 * MIB, 100 * MIB], seed="bars")
    image = f"{plain_registry.host}/team/bars:v1"
    ran = Terminal(
        home, "upload", str(archive.path), "--image", image, "--server", server.url
    ).finish()
    assert ran.code == 0, ran
    for name in ("upload", "load", "push"):
        speed_and_rest = rf"{name} [^\r\n]* [\d.]+ [KMG]iB/s +\d+:\d\d"
        assert re.search(speed_and_rest, ran.stderr), name
        assert re.search(rf"{name} [^\r\n]*100%", ran.stderr), name


def test_parts_have_one_bar_for_the_whole(server: LiveServer, home: Path) -> None:
    write_archive(home / "llm.tar", 12 * MIB)
    arguments = ("--server", server.url, "--parallel", "3", "--chunk-size", "1MiB")
    ran = Terminal(home, "upload", "llm.tar", *arguments).finish()
    assert ran.code == 0, ran
    assert re.search(r"upload .*100% *12\.0/12\.0 MiB", ran.stderr)
    assert "part 1" not in ran.stderr


def test_a_pipe_has_a_bar_without_an_end_until_it_ends(server: LiveServer, home: Path) -> None:
    archive = write_archive(home / "llm.tar", 9 * MIB)
    with archive.open("rb") as stream:
        arguments = ("--server", server.url, "--chunk-size", "2MiB")
        terminal = Terminal(home, "upload", "-", *arguments, stdin=stream.fileno())
        ran = terminal.finish()
    assert ran.code == 0, ran
    assert re.search(r"upload .*/\? ", ran.stderr)
    assert re.search(r"upload .*100% *9\.0/9\.0 MiB", ran.stderr)


def test_an_interruption_leaves_the_terminal_as_it_was(
    server: LiveServer, line: CuttingProxy, home: Path
) -> None:
    write_archive(home / "llm.tar", 24 * MIB)
    command = ("upload", "llm.tar", "--server", line.url, *CHUNK)
    stopped: list[Terminal] = []
    line.at(16 * MIB, lambda: stopped[0].process.send_signal(2))
    stopped.append(Terminal(home, *command))
    first = stopped[0].finish()
    assert first.code == 130
    assert "the same command again goes on" in first.stderr
    assert stopped[0].raw.decode().rstrip().endswith("\x1b[?25h"), "the cursor is back"
    ran = Terminal(home, *command).finish()
    assert ran.code == 0, ran
    assert "going on with upload" in ran.stderr


def test_no_bars_where_they_were_not_asked_for(server: LiveServer, home: Path) -> None:
    write_archive(home / "llm.tar", MIB)
    for option in ("--quiet", "--json"):
        ran = Terminal(home, "upload", "llm.tar", "--server", server.url, option).finish()
        assert (ran.code, ran.stderr) == (0, ""), ran


@pytest.fixture
def table(tmp_path: Path) -> LiveServer:
    return LiveServer(tmp_path, run_worker=False)


def test_the_table_is_kept_up_to_date_until_nothing_is_under_way(
    table: LiveServer, home: Path
) -> None:
    with table as server:
        for name in ("one.tar", "two.tar"):
            create(server.port, 10, metadata(filename=name))
        terminal = Terminal(home, "status", "--watch", "--server", server.url, stdout=True)
        wait_until(lambda: "two.tar" in terminal.text)
        assert "receiving" in terminal.text
        for one in documents(server.url):
            canceled = run_tusboat(home, "cancel", one["id"], "--server", server.url)
            assert canceled.code == 0, canceled
        ran = terminal.finish()
        assert ran.code == 0
        last = ran.stderr[ran.stderr.rindex("ID ") :]
        # No wider than a terminal: ids as long as it takes, and how long ago instead of when.
        assert {len(line.split()[0]) for line in last.splitlines()[1:3]} == {8}
        assert last.count(" s ago") == 2
        assert last.count("canceled") == 2
        assert "receiving" not in last
        assert terminal.raw.count(b"\x1b[2K") > 0, "redrawn in place"
