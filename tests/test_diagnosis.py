"""What the programs say is understood; each way in which an archive fails to load."""

from __future__ import annotations

import bz2
import hashlib
import io
import json
import tarfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from buildah import errors
from buildah.command import Completed, run
from buildah.diagnosis import LOADING, REACHING, explain, last_words
from buildah.errors import BuildahError
from buildah.workspace import Workspace
from tests.archives import (
    MIB,
    write_corrupt_layer,
    write_docker_archive,
    write_gzipped,
    write_oci_archive,
    write_random,
    write_truncated,
    write_without_image,
)
from tests.failures import check_words, tiny_disk
from tests.moving import load
from tests.registries import needs_containers

pytestmark = [needs_containers, pytest.mark.anyio]

JOB = "0123456789abcdef0123456789abcdef"


@pytest.fixture
def workspace(tmp_path: Path) -> Iterator[Workspace]:
    with Workspace.open(tmp_path / "jobs", JOB, storage_driver="overlay") as opened:
        yield opened


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
        # Our own archive. As an argument, `filter` came with Python 3.11.4 only.
        tar.extraction_filter = lambda member, _: member  # type: ignore[attr-defined]
        tar.extractall(archive.with_name("layout"))  # noqa: S202
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
        (
            "Error: a: errors:\ndenied: b\nunauthorized: c\nunauthorized: c\n",
            "a: errors: denied: b; unauthorized: c",
        ),
    ],
)
def test_last_words(tail: str, words: str) -> None:
    assert last_words(tail) == words


@pytest.mark.parametrize(
    ("said", "kind", "hint"),
    [
        (
            'loading tar component "manifest.json": file does not exist',
            errors.ArchiveNoImage,
            "docker save",
        ),
        (
            'could not find "netavark" in one of [/usr/libexec/podman /usr/lib/podman].',
            errors.ToolMissing,
            "apt-get install netavark",
        ),
    ],
)
def test_what_newer_versions_say_in_other_words_is_understood(
    said: str, kind: type[BuildahError], hint: str
) -> None:
    """Seen with 1.39.3 to 1.45.0; the words of the machine's own version are made above."""
    error = explain("Loading the archive", Completed(125, b"", f"Error: {said}\n"), LOADING)
    assert type(error) is kind
    assert hint in error.hint


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
