"""A file system that cannot hold container storage is refused at start, with its name."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from buildah.delivery import delivering
from buildah.errors import StorageUnsuitable, TargetTaken
from buildah.place import require_suitable
from tests.archives import KIB, write_docker_archive
from tests.journeys import assert_image, ended, nothing_left, row, upload_by_tuspy
from tests.live import COMMAND, LiveServer, environment, run_tusboat, wait_until
from tests.object_storage import mounted
from tests.registries import RunningRegistry, needs_containers, plain_registry

__all__ = ["plain_registry"]

needs_root = pytest.mark.skipif(
    os.geteuid() != 0 or not Path("/dev/fuse").exists(), reason="needs root and /dev/fuse"
)


@contextmanager
def bucket(directory: Path, kind: str = "fuse.s3fs", **more: str) -> Iterator[Path]:
    """A mount that can do as much as most object stores do."""
    lacks = {"hard links", "symbolic links", "named pipes", "renames", "modes", "owners"}
    with mounted(directory, kind=kind, lacks=lacks, **more) as there:
        yield there


@pytest.mark.parametrize("driver", ["overlay", "vfs"])
def test_a_local_disk_will_do_and_nothing_of_the_trial_stays(tmp_path: Path, driver: str) -> None:
    require_suitable(tmp_path, driver)
    assert list(tmp_path.iterdir()) == []
    assert str(tmp_path) not in Path("/proc/self/mountinfo").read_text()


LACKS = {
    "case": "upper case",
    "hard links": "hard links",
    "symbolic links": "symbolic links",
    "named pipes": "named pipes",
    "renames": "renamed",
    "modes": "permissions",
    "owners": "owner",
    "locks": "locked",
}


@needs_root
@pytest.mark.parametrize("lacking", LACKS)
def test_what_a_file_system_lacks_is_said_with_its_name(tmp_path: Path, lacking: str) -> None:
    with mounted(tmp_path / "mount", kind="fuse.newfs", lacks={lacking}) as there:
        with pytest.raises(StorageUnsuitable, match=rf"fuse\.newfs.*{LACKS[lacking]}") as refused:
            require_suitable(there, "vfs")
        assert refused.value.hint
        assert list(there.iterdir()) == []


@needs_root
def test_one_in_user_space_that_lacks_nothing_is_taken_by_vfs_and_not_by_overlay(
    tmp_path: Path,
) -> None:
    """JuiceFS and its like are object storage with everything a file system has."""
    with mounted(tmp_path / "mount", kind="fuse.juicefs") as there:
        require_suitable(there, "vfs")
        with pytest.raises(StorageUnsuitable, match=r"overlay cannot work.*fuse\.juicefs"):
            require_suitable(there, "overlay")
        assert list(there.iterdir()) == []


@needs_root
def test_an_engine_without_a_storage_needs_less(tmp_path: Path) -> None:
    """No overlay, no owners: it unpacks layouts, and no layers."""
    lacks = {"hard links", "named pipes", "owners", "modes"}
    settings = {"TUSBOAT_PORT": "0", "TUSBOAT_DATA_DIR": str(tmp_path / "mount" / "data")}
    with mounted(tmp_path / "mount", kind="fuse.newfs", lacks=lacks) as there:
        require_suitable(there, None)
        ran = run_tusboat(tmp_path, "serve", env=settings)
        assert ran.code == 2, ran
    with (
        mounted(tmp_path / "mount2", kind="fuse.newfs", lacks={"symbolic links"}) as there,
        pytest.raises(StorageUnsuitable, match="symbolic links"),
    ):
        require_suitable(there, None)


@needs_root
@pytest.mark.parametrize(
    ("kind", "source", "name"),
    [
        ("fuse.s3fs", "s3fs", "fuse.s3fs, is object storage"),
        ("fuse.rclone", "minio:bucket", "fuse.rclone, is object storage"),
        ("fuse", "mountpoint-s3", r"fuse \(mountpoint-s3\), is object storage"),
        # Nothing tells what this is, but it shows.
        ("fuse", "bucket", r"fuse \(bucket\), cannot hold images: there are no hard links"),
    ],
)
def test_object_storage_is_refused_by_its_name_or_by_what_it_lacks(
    tmp_path: Path, kind: str, source: str, name: str
) -> None:
    with (
        bucket(tmp_path / "mount", kind, source=source) as there,
        pytest.raises(StorageUnsuitable, match=name) as refused,
    ):
        require_suitable(there, "vfs")
    assert "local disk" in refused.value.hint


@needs_root
@pytest.mark.parametrize("command", ["serve", "worker"])
@pytest.mark.parametrize("driver", ["overlay", "vfs"])
def test_serve_and_worker_do_not_start_on_it(tmp_path: Path, command: str, driver: str) -> None:
    with bucket(tmp_path / "mount") as there:
        settings = {"TUSBOAT_DATA_DIR": str(there / "data"), "TUSBOAT_PORT": "0"}
        settings["TUSBOAT_STORAGE_DRIVER"] = driver
        ran = run_tusboat(tmp_path, command, env=settings)
        assert ran.code == 2, ran
        assert "fuse.s3fs, is object storage" in ran.stderr
        assert "local disk" in ran.stderr
        assert "Traceback" not in ran.stderr
        assert sorted(one.name for one in (there / "data").iterdir()) == ["jobs", "uploads"]


@needs_root
def test_the_jobs_place_counts_also_where_uploads_have_a_better_one(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    with bucket(tmp_path / "data" / "jobs"):
        ran = run_tusboat(tmp_path, "serve", env={"TUSBOAT_DATA_DIR": str(tmp_path / "data")})
    assert ran.code == 2, ran
    assert f"{tmp_path}/data/jobs" in ran.stderr
    assert "fuse.s3fs" in ran.stderr


@needs_root
def test_who_only_receives_may_start_there(tmp_path: Path) -> None:
    """The jobs are another machine's, which will see for itself."""
    (tmp_path / "data").mkdir()
    with (
        bucket(tmp_path / "data" / "jobs"),
        LiveServer(tmp_path, data_dir=tmp_path / "data", run_worker=False) as server,
    ):
        assert server.ready()


@needs_containers
def test_vfs_works_in_user_space(plain_registry: RunningRegistry, tmp_path: Path) -> None:
    """From upload to registry on a file system that overlay cannot use."""
    archive = write_docker_archive(tmp_path / "a", [64 * KIB, 5000])
    with (
        mounted(tmp_path / "mount", kind="fuse.juicefs") as there,
        LiveServer(
            tmp_path,
            data_dir=there / "data",
            registries=[row(plain_registry)],
            storage_driver="vfs",
        ) as server,
    ):
        image = f"{plain_registry.host}/team/app:v1"
        document = ended(server, upload_by_tuspy(server, archive.path, {"image": image}))
        assert_image(plain_registry, archive, document)
        assert nothing_left(server)


# --- overlay ---


@needs_root
def test_an_overlay_upon_a_file_system_that_cannot_hold_one(tmp_path: Path) -> None:
    """The kind of root that a container has."""
    lower, upper, work, there = (tmp_path / name for name in ("l", "u", "w", "there"))
    for directory in (lower, upper, work, there):
        directory.mkdir()
    options = f"lowerdir={lower},upperdir={upper},workdir={work}"
    subprocess.run(["mount", "-t", "overlay", "-o", options, "overlay", str(there)], check=True)
    try:
        require_suitable(there, "vfs")
        with pytest.raises(StorageUnsuitable, match="overlay cannot work on its file system"):
            require_suitable(there, "overlay")
        ran = run_tusboat(tmp_path, "serve", env={"TUSBOAT_DATA_DIR": str(there / "data")})
        assert ran.code == 2, ran
        assert "storage driver vfs" in ran.stderr
    finally:
        subprocess.run(["umount", "--lazy", str(there)], check=True)


@needs_root
def test_a_missing_right_to_mount_is_told_and_refuses_nobody(tmp_path: Path) -> None:
    """Whoever sends no images needs none; the doctor says it, too."""
    log = tmp_path / "log"
    server = LiveServer(tmp_path)
    with log.open("wb") as out:
        process = subprocess.Popen(
            ["setpriv", "--bounding-set", "-sys_admin", *COMMAND, "serve"],
            env=server.env | environment(tmp_path),
            stdout=out,
            stderr=out,
        )
    try:
        wait_until(server.ready, seconds=60, what="it serves")
    finally:
        process.terminate()
        process.wait(30)
    assert "may not mount an overlay" in log.read_text()
    assert 'storage_driver = "vfs"' in log.read_text()


@needs_root
@pytest.mark.parametrize("overwrite", [False, True])
def test_an_export_to_a_place_without_hard_links(tmp_path: Path, overwrite: bool) -> None:
    with bucket(tmp_path / "mount") as there:
        with delivering(there / "a", overwrite=overwrite) as delivery:
            made = delivery.directory / "made"
            made.write_text("mine")
            delivery.finish(made)
        assert (there / "a").read_text() == "mine"
        if not overwrite:
            with delivering(there / "b", overwrite=False) as delivery:
                (there / "b").write_text("somebody else's")
                made = delivery.directory / "made"
                made.write_text("mine")
                with pytest.raises(TargetTaken):
                    delivery.finish(made)
            assert (there / "b").read_text() == "somebody else's"
