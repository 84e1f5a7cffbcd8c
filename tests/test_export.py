"""`tusboat export`: an image of a registry becomes a file, whole or not at all."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import signal
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from buildah import errors
from buildah.archive import inspect
from buildah.delivery import delivering
from buildah.errors import BuildahError
from buildah.export import ArchiveFormat, ExportedImage, Wanted, export
from buildah.manifests import Index, Manifest, Platform, parse
from buildah.reference import ImageReference
from buildah.registry import Registry
from tests.archives import (
    DOCKER_CONFIG,
    KIB,
    MIB,
    Archive,
    write_containerd,
    write_docker_archive,
    write_oci_archive,
)
from tests.failures import SickRegistry, check_words, tiny_disk
from tests.journeys import assert_image, row
from tests.live import LiveServer, Ran, finish, run_tusboat, spawn_tusboat, wait_until
from tests.registries import (
    PASSWORD,
    PLAIN_ENVIRONMENT,
    RunningRegistry,
    free_port,
    missing_programs,
    needs_containers,
    secure_registry,
    serving,
    write_authfile,
)
from tests.uploading import documents

__all__ = ["secure_registry"]

pytestmark = needs_containers

MULTI = ("linux/amd64", "linux/arm64/v8", "linux/arm/v7")
FORMATS = ("docker-archive", "oci-archive")
DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningRegistry]:
    with serving(tmp_path_factory.mktemp("registry")) as running:
        yield running


@pytest.fixture(scope="module")
def images(
    registry: RunningRegistry, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Archive]:
    """What is in the registry, by its name there."""
    directory = tmp_path_factory.mktemp("images")
    made = {
        "docker": write_docker_archive(
            directory / "docker", [300 * KIB, 5000], seed="docker", config=DOCKER_CONFIG
        ),
        "oci": write_oci_archive(directory / "oci", [300 * KIB], seed="oci", gzipped=True),
        "zstd": write_oci_archive(directory / "zstd", [300 * KIB, 7, 300 * KIB], zstd=True),
        "multi": write_containerd(directory / "multi", MULTI, attested=False),
        "large": write_docker_archive(directory / "large", [100 * MIB, 100 * MIB], seed="large"),
    }
    (directory / "multi").rename(directory / "layout")
    for name, archive in made.items():
        transport = "docker-archive" if name in ("docker", "large") else "oci-archive"
        path = directory / ("layout" if name == "multi" else archive.path.name)
        copy("--all", f"{transport}:{path}", f"docker://{registry.host}/team/{name}:v1")
    copy(
        *("--all", "--format=v2s2", f"oci-archive:{directory / 'layout'}"),
        f"docker://{registry.host}/team/docker-list:v1",
    )
    shutil.rmtree(directory)
    return made


def copy(*arguments: str, verify: bool = False) -> None:
    subprocess.run(
        ["skopeo", "copy", "--quiet", f"--dest-tls-verify={str(verify).lower()}", *arguments],
        check=True,
        env=PLAIN_ENVIRONMENT,
    )


def variables(*registries: dict[str, Any]) -> dict[str, str]:
    return {"TUSBOAT_REGISTRIES": json.dumps(registries)}


def tusboat_export(
    home: Path, registry: RunningRegistry, image: str, target: Path | str, *options: str
) -> Ran:
    home.mkdir(exist_ok=True)
    return run_tusboat(
        home,
        *("export", *options, f"{registry.host}/team/{image}", str(target)),
        env=variables(row(registry)),
    )


def left_in(directory: Path) -> list[str]:
    return sorted(entry.name for entry in directory.iterdir())


# --- there and back ---


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("kind", ["docker", "oci"])
def test_there_and_back_it_is_the_same_image(
    kind: str, form: str, registry: RunningRegistry, tmp_path: Path
) -> None:
    """upload, registry, export, upload again: names with two underscores too."""
    if kind == "docker":
        archive = write_docker_archive(tmp_path / "a", [MIB, 4096], config=DOCKER_CONFIG)
    else:
        archive = write_oci_archive(tmp_path / "a", [MIB, 4096], gzipped=True)
    first, second = (
        f"{registry.host}/round__trip/{kind}-{form}:{tag}" for tag in ("v1.0_a-", "second")
    )
    out = tmp_path / "out.tar"
    with LiveServer(tmp_path, registries=[row(registry)]) as server:

        def upload(path: Path, image: str) -> None:
            ran = run_tusboat(
                tmp_path, "upload", str(path), "--image", image, "--server", server.url
            )
            assert ran.code == 0, ran.stderr

        upload(archive.path, first)
        ran = run_tusboat(
            tmp_path, "export", "--format", form, first, str(out), env=variables(row(registry))
        )
        assert ran.code == 0, ran.stderr
        [image] = inspect(out).images or ()
        assert image.tags == (first,)
        upload(out, second)
        for document in documents(server.url):
            assert_image(registry, archive, document)
    digest = ran.stdout.splitlines()[-1]
    assert registry.config_digest(f"{first.rsplit(':', 1)[0]}@{digest}") == archive.image_id
    assert f"{out}: {form} of {first}, " in ran.stderr


@pytest.mark.skipif(bool(missing_programs("podman")), reason="needs podman")
@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("kind", ["docker", "oci", "zstd", "multi"])
def test_other_programs_read_what_was_exported(
    kind: str,
    form: str,
    registry: RunningRegistry,
    images: dict[str, Archive],
    tmp_path: Path,
) -> None:
    out = tmp_path / "out"
    ran = tusboat_export(tmp_path, registry, f"{kind}:v1", out, "--format", form)
    assert ran.code == 0, ran.stderr
    name = f"{registry.host}/team/{kind}:v1"
    shown = subprocess.run(
        ["skopeo", "inspect", f"{form}:{out}"], capture_output=True, check=True, text=True
    )
    assert json.loads(shown.stdout)["Architecture"] == "amd64"
    # podman refuses a --runroot of more than 50 characters.
    with tempfile.TemporaryDirectory(prefix="p-") as short:
        storage = ["--storage-driver=vfs", f"--root={tmp_path / 's'}", f"--runroot={short}"]
        loaded = subprocess.run(
            ["podman", *storage, "load", "--quiet", "--input", str(out)],
            capture_output=True,
            check=True,
            text=True,
        )
        pulled = subprocess.run(
            ["buildah", *storage, "pull", "--quiet", f"{form}:{out}"],
            capture_output=True,
            check=True,
            text=True,
        )
    assert loaded.stdout == f"Loaded image: {name}\n"
    assert pulled.stdout.strip() == images[kind].image_id


def test_layers_of_zstd_are_unpacked_for_a_docker_archive(
    registry: RunningRegistry, images: dict[str, Archive], tmp_path: Path
) -> None:
    """Which has none that are compressed, and skopeo 1.9 cannot."""
    manifest = registry.manifest(f"{registry.host}/team/zstd:v1")
    assert {layer["mediaType"].rpartition("+")[2] for layer in manifest["layers"]} == {"zstd"}
    ran = tusboat_export(tmp_path, registry, "zstd:v1", tmp_path / "out")
    assert ran.code == 0, ran.stderr
    [image] = inspect(tmp_path / "out").images or ()
    [only] = image.platforms
    assert only.image_id == f"sha256:{images['zstd'].image_id}"
    with tarfile.open(tmp_path / "out") as tar:
        for layer in only.layers:
            body = tar.extractfile(layer.name)
            assert body
            assert f"sha256:{hashlib.sha256(body.read()).hexdigest()}" == layer.digest


def test_an_oci_archive_keeps_the_digest_of_an_oci_image(
    registry: RunningRegistry, images: dict[str, Archive], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    ran = tusboat_export(tmp_path, registry, "oci:v1", out, "--format=oci-archive")
    [image] = inspect(out).images or ()
    assert image.digest == ran.stdout.strip()


# --- several platforms ---


@pytest.mark.parametrize("name", ["multi", "docker-list"])
def test_every_platform_is_exported_and_goes_back(
    name: str, registry: RunningRegistry, images: dict[str, Archive], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    ran = tusboat_export(tmp_path, registry, f"{name}:v1", out, "--all")
    assert ran.code == 0, ran.stderr
    [image] = inspect(out).images or ()
    assert [one.platform for one in image.platforms] == list(MULTI)
    assert not any(one.missing for one in image.platforms)
    was = registry.manifest(f"{registry.host}/team/{name}:v1")
    assert (was.get("mediaType") == DOCKER_LIST) == (name == "docker-list")
    if name == "multi":
        assert image.digest == ran.stdout.strip()
    back = f"{registry.host}/back/{name}:v1"
    copy("--all", f"oci-archive:{out}", f"docker://{back}")
    again = registry.manifest(back)
    assert [config_of(registry, back, one) for one in again["manifests"]] == [
        config_of(registry, f"{registry.host}/team/{name}:v1", one) for one in was["manifests"]
    ]


def config_of(registry: RunningRegistry, image: str, descriptor: dict[str, Any]) -> str:
    return registry.config_digest(f"{image.rsplit(':', 1)[0]}@{descriptor['digest']}")


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize(
    ("said", "platform"),
    [
        ("linux/arm64", "linux/arm64/v8"),
        ("linux/arm64/v8", "linux/arm64/v8"),
        ("linux/arm", "linux/arm/v7"),
    ],
)
def test_one_platform_is_chosen(
    said: str,
    platform: str,
    form: str,
    registry: RunningRegistry,
    images: dict[str, Archive],
    tmp_path: Path,
) -> None:
    out = tmp_path / "out"
    options = ("--platform", said, "--format", form)
    ran = tusboat_export(tmp_path, registry, "multi:v1", out, *options)
    assert ran.code == 0, ran.stderr
    [image] = inspect(out).images or ()
    assert [one.platform for one in image.platforms] == [platform]
    assert "not in it: linux/amd64" in ran.stderr


@pytest.mark.parametrize("image", ["multi:v1", "docker:v1"])
def test_a_platform_that_is_not_there(
    image: str, registry: RunningRegistry, images: dict[str, Archive], tmp_path: Path
) -> None:
    ran = tusboat_export(
        tmp_path / "home", registry, image, tmp_path / "out", "--platform=linux/s390x"
    )
    assert (ran.code, ran.stdout) == (1, "")
    assert "linux/s390x" in ran.stderr
    assert "linux/amd64" in ran.stderr
    assert "hint: " in ran.stderr
    assert left_in(tmp_path) == ["home"]


# --- the file ---


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize(
    "name", ["a:1.tar", "with space", "-dash", "\N{GREEK SMALL LETTER PI}", "new\nline"]
)
def test_any_name_of_a_file_will_do(
    name: str, form: str, registry: RunningRegistry, images: dict[str, Archive], tmp_path: Path
) -> None:
    directory = tmp_path / f"d:{name}"
    directory.mkdir()
    out = directory / name
    ran = tusboat_export(tmp_path, registry, "docker:v1", out, "--format", form)
    assert ran.code == 0, ran.stderr
    assert left_in(directory) == [name]
    [image] = inspect(out).images or ()
    assert image.platforms[0].image_id == f"sha256:{images['docker'].image_id}"
    # A person gets it as every file of theirs, not as a secret.
    mask = os.umask(0)
    os.umask(mask)
    assert out.stat().st_mode & 0o777 == 0o666 & ~mask & (0o644 if form == FORMATS[0] else 0o666)


def test_what_is_there_stays_unless_it_may_be_overwritten(
    registry: RunningRegistry, images: dict[str, Archive], tmp_path: Path
) -> None:
    directory = tmp_path / "out"
    directory.mkdir()
    target = directory / "real"
    target.write_text("precious")
    (directory / "link").symlink_to("real")
    for name in ("real", "link"):
        ran = tusboat_export(tmp_path, registry, "docker:v1", directory / name)
        assert (ran.code, ran.stdout) == (1, "")
        assert "something is there already" in ran.stderr
        assert "--force" in ran.stderr
    assert target.read_text() == "precious"
    ran = tusboat_export(tmp_path, registry, "docker:v1", directory / "link", "--force")
    assert ran.code == 0, ran.stderr
    assert (directory / "link").is_symlink()
    assert tarfile.is_tarfile(target)
    assert left_in(directory) == ["link", "real"]


def test_a_failed_export_leaves_what_was_there(registry: RunningRegistry, tmp_path: Path) -> None:
    directory = tmp_path / "out"
    directory.mkdir()
    target = directory / "a"
    target.write_text("precious")
    ran = tusboat_export(tmp_path, registry, "docker:none", target, "--force")
    assert ran.code == 1
    assert target.read_text() == "precious"
    assert left_in(directory) == ["a"]


def test_two_at_once_to_one_name(
    registry: RunningRegistry, images: dict[str, Archive], tmp_path: Path
) -> None:
    directory = tmp_path / "out"
    directory.mkdir()
    arguments = ("export", f"{registry.host}/team/large:v1", str(directory / "a"))
    both = [spawn_tusboat(tmp_path, *arguments, env=variables(row(registry))) for _ in range(2)]
    ran = [finish(process) for process in both]
    assert sorted(one.code for one in ran) == [0, 1], ran
    assert left_in(directory) == ["a"]
    [image] = inspect(directory / "a").images or ()
    assert image.platforms[0].image_id == f"sha256:{images['large'].image_id}"


def test_who_comes_first_has_the_name(tmp_path: Path) -> None:
    with delivering(tmp_path / "a", overwrite=False) as delivery:
        made = delivery.directory / "made"
        made.write_text("mine")
        (tmp_path / "a").write_text("somebody else's")
        with pytest.raises(errors.TargetTaken):
            delivery.finish(made)
    assert (tmp_path / "a").read_text() == "somebody else's"
    assert left_in(tmp_path) == ["a"]


def test_places_where_no_file_can_be(
    registry: RunningRegistry, images: dict[str, Archive], tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    os.mkfifo(tmp_path / "pipe")
    with tiny_disk(tmp_path / "sealed", "1m") as sealed:
        subprocess.run(["mount", "-o", "remount,ro", str(sealed)], check=True)
        for name, cause in {
            "sealed/a": "Read-only file system",
            "nowhere/a": "No such file or directory",
            "file/a": "Not a directory",
            "sealed": "not a regular file",
            "pipe": "not a regular file",
            "x" * 256: "File name too long",
        }.items():
            options = ("--force",) if name == "pipe" else ()
            ran = tusboat_export(tmp_path, registry, "docker:v1", tmp_path / name, *options)
            assert (ran.code, ran.stdout) == (1, ""), name
            assert cause in ran.stderr
            assert "hint: " in ran.stderr


# --- what goes wrong ---


async def failure(
    registry: Registry, target: Path, *, image: str = "team/docker:v1", **wanted: Any
) -> BuildahError:
    reference = ImageReference.parse(f"{registry.host}/{image}")
    lines: list[str] = []
    with pytest.raises(BuildahError) as failed:
        await export(
            reference,
            registry,
            target,
            Wanted(**wanted),
            progress=lambda *_: None,
            log=lines.append,
        )
    error = failed.value
    check_words(error, "")
    assert PASSWORD not in "".join(lines) + error.message
    assert left_in(target.parent) == []
    return error


@pytest.fixture
def out(tmp_path: Path) -> Path:
    directory = tmp_path / "out"
    directory.mkdir()
    return directory / "a"


@pytest.mark.anyio
@pytest.mark.parametrize("image", ["team/docker:none", "nobody/nothing:v1"])
async def test_an_image_that_is_not_there(
    image: str, registry: RunningRegistry, images: dict[str, Archive], out: Path
) -> None:
    error = await failure(registry.registry(), out, image=image)
    assert type(error) is errors.ImageNotFound
    assert image in error.message
    assert not error.retryable


@pytest.mark.anyio
async def test_without_the_right_password(secure_registry: RunningRegistry, out: Path) -> None:
    wrong = write_authfile(out.parent.parent / "x.json", secure_registry.host, password="wrong-one")
    for authfile in (wrong, None):
        error = await failure(secure_registry.registry(authfile=authfile), out)
        assert type(error) is errors.RegistryUnauthorized
    error = await failure(secure_registry.registry(ca_file=None), out)
    assert type(error) is errors.RegistryUntrusted
    assert type(await failure(secure_registry.registry(), out)) is errors.ImageNotFound


@pytest.mark.anyio
async def test_a_registry_with_tls_and_a_password(
    secure_registry: RunningRegistry, tmp_path: Path
) -> None:
    archive = write_docker_archive(tmp_path / "a")
    image = f"{secure_registry.host}/team/app:v1"
    assert secure_registry.ca_file
    copy(
        f"--dest-cert-dir={secure_registry.ca_file.parent}",
        f"--dest-authfile={secure_registry.authfile}",
        f"docker-archive:{archive.path}",
        f"docker://{image}",
        verify=True,
    )
    found = await exported(secure_registry.registry(), image, tmp_path / "out")
    assert found.platforms == ()
    [inside] = inspect(tmp_path / "out").images or ()
    assert inside.platforms[0].image_id == f"sha256:{archive.image_id}"


async def exported(registry: Registry, image: str, target: Path, **wanted: Any) -> ExportedImage:
    return await export(
        ImageReference.parse(image),
        registry,
        target,
        Wanted(**wanted),
        progress=lambda *_: None,
        log=lambda _: None,
    )


@pytest.mark.anyio
@pytest.mark.parametrize("form", list(ArchiveFormat))
async def test_progress_grows_to_the_images_own_size(
    form: ArchiveFormat, registry: RunningRegistry, images: dict[str, Archive], tmp_path: Path
) -> None:
    seen: list[tuple[int, int]] = []
    image = f"{registry.host}/team/large:v1"
    await export(
        ImageReference.parse(image),
        registry.registry(),
        tmp_path / "out",
        Wanted(format=form),
        progress=lambda done, total: seen.append((done, total)),
        log=lambda _: None,
    )
    manifest = registry.manifest(image)
    blobs = [manifest["config"], *manifest["layers"]]
    total_bytes = sum(blob["size"] for blob in blobs)
    counts = [done for done, _ in seen]
    assert counts == sorted(counts)
    assert {total for _, total in seen} == {total_bytes}
    assert counts[-1] == total_bytes
    assert any(0 < done < total_bytes for done in counts)


@pytest.mark.anyio
async def test_a_registry_that_is_down_or_was_never_there(out: Path) -> None:
    error = await failure(Registry(f"127.0.0.1:{free_port()}", plain_http=True), out)
    assert type(error) is errors.RegistryUnreachable
    assert error.retryable
    error = await failure(Registry("no-such-host.invalid"), out)
    assert type(error) is errors.RegistryUnknownHost


@pytest.mark.anyio
@pytest.mark.parametrize("how", ["lost", "damaged"])
async def test_a_layer_that_the_registry_lost_or_damaged(
    how: str, registry: RunningRegistry, out: Path
) -> None:
    archive = write_docker_archive(out.parent.parent / "archive", [MIB], seed=how)
    image = f"{registry.host}/broken/{how}:v1"
    copy(f"docker-archive:{archive.path}", f"docker://{image}")
    [layer] = registry.manifest(image)["layers"]
    name = layer["digest"].removeprefix("sha256:")
    [stored] = registry.storage.glob(f"**/blobs/sha256/*/{name}/data")
    if how == "lost":
        stored.unlink()
    else:
        body = stored.read_bytes()
        stored.write_bytes(body[: MIB // 2] + b"damaged" + body[MIB // 2 + 7 :])
    error = await failure(registry.registry(), out, image=f"broken/{how}:v1")
    assert type(error) is errors.ImageNotFound
    assert error.hint.startswith("Push the image again")


SICK: dict[str, tuple[int, str, type[BuildahError], str]] = {
    "denied": (403, '{"errors":[{"code":"DENIED"}]}', errors.RegistryForbidden, "right to pull"),
    "failing": (500, '{"errors":[{"code":"UNKNOWN"}]}', errors.RegistryError, "log"),
    "a web page": (200, "<html>hello</html>", errors.ImageUnsupported, ""),
    "schema 1": (200, '{"schemaVersion":1,"fsLayers":[]}', errors.ImageUnsupported, ""),
    "odd digests": (
        200,
        '{"schemaVersion":2,"config":{"digest":"sha256:../x","size":1,"mediaType":""},"layers":[]}',
        errors.ImageUnsupported,
        "",
    ),
}


@pytest.mark.anyio
@pytest.mark.parametrize("case", SICK)
async def test_what_a_sick_registry_answers_is_understood(case: str, out: Path) -> None:
    status, body, kind, hint = SICK[case]
    with SickRegistry(status, body, at="GET") as sick:
        error = await failure(Registry(sick.host, plain_http=True), out)
    assert type(error) is kind, error.message
    assert hint in error.hint


def test_a_registry_that_is_not_configured(registry: RunningRegistry, tmp_path: Path) -> None:
    for registries in ([], [row(registry) | {"repositories": ["other/*"]}]):
        ran = run_tusboat(
            tmp_path,
            *("export", f"{registry.host}/team/docker:v1", str(tmp_path / "out")),
            env=variables(*registries),
        )
        assert (ran.code, ran.stdout) == (1, "")
        assert "is not allowed" in ran.stderr
        assert "hint: " in ran.stderr
    assert not (tmp_path / "out").exists()


def test_wrong_usage(registry: RunningRegistry, tmp_path: Path) -> None:
    image, target = f"{registry.host}/team/multi:v1", str(tmp_path / "out")
    for arguments, words in {
        ("no-host", target): "host",
        (f"dir:{tmp_path}", target): "transport",
        (image,): "ARCHIVE",
        (image, target, "--all", "--format=docker-archive"): "one platform",
        (image, target, "--all", "--platform=linux/arm64"): "--platform",
        (image, target, "--platform=arm64"): "linux/amd64",
        (image, target, "--format=zip"): "oci-archive",
    }.items():
        ran = run_tusboat(tmp_path, "export", *arguments, env=variables(row(registry)))
        assert (ran.code, ran.stdout) == (2, ""), ran
        assert words in ran.stderr
    wrong = run_tusboat(tmp_path, "export", image, target, env=variables({"host": "no-host"}))
    assert wrong.code == 2
    assert "no-host" in wrong.stderr
    assert "Traceback" not in wrong.stderr


@pytest.mark.anyio
@pytest.mark.parametrize("form", list(ArchiveFormat))
async def test_a_disk_that_is_too_small_is_said_before_anything_is_pulled(
    form: ArchiveFormat, registry: RunningRegistry, images: dict[str, Archive], tmp_path: Path
) -> None:
    with tiny_disk(tmp_path / "disk", "150m") as disk:
        error = await failure(registry.registry(), disk / "a", image="team/large:v1", format=form)
    assert type(error) is errors.StorageFull
    assert "are needed" in error.message
    assert str(disk) in error.message
    assert "archive" not in error.hint


@pytest.mark.anyio
async def test_a_disk_that_fills_up_while_it_is_pulled(
    registry: RunningRegistry, images: dict[str, Archive], tmp_path: Path
) -> None:
    with tiny_disk(tmp_path / "disk", "500m") as disk:
        filler = disk / ".filler"

        def progress(_: int, _total: int) -> None:
            """The first word comes when skopeo was started."""
            if not filler.exists():
                fill(filler)

        with pytest.raises(errors.StorageFull, match="no room left") as failed:
            await export(
                ImageReference.parse(f"{registry.host}/team/large:v1"),
                registry.registry(),
                disk / "a",
                Wanted(),
                progress=progress,
                log=lambda _: None,
            )
        assert failed.value.hint.startswith("Make room there")
        assert left_in(disk) == [filler.name]


def fill(path: Path) -> None:
    """Take all the room of a disk on which somebody else is writing."""
    with path.open("wb") as file:
        size, taken = 512 * MIB, 0
        while size >= 4 * KIB:
            try:
                os.posix_fallocate(file.fileno(), taken, size)
                taken += size
            except OSError:
                size //= 2


# --- interrupted ---


@contextmanager
def held(registry: RunningRegistry, directory: Path) -> Iterator[None]:
    """Once something of an image is there, the registry gives no more."""
    wait_until(
        lambda: any(directory.glob(".tusboat-export-*/pulled/*")), seconds=60, what="it is pulled"
    )
    assert registry.process
    registry.process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        registry.process.send_signal(signal.SIGCONT)


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_it_leaves_nothing(
    number: signal.Signals,
    form: str,
    registry: RunningRegistry,
    images: dict[str, Archive],
    out: Path,
    tmp_path: Path,
) -> None:
    process = spawn_tusboat(
        tmp_path,
        *("export", "--format", form, f"{registry.host}/team/large:v1", str(out)),
        env=variables(row(registry)),
    )
    with held(registry, out.parent):
        process.send_signal(number)
        ran = finish(process)
    assert (ran.code, ran.stdout) == (130, ""), ran
    assert "interrupted" in ran.stderr
    assert left_in(out.parent) == []


def test_after_a_kill_the_next_export_takes_away_what_was_left(
    registry: RunningRegistry, images: dict[str, Archive], out: Path, tmp_path: Path
) -> None:
    process = spawn_tusboat(
        tmp_path,
        *("export", f"{registry.host}/team/large:v1", str(out)),
        env=variables(row(registry)),
    )
    with held(registry, out.parent):
        process.kill()
        finish(process)
    assert not out.exists()
    [dead] = out.parent.iterdir()
    # What somebody else has under way at this moment stays.
    alive = out.parent / ".tusboat-export-of-somebody"
    alive.mkdir()
    descriptor = os.open(alive, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        ran = tusboat_export(tmp_path, registry, "docker:v1", out)
        assert ran.code == 0, ran.stderr
        assert left_in(out.parent) == [alive.name, "a"]
        assert not dead.exists()
    finally:
        os.close(descriptor)


# --- manifests, by themselves ---


def descriptor(media_type: str, **more: Any) -> dict[str, Any]:
    return {"digest": f"sha256:{'a' * 64}", "size": 1, "mediaType": media_type, **more}


def test_a_platform_without_a_variant_is_any_and_one_with_it_that_one() -> None:
    rows = [
        descriptor("m", platform={"os": "linux", "architecture": "arm", "variant": variant})
        for variant in ("v6", "v7")
    ]
    about = descriptor("m", platform={"os": "unknown", "architecture": "unknown"})
    index = parse(json.dumps({"manifests": [about, *rows]}).encode())
    assert isinstance(index, Index)
    assert list(map(str, index.platforms)) == ["linux/arm/v6", "linux/arm/v7"]
    assert str(index.choose(Platform.parse("linux/arm/v7")).platform) == "linux/arm/v7"
    assert str(index.choose(Platform.parse("linux/arm")).platform) == "linux/arm/v6"
    for wanted in ("linux/arm/v5", "linux/amd64", "windows/arm"):
        with pytest.raises(errors.ImageNotFound, match="linux/arm/v7"):
            index.choose(Platform.parse(wanted))


@pytest.mark.parametrize("text", ["", "linux", "linux/", "Linux/amd64", "a/b/c/d", "linux/amd64 "])
def test_what_is_no_platform(text: str) -> None:
    with pytest.raises(ValueError, match="platform"):
        Platform.parse(text)


def test_what_oci_has_no_word_for() -> None:
    docker = "application/vnd.docker"
    document = {
        "schemaVersion": 2,
        "mediaType": f"{docker}.distribution.manifest.v2+json",
        "config": descriptor(f"{docker}.plugin.v1+json"),
        "layers": [],
    }
    manifest = parse(json.dumps(document).encode())
    assert isinstance(manifest, Manifest)
    with pytest.raises(errors.ImageUnsupported, match="plugin") as refused:
        manifest.as_oci()
    assert "docker-archive" in refused.value.hint
