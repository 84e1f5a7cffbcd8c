"""The image: what its Containerfile says; built by `make image`, looked into and put to work."""

from __future__ import annotations

import hashlib
import io
import json
import re
import shutil
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

import psutil  # type: ignore[import-untyped]
import pytest

from server.settings import Settings
from tests.archives import (
    Archive,
    write_corrupt_layer,
    write_docker_archive,
    write_oci_archive,
)
from tests.contexts import base_archive, files_of_image, push_base_image, write_context
from tests.images import (
    ABSENT_MIRROR,
    BUILT,
    SOURCES,
    Image,
    ImageServer,
    ImageStore,
    debian_archive,
)
from tests.journeys import (
    MIB,
    assert_image,
    ended,
    nothing_left,
    row,
    running_step,
    upload_by_tuspy,
)
from tests.live import ROOT, wait_until
from tests.raw import ask, status
from tests.registries import RunningRegistry, missing_programs, needs_containers, serving
from tests.snapshots import Snapshots

__all__ = ["base_archive"]

IMAGES = ROOT / "buildah" / "images"
# What Debian had for its next release when this was written; it only grows.
BUILDAH_AT_LEAST = (1, 43, 2)
USER = 1000
README = (IMAGES / "README.md").read_text()
# Any: what keeps snapshots here has today's packages in each.
SNAPSHOT = "20260102T030405Z"


def instructions() -> list[tuple[str, str]]:
    """The instructions of the Containerfile, without comments."""
    lines = (IMAGES / "debian" / "Containerfile").read_text().splitlines()
    text = "\n".join(line for line in lines if not line.lstrip().startswith("#"))
    rows = (line.partition(" ") for line in text.replace("\\\n", "").splitlines() if line)
    return [(word, " ".join(rest.split())) for word, _, rest in rows]


def default_base() -> str:
    """What the image is built on when nobody says otherwise."""
    [(_, base), *_] = [row for row in instructions() if row[0] == "ARG"]
    return base.removeprefix("BASE=")


def test_the_settings_that_an_image_sets_are_there() -> None:
    [environment] = [rest for word, rest in instructions() if "TUSBOAT_" in rest]
    named = re.findall(r"TUSBOAT_(\w+)=", environment)
    assert set(named) == {"DATA_DIR", "HOST"}
    assert {name.lower() for name in named} <= set(Settings.model_fields)


def test_every_build_argument_is_explained_and_is_a_variable_of_make() -> None:
    there = {rest.partition("=")[0] for word, rest in instructions() if word == "ARG"}
    assert set(re.findall(r"^\| `([A-Z_]+)` \|", README, re.M)) == there
    passed = re.search(r"^BUILD_ARGS := (.*)$", (ROOT / "Makefile").read_text(), re.M)
    assert passed
    assert set(passed[1].split()) == there


# --- the image, built ---

built = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    needs_containers,
    pytest.mark.skipif(bool(missing_programs("debootstrap")), reason="needs debootstrap"),
]


def marked(test: object) -> object:
    for mark in built:
        test = mark(test)
    return test


@pytest.fixture(scope="module")
def snapshots() -> Iterator[Snapshots]:
    with Snapshots(debian_archive()[0]) as running:
        yield running


@pytest.fixture(scope="module")
def store(snapshots: Snapshots, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ImageStore]:
    suite = re.fullmatch(r"debian:(\w+)-slim", default_base())
    assert suite
    with ImageStore(tmp_path_factory.mktemp("images") / "store") as store:
        store.bootstrap(suite[1])
        store.build(APT_MIRROR=snapshots.mirror, SNAPSHOT=SNAPSHOT)
        yield store


@pytest.fixture(scope="module")
def image(store: ImageStore) -> Image:
    return store.image()


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningRegistry]:
    with serving(tmp_path_factory.mktemp("registry")) as running:
        yield running


@pytest.fixture
def data(tmp_path: Path) -> Path:
    directory = tmp_path / "volume"
    directory.mkdir()
    shutil.chown(directory, USER, USER)
    return directory


@pytest.mark.parametrize("program", ["tusboat", "buildah", "skopeo", "redis-server"])
@marked
def test_its_programs_run_as_its_user(program: str, image: Image, data: Path) -> None:
    script = 'id -u && exec "$0" --version'
    ran = image.run(data, "sh", "-c", script, program)
    assert ran.returncode == 0, ran.stderr
    uid, version = ran.stdout.split("\n", 1)
    assert uid == str(USER)
    assert re.search(r"\d+\.\d+", version)
    if program == "buildah":
        found = re.search(r"(\d+)\.(\d+)\.(\d+)", version)
        assert found
        assert tuple(map(int, found.groups())) >= BUILDAH_AT_LEAST


@marked
def test_it_has_what_a_user_without_rights_needs(image: Image, data: Path) -> None:
    """newuidmap works by its file capability: nothing in the image is setuid for it."""
    for name in ("newuidmap", "newgidmap"):
        assert image.root.joinpath("usr/bin", name).stat().st_mode & 0o7777 == 0o755
    ran = image.run(data, "buildah", "unshare", "cat", "/proc/self/uid_map", "/proc/self/gid_map")
    rows = [line.split() for line in ran.stdout.splitlines()]
    ids = [["0", "1000", "1"], ["1", "1", "999"], ["1000", "1001", "64535"]]
    assert rows == [*ids, *ids], ran.stderr


@marked
def test_it_has_the_console(image: Image) -> None:
    assert list(
        image.root.glob("opt/tusboat/lib/python3*/site-packages/server/console/dist/index.html")
    )


@marked
def test_it_has_nothing_that_only_the_build_needed(image: Image) -> None:
    names = {
        str(path.relative_to(image.root))
        for pattern in (
            *("usr/bin/*gcc*", "usr/bin/cc", "usr/bin/go", "usr/bin/setcap", "usr/sbin/setcap"),
            *("opt/tusboat/**/pip", "usr/lib/python3/dist-packages/pip", "**/*.whl", "build"),
            *("source", "wheel", "root/.cache", "root/.config", "var/lib/apt/lists/*"),
            *("var/cache/apt/archives/*.deb", "usr/sbin/policy-rc.d", "tmp/*"),
            *("opt/tusboat/**/buildah/images", "usr/bin/*strip", "usr/bin/dirmngr"),
            *("usr/libexec/buildah/*", "usr/share/man/man*/*"),
        )
        for path in image.root.glob(pattern)
    }
    assert names == set()
    # dpkg leaves links, which lead nowhere then.
    assert not [path for path in image.root.glob("usr/share/doc/*/changelog*") if path.is_file()]
    assert list(image.root.glob("usr/share/doc/buildah/copyright"))
    sources = (image.root / SOURCES).read_text()
    assert ABSENT_MIRROR in sources
    assert SNAPSHOT not in sources
    assert not [variable for variable in image.config["Env"] if "MIRROR" in variable]


@marked
def test_its_packages_come_from_the_snapshot(snapshots: Snapshots, image: Image) -> None:
    suite = default_base().partition(":")[2].removesuffix("-slim")
    assert f"/archive/debian/{SNAPSHOT}/dists/{suite}/InRelease" in snapshots.asked
    below = re.compile(rf"/archive/debian(-security)?/{SNAPSHOT}/.*")
    assert [path for path in snapshots.asked if not below.fullmatch(path)] == []
    assert any("/buildah_" in path for path in snapshots.asked)


@pytest.mark.parametrize(
    ("environment", "sentence"),
    [
        ({"SNAPSHOT": SNAPSHOT}, "APT_MIRROR has to name an archive that keeps snapshots"),
        ({"SNAPSHOT": "yesterday", "APT_MIRROR": ABSENT_MIRROR}, "not of the form"),
    ],
)
@marked
def test_a_snapshot_that_cannot_be_is_refused(
    environment: dict[str, str], sentence: str, image: Image, data: Path
) -> None:
    # In the image, where the script can change nothing.
    script = (IMAGES / "debian" / "packages").read_text()
    ran = image.run(data, "sh", "-c", script, "packages", "hello", env=environment)
    assert ran.returncode == 2
    assert sentence in ran.stderr


@marked
def test_it_is_as_small_as_its_readme_says(image: Image) -> None:
    said = re.search(r"^\| all of it \| ([\d]+) \|", README, re.M)
    assert said
    du = ["du", "-xsk", "--apparent-size", image.root]
    size = int(subprocess.run(du, capture_output=True, text=True, check=True).stdout.split()[0])
    # Debian's packages grow a little from day to day; a tenth is what came in unseen.
    assert size / 1000 == pytest.approx(int(said[1]), rel=0.1)


@marked
def test_make_pushes_it(store: ImageStore, image: Image, registry: RunningRegistry) -> None:
    store.make(
        "image-push", TO=f"{registry.host}/tusboat:1", PUSH_ARGS="--tls-verify=false --quiet"
    )
    there = registry.config_digest(f"{registry.host}/tusboat:1")
    assert there == store.buildah("images", "--quiet", "--no-trunc", BUILT).removeprefix("sha256:")


@marked
def test_it_refuses_to_serve_everyone(image: Image, data: Path) -> None:
    """What it starts by itself is reachable from outside, so it wants to know its callers."""
    ran = image.run(data, *image.config["Entrypoint"], *image.config["Cmd"])
    assert ran.returncode == 2
    assert "refusing to listen beyond loopback" in ran.stderr
    assert "tokens_file" in ran.stderr


@marked
def test_the_doctor_is_content_with_it(image: Image, data: Path) -> None:
    ran = image.run(data, "tusboat", "doctor", "--json", env={"TUSBOAT_BUILDS": "true"})
    assert ran.returncode == 0, ran.stdout
    checks = {row["name"]: row for row in json.loads(ran.stdout)["checks"]}
    for name in ("netavark", "storage driver overlay", "sandbox for builds"):
        assert checks[name]["ok"], checks[name]


def write_owned(path: Path, size_bytes: int = 0) -> Archive:
    """An image whose files belong to several users, in directories that only these may change."""
    layer = io.BytesIO()
    with tarfile.open(fileobj=layer, mode="w") as tar:
        for name, owner, mode in (("var", 33, 0o700), ("var/sub", 65534, 0o500)):
            entry = tarfile.TarInfo(name)
            entry.type, entry.uid, entry.gid, entry.mode = tarfile.DIRTYPE, owner, owner, mode
            tar.addfile(entry)
        entry = tarfile.TarInfo("var/sub/file")
        entry.uid, entry.gid, entry.mode, entry.size = 1000, 1000, 0o400, size_bytes
        tar.addfile(entry, io.BytesIO(bytes(size_bytes)))
    diff_id = hashlib.sha256(layer.getvalue()).hexdigest()
    config = {
        "architecture": "amd64",
        "os": "linux",
        "config": {},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{diff_id}"]},
    }
    blob = json.dumps(config).encode()
    image_id = hashlib.sha256(blob).hexdigest()
    rows = [{"Config": f"{image_id}.json", "RepoTags": ["a:1"], "Layers": [f"{diff_id}.tar"]}]
    files = {
        f"{diff_id}.tar": layer.getvalue(),
        f"{image_id}.json": blob,
        "manifest.json": json.dumps(rows).encode(),
    }
    with tarfile.open(path, "w") as tar:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return Archive(path, image_id, "a:1")


@pytest.fixture(
    params=[(USER, "overlay"), (USER, "vfs"), (0, "overlay")],
    ids=["user-overlay", "user-vfs", "root-overlay"],
)
def server(
    request: pytest.FixtureRequest, image: Image, registry: RunningRegistry, tmp_path: Path
) -> Iterator[ImageServer]:
    user, driver = request.param
    settings = {"registries": [row(registry)], "storage_driver": driver, "builds": True}
    with ImageServer(image, tmp_path, user=user, **settings) as running:
        yield running


@marked
def test_it_carries_images_into_a_registry(
    server: ImageServer, registry: RunningRegistry, tmp_path: Path
) -> None:
    archives = {
        "docker": write_docker_archive(tmp_path / "docker", [3 * MIB, MIB], seed="image"),
        "oci": write_oci_archive(tmp_path / "oci", [MIB], seed="image", gzipped=True),
        "owned": write_owned(tmp_path / "owned"),
    }
    for name, archive in archives.items():
        target = f"{registry.host}/{name}:{server.port}"
        document = ended(server, upload_by_tuspy(server, archive.path, {"image": target}))
        assert_image(registry, archive, document)
        assert document["results"][0]["platforms"] == ["linux/amd64"]
    broken = write_corrupt_layer(tmp_path / "broken")
    target = {"image": f"{registry.host}/broken:1"}
    document = ended(server, upload_by_tuspy(server, broken.path, target))
    assert document["error"]["code"] == "archive_corrupt"
    assert nothing_left(server)
    zombies = [
        process
        for process in server.first.children(recursive=True)
        if process.status() == psutil.STATUS_ZOMBIE
    ]
    assert zombies == []
    assert server.stop() == 0


@marked
def test_it_builds_images(
    server: ImageServer, registry: RunningRegistry, base_archive: Path, tmp_path: Path
) -> None:
    base = push_base_image(registry, base_archive, "library/base:1")
    steps = f"FROM {base} AS one\nRUN id -u > /made\nFROM scratch\nCOPY --from=one /made /made\n"
    context = write_context(tmp_path / "context", {"Containerfile": steps})
    target = f"{registry.host}/built:{server.port}"
    document = ended(server, upload_by_tuspy(server, context, {"image": target}))
    assert document["status"] == "done", document
    assert files_of_image(registry, target, tmp_path / "pulled") == {"made": b"0\n"}
    assert nothing_left(server)


@marked
def test_kill_9_of_everything_leaves_nothing_that_others_own(
    image: Image, registry: RunningRegistry, tmp_path: Path
) -> None:
    """With the first process all others are gone; what they left is the next start's to remove."""
    archive = write_owned(tmp_path / "archive", 300 * MIB)
    server = ImageServer(image, tmp_path, user=USER, registries=[row(registry)])

    def foreign() -> bool:
        # It changes while it is walked through.
        find = ["find", server.data_dir / "jobs", "-uid", "33"]
        return bool(subprocess.run(find, capture_output=True, check=False).stdout)

    with server:
        target = {"image": f"{registry.host}/killed:{server.port}"}
        upload = upload_by_tuspy(server, archive.path, target, chunk_bytes=64 * MIB)
        wait_until(foreign, what="something that is another user's")
        server.kill()
        assert foreign()
        server.start()
        assert_image(registry, archive, ended(server, upload))
        assert not foreign()
        assert nothing_left(server)


@marked
def test_it_says_how_far_it_is_and_can_be_cancelled(
    server: ImageServer, registry: RunningRegistry, tmp_path: Path
) -> None:
    """With the image's buildah: its temporary files are what progress is read from."""
    archive = write_docker_archive(tmp_path / "archive", 3 * [200 * MIB], seed="progress")
    target = {"image": f"{registry.host}/progress:{server.port}"}
    for step in ("load", "push"):
        upload = upload_by_tuspy(server, archive.path, target, chunk_bytes=64 * MIB)

        def halfway(upload: str = upload, step: str = step) -> bool:
            rows = {row["name"]: row for row in status(server.port, upload)["steps"]}
            assert rows[step]["state"] in ("waiting", "running"), rows
            return bool(0 < rows[step]["bytes_done"] < rows[step]["bytes_total"])

        wait_until(halfway, seconds=60, what=f"{step} is on its way")
        assert running_step(server, upload) == step
        cancel = f"/api/uploads/{upload.rsplit('/', 1)[-1]}/cancel"
        assert ask(server.port, "POST", cancel).status == 200
        assert ended(server, upload)["status"] == "canceled"
    assert registry.tags("progress").count(str(server.port)) == 0
    assert nothing_left(server)
