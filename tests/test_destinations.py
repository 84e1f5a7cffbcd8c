"""Through a running server: which images of an archive arrive, and under which names."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.archives import (
    MIB,
    Archive,
    write_containerd,
    write_docker_archive,
    write_gzipped,
    write_oci_archive,
    write_random,
    write_several_images,
)
from tests.conftest import Serve
from tests.harbor import Harbor, Saying
from tests.journeys import ended, nothing_left, row, upload_by_tuspy
from tests.live import LiveServer, run_tusboat, wait_until
from tests.raw import TUS, ask, metadata, status
from tests.registries import RunningRegistry, serving

MULTI = ("linux/amd64", "linux/arm64/v8")


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningRegistry]:
    with serving(tmp_path_factory.mktemp("registry")) as running:
        yield running


@pytest.fixture(scope="module", params=["buildah", "skopeo"])
def wired(
    request: pytest.FixtureRequest,
    registry: RunningRegistry,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[LiveServer]:
    """A server that has a place for images without a destination, with each engine."""
    with LiveServer(
        tmp_path_factory.mktemp(request.param),
        registries=[row(registry)],
        default_repository=f"{registry.host}/{request.param}",
        engine=request.param,
    ) as server:
        yield server


def steps(document: dict[str, Any]) -> dict[str, str]:
    return {step["name"]: step["state"] for step in document["steps"]}


def test_each_of_several_images_is_a_row_of_the_results(
    wired: LiveServer, registry: RunningRegistry, tmp_path: Path
) -> None:
    archive = write_several_images(tmp_path / "a", ["a/x:1", "b/y:2", "c/z:3"])
    repository = f"{registry.host}/several/app"
    upload = upload_by_tuspy(wired, archive.path, {"image": f"{repository}:v1"})
    document = ended(wired, upload)
    assert document["status"] == "done", document
    names = [result["image"] for result in document["results"]]
    assert names == [f"{repository}:{tag}" for tag in (1, 2, 3)]
    assert len({registry.config_digest(name) for name in names}) == 3
    for result in document["results"]:
        at = f"{repository}@{result['digest']}"
        assert registry.config_digest(at) == registry.config_digest(result["image"])
    assert [len(row["platforms"]) for row in document["archive"]["images"]] == [1, 1, 1]
    assert nothing_left(wired)


def test_without_a_destination_images_keep_their_whole_path(
    wired: LiveServer, registry: RunningRegistry, tmp_path: Path
) -> None:
    archive = write_several_images(tmp_path / "a", ["quay.io/a/x:1", "b/x:1"])
    document = ended(wired, upload_by_tuspy(wired, archive.path, {"filename": "a"}))
    assert document["status"] == "done", document
    assert document["image"] is None
    engine = wired.env["TUSBOAT_ENGINE"]
    assert [result["image"] for result in document["results"]] == [
        f"{registry.host}/{engine}/{path}:1" for path in ("a/x", "b/x")
    ]
    # What is pushed needs no archive any more.
    data = wired.data_dir / "uploads" / document["id"]
    assert not data.exists()


def test_one_is_chosen_by_the_command_line(
    wired: LiveServer, registry: RunningRegistry, tmp_path: Path
) -> None:
    archive = write_several_images(tmp_path / "a", ["a/x:1", "b/y:2"])
    image = f"{registry.host}/team/chosen:v1"
    command = ("upload", str(archive.path), "--server", wired.url, "--image", image)
    ran = run_tusboat(tmp_path, *command, "--ref", "b/y")
    assert (ran.code, ran.stdout) == (1, ""), ran
    assert "'b/y' fits no image of @0 a/x:1, @1 b/y:2" in ran.stderr
    assert "nothing was sent" in ran.stderr
    ran = run_tusboat(tmp_path, *command, "--ref", "b/y:2")
    assert ran.code == 0, ran
    assert ran.stdout.strip().startswith("sha256:")
    assert registry.tags("team/chosen") == ["v1"]


def test_the_last_lines_are_the_digests_one_for_each_image(
    wired: LiveServer, registry: RunningRegistry, tmp_path: Path
) -> None:
    archive = write_several_images(tmp_path / "a", ["a/x:1", "b/y:2"])
    image = f"{registry.host}/team/lines:v1"
    ran = run_tusboat(
        tmp_path, "upload", str(archive.path), "--server", wired.url, "--image", image
    )
    assert ran.code == 0, ran
    assert [line[:7] for line in ran.stdout.splitlines()] == ["sha256:", "sha256:"]


def test_a_multi_arch_image_arrives_whole_and_its_parts_only_if_that_will_do(
    wired: LiveServer, registry: RunningRegistry, tmp_path: Path
) -> None:
    whole = write_containerd(tmp_path / "a", MULTI, tag="example/whole:1")
    image = f"{registry.host}/team/multi:v1"
    document = ended(wired, upload_by_tuspy(wired, whole.path, {"image": image}))
    assert document["results"][0]["platforms"] == list(MULTI), document
    assert len(registry.manifest(image)["manifests"]) == 2

    part = write_containerd(tmp_path / "b", MULTI, absent=MULTI[1:], tag="example/part:1")
    document = ended(wired, upload_by_tuspy(wired, part.path, {"image": image}))
    assert document["error"]["code"] == "archive_incomplete"
    assert MULTI[1] in document["error"]["message"]
    assert len(registry.manifest(image)["manifests"]) == 2

    said = {"image": image, "allow_partial": "true"}
    document = ended(wired, upload_by_tuspy(wired, part.path, said))
    assert document["results"][0]["platforms"] == list(MULTI[:1]), document
    assert len(registry.manifest(image)["manifests"]) == 1


def test_the_status_shows_what_the_archive_holds(
    wired: LiveServer, registry: RunningRegistry, tmp_path: Path
) -> None:
    archive = write_docker_archive(tmp_path / "plain", [MIB])
    packed = write_gzipped(tmp_path / "packed", archive.path)
    image = f"{registry.host}/team/shown:v1"
    document = ended(wired, upload_by_tuspy(wired, packed, {"image": image}))
    found = document["archive"]
    assert found["compression"] == "gzip"
    assert found["size_bytes"] == packed.stat().st_size
    (platform,) = found["images"][0]["platforms"]
    assert platform["image_id"] == f"sha256:{archive.image_id}"
    loads = wired.env["TUSBOAT_ENGINE"] == "buildah"
    assert steps(document)["load"] == ("done" if loads else "skipped")
    listed = ask(wired.port, "GET", "/api/uploads").problem["uploads"]
    assert all("archive" not in one for one in listed)

    document = ended(wired, upload_by_tuspy(wired, write_random(tmp_path / "r"), {"image": image}))
    assert document["archive"]["refused"][0]["code"] == "archive_invalid"


def test_two_images_under_one_tag_push_nothing(
    wired: LiveServer, registry: RunningRegistry, tmp_path: Path
) -> None:
    archive = write_several_images(tmp_path / "a", ["a/x:1", "b/x:1"])
    image = f"{registry.host}/team/clash:v1"
    document = ended(wired, upload_by_tuspy(wired, archive.path, {"image": image}))
    assert document["error"]["code"] == "archive_not_chosen"
    assert registry.tags("team/clash") == []


@pytest.mark.parametrize("said", [{"allow_partial": "maybe"}])
def test_a_word_that_is_none_is_refused_at_creation(
    wired: LiveServer, said: dict[str, str]
) -> None:
    answer = ask(wired.port, "POST", "/files/", {**TUS, "Upload-Length": "1", **metadata(**said)})
    assert (answer.status, answer.problem["code"]) == (400, "invalid_allow_partial")


def test_only_kept_archives_are_looked_into_too(serve: Serve, tmp_path: Path) -> None:
    server = serve()
    kept = write_oci_archive(tmp_path / "a")
    document = ended(server, upload_by_tuspy(server, kept.path, {"filename": "a"}))
    assert document["archive"]["format"] == "oci-archive"
    assert steps(document)["load"] == "skipped"
    document = ended(server, upload_by_tuspy(server, write_random(tmp_path / "r"), {}))
    assert document["status"] == "done"
    assert document["archive"]["refused"][0]["code"] == "archive_invalid"


def tokens_of(directory: Path, rows: dict[str, str]) -> Path:
    """A tokens file of callers whose tokens are their names, each with one pattern."""
    tokens = directory / "tokens.toml"
    tokens.write_text(
        "\n".join(
            f'[[token]]\nname = "{name}"\n'
            f'sha256 = "{hashlib.sha256(name.encode()).hexdigest()}"\n'
            f'repositories = ["{pattern}"]\n'
            for name, pattern in rows.items()
        )
    )
    return tokens


def test_a_caller_without_a_destination_must_own_the_default_place(
    serve: Serve, tmp_path: Path, registry: RunningRegistry
) -> None:
    rows = {"all": f"{registry.host}/place/*", "some": f"{registry.host}/place/mine/*"}
    server = serve(
        registries=[row(registry)],
        default_repository=f"{registry.host}/place",
        tokens_file=tokens_of(tmp_path, rows),
    )
    answers = {
        name: ask(
            server.port,
            "POST",
            "/files/",
            {**TUS, "Upload-Length": "10", "Authorization": f"Bearer {name}"},
        )
        for name in rows
    }
    assert answers["all"].status == 201
    assert answers["some"].status == 403
    assert answers["some"].problem["code"] == "caller_not_allowed"


@pytest.mark.parametrize("engine", ["buildah", "skopeo"])
def test_a_kill_between_two_images_pushes_only_the_rest(
    engine: str, serve: Serve, registry: RunningRegistry, tmp_path: Path
) -> None:
    server = serve(registries=[row(registry)], engine=engine)
    archive = several_large(tmp_path / "a", [f"kill/{engine}:{number}" for number in range(3)])
    repository = f"{registry.host}/kill/{engine}"
    upload = upload_by_tuspy(server, archive.path, {"image": f"{repository}:x"})
    wait_until(lambda: bool(status(server.port, upload)["results"]), seconds=90, what="a result")
    server.kill()
    server.start()
    document = ended(server, upload)
    assert document["status"] == "done", document
    assert sorted(registry.tags(f"kill/{engine}")) == ["0", "1", "2"]
    assert sorted(result["image"] for result in document["results"]) == [
        f"{repository}:{number}" for number in range(3)
    ]
    assert nothing_left(server)


def several_large(path: Path, tags: list[str]) -> Archive:
    """Images of some size, one file of a few MiB each, so that a push takes a moment."""
    return write_several_images(path, tags, sizes=[24 * MIB])


def test_a_default_repository_that_makes_no_sense_ends_the_start(tmp_path: Path) -> None:
    for place, words in (("harbor.example/team", "not allowed"), ("Team", "host")):
        ran = run_tusboat(
            tmp_path,
            "serve",
            "--port",
            "0",
            env={"TUSBOAT_DEFAULT_REPOSITORY": place, "TUSBOAT_DATA_DIR": str(tmp_path / "d")},
        )
        assert ran.code, ran
        assert "default_repository" in ran.stderr, ran
        assert words in ran.stderr, ran


def test_parts_need_no_place_of_their_own(
    serve: Serve, tmp_path: Path, registry: RunningRegistry
) -> None:
    """Only the final upload says, or leaves open, where its image goes."""
    server = serve(
        registries=[row(registry)],
        default_repository=f"{registry.host}/parts",
        tokens_file=tokens_of(tmp_path, {"some": f"{registry.host}/parts/mine/*"}),
    )
    said = {**TUS, "Authorization": "Bearer some"}
    part = ask(
        server.port,
        "POST",
        "/files/",
        {**said, "Upload-Length": "0", "Upload-Concat": "partial"},
    )
    assert part.status == 201, part
    final = {**said, "Upload-Concat": f"final;{part['Location']}"}
    assert ask(server.port, "POST", "/files/", final).status == 403
    image = metadata(image=f"{registry.host}/parts/mine/app:1")
    assert ask(server.port, "POST", "/files/", {**final, **image}).status == 201


def test_what_was_pushed_before_a_failure_is_not_in_the_way_of_its_retry(
    serve: Serve, registry: RunningRegistry, tmp_path: Path
) -> None:
    """With tags that may not move, and the second of two images damaged."""
    server = serve(registries=[row(registry)], engine="skopeo", overwrite="refuse")
    archive = write_several_images(tmp_path / "a", ["a/x:1", "b/y:2"], sizes=[MIB])
    data = bytearray(archive.path.read_bytes())
    data[len(data) * 3 // 4] ^= 0xFF
    archive.path.write_bytes(data)
    upload = upload_by_tuspy(server, archive.path, {"image": f"{registry.host}/team/retry:x"})
    first = ended(server, upload)
    assert first["error"]["code"] == "archive_corrupt", first
    assert [result["image"][-2:] for result in first["results"]] == [":1"]
    assert ask(server.port, "GET", "/api/uploads?q=team/retry:1").problem["total"] == 1

    upload_id = first["id"]
    assert ask(server.port, "POST", f"/api/uploads/{upload_id}/retry").status == 202
    wait_until(lambda: status(server.port, upload)["updated_at"] > first["updated_at"])
    again = ended(server, upload)
    assert again["error"]["code"] == "archive_corrupt", again
    assert again["results"] == first["results"]


def test_what_is_only_kept_is_kept_whatever_was_pushed_of_it_once(
    serve: Serve, registry: RunningRegistry, tmp_path: Path
) -> None:
    """One of two images arrived; then the operator took the default place away."""
    settings = {"registries": [row(registry)], "engine": "skopeo"}
    place = f"{registry.host}/once"
    server = serve(default_repository=place, data_dir=tmp_path / "data", **settings)
    archive = write_several_images(tmp_path / "a", ["a/x:1", "b/y:2"], sizes=[MIB])
    data = bytearray(archive.path.read_bytes())
    data[len(data) * 3 // 4] ^= 0xFF
    archive.path.write_bytes(data)
    upload = upload_by_tuspy(server, archive.path, {"filename": "a"})
    first = ended(server, upload)
    assert (first["status"], len(first["results"])) == ("failed", 1), first
    server.stop()

    server = serve(data_dir=tmp_path / "data", **settings)
    assert ask(server.port, "POST", f"/api/uploads/{first['id']}/retry").status == 202
    wait_until(lambda: status(server.port, upload)["updated_at"] > first["updated_at"])
    again = ended(server, upload)
    assert (again["status"], again["results"]) == ("done", []), again
    assert (server.data_dir / "uploads" / first["id"]).read_bytes() == bytes(data)


def test_a_push_that_cannot_be_read_back_at_once_is_not_in_its_own_way(
    serve: Serve, registry: RunningRegistry, tmp_path: Path
) -> None:
    """With tags that may not move: the next attempt finds its own tag, and is content with it."""
    archive = write_docker_archive(tmp_path / "a", [MIB], seed="read back")
    away = Saying("GET", r"/manifests/", 503)
    with Harbor(registry.port) as front:

        def answered(method: str, path: str) -> None:
            if method == "PUT" and "/manifests/" in path:
                front.sayings.append(away)

        front.answered = answered
        server = serve(registries=[{"host": front.host, "plain_http": True}], overwrite="refuse")
        upload = upload_by_tuspy(server, archive.path, {"image": f"{front.host}/back/app:1"})
        wait_until(lambda: bool(status(server.port, upload)["results"]), seconds=90)
        wait_until(lambda: "trying again" in messages(server, upload), seconds=30)
        front.sayings.remove(away)
        document = ended(server, upload)
    assert document["status"] == "done", document
    assert len(document["results"]) == 1
    assert [method for method, path in front.requests if "/manifests/1" in path].count("PUT") == 1


def messages(server: LiveServer, upload: str) -> str:
    return " ".join(step["message"] for step in status(server.port, upload)["steps"])


def test_names_that_are_no_text_are_shown_all_the_same(serve: Serve, tmp_path: Path) -> None:
    server = serve()
    manifest = [{"Config": "c.json", "RepoTags": ["a\ud800\u202e:1"], "Layers": []}]
    write_entries(tmp_path / "a", {"c.json": b"{}", "manifest.json": json.dumps(manifest).encode()})
    document = ended(server, upload_by_tuspy(server, tmp_path / "a", {}))
    assert document["archive"]["images"][0]["tags"] == ["a\ud800\u202e:1"]


def write_entries(path: Path, files: dict[str, bytes]) -> None:
    with tarfile.open(path, "w") as tar:
        for name, data in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))


def test_an_archive_that_names_a_lot_does_not_make_the_status_large(
    serve: Serve, tmp_path: Path
) -> None:
    server = serve()
    names = [f"{'n' * 100}:{number}" for number in range(4000)]
    many = [names[start : start + 40] for start in range(0, 4000, 40)]
    manifest = [{"Config": "c.json", "RepoTags": tags, "Layers": []} for tags in many]
    write_entries(tmp_path / "a", {"c.json": b"{}", "manifest.json": json.dumps(manifest).encode()})
    document = ended(server, upload_by_tuspy(server, tmp_path / "a", {}))
    assert document["archive"]["images"] == []
    assert "100 images" in document["archive"]["notes"][0]
    assert len(json.dumps(document)) < 10_000
