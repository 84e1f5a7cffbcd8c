"""What an archive says is kept at some address is never fetched from there, by either engine."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import anyio
import pytest

from buildah.archive import inspect
from buildah.engine import ENGINES, ready_images
from buildah.errors import ArchiveError, ArchiveIncomplete
from buildah.opening import open_archive
from buildah.pushed import LayerCompression
from buildah.reference import ImageReference
from buildah.selection import Order, choose
from buildah.workspace import Workspace
from tests.archives import write_oci_archive
from tests.registries import RunningRegistry, needs_containers, plain_registry

__all__ = ["plain_registry"]

pytestmark = [needs_containers, pytest.mark.anyio]

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"

Json = dict[str, Any]


class Elsewhere:
    """An address that this machine can reach and no upload should make it ask."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        elsewhere = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                elsewhere.asked.append(self.path)
                self.send_error(404)

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/secret"
        Thread(target=self.server.serve_forever, daemon=True).start()


@pytest.fixture
def elsewhere() -> Iterator[Elsewhere]:
    running = Elsewhere()
    yield running
    running.server.shutdown()
    running.server.server_close()


class Layout:
    """An OCI layout in memory."""

    def __init__(self, scratch: Path) -> None:
        path = write_oci_archive(scratch, [4096]).path
        with tarfile.open(path) as tar:
            self.items = {
                one.name: file.read() for one in tar if (file := tar.extractfile(one)) is not None
            }
        [row] = json.loads(self.items["index.json"])["manifests"]
        self.manifest = self.items[f"blobs/{row['digest'].replace(':', '/')}"].decode()

    def put(self, text: str, **more: Any) -> Json:
        """Keep a document; the descriptor of it."""
        data = text.encode()
        digest = hashlib.sha256(data).hexdigest()
        self.items[f"blobs/sha256/{digest}"] = data
        return {"digest": f"sha256:{digest}", "size": len(data), **more}

    def put_manifest(self, text: str, architecture: str = "amd64") -> Json:
        """Keep a manifest; the row for it in a list."""
        platform = {"os": "linux", "architecture": architecture}
        return self.put(text, mediaType=MANIFEST, platform=platform)

    def write(self, path: Path, *rows: Json) -> Path:
        """The archive, with these in its list."""
        index = {"schemaVersion": 2, "manifests": rows}
        with tarfile.open(path, "w") as tar:
            for name, data in {**self.items, "index.json": json.dumps(index).encode()}.items():
                entry = tarfile.TarInfo(name)
                entry.size = len(data)
                tar.addfile(entry, io.BytesIO(data))
        return path


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return Layout(tmp_path / "good")


def with_urls(manifest: str, url: str, part: str, key: str = "urls") -> str:
    document = json.loads(manifest)
    row = document["config"] if part == "config" else document["layers"][0]
    row[key] = [url]
    return json.dumps(document)


def twice(manifest: str, url: str) -> str:
    """Two keys of one name: a program may read the second into what it made of the first."""
    layers = json.loads(with_urls(manifest, url, "layers"))["layers"]
    return manifest.replace('"layers"', f'"layers": {json.dumps(layers)}, "layers"')


def in_capitals(manifest: str, url: str) -> str:
    """A list that only programs see to which capitals are the same."""
    layers = json.loads(with_urls(manifest, url, "layers"))["layers"]
    return f'{manifest.rstrip()[:-1]}, "LAYERS": {json.dumps(layers)}}}'


def as_docker_spells_it(part: str) -> Callable[[str, str], str]:
    """Keys that are right in docker's list, and another spelling of OCI's in a manifest."""

    def edit(manifest: str, url: str) -> str:
        said = json.loads(with_urls(manifest, url, part))[part]
        return f'{manifest.rstrip()[:-1]}, "{part.title()}": {json.dumps(said)}}}'

    return edit


def long_s(manifest: str, url: str) -> str:
    return with_urls(manifest, url, "layers", "url\N{LATIN SMALL LETTER LONG S}")


EDITS: dict[str, Callable[[str, str], str]] = {
    "layer": lambda manifest, url: with_urls(manifest, url, "layers"),
    "config": lambda manifest, url: with_urls(manifest, url, "config"),
    "layer, in capitals": lambda manifest, url: with_urls(manifest, url, "layers", "URLS"),
    "config, in capitals": lambda manifest, url: with_urls(manifest, url, "config", "Urls"),
    "another letter s": long_s,
    "layers twice": twice,
    "layers in capitals": in_capitals,
    "Layers": as_docker_spells_it("layers"),
    "Config": as_docker_spells_it("config"),
}


async def pushed(
    engine: str, archive: Path, registry: RunningRegistry, tmp_path: Path, **order: Any
) -> None:
    with Workspace.open(tmp_path / "jobs", "job", storage_driver="overlay") as workspace:
        opened = await open_archive(archive, workspace, lambda _: None)
        name = ImageReference.parse(f"{registry.host}/team/fetched:1")
        [choice] = choose(opened.contents.images, Order(name, **order))
        [image] = await ready_images(
            ENGINES[engine],
            opened,
            [choice.position],
            workspace,
            share=lambda _: None,
            log=lambda _: None,
        )
        await image.push(
            name,
            registry.registry(),
            workspace,
            progress=lambda done, total: None,
            log=lambda _: None,
            compression=LayerCompression(),
        )


@pytest.mark.parametrize("engine", sorted(ENGINES))
@pytest.mark.parametrize("edit", EDITS)
async def test_an_image_with_a_part_kept_elsewhere_is_refused(
    edit: str,
    engine: str,
    layout: Layout,
    elsewhere: Elsewhere,
    plain_registry: RunningRegistry,
    tmp_path: Path,
) -> None:
    row = layout.put_manifest(EDITS[edit](layout.manifest, elsewhere.url))
    archive = layout.write(tmp_path / "a", row)
    with pytest.raises(ArchiveError):
        await pushed(engine, archive, plain_registry, tmp_path)
    assert elsewhere.asked == []


@pytest.mark.parametrize("engine", sorted(ENGINES))
async def test_of_several_platforms_that_one_is_left_out_when_asked_for(
    engine: str,
    layout: Layout,
    elsewhere: Elsewhere,
    plain_registry: RunningRegistry,
    tmp_path: Path,
) -> None:
    rows = [
        layout.put_manifest(layout.manifest),
        layout.put_manifest(with_urls(layout.manifest, elsewhere.url, "config"), "arm64"),
    ]
    index = json.dumps({"schemaVersion": 2, "mediaType": INDEX, "manifests": rows})
    archive = layout.write(tmp_path / "a", layout.put(index, mediaType=INDEX))
    [image] = (await anyio.to_thread.run_sync(inspect, archive)).images
    assert [len(one.missing) for one in image.platforms] == [0, 1]
    with pytest.raises(ArchiveIncomplete):
        await pushed(engine, archive, plain_registry, tmp_path)
    await pushed(engine, archive, plain_registry, tmp_path, allow_partial=True)
    assert elsewhere.asked == []


@pytest.mark.parametrize("engine", sorted(ENGINES))
@pytest.mark.parametrize("edit", EDITS)
async def test_what_is_only_about_an_image_makes_nobody_fetch_either(
    edit: str,
    engine: str,
    layout: Layout,
    elsewhere: Elsewhere,
    plain_registry: RunningRegistry,
    tmp_path: Path,
) -> None:
    about = layout.put_manifest(EDITS[edit](layout.manifest, elsewhere.url), "unknown")
    about["platform"]["os"] = "unknown"
    rows = [
        layout.put_manifest(layout.manifest),
        layout.put_manifest(f"{layout.manifest} ", "arm64"),
        about,
    ]
    index = json.dumps({"schemaVersion": 2, "mediaType": INDEX, "manifests": rows})
    archive = layout.write(tmp_path / "a", layout.put(index, mediaType=INDEX))
    with suppress(ArchiveError):
        await pushed(engine, archive, plain_registry, tmp_path)
    assert elsewhere.asked == []


async def test_one_document_that_is_an_image_and_a_list_is_refused(
    layout: Layout, tmp_path: Path
) -> None:
    both = json.loads(layout.manifest) | {"manifests": [layout.put_manifest(layout.manifest)]}
    archive = layout.write(tmp_path / "a", layout.put_manifest(json.dumps(both)))
    with pytest.raises(ArchiveError, match="an image and a list"):
        await anyio.to_thread.run_sync(inspect, archive)
