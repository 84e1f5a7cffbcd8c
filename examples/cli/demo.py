"""The whole way of one image, on this machine: `make demo`.

Starts a local registry and `tusboat serve`, makes an image archive, uploads it with
`tusboat upload` and asks the registry for it. On a terminal the server then stays until Ctrl-C;
with `--once`, or without a terminal, everything that was started is stopped.

Knows: the commands that a person would type.
Must not know: how they work inside.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import re
import select
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from http import HTTPStatus
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from types import FrameType
from typing import TypeVar

from archive import write_archive

TUSBOAT = Path(sys.executable).with_name("tusboat")
PROGRAMS = ("buildah", "skopeo", "docker-registry")
SEARCH_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
READY_SECONDS = 60.0
STOP_SECONDS = 15.0
LOG_TAIL_LINES = 20
STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

REGISTRY_CONFIG = """\
version: 0.1
log: {{level: warn, accesslog: {{disabled: true}}}}
storage: {{filesystem: {{rootdirectory: {root}}}}}
http: {{addr: "127.0.0.1:{port}"}}
"""
SERVER_CONFIG = """\
port = 0
data_dir = {data_dir}

[[registries]]
host = "{registry}"
plain_http = true
"""

T = TypeVar("T")


class DemoFailedError(Exception):
    """A step of the demo failed; the message says which, why and what to do."""


def main() -> int:
    """Run the demo; 0 when the image is in the registry."""
    parser = argparse.ArgumentParser(description="Upload an image archive into a local registry.")
    parser.add_argument("--once", action="store_true", help="stop everything at the end")
    once = parser.parse_args().once or not sys.stdout.isatty()
    for number in STOPPING:
        signal.signal(number, _interrupt)
    try:
        with tempfile.TemporaryDirectory(prefix="tusboat-demo-") as directory:
            _run(Path(directory), once=once)
    except DemoFailedError as error:
        sys.stderr.write(f"\ndemo failed: {error}\n")
        return 1
    except KeyboardInterrupt:
        sys.stdout.write("\nstopped\n")
        return 130
    return 0


def _run(directory: Path, *, once: bool) -> None:
    missing = [name for name in PROGRAMS if shutil.which(name, path=SEARCH_PATH) is None]
    if missing:
        raise DemoFailedError(
            f"not found: {', '.join(missing)}; apt-get install {' '.join(missing)}"
        )
    with _registry(directory) as registry, _server(directory, registry) as url:
        archive = directory / "hello.tar"
        image = f"{registry}/demo/hello:1"
        write_archive(archive, "hello:1")
        _say(f"an image archive of {archive.stat().st_size / 1e6:.1f} MB: {archive}")
        digest = _upload(archive, image, url)
        _prove(image, digest, directory)
        if not once:
            _stay(
                f"{url} goes on taking uploads into {registry}; Ctrl-C stops and removes all this"
            )


@contextlib.contextmanager
def _registry(directory: Path) -> Iterator[str]:
    port = _free_port()
    config = directory / "registry.yml"
    config.write_text(
        REGISTRY_CONFIG.format(root=json.dumps(str(directory / "registry")), port=port)
    )
    log = directory / "registry.log"
    with _started("docker-registry", "serve", str(config), log=log) as process:
        _await(process, log, lambda: _answers(port, "/v2/"))
        _say(f"a registry: http://127.0.0.1:{port}")
        yield f"127.0.0.1:{port}"


@contextlib.contextmanager
def _server(directory: Path, registry: str) -> Iterator[str]:
    config = directory / "tusboat.toml"
    data_dir = json.dumps(str(directory / "data"))
    config.write_text(SERVER_CONFIG.format(data_dir=data_dir, registry=registry))
    log = directory / "server.log"
    with _started(str(TUSBOAT), "serve", "--config", str(config), log=log) as process:
        url = _await(process, log, lambda: _serving(log))
        _say(f"a server: {url}, its log in {log}")
        yield url


def _upload(archive: Path, image: str, url: str) -> str:
    command = ("tusboat", "upload", str(archive), "--image", image, "--server", url)
    done = _typed(*command, home=archive.parent)
    if done.returncode != 0:
        raise DemoFailedError(f"tusboat upload ended with {done.returncode}; see above")
    digest = done.stdout.split()[-1]
    _say(f"the image's digest: {digest}")
    return digest


def _prove(image: str, digest: str, home: Path) -> None:
    done = _typed("skopeo", "inspect", "--tls-verify=false", f"docker://{image}", home=home)
    sys.stdout.write(done.stdout)
    if done.returncode != 0 or json.loads(done.stdout)["Digest"] != digest:
        raise DemoFailedError(f"the registry does not have {image} with digest {digest}")
    _say(f"{image}@{digest} is in the registry")


def _typed(*command: str, home: Path) -> subprocess.CompletedProcess[str]:
    """Show a command as a person would type it, and run it."""
    sys.stdout.write(f"\n$ {shlex.join(command)}\n")
    sys.stdout.flush()
    program = str(TUSBOAT) if command[0] == TUSBOAT.name else command[0]
    return subprocess.run(
        [program, *command[1:]],
        env=_environment(home),
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )


@contextlib.contextmanager
def _started(*command: str, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run a program out of the terminal's reach, so that we stop it, in order."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            env=_environment(log.parent),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _await(process: subprocess.Popen[bytes], log: Path, look: Callable[[], T | None]) -> T:
    """Look until there is something to see."""
    deadline = time.monotonic() + READY_SECONDS
    while not (seen := look()):
        if process.poll() is not None or time.monotonic() > deadline:
            tail = "\n".join(log.read_text(errors="replace").splitlines()[-LOG_TAIL_LINES:])
            raise DemoFailedError(f"it does not start; {log.name} ends with:\n{tail}")
        time.sleep(0.1)
    return seen


def _serving(log: Path) -> str | None:
    """Where the server is, once it says so and is ready."""
    said = re.search(r"http://\S+:(\d+)", log.read_text(errors="replace"))
    return said[0] if said and _answers(int(said[1]), "/readyz") else None


def _answers(port: int, path: str) -> bool:
    connection = HTTPConnection("127.0.0.1", port, timeout=2)
    try:
        connection.request("GET", path)
        return connection.getresponse().status == HTTPStatus.OK
    except (OSError, HTTPException):
        return False
    finally:
        connection.close()


def _environment(home: Path) -> dict[str, str]:
    """Nothing of the caller's settings leaks in, and nothing is left in the caller's home."""
    return {"PATH": SEARCH_PATH, "HOME": str(home), "LANG": "C.UTF-8"}


def _stay(words: str) -> None:
    """Return at Ctrl-C, or when the terminal is gone."""
    terminal = select.poll()
    terminal.register(sys.stdout, select.POLLHUP)
    with contextlib.suppress(KeyboardInterrupt):
        _say(words)
        terminal.poll()
    with contextlib.suppress(OSError):
        _say("stopping")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _say(text: str) -> None:
    sys.stdout.write(f"\n== {text}\n")
    sys.stdout.flush()


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    """Stop in order; whoever is impatient cannot break that off."""
    for number in STOPPING:
        signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
