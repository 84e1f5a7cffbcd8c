from __future__ import annotations

import contextlib
import re
import socket
import socketserver
import subprocess
import tarfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import anyio
import anyio.to_thread
import pytest

from buildah.bases import BaseImages
from buildah.build import BuildOptions, build
from buildah.built import BuiltImage
from buildah.context import unpack_context
from buildah.errors import (
    BaseImageMissing,
    BaseImageRefused,
    BuildError,
    BuildFailed,
    BuildTimedOut,
    BuildTooBig,
    BuildUnsafe,
    RegistryUnauthorized,
    RegistryUnreachable,
    StorageFull,
)
from buildah.platforms import this_platform
from buildah.pushed import LayerCompression, PushedImage
from buildah.reference import ImageReference
from buildah.registry import Registries, resolve
from buildah.removal import mounts
from buildah.workspace import Workspace
from tests.archives import MIB
from tests.contexts import (
    base_archive,
    files_of_image,
    push_base_image,
    sleepers,
    write_base_image,
    write_context,
)
from tests.failures import check_words, tiny_disk
from tests.live import wait_until
from tests.registries import (
    PASSWORD,
    RunningRegistry,
    needs_containers,
    plain_registry,
    secure_registry,
)

__all__ = ["base_archive", "plain_registry", "secure_registry"]

pytestmark = [needs_containers, pytest.mark.anyio]

PLATFORM_KEYS = ("os", "architecture", "variant")
JOB = "0123456789abcdef0123456789abcdef"


@dataclass
class Seen:
    """What a build told."""

    notes: list[str] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)

    @property
    def text(self) -> str:
        return "\n".join(self.lines)


@pytest.fixture(params=["overlay", "vfs"])
def workspace(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Workspace]:
    with Workspace.open(tmp_path / "jobs", JOB, storage_driver=request.param) as opened:
        yield opened
    nothing_left(tmp_path / "jobs")


@pytest.fixture
def overlay(tmp_path: Path) -> Iterator[Workspace]:
    with Workspace.open(tmp_path / "jobs", JOB, storage_driver="overlay") as opened:
        yield opened
    nothing_left(tmp_path / "jobs")


@pytest.fixture
def base(plain_registry: RunningRegistry, base_archive: Path) -> str:
    return push_base_image(plain_registry, base_archive, "library/base:1")


def nothing_left(jobs: Path) -> None:
    assert list(jobs.iterdir()) == []
    assert [row for row in mounts() if row.path.is_relative_to(jobs)] == []


def options_of(*servers: RunningRegistry, patterns: tuple[str, ...] = ()) -> BuildOptions:
    registries = Registries(server.registry() for server in servers)
    return BuildOptions(BaseImages(patterns, registries))


async def build_it(
    files: Mapping[str, str | bytes | tarfile.TarInfo],
    workspace: Workspace,
    options: BuildOptions,
    seen: Seen | None = None,
) -> BuiltImage:
    seen = seen or Seen()
    archive = write_context(workspace.directory.with_name("context.tar"), files)
    place = workspace.directory / "context"
    context = await anyio.to_thread.run_sync(unpack_context, archive, place)
    archive.unlink()
    try:
        image = await build(
            context, workspace, options, note=seen.notes.append, log=seen.lines.append
        )
    finally:
        assert not (workspace.directory / "build").exists()
    assert not place.exists()
    return image


async def push_it(
    image: BuiltImage, server: RunningRegistry, workspace: Workspace, name: str = "team/built:1"
) -> PushedImage:
    steps: list[tuple[int, int]] = []
    lines: list[str] = []
    pushed = await image.push(
        ImageReference.parse(f"{server.host}/{name}"),
        server.registry(),
        workspace,
        progress=lambda done, total: steps.append((done, total)),
        log=lines.append,
        compression=LayerCompression(),
    )
    assert steps[-1][0] == steps[-1][1]
    return pushed


@pytest.mark.parametrize("fixture", ["plain_registry", "secure_registry"])
async def test_a_context_becomes_an_image(
    fixture: str,
    request: pytest.FixtureRequest,
    workspace: Workspace,
    base_archive: Path,
    tmp_path: Path,
) -> None:
    server: RunningRegistry = request.getfixturevalue(fixture)
    base = push_base_image(server, base_archive, "library/base:1")
    seen = Seen()
    image = await build_it(
        {
            "Containerfile": f"ARG tag=1\nFROM {base.rpartition(':')[0]}:${{tag}} AS first\n"
            "WORKDIR /app\nCOPY hello.sh ./\nRUN sh hello.sh > made && ls -ln made\n"
            "FROM scratch\nCOPY --from=first /app/made /made\nCOPY kept/ /\n",
            ".dockerignore": "kept/not\n",
            "hello.sh": "echo made in a step\n",
            "kept/yes": "yes",
            "kept/not": "not",
        },
        workspace,
        replace(options_of(server), jobs=2),
        seen,
    )
    pushed = await push_it(image, server, workspace)

    assert image.platforms == pushed.platforms == (this_platform(),)
    found = files_of_image(server, f"{server.host}/team/built:1", tmp_path / "pulled")
    assert found == {"made": b"made in a step\n", "yes": b"yes"}
    assert any(note.startswith("pulling ") for note in seen.notes)
    assert any("STEP" in note and "RUN sh hello.sh" in note for note in seen.notes)
    assert any(line.startswith("-rw") for line in seen.lines), seen.text
    assert PASSWORD not in seen.text


async def test_a_platform_without_steps_that_run_needs_no_emulator(
    plain_registry: RunningRegistry, workspace: Workspace, tmp_path: Path
) -> None:
    platforms = ("linux/amd64", "linux/arm64", "linux/arm/v7")
    image = await build_it(
        {"Dockerfile": "FROM scratch\nARG TARGETARCH\nCOPY for-${TARGETARCH} /who\n"}
        | {f"for-{name}": name for name in ("amd64", "arm64", "arm")},
        workspace,
        replace(options_of(plain_registry), platforms=platforms),
    )
    pushed = await push_it(image, plain_registry, workspace)

    assert pushed.platforms == platforms
    name = f"{plain_registry.host}/team/built"
    index = plain_registry.manifest(f"{name}:1")
    rows = {
        "/".join(row["platform"][key] for key in PLATFORM_KEYS if key in row["platform"]): row
        for row in index["manifests"]
    }
    assert set(rows) == set(platforms)
    for platform, row in rows.items():
        files = files_of_image(
            plain_registry, f"{name}@{row['digest']}", tmp_path / platform.replace("/", "-")
        )
        assert files == {"who": platform.split("/")[1].encode()}


async def test_a_base_image_of_each_platform(
    plain_registry: RunningRegistry, overlay: Workspace, base_archive: Path, tmp_path: Path
) -> None:
    foreign = write_base_image(tmp_path / "arm.tar", architecture="arm64")
    amd = push_base_image(plain_registry, base_archive, "library/base:1-amd64")
    push_base_image(plain_registry, foreign, "library/base:1-arm64")
    options = replace(options_of(plain_registry), platforms=("linux/amd64", "linux/arm64"))
    name = amd.removesuffix("-amd64")
    files = {"Containerfile": f"ARG TARGETARCH\nFROM {name}-$TARGETARCH\nCOPY f /f\n", "f": "x"}

    image = await build_it(files, overlay, options)
    await push_it(image, plain_registry, overlay)
    assert len(plain_registry.manifest(f"{plain_registry.host}/team/built:1")["manifests"]) == 2

    seen = Seen()
    files["Containerfile"] += "RUN ls /\n"
    with pytest.raises(BuildFailed) as failed:
        await build_it(files, overlay, options, seen)
    check_words(failed.value, "Building the image: ")
    assert "emulator" in failed.value.hint, seen.text


class Listener:
    """Counts who reaches a port of this machine."""

    def __init__(self) -> None:
        listener = self
        self.reached = 0

        class Handler(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                listener.reached += 1
                self.request.sendall(b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nhi")

        self.server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler)
        self.port: int = self.server.server_address[1]


@contextmanager
def listening() -> Iterator[Listener]:
    listener = Listener()
    with listener.server:
        threading.Thread(target=listener.server.serve_forever, daemon=True).start()
        yield listener
        listener.server.shutdown()


async def test_a_step_has_no_network(
    plain_registry: RunningRegistry, base: str, overlay: Workspace
) -> None:
    seen = Seen()
    unix = socket.socket(socket.AF_UNIX)
    unix.bind("\0tusboat-test-abstract")
    unix.listen()
    with listening() as listener, unix:
        reach = (
            f"RUN (echo > /dev/tcp/127.0.0.1/{listener.port}) || echo no loopback; "
            "(echo > /dev/tcp/192.0.2.1/80) || echo no world; cat /proc/net/unix\n"
        )
        options = options_of(plain_registry)
        await build_it({"Containerfile": f"FROM {base}\n{reach}"}, overlay, options, seen)
        assert listener.reached == 0
        assert {"no loopback", "no world"} <= set(seen.lines), seen.text
        assert "tusboat-test-abstract" not in seen.text

        await build_it(
            {"Containerfile": f"FROM {base}\n{reach}"}, overlay, replace(options, network=True)
        )
        assert listener.reached == 1


@pytest.mark.parametrize("what", ["http://127.0.0.1:{}/x", "https://127.0.0.1:{}/x.git"])
async def test_nothing_is_downloaded_by_add(
    plain_registry: RunningRegistry, overlay: Workspace, what: str
) -> None:
    with listening() as listener:
        text = f"FROM scratch\nADD {what.format(listener.port)} /x\n"
        with pytest.raises(BuildFailed) as failed:
            await build_it({"Containerfile": text}, overlay, options_of(plain_registry))
        check_words(failed.value, "Building the image: ")
        assert "build_network" in failed.value.hint
        assert listener.reached == 0


async def test_with_a_network_add_downloads(
    plain_registry: RunningRegistry, overlay: Workspace, tmp_path: Path
) -> None:
    with listening() as listener:
        text = f"FROM scratch\nADD http://127.0.0.1:{listener.port}/x /x\n"
        options = replace(options_of(plain_registry), network=True)
        image = await build_it({"Containerfile": text}, overlay, options)
    await push_it(image, plain_registry, overlay)
    built = f"{plain_registry.host}/team/built:1"
    assert files_of_image(plain_registry, built, tmp_path / "pulled") == {"x": b"hi"}


REFUSED = [
    "busybox",
    "library/busybox",
    "docker-archive:/etc/hostname",
    "oci-archive:/x.tar",
    "oci:/x",
    "dir:/",
    "containers-storage:localhost/x",
    "docker-daemon:x:1",
    "docker://{host}/library/base:1",
    "localhost/build:1",
    "other.example.com/library/base:1",
    "{host}/private/base:1",
    "127.0.0.1:1/library/base:1",
    "{host}/library/base@sha256:1234",
    "$UNKNOWN",
    "--",
    "-x",
]
WAYS = {
    "FROM": "FROM {}\n",
    "later FROM": "FROM scratch\nCOPY Containerfile /\nFROM {} AS x\n",
    "COPY": "FROM scratch\nCOPY --from={} / /\n",
    "RUN": "FROM scratch\nRUN --mount=type=bind,from={},target=/m ls\n",
    "ARG": "ARG base={}\nFROM $base\n",
    "continued": "from \\\n  # a remark\n\n {}\n",
}


CASES = [(WAYS["FROM"], name) for name in REFUSED] + [
    (way, "other.example.com/library/base:1") for way in list(WAYS.values())[1:]
]


@pytest.mark.parametrize(("way", "name"), CASES)
async def test_base_images_come_from_where_they_may(
    plain_registry: RunningRegistry, overlay: Workspace, name: str, way: str
) -> None:
    host = plain_registry.host
    options = options_of(plain_registry, patterns=(f"{host}/library/*",))
    with pytest.raises(BuildError) as refused:
        await build_it({"Containerfile": way.format(name.format(host=host))}, overlay, options)
    # What is no name at all is left to buildah.
    assert isinstance(refused.value, BaseImageRefused) or name.startswith("-")
    check_words(refused.value, "")
    assert "Buildah/" not in plain_registry.log, "nobody was asked"


# What the reading of a Containerfile overlooks, the build itself cannot get.
OVERLOOKED = {
    "argument of a stage": "FROM scratch\nARG x={}\nCOPY --from=$x / /\n",
    "flag that is put together": "FROM scratch\nENV f=--from={}\nCOPY $f / /\n",
}


@pytest.mark.parametrize("case", OVERLOOKED)
async def test_what_was_not_pulled_before_is_not_there(
    plain_registry: RunningRegistry, base: str, overlay: Workspace, case: str
) -> None:
    with pytest.raises(BuildError):
        await build_it(
            {"Containerfile": OVERLOOKED[case].format(base)}, overlay, options_of(plain_registry)
        )
    assert "Buildah/" not in plain_registry.log, "nobody was asked"


async def test_a_base_image_by_digest(
    plain_registry: RunningRegistry, base: str, overlay: Workspace
) -> None:
    name = base.rpartition(":")[0]
    digest = await resolve(ImageReference.parse(base), plain_registry.registry())
    text = f"FROM {name}@{digest}\nRUN ls /\nFROM {name}:1@{digest}\nRUN ls /\n"
    await build_it({"Containerfile": text}, overlay, options_of(plain_registry))


async def test_base_images_that_cannot_be_had(
    plain_registry: RunningRegistry,
    secure_registry: RunningRegistry,
    base: str,
    base_archive: Path,
    overlay: Workspace,
) -> None:
    options = options_of(plain_registry)
    for absent in (base.replace("base:1", "base:2"), base.replace("base:1", "none:1")):
        with pytest.raises(BaseImageMissing) as missing:
            await build_it({"Dockerfile": f"FROM {absent}\n"}, overlay, options)
        check_words(missing.value, "Pulling the base image ")

    locked = push_base_image(secure_registry, base_archive, "library/base:1")
    stranger = Registries([secure_registry.registry(authfile=None)])
    with pytest.raises(RegistryUnauthorized):
        await build_it(
            {"Dockerfile": f"FROM {locked}\n"}, overlay, BuildOptions(BaseImages((), stranger))
        )

    plain_registry.stop()
    with pytest.raises(RegistryUnreachable) as down:
        await build_it({"Dockerfile": f"FROM {base}\n"}, overlay, options)
    assert down.value.retryable


ESCAPES = r"""
cat > /escape.pl <<'END'
mkdir "/x"; print chroot("/x") ? "chroot: done\n" : "chroot: $!\n";
chdir ".." for 1 .. 50; chroot ".";
print -e "SECRET" ? "OUTSIDE\n" : "inside\n";
END
perl /escape.pl
s=SECRET
cat $s /proc/1/root$s /proc/1/cwd$s /proc/*/root$s && echo OUTSIDE
for f in /proc/*/fd/*; do [ -e $f$s ] && echo OUTSIDE; done
echo processes: $(ls -d /proc/[0-9]* | wc -w)
kill -9 PID && echo KILLED
ls -l /dev
mknod /disk b 8 0 && echo DEVICE
(echo '|/bin/true' > /proc/sys/kernel/core_pattern) && echo CORE
(echo b > /proc/sysrq-trigger) && echo SYSRQ
mount -t tmpfs tmpfs /tmp && echo MOUNTED
echo user map: $(cat /proc/self/uid_map)
echo limit: $(ulimit -u)
env
"""


async def test_a_hostile_step_sees_and_harms_nothing(
    plain_registry: RunningRegistry, base: str, overlay: Workspace, tmp_path: Path
) -> None:
    secret = tmp_path / "secret-of-this-machine"
    secret.write_text("the secret itself")
    secret.chmod(0o644)
    for directory in (tmp_path, *tmp_path.parents):
        directory.chmod(directory.stat().st_mode | 0o755)
    seen = Seen()
    with subprocess.Popen(["sleep", "60"]) as victim:  # noqa: ASYNC220 - a moment
        script = ESCAPES.replace("SECRET", str(secret)).replace("PID", str(victim.pid))
        await build_it(
            {"Containerfile": f"FROM {base}\nCOPY s /s\nRUN sh /s; true\n", "s": script},
            overlay,
            options_of(plain_registry),
            seen,
        )
        assert victim.poll() is None
        victim.kill()
    said = set(seen.lines)
    assert "inside" in said, seen.text
    assert "chroot: Operation not permitted" in said
    marks = {"OUTSIDE", "KILLED", "DEVICE", "CORE", "SYSRQ", "MOUNTED", "chroot: done"}
    assert not said & marks, seen.text
    assert "the secret itself" not in seen.text
    (processes,) = [line for line in said if line.startswith("processes: ")]
    assert int(processes.split()[-1]) < 15
    devices = [line.split()[-1] for line in seen.lines if re.match(r"[bc]r", line)]
    assert set(devices) == {"null", "zero", "full", "random", "urandom", "tty"}
    assert f"user map: 0 {2**30} {2**24}" in said
    assert "limit: 4096" in said
    assert not [line for line in said if line.startswith(("TUSBOAT", "PYTEST", "CONTAINERS"))]


MOUNTS = {
    "cache": "RUN --mount=type=cache,id=../../../../../../../../..,target=/m {}",
    "bind": "RUN --mount=type=bind,source=../../../../..,target=/m {}",
    "link": "RUN --mount=type=bind,from=first,source=/l,target=/m,rw {}",
    "secret": "RUN --mount=type=secret,id=x,target=/m/x {}",
    "secret file": "RUN --mount=type=secret,id=x,src=/etc/shadow,target=/m/x {}",
}


@pytest.mark.parametrize("case", MOUNTS)
async def test_a_hostile_mount_shows_nothing_of_the_machine(
    plain_registry: RunningRegistry, base: str, overlay: Workspace, tmp_path: Path, case: str
) -> None:
    secret = tmp_path / "secret-of-this-machine"
    secret.write_text("the secret itself")
    seen = Seen()
    look = f"cat /m{secret} /m/etc/shadow /m/x; ls -ln /m /m/home /m/root; touch /m/t && echo WROTE"
    text = f"FROM {base} AS first\nRUN ln -s / /l\nFROM {base}\n{MOUNTS[case].format(look)}; true\n"
    with contextlib.suppress(BuildFailed):
        await build_it({"Containerfile": text}, overlay, options_of(plain_registry), seen)
    assert "the secret itself" not in seen.text
    assert "root:" not in seen.text
    assert "secret-of-this-machine: No such file" in seen.text or case.startswith("secret")
    assert not await anyio.Path("/t").exists()


async def test_a_step_that_fails_is_named(
    plain_registry: RunningRegistry, base: str, overlay: Workspace
) -> None:
    text = f"FROM {base}\nRUN echo before\nRUN echo a good reason >&2; exit 3\n"
    with pytest.raises(BuildFailed) as failed:
        await build_it({"Dockerfile": text}, overlay, options_of(plain_registry))
    check_words(failed.value, "Building the image: ")
    assert "exit 3" in failed.value.message
    assert "exit status 3" in failed.value.message
    assert "a good reason" in failed.value.message
    assert not failed.value.retryable


@pytest.mark.parametrize("text", ["", "nonsense\n", "FROM\n", "FROM scratch\nWHAT x\n", "\0\xff"])
async def test_a_containerfile_that_is_none(
    plain_registry: RunningRegistry, overlay: Workspace, text: str
) -> None:
    with pytest.raises(BuildFailed) as failed:
        await build_it({"Dockerfile": text}, overlay, options_of(plain_registry))
    check_words(failed.value, "Building the image: ")


# One that left its process group and its session.
LASTING = "RUN (setsid sleep 1000 &); sleep 1000\n"


async def test_a_build_that_takes_too_long_ends(
    plain_registry: RunningRegistry, base: str, overlay: Workspace
) -> None:
    options = replace(options_of(plain_registry), timeout_seconds=4.0)
    seen = Seen()
    with pytest.raises(BuildTimedOut) as late:
        await build_it({"Dockerfile": f"FROM {base}\n{LASTING}"}, overlay, options, seen)
    check_words(late.value, "Building the image: ")
    assert any("setsid" in note for note in seen.notes), "the step was reached"
    wait_until(lambda: not sleepers(), what="no process of the build runs")


async def test_a_canceled_build_leaves_nothing(
    plain_registry: RunningRegistry, base: str, overlay: Workspace
) -> None:
    with anyio.CancelScope() as scope:

        def cancel(line: str) -> None:
            if "setsid" in line:
                scope.cancel()

        archive = write_context(
            overlay.directory / "c.tar", {"Dockerfile": f"FROM {base}\n{LASTING}"}
        )
        place = overlay.directory / "context"
        context = await anyio.to_thread.run_sync(unpack_context, archive, place)
        await build(
            context, overlay, options_of(plain_registry), note=cancel, log=lambda _line: None
        )
    assert scope.cancelled_caught
    wait_until(lambda: not sleepers(), what="no process of the build runs")


async def test_what_a_step_leaves_running_ends_with_the_build(
    plain_registry: RunningRegistry, base: str, overlay: Workspace
) -> None:
    text = f"FROM {base}\nRUN (setsid sleep 1000 >/dev/null 2>&1 &); true\n"
    await build_it({"Dockerfile": text}, overlay, options_of(plain_registry))
    wait_until(lambda: not sleepers(), what="no process of the build runs")


async def test_a_build_that_takes_too_much_disk_ends(
    plain_registry: RunningRegistry, base: str, workspace: Workspace
) -> None:
    options = replace(options_of(plain_registry), size_bytes=150 * MIB)
    text = f"FROM {base}\nRUN dd if=/dev/zero of=/tmp/big bs=1M count=400; sleep 1000\n"
    with pytest.raises(BuildTooBig) as big:
        await build_it({"Dockerfile": text}, workspace, options)
    check_words(big.value, "Building the image: ")


async def test_no_room_for_a_build(
    plain_registry: RunningRegistry, base: str, tmp_path: Path
) -> None:
    options = options_of(plain_registry)
    copied = f"FROM {base}\nCOPY f /a\nCOPY f /b\nCOPY f /c\n"
    made = f"FROM {base}\nRUN dd if=/dev/zero of=/big bs=1M count=400\n"
    small = f"FROM {base}\nRUN dd if=/dev/zero of=/big bs=1M count=4\n"
    with (
        tiny_disk(tmp_path / "small", "200m") as disk,
        Workspace.open(disk / "jobs", JOB, storage_driver="overlay") as workspace,
    ):
        with pytest.raises(StorageFull) as full:
            await build_it({"Dockerfile": copied, "f": bytes(50 * MIB)}, workspace, options)
        with pytest.raises(BuildFailed) as failed:
            await build_it({"Dockerfile": made}, workspace, options)
        # What filled the disk is not in the way of the next try.
        await build_it({"Dockerfile": small}, workspace, options)
    check_words(full.value, "Building the image: ")
    assert full.value.retryable
    assert "no room" in failed.value.hint


async def test_a_flood_of_words_is_cut(
    plain_registry: RunningRegistry, base: str, overlay: Workspace
) -> None:
    seen = Seen()
    text = f"FROM {base}\nRUN yes | head -c 300000000; echo; echo the last word\n"
    await build_it({"Dockerfile": text}, overlay, options_of(plain_registry), seen)
    assert "the last word" in seen.lines
    assert len(seen.lines) < 100_000
    assert "bytes of the log are left out" in seen.text


async def test_one_workspace_builds_again(
    plain_registry: RunningRegistry, base: str, overlay: Workspace
) -> None:
    platforms = ("linux/amd64", "linux/arm64")
    files = {"Dockerfile": "FROM scratch\nCOPY f /\n", "f": "x"}
    options = replace(options_of(plain_registry), platforms=platforms)
    for text in ("FROM scratch\nCOPY absent /\n", files["Dockerfile"], files["Dockerfile"]):
        with contextlib.suppress(BuildFailed):
            image = await build_it(files | {"Dockerfile": text}, overlay, options)
    await push_it(image, plain_registry, overlay)
    index = plain_registry.manifest(f"{plain_registry.host}/team/built:1")
    assert len(index["manifests"]) == 2


async def test_where_nothing_can_be_shut_in_nothing_is_built(
    plain_registry: RunningRegistry, overlay: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    no_kernel = ("setpriv", "--bounding-set=-sys_admin", "--inh-caps=-sys_admin", "--")
    monkeypatch.setattr("buildah.build.entering", lambda: no_kernel)
    with pytest.raises(BuildUnsafe) as unsafe:
        await build_it(
            {"Dockerfile": "FROM scratch\nCOPY Dockerfile /\n"}, overlay, options_of(plain_registry)
        )
    check_words(unsafe.value, "Shutting the build in: ")
