"""Each way of failing, made to happen with the real programs, has its error, cause and hint."""

from __future__ import annotations

import bz2
import contextlib
import hashlib
import io
import json
import subprocess
import tarfile
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from buildah import errors
from buildah.command import Completed, run
from buildah.diagnosis import LOADING, REACHING, explain, last_words
from buildah.errors import BuildahError
from buildah.load import LoadedImage, load
from buildah.push import push
from buildah.reference import ImageReference
from buildah.registry import Registry
from buildah.workspace import Workspace
from tests.archives import (
    KIB,
    MIB,
    write_corrupt_layer,
    write_docker_archive,
    write_gzipped,
    write_oci_archive,
    write_random,
    write_several_images,
    write_several_oci_images,
    write_truncated,
    write_without_image,
)
from tests.proxy import CuttingProxy
from tests.registries import (
    PASSWORD,
    RunningRegistry,
    free_port,
    needs_containers,
    plain_registry,
    secure_registry,
    serving,
    write_authfile,
)

__all__ = ["plain_registry", "secure_registry"]

pytestmark = [needs_containers, pytest.mark.anyio]

JOB = "0123456789abcdef0123456789abcdef"


@pytest.fixture
def workspace(tmp_path: Path) -> Iterator[Workspace]:
    with Workspace.open(tmp_path / "jobs", JOB, storage_driver="overlay") as opened:
        yield opened


@contextmanager
def tiny_disk(directory: Path, size: str) -> Iterator[Path]:
    directory.mkdir(parents=True)
    options = ["-t", "tmpfs", "-o", f"size={size}", "tmpfs"]
    subprocess.run(["mount", *options, str(directory)], check=True)
    try:
        yield directory
    finally:
        subprocess.run(["umount", "--lazy", str(directory)], check=True)


def write_tar(path: Path, files: Mapping[str, bytes]) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, data in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    return path


def unpack(archive: Path) -> str:
    """An OCI layout beside an archive, of what is in it, as buildah is told of it there."""
    with tarfile.open(archive) as tar:
        tar.extractall(archive.with_name("layout"), filter="data")
    # As in `load`: of a whole path buildah makes a name for the image, which may be none.
    return "oci:layout"


def for_another_machine(path: Path) -> str:
    """An OCI layout with an index in which there is an image for s390x only."""
    reference = unpack(write_oci_archive(path).path)
    layout = path.with_name("layout")
    index = json.loads((layout / "index.json").read_text())
    platform = {"platform": {"os": "linux", "architecture": "s390x"}}
    index["manifests"] = [index["manifests"][0] | platform]
    inner = json.dumps(index).encode()
    digest = hashlib.sha256(inner).hexdigest()
    (layout / "blobs" / "sha256" / digest).write_bytes(inner)
    kind = "application/vnd.oci.image.index.v1+json"
    row = {"mediaType": kind, "digest": f"sha256:{digest}", "size": len(inner)}
    (layout / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [row]}))
    return reference


def without_a_blob(path: Path) -> str:
    reference = unpack(write_oci_archive(path).path)
    blobs = path.with_name("layout") / "blobs" / "sha256"
    min(blobs.iterdir(), key=lambda blob: blob.stat().st_size).unlink()
    return reference


def docker(write: Callable[[Path], object]) -> Callable[[Path], str]:
    def make(path: Path) -> str:
        write(path)
        return f"docker-archive:{path}"

    return make


MANIFEST = b'[{"Config": "c.json", "RepoTags": null, "Layers": ["l.tar"]}]'

# What buildah itself says: most of these are found before it is asked, but not when an archive is
# compressed, and not by every version.
LOADS: dict[str, tuple[Callable[[Path], str], type[BuildahError]]] = {
    "random": (docker(write_random), errors.ArchiveInvalid),
    "cut": (docker(write_truncated), errors.ArchiveTruncated),
    "empty": (docker(lambda path: path.write_bytes(b"")), errors.ArchiveNoImage),
    "no image": (docker(write_without_image), errors.ArchiveNoImage),
    "no images": (
        docker(lambda path: write_tar(path, {"manifest.json": b"[]"})),
        errors.ArchiveNoImage,
    ),
    "several": (
        docker(lambda path: write_several_images(path, ["a:1", "b:2"])),
        errors.ArchiveSeveralImages,
    ),
    "several oci": (
        lambda path: unpack(write_several_oci_images(path, ["1", "2"]).path),
        errors.ArchiveSeveralImages,
    ),
    "corrupt": (docker(write_corrupt_layer), errors.ArchiveCorrupt),
    "corrupt oci": (
        lambda path: unpack(write_corrupt_layer(path, oci=True).path),
        errors.ArchiveCorrupt,
    ),
    "corrupt bzip2": (
        docker(
            lambda path: path.write_bytes(
                bz2.compress(write_docker_archive(path, [MIB]).path.read_bytes())[: -MIB // 2]
            )
        ),
        errors.ArchiveCorrupt,
    ),
    "manifest not json": (
        docker(lambda path: write_tar(path, {"manifest.json": b"{nope"})),
        errors.ArchiveInvalid,
    ),
    "manifest too large": (
        docker(lambda path: write_tar(path, {"manifest.json": b" " * 2 * MIB})),
        errors.ArchiveInvalid,
    ),
    "no config": (
        docker(lambda path: write_tar(path, {"manifest.json": MANIFEST})),
        errors.ArchiveInvalid,
    ),
    "config of nothing": (
        docker(lambda path: write_tar(path, {"manifest.json": MANIFEST, "c.json": b"{}"})),
        errors.ArchiveInvalid,
    ),
    "no blob": (without_a_blob, errors.ArchiveInvalid),
    "another machine": (for_another_machine, errors.ArchiveNoImage),
}


@pytest.mark.parametrize("case", LOADS)
async def test_what_buildah_says_of_an_archive_is_understood(
    case: str, workspace: Workspace, tmp_path: Path
) -> None:
    make, kind = LOADS[case]
    completed = await run(
        ["buildah", *workspace.storage_arguments, "pull", "--quiet", "--", make(tmp_path / "a")],
        env=workspace.env,
        cwd=tmp_path,
        on_line=lambda _: None,
    )
    assert completed.returncode
    error = explain("Loading the archive", completed, LOADING)
    assert type(error) is kind, error.message
    check_words(error, "Loading the archive: ")


def check_words(error: BuildahError, start: str) -> None:
    """Operation, subject and cause in one printable line, and something to do."""
    assert error.message.startswith(start)
    assert error.message.endswith(".")
    assert error.message.isprintable()
    assert len(error.message) < 700
    assert error.hint


async def load_failure(archive: Path, workspace: Workspace) -> BuildahError:
    with pytest.raises(BuildahError) as failed:
        await load(archive, workspace, progress=lambda *_: None, log=lambda _: None)
    check_words(failed.value, "")
    return failed.value


BAD_ARCHIVES: dict[str, tuple[Callable[[Path], object], type[BuildahError]]] = {
    "random": (write_random, errors.ArchiveInvalid),
    "cut": (write_truncated, errors.ArchiveTruncated),
    "cut oci": (lambda path: write_truncated(path, oci=True), errors.ArchiveTruncated),
    "no image": (write_without_image, errors.ArchiveNoImage),
    "corrupt": (write_corrupt_layer, errors.ArchiveCorrupt),
    "corrupt oci": (lambda path: write_corrupt_layer(path, oci=True), errors.ArchiveCorrupt),
    "several": (
        lambda path: write_several_images(path, ["a:1", "b:2"]),
        errors.ArchiveSeveralImages,
    ),
    "twice gzipped": (
        lambda path: write_gzipped(
            path, write_gzipped(path.with_name("b"), write_random(path.with_name("c")))
        ),
        errors.ArchiveInvalid,
    ),
}


@pytest.mark.parametrize("case", BAD_ARCHIVES)
async def test_a_bad_archive_is_not_loaded(case: str, workspace: Workspace, tmp_path: Path) -> None:
    write, kind = BAD_ARCHIVES[case]
    write(tmp_path / "a")
    error = await load_failure(tmp_path / "a", workspace)
    assert type(error) is kind
    assert not error.retryable


@pytest.mark.parametrize("driver", ["overlay", "vfs"])
@pytest.mark.parametrize("size", ["100m", "30m"], ids=["while applying", "while copying"])
@pytest.mark.parametrize("write", [write_docker_archive, write_oci_archive])
async def test_no_room_to_load(
    driver: str, size: str, write: Callable[..., Any], tmp_path: Path
) -> None:
    archive = write(tmp_path / "a", [60 * MIB])
    with (
        tiny_disk(tmp_path / "disk", size) as disk,
        Workspace.open(disk / "jobs", JOB, storage_driver=driver) as workspace,
    ):
        error = await load_failure(archive.path, workspace)
    assert type(error) is errors.StorageFull
    assert error.retryable


async def test_no_room_to_decompress(tmp_path: Path) -> None:
    packed = write_gzipped(tmp_path / "a", write_docker_archive(tmp_path / "b", [60 * MIB]).path)
    with (
        tiny_disk(tmp_path / "disk", "30m") as disk,
        Workspace.open(disk / "jobs", JOB, storage_driver="vfs") as workspace,
    ):
        assert type(await load_failure(packed, workspace)) is errors.StorageFull


async def push_failure(
    registry: Registry,
    workspace: Workspace,
    tmp_path: Path,
    *,
    size: int = 64 * KIB,
    tag: str = "v1",
) -> BuildahError:
    archive = write_docker_archive(tmp_path / "a", [size], seed=f"failure-{size}")
    image = await load(archive.path, workspace, progress=lambda *_: None, log=lambda _: None)
    lines: list[str] = []
    destination = ImageReference.parse(f"{registry.host}/team/app:{tag}")
    with pytest.raises(BuildahError) as failed:
        await push(
            image, destination, registry, workspace, progress=lambda *_: None, log=lines.append
        )
    check_words(failed.value, f"Pushing {destination}: ")
    assert PASSWORD not in "".join(lines) + failed.value.message
    return failed.value


async def test_no_room_to_push(plain_registry: RunningRegistry, tmp_path: Path) -> None:
    archive = write_docker_archive(tmp_path / "a", [40 * MIB])
    registry = plain_registry.registry()
    destination = ImageReference.parse(f"{registry.host}/team/app:v1")
    with (
        tiny_disk(tmp_path / "disk", "100m") as disk,
        Workspace.open(disk / "jobs", JOB, storage_driver="overlay") as workspace,
    ):
        image = await load(archive.path, workspace, progress=lambda *_: None, log=lambda _: None)
        (disk / "filler").write_bytes(bytes(40 * MIB))
        with pytest.raises(errors.StorageFull):
            await push(
                image,
                destination,
                registry,
                workspace,
                progress=lambda *_: None,
                log=lambda _: None,
            )


async def test_wrong_password_and_none(
    secure_registry: RunningRegistry, workspace: Workspace, tmp_path: Path
) -> None:
    wrong = write_authfile(tmp_path / "wrong.json", secure_registry.host, password="wrong-one")
    for authfile in (wrong, None):
        row = secure_registry.registry(authfile=authfile)
        error = await push_failure(row, workspace, tmp_path)
        assert type(error) is errors.RegistryUnauthorized
        assert not error.retryable
        assert "authfile" in error.hint


async def test_a_certificate_that_is_not_trusted(
    secure_registry: RunningRegistry, workspace: Workspace, tmp_path: Path
) -> None:
    error = await push_failure(secure_registry.registry(ca_file=None), workspace, tmp_path)
    assert type(error) is errors.RegistryUntrusted
    assert "ca_file" in error.hint


async def test_a_plain_registry_is_not_spoken_to_silently(
    plain_registry: RunningRegistry, workspace: Workspace, tmp_path: Path
) -> None:
    error = await push_failure(plain_registry.registry(plain_http=False), workspace, tmp_path)
    assert type(error) is errors.RegistryUntrusted
    assert "plain_http" in error.hint
    assert plain_registry.tags("team/app") == []


async def test_without_verification_it_is_still_tls(
    secure_registry: RunningRegistry, workspace: Workspace, tmp_path: Path
) -> None:
    archive = write_docker_archive(tmp_path / "a")
    image = await load(archive.path, workspace, progress=lambda *_: None, log=lambda _: None)
    row = secure_registry.registry(ca_file=None, tls_verify=False)
    destination = ImageReference.parse(f"{row.host}/team/app:v1")
    await push(image, destination, row, workspace, progress=lambda *_: None, log=lambda _: None)
    assert secure_registry.config_digest(str(destination)) == archive.image_id


async def test_a_registry_that_is_down(workspace: Workspace, tmp_path: Path) -> None:
    row = Registry(f"127.0.0.1:{free_port()}", plain_http=True)
    error = await push_failure(row, workspace, tmp_path)
    assert type(error) is errors.RegistryUnreachable
    assert error.retryable


async def test_a_host_that_does_not_exist(workspace: Workspace, tmp_path: Path) -> None:
    error = await push_failure(Registry("no-such-host.invalid"), workspace, tmp_path)
    assert type(error) is errors.RegistryUnknownHost
    assert not error.retryable
    assert "no-such-host.invalid" in error.message


async def test_a_line_that_is_cut_in_the_middle(
    plain_registry: RunningRegistry, workspace: Workspace, tmp_path: Path
) -> None:
    with CuttingProxy(plain_registry.port) as proxy:
        # buildah tries four times.
        proxy.cut_after(*(number * 5 * MIB for number in range(1, 9)))
        row = Registry(f"127.0.0.1:{proxy.port}", plain_http=True)
        error = await push_failure(row, workspace, tmp_path, size=60 * MIB)
    assert type(error) is errors.RegistryError
    assert error.code == "registry_error"
    assert error.retryable
    assert "cut" in error.message


async def test_after_a_cut_the_same_push_once_more_ends_well(
    plain_registry: RunningRegistry, workspace: Workspace, tmp_path: Path
) -> None:
    with CuttingProxy(plain_registry.port) as proxy:
        proxy.cut_after(*(number * 5 * MIB for number in range(1, 5)))
        row = Registry(f"127.0.0.1:{proxy.port}", plain_http=True)
        await push_failure(row, workspace, tmp_path, size=40 * MIB)
        archive = write_docker_archive(tmp_path / "a", [40 * MIB], seed=f"failure-{40 * MIB}")
        destination = ImageReference.parse(f"{row.host}/team/app:v1")
        for _ in range(5):
            with contextlib.suppress(errors.RegistryError):
                await push(
                    LoadedImage(archive.image_id, "linux/amd64"),
                    destination,
                    row,
                    workspace,
                    progress=lambda *_: None,
                    log=lambda _: None,
                )
                break
    name = f"{plain_registry.host}/team/app:v1"
    assert plain_registry.config_digest(name) == archive.image_id


@pytest.mark.parametrize("secure", [False, True], ids=["plain", "secure"])
async def test_a_registry_that_is_full(secure: bool, workspace: Workspace, tmp_path: Path) -> None:
    with ExitStack() as stack:
        stack.enter_context(tiny_disk(tmp_path / "registry" / "storage", "8m"))
        server = stack.enter_context(serving(tmp_path / "registry", secure=secure))
        error = await push_failure(server.registry(), workspace, tmp_path, size=20 * MIB)
    assert type(error) is errors.RegistryFull
    assert not error.retryable
    assert "room" in error.message


class SickRegistry:
    """Answers as a registry does when something before or behind it is sick."""

    def __init__(self, status: int, body: str, *, at: str, token: bool = False) -> None:
        sick = self
        self.seen: list[str] = []

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, format: str, *args: object) -> None:
                """Say nothing."""

            def answer(self) -> None:
                self.rfile.read(int(self.headers.get("Content-Length") or 0))
                sick.seen.append(self.command)
                if token and self.path.startswith("/token"):
                    self.say(200, '{"token": "let-me-in"}')
                elif token and "let-me-in" not in (self.headers.get("Authorization") or ""):
                    self.say(401, "", challenge=True)
                elif self.path == "/v2/":
                    self.say(200, "{}")
                elif self.command == at:
                    self.say(status, body)
                elif self.command in ("HEAD", "GET"):
                    self.say(404, "")
                else:
                    self.say(202, "")

            def say(self, code: int, text: str, *, challenge: bool = False) -> None:
                self.send_response(code)
                self.send_header("Content-Length", str(len(text)))
                if code == 202:
                    self.send_header("Location", "/v2/team/app/blobs/uploads/1")
                if challenge:
                    realm = f"http://{sick.host}/token"
                    self.send_header(
                        "WWW-Authenticate", f'Bearer realm="{realm}",service="s",scope="x"'
                    )
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(text.encode())

        for verb in ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"):
            setattr(Handler, f"do_{verb}", Handler.answer)
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever)

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> SickRegistry:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


def denied(message: str) -> str:
    return json.dumps({"errors": [{"code": "DENIED", "message": message}]})


QUOTA = (
    "adding 51.3 MiB of storage resource, which when updated to current usage of 0 Bytes will "
    "exceed the configured upper limit of 10 MiB."
)
NO_SPACE = (
    '{"errors":[{"code":"UNKNOWN","detail":{"DriverName":"filesystem","Enclosed":{"Err":28}}}]}'
)

SICK: dict[str, tuple[int, str, type[BuildahError], bool]] = {
    "denied": (403, denied("requested access is denied"), errors.RegistryForbidden, False),
    "forbidden": (403, "nope", errors.RegistryForbidden, False),
    "no project": (
        404,
        '{"errors":[{"code":"NAME_UNKNOWN","message":"x"}]}',
        errors.RegistryForbidden,
        False,
    ),
    "quota": (403, denied(QUOTA), errors.RegistryFull, False),
    "too large": (413, "<html>too large</html>", errors.RegistryForbidden, False),
    "immutable": (412, denied("tag is immutable"), errors.RegistryForbidden, False),
    "failing": (500, '{"errors":[{"code":"UNKNOWN"}]}', errors.RegistryError, True),
    "bad gateway": (502, "bad gateway", errors.RegistryError, True),
    "unavailable": (503, "", errors.RegistryError, True),
    "insufficient storage": (507, "", errors.RegistryFull, False),
    "no space": (500, NO_SPACE, errors.RegistryFull, False),
}


@pytest.mark.parametrize("case", SICK)
async def test_what_a_sick_registry_answers_is_understood(
    case: str, workspace: Workspace, tmp_path: Path
) -> None:
    status, body, kind, retryable = SICK[case]
    with SickRegistry(status, body, at="POST") as sick:
        row = Registry(sick.host, plain_http=True)
        error = await push_failure(row, workspace, tmp_path)
    assert type(error) is kind, error.message
    assert error.retryable is retryable


async def test_a_full_registry_behind_token_authentication(
    workspace: Workspace, tmp_path: Path
) -> None:
    with SickRegistry(500, NO_SPACE, at="PATCH", token=True) as sick:
        row = Registry(
            sick.host,
            plain_http=True,
            authfile=write_authfile(tmp_path / "auth.json", sick.host),
        )
        error = await push_failure(row, workspace, tmp_path)
        assert type(error) is errors.RegistryFull, error.message
        assert sick.seen[-1] == "DELETE", "what was begun to find out is taken back"


@pytest.mark.slow
async def test_a_registry_that_is_too_busy(workspace: Workspace, tmp_path: Path) -> None:
    with SickRegistry(429, "", at="POST") as sick:
        error = await push_failure(Registry(sick.host, plain_http=True), workspace, tmp_path)
    assert type(error) is errors.RegistryError
    assert error.retryable


async def test_a_destination_that_this_buildah_does_not_understand(
    workspace: Workspace, tmp_path: Path
) -> None:
    error = await push_failure(Registry("[::1]:5999", plain_http=True), workspace, tmp_path)
    assert type(error) in (errors.InvalidReference, errors.RegistryUnreachable)


async def test_another_push_to_the_same_tag_is_noticed(
    plain_registry: RunningRegistry, workspace: Workspace, tmp_path: Path
) -> None:
    """The log is called before the digest is asked for: there, somebody else is quicker."""
    mine, other = (write_docker_archive(tmp_path / seed, seed=seed) for seed in ("mine", "other"))
    image = await load(mine.path, workspace, progress=lambda *_: None, log=lambda _: None)
    destination = ImageReference.parse(f"{plain_registry.host}/team/app:v1")

    def overwrite(line: str) -> None:
        if "Storing signatures" in line:
            subprocess.run(
                [
                    *("skopeo", "copy", "--quiet", "--dest-tls-verify=false"),
                    *(f"docker-archive:{other.path}", f"docker://{destination}"),
                ],
                check=True,
            )

    with pytest.raises(errors.RegistryConflict) as failed:
        await push(
            image,
            destination,
            plain_registry.registry(),
            workspace,
            progress=lambda *_: None,
            log=overwrite,
        )
    check_words(failed.value, f"Pushing {destination}: ")


async def test_a_program_that_fails_for_no_known_reason(
    plain_registry: RunningRegistry, workspace: Workspace
) -> None:
    destination = ImageReference.parse(f"{plain_registry.host}/team/app:v1")
    with pytest.raises(errors.ToolFailed, match="image not known") as failed:
        await push(
            LoadedImage("0" * 64, "linux/amd64"),
            destination,
            plain_registry.registry(),
            workspace,
            progress=lambda *_: None,
            log=lambda _: None,
        )
    check_words(failed.value, f"Pushing {destination}: ")


async def test_a_program_that_is_missing(workspace: Workspace, tmp_path: Path) -> None:
    workspace.env = {**workspace.env, "PATH": str(tmp_path)}
    archive = write_docker_archive(tmp_path / "a")
    error = await load_failure(archive.path, workspace)
    assert type(error) is errors.ToolMissing
    assert "apt-get install" in error.hint


def test_a_program_that_was_killed() -> None:
    error = explain("Pushing a", Completed(-9, b"", "Copying blob\n"), REACHING)
    assert type(error) is errors.ToolFailed
    assert "killed by signal 9" in error.message
    assert "memory" in error.hint


@pytest.mark.parametrize(
    ("tail", "words"),
    [
        ("", ""),
        ("one\ntwo\n", "two"),
        ("Error: first\nCopying\nError: second\nmore\n", "second"),
        ('time="x" level=fatal msg="a \\"b\\" c"\n', 'a "b" c'),
        ("Error: " + "x" * 1000, "..." + "x" * 400),
    ],
)
def test_last_words(tail: str, words: str) -> None:
    assert last_words(tail) == words


def test_silence_is_said() -> None:
    error = explain("Pushing a", Completed(3, b"", ""), REACHING)
    assert error.message == "Pushing a: the program ended with status 3 and said nothing."


def classes(root: type[BuildahError] = BuildahError) -> Iterator[type[BuildahError]]:
    for kind in root.__subclasses__():
        if "code" in vars(kind):
            yield kind
        yield from classes(kind)


def test_the_table_of_errors_is_the_tree_and_names_tests_that_exist() -> None:
    here = Path(__file__).resolve().parent
    readme = (here.parent / "buildah" / "README.md").read_text()
    rows = [
        [cell.strip(" `") for cell in line.strip("|").split("|")]
        for line in readme.partition("## Errors")[2].splitlines()
        if line.startswith("| `")
    ]
    shown = {row[0]: row[3] == "yes" for row in rows}
    assert shown == {kind.code: kind.retryable for kind in classes()}
    assert len(rows) == len({kind.code for kind in classes()})
    tests = "".join(path.read_text() for path in here.glob("test_*.py"))
    assert [row[4] for row in rows if f"def {row[4]}(" not in tests] == []
