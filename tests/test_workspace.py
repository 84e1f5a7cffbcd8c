from __future__ import annotations

import fcntl
import logging
import os
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from buildah.errors import StorageFull, StorageUnsuitable, WorkspaceBusy
from buildah.place import refuse_unsuitable
from buildah.removal import Mount, mounts, parse_mounts, remove_tree
from buildah.workspace import Workspace, sweep_workspaces
from tests.live import wait_until

JOB = "0123456789abcdef0123456789abcdef"
ROOT = Path(__file__).resolve().parent.parent

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")

HOLDER = """
import sys, time
from pathlib import Path
from buildah.workspace import Workspace
workspace = Workspace.open(Path(sys.argv[1]), sys.argv[2], storage_driver="vfs")
print("open", flush=True)
time.sleep(1000)
"""


@pytest.fixture
def jobs(tmp_path: Path) -> Path:
    return tmp_path / "jobs"


@pytest.fixture
def holder(jobs: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that has the workspace open."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(jobs), JOB],
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    with process:
        assert process.stdout
        assert process.stdout.readline() == "open\n"
        yield process
        process.kill()


def mounted_below(directory: Path) -> list[Path]:
    return [row.path for row in mounts() if row.path.is_relative_to(directory)]


def mount(*arguments: str | Path) -> None:
    subprocess.run(["mount", *map(str, arguments)], check=True)


def test_a_workspace_is_there_while_it_is_open_and_gone_afterwards(jobs: Path) -> None:
    with Workspace.open(jobs, JOB, storage_driver="overlay") as workspace:
        assert workspace.directory == jobs / JOB
        assert stat.S_IMODE(workspace.directory.stat().st_mode) == 0o700
        assert stat.S_IMODE(jobs.stat().st_mode) == 0o700
        assert Path(workspace.env["TMPDIR"]).is_dir()
        assert Path(workspace.env["HOME"]).is_relative_to(workspace.directory)
        assert 'driver = "overlay"' in Path(workspace.env["CONTAINERS_STORAGE_CONF"]).read_text()
        assert set(workspace.env) == {
            "PATH",
            "HOME",
            "TMPDIR",
            "XDG_DATA_HOME",
            "XDG_RUNTIME_DIR",
            "CONTAINERS_REGISTRIES_CONF",
            "CONTAINERS_STORAGE_CONF",
        }
    assert list(jobs.iterdir()) == []
    workspace.close()


@pytest.mark.parametrize("job_id", ["", "..", ".x", "a/b", "-x", "a.lock", "a b", "x" * 65])
def test_an_id_that_could_be_a_path_is_refused(jobs: Path, job_id: str) -> None:
    with pytest.raises(ValueError, match="not a job id"):
        Workspace.open(jobs, job_id, storage_driver="vfs")
    assert not jobs.exists()


def test_it_can_be_open_once_in_a_process(jobs: Path) -> None:
    with Workspace.open(jobs, JOB, storage_driver="vfs"):
        with pytest.raises(WorkspaceBusy) as refused:
            Workspace.open(jobs, JOB, storage_driver="vfs")
        assert refused.value.retryable
        assert sweep_workspaces(jobs) == []
        with Workspace.open(jobs, "other", storage_driver="vfs"):
            pass
    with Workspace.open(jobs, JOB, storage_driver="vfs"):
        pass


def test_it_can_be_open_in_one_process(jobs: Path, holder: subprocess.Popen[str]) -> None:
    with pytest.raises(WorkspaceBusy):
        Workspace.open(jobs, JOB, storage_driver="vfs")
    assert sweep_workspaces(jobs) == []
    assert (jobs / JOB / "tmp").is_dir()


def test_after_a_kill_it_is_free_at_once_and_swept(
    jobs: Path, holder: subprocess.Popen[str]
) -> None:
    (jobs / JOB / "tmp" / "left").write_text("behind")
    holder.kill()
    holder.wait()
    assert sweep_workspaces(jobs) == [JOB]
    assert list(jobs.iterdir()) == []


def test_after_a_kill_it_can_be_opened_afresh(jobs: Path, holder: subprocess.Popen[str]) -> None:
    left = jobs / JOB / "tmp" / "left"
    left.write_text("behind")
    holder.kill()
    holder.wait()
    with Workspace.open(jobs, JOB, storage_driver="vfs"):
        assert not left.exists()


def test_a_program_started_meanwhile_does_not_keep_it_locked(jobs: Path) -> None:
    workspace = Workspace.open(jobs, JOB, storage_driver="vfs")
    with subprocess.Popen(["sleep", "1000"], close_fds=False) as child:
        try:
            workspace.close()
            Workspace.open(jobs, JOB, storage_driver="vfs").close()
        finally:
            child.kill()


def test_the_lock_is_the_kernels(jobs: Path) -> None:
    with Workspace.open(jobs, JOB, storage_driver="vfs"):
        lock = next(jobs.glob("*.lock"))
        found = [line for line in Path("/proc/locks").read_text().splitlines() if "OFDLCK" in line]
        assert any(f":{lock.stat().st_ino} " in line for line in found)


def test_opening_and_sweeping_at_once_never_hurts_who_has_it_open(jobs: Path) -> None:
    stop = threading.Event()
    opened = 0

    def sweep() -> None:
        while not stop.is_set():
            sweep_workspaces(jobs)

    sweepers = [threading.Thread(target=sweep) for _ in range(3)]
    for thread in sweepers:
        thread.start()
    try:
        for _ in range(200):
            try:
                workspace = Workspace.open(jobs, JOB, storage_driver="vfs")
            except WorkspaceBusy:
                continue
            opened += 1
            (workspace.tmp / "mine").write_text("x")
            assert (workspace.tmp / "mine").read_text() == "x"
            workspace.close()
    finally:
        stop.set()
        for thread in sweepers:
            thread.join()
    assert opened > 20
    assert list(jobs.iterdir()) == []


def test_a_sweep_leaves_what_is_not_a_workspace(jobs: Path) -> None:
    assert sweep_workspaces(jobs) == []
    (jobs / "lost+found").mkdir(parents=True)
    (jobs / "without-lock" / "tmp").mkdir(parents=True)
    (jobs / "only-a-lock.lock").touch()
    assert sweep_workspaces(jobs) == ["only-a-lock", "without-lock"]
    assert [entry.name for entry in jobs.iterdir()] == ["lost+found"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make a file immutable")
def test_a_workspace_that_cannot_be_removed_does_not_keep_the_others(
    jobs: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("a", "b"):
        (jobs / name).mkdir(parents=True)
    stuck = jobs / "a" / "stuck"
    stuck.touch()
    descriptor = os.open(stuck, os.O_RDONLY)
    try:
        _set_immutable(descriptor, True)
        with caplog.at_level(logging.WARNING):
            assert sweep_workspaces(jobs) == ["b"]
        assert "job_id=a" in caplog.text
    finally:
        _set_immutable(descriptor, False)
        os.close(descriptor)
    assert sweep_workspaces(jobs) == ["a"]


def _set_immutable(descriptor: int, wanted: bool) -> None:
    """FS_IOC_GETFLAGS and FS_IOC_SETFLAGS; FS_IMMUTABLE_FL is 0x10."""
    flags = int.from_bytes(fcntl.ioctl(descriptor, 0x80086601, bytes(8)), sys.byteorder)
    flags = flags | 0x10 if wanted else flags & ~0x10
    fcntl.ioctl(descriptor, 0x40086602, flags.to_bytes(8, sys.byteorder))


@needs_root
def test_mounts_in_it_go_the_latest_first(jobs: Path) -> None:
    workspace = Workspace.open(jobs, JOB, storage_driver="vfs")
    outer = workspace.tmp / "a b"
    outer.mkdir()
    mount("-t", "tmpfs", "tmpfs", outer)
    mount("-t", "tmpfs", "tmpfs", outer)
    (outer / "inner").mkdir()
    mount("--bind", workspace.home, outer / "inner")
    # Somebody stands in it.
    with (outer / "inner" / "open").open("w"):
        workspace.close()
    assert mounted_below(jobs) == []
    assert list(jobs.iterdir()) == []


@needs_root
def test_a_mount_elsewhere_with_the_same_beginning_stays(jobs: Path) -> None:
    other = jobs / f"{JOB}-other"
    other.mkdir(parents=True)
    mount("-t", "tmpfs", "tmpfs", other)
    try:
        Workspace.open(jobs, JOB, storage_driver="vfs").close()
        assert mounted_below(jobs) == [other]
    finally:
        subprocess.run(["umount", str(other)], check=True)


def test_a_tree_of_any_shape_is_removed(tmp_path: Path) -> None:
    """A layer can hold a tree deeper than paths, and recursion, can go."""
    top = tmp_path / "top"
    top.mkdir()
    descriptor = os.open(top, os.O_RDONLY)
    for _ in range(3000):
        os.mkdir("d" * 10, dir_fd=descriptor)
        below = os.open("d" * 10, os.O_RDONLY, dir_fd=descriptor)
        os.close(descriptor)
        descriptor = below
    os.close(descriptor)
    (top / "link").symlink_to(tmp_path)
    (top / "dangling").symlink_to("/nowhere")
    os.mkfifo(top / "pipe")
    (top / os.fsdecode(b"\xff\n")).mkdir()
    (top / "~0").mkdir()
    (top / "x").mkdir()
    (top / "x" / "~1").mkdir()
    (tmp_path / "stays").touch()
    remove_tree(top)
    assert [entry.name for entry in tmp_path.iterdir()] == ["stays"]
    remove_tree(top)


def test_a_link_is_removed_and_what_it_names_stays(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "file").touch()
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    remove_tree(tmp_path / "link")
    assert [entry.name for entry in tmp_path.iterdir()] == ["elsewhere"]
    assert (tmp_path / "elsewhere" / "file").exists()


NOBODY = """
import os, sys
from pathlib import Path
from buildah.removal import remove_tree
os.setgid(65534); os.setuid(65534)
top = Path(sys.argv[1])
for name in ("a", "a/b", "a/b/c"):
    (top / name).mkdir()
    (top / name / "file").touch(mode=0o400)
for name in ("a/b/c", "a/b", "a"):
    (top / name).chmod(0o000 if name == "a/b" else 0o500)
remove_tree(top / "a")
print(list(top.iterdir()))
"""


@needs_root
def test_directories_that_may_not_be_changed_are_removed_without_root_too() -> None:
    top = Path("/tmp", f"read-only-{os.getpid()}")  # noqa: S108 - nobody may enter tmp_path
    top.mkdir()
    try:
        os.chown(top, 65534, 65534)
        shown = subprocess.run(
            [sys.executable, "-c", NOBODY, str(top)],
            capture_output=True,
            text=True,
            check=False,
            cwd=ROOT,
        )
        assert shown.stdout == "[]\n", shown.stderr
    finally:
        remove_tree(top)


def test_what_appears_while_it_is_removed_goes_too(tmp_path: Path) -> None:
    """A process that is being killed may still write for a moment."""
    top = tmp_path / "top"
    stop = threading.Event()

    def write() -> None:
        number = 0
        while not stop.is_set():
            number += 1
            try:
                (top / "d").mkdir(parents=True, exist_ok=True)
                (top / "d" / str(number)).touch()
            except OSError:
                pass

    writer = threading.Thread(target=write)
    writer.start()
    wait_until((top / "d").exists, what="it writes")
    timer = threading.Timer(0.3, stop.set)
    timer.start()
    remove_tree(top)
    timer.join()
    writer.join()
    remove_tree(top)
    assert not top.exists()


MOUNTINFO = """\
1 0 8:1 / / rw - ext4 /dev/sda rw
2 1 8:2 / /data rw - xfs /dev/sdb rw
3 2 0:5 / /data/s3 rw,nosuid shared:1 - fuse.s3fs s3fs rw
4 2 0:6 / /data/nfs rw master:2 - nfs4 server:/x rw
5 2 0:7 / /data/with\\040space rw - fuse.geesefs b rw
6 2 0:8 / /data/twice rw - fuse.s3fs b rw
7 6 0:9 / /data/twice rw - ext4 /dev/sdc rw
8 2 0:10 / /data/layers rw - overlay overlay rw
9 2 0:11 / /data/fuse rw - fuse.fuse-overlayfs f rw
10 2 0:12 / /data/aws rw - fuse mountpoint-s3 rw
11 2 0:13 / /data/goofys rw - fuse goofys#bucket rw
12 2 0:14 / /data/juice rw - fuse.juicefs JuiceFS:x rw
13 2 0:15 / /data/bare rw - fuse bucket rw
"""


@pytest.mark.parametrize(
    ("directory", "driver", "refused"),
    [
        ("/data/jobs", "overlay", None),
        ("/data/s3/jobs", "vfs", "fuse.s3fs"),
        ("/data/s3/jobs", "overlay", "fuse.s3fs"),
        ("/data/s3x/jobs", "overlay", None),
        ("/data/with space/jobs", "vfs", "fuse.geesefs"),
        ("/data/twice/jobs", "vfs", None),
        ("/data/nfs/jobs", "vfs", None),
        ("/data/nfs/jobs", "overlay", "nfs4"),
        ("/data/layers", "overlay", "overlay"),
        ("/data/layers", "vfs", None),
        ("/data/fuse", "overlay", "fuse.fuse-overlayfs"),
        ("/data/fuse", "vfs", None),
        ("/data/aws/jobs", "vfs", r"fuse \(mountpoint-s3\), is object storage"),
        ("/data/goofys/jobs", "vfs", r"fuse \(goofys#bucket\), is object storage"),
        ("/data/juice/jobs", "overlay", "fuse.juicefs"),
        ("/data/juice/jobs", "vfs", None),
        ("/data/bare/jobs", "overlay", r"fuse \(bucket\)"),
        ("/data/bare/jobs", "vfs", None),
        ("/data/a:b", "overlay", "a colon, a comma or a backslash"),
        ("/data/a,b", "overlay", "a colon, a comma or a backslash"),
        ("/data/a\\b", "overlay", "a colon, a comma or a backslash"),
        ("/data/a:b", "vfs", None),
    ],
)
def test_a_place_that_cannot_hold_images_is_refused_with_the_reason(
    directory: str, driver: str, refused: str | None
) -> None:
    mounted = parse_mounts(MOUNTINFO)
    if refused is None:
        refuse_unsuitable(Path(directory), driver, mounted)
        return
    with pytest.raises(StorageUnsuitable, match=refused) as error:
        refuse_unsuitable(Path(directory), driver, mounted)
    assert error.value.hint


def test_the_mounts_of_this_machine_are_read() -> None:
    assert Mount(Path("/proc"), "proc", "proc") in mounts()


@needs_root
def test_overlay_upon_overlay_is_refused_and_vfs_is_not(tmp_path: Path) -> None:
    lower, upper, work, merged = (tmp_path / name for name in ("lower", "upper", "work", "merged"))
    for directory in (lower, upper, work, merged):
        directory.mkdir()
    options = f"lowerdir={lower},upperdir={upper},workdir={work}"
    mount("-t", "overlay", "-o", options, "overlay", merged)
    try:
        with pytest.raises(StorageUnsuitable, match="overlay"):
            Workspace.open(merged / "jobs", JOB, storage_driver="overlay")
        assert list((merged / "jobs").iterdir()) == []
        Workspace.open(merged / "jobs", JOB, storage_driver="vfs").close()
    finally:
        subprocess.run(["umount", "--lazy", str(merged)], check=True)


@needs_root
def test_no_room_even_for_a_workspace(tmp_path: Path) -> None:
    tiny = tmp_path / "tiny"
    tiny.mkdir()
    mount("-t", "tmpfs", "-o", "size=64k,nr_inodes=100", "tmpfs", tiny)
    try:
        (tiny / "jobs").mkdir()
        with (tiny / "filler").open("wb", buffering=0) as filler, pytest.raises(OSError):  # noqa: PT011, PT012
            while True:
                filler.write(bytes(1024))
        with pytest.raises(StorageFull) as refused:
            Workspace.open(tiny / "jobs", JOB, storage_driver="vfs")
        assert refused.value.retryable
        assert list((tiny / "jobs").iterdir()) == []
    finally:
        subprocess.run(["umount", "--lazy", str(tiny)], check=True)
