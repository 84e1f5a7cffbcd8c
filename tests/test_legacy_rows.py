"""Every endpoint in every dialect, row by row: what is asked, what is heard."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from server.kernel_locks import held_and_idle
from server.protocols.legacy.dialect import DIALECTS
from tests.conftest import Serve
from tests.live import ROOT, LiveServer, run_tusboat, wait_until
from tests.old_pages import BASE, OldFile, get, md5, post_form, post_json, stored
from tests.raw import Answer, Raw, ask
from tests.resumable import finished

KIB = 2**10
CHUNK = 4 * KIB


@dataclass(frozen=True)
class Row:
    """One request, and what of the answer's JSON must be so (None: there is no body).

    `chunk` is the index from 0 of a chunk that is sent along, `present` are those that are there
    before. `{name}` in fields stands for what `words` says.
    """

    name: str
    dialect: str
    method: str
    path: str
    fields: Mapping[str, str]
    status: int
    expected: Mapping[str, Any] | None
    present: tuple[int, ...] = ()
    chunk: int | None = None
    more: Mapping[str, str] = field(default_factory=dict)


def uploader_fields(prefix: str, number: int | None) -> dict[str, str]:
    """What simple-uploader.js and its relatives say of a chunk (None: of the file, at merge)."""
    named = {"filename": "{name}", "identifier": "{id}", "totalSize": "{total}"}
    if number is not None:
        cut = {"chunkNumber": str(number), "chunkSize": "{chunk}", "totalChunks": "{floor}"}
        named |= {**cut, "currentChunkSize": "{size}", "relativePath": "{name}"}
    if not prefix:
        return named
    return {prefix + word[0].upper() + word[1:]: value for word, value in named.items()}


def uploader_rows(dialect: str, prefix: str) -> Iterator[Row]:
    """Three chunks of which the last is longer, as these libraries cut."""
    first, last = uploader_fields(prefix, 1), uploader_fields(prefix, 3)
    merge = uploader_fields(prefix, None)

    def row(name: str, method: str, path: str, *rest: Any, **more: Any) -> Row:
        return Row(f"{dialect}: {name}", dialect, method, path, *rest, **more)

    yield row("nothing is there", "GET", "", first, 204, None)
    there = {"uploadedChunks": [1, 3], "uploadedChunkList": [1, 3], "skipUpload": False}
    yield row("it is there", "GET", "", first, 200, {"code": 0, **there}, present=(0, 2))
    yield row("another one is", "GET", "", first, 204, None, present=(1,))
    yield row("the list", "GET", "", merge, 200, {"uploadedChunks": []})
    sent = {"code": 0, "mergeFlag": 0, "uploadedChunks": [1]}
    yield row("a chunk", "POST", "", first, 200, sent, chunk=0)
    yield row(
        "the last one, longer", "POST", "", last, 200, {"mergeFlag": 1}, present=(0, 1), chunk=2
    )
    wrong = {**first, "chunkMd5": "0" * 32}
    yield row("wrong bytes", "POST", "", wrong, 422, {"code": 422}, chunk=0)
    below = {**first, next(key for key in first if key.endswith("umber")): "0"}
    yield row("numbers from 1", "POST", "", below, 400, {"code": 400}, chunk=0)
    yield row(
        "merge", "POST", "/merge", merge, 202, {"code": 0, "message": "ok"}, present=(0, 1, 2)
    )
    missing = {"code": 409, "error": "chunks_missing"}
    yield row("merge, one is missing", "POST", "/merge", merge, 409, missing, present=(0, 2))
    yield row("merge of nothing", "POST", "/merge", merge, 404, {"code": 404})
    yield row("status", "GET", "/status", {"taskId": "0" * 32}, 404, {"code": 404})


WEB = {"name": "{name}", "size": "{total}", "lastModifiedDate": "{id}", "type": "x/y", "id": "WU"}
WEB_MERGE = {"name": "{name}", "size": "{total}", "lastModifiedDate": "{id}"}


def web(number: int) -> dict[str, str]:
    return {**WEB, "chunks": "{ceil}", "chunk": str(number)}


ROWS = [
    *uploader_rows("simple-uploader", ""),
    *uploader_rows("flow", "flow"),
    *uploader_rows("resumable", "resumable"),
    Row("webuploader: the list", "webuploader", "GET", "", WEB, 200, {"code": 0}),
    Row("webuploader: a chunk", "webuploader", "POST", "", web(0), 200, {"code": 0}, chunk=0),
    Row(
        "webuploader: the last",
        "webuploader",
        "POST",
        "",
        web(3),
        200,
        {"code": 0},
        present=(0, 1, 2),
        chunk=3,
    ),
    Row(
        "webuploader: cut otherwise than the row says",
        "webuploader",
        "POST",
        "",
        web(0),
        400,
        {"error": "chunk_size"},
        chunk=0,
        more={"chunkSize": "5000"},
    ),
    Row(
        "webuploader: merge",
        "webuploader",
        "POST",
        "/merge",
        WEB_MERGE,
        202,
        {"code": 0},
        present=(0, 1, 2, 3),
    ),
]


@pytest.fixture(scope="module")
def speaking(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    """A server that speaks every dialect, below the base path."""
    dialects: list[Any] = [name for name in DIALECTS if name != "webuploader"]
    dialects.append({"name": "webuploader", "chunk_size": CHUNK})
    with LiveServer(tmp_path_factory.mktemp("server"), legacy_dialects=dialects) as server:
        yield server


class Scene:
    """One row's file, in its dialect."""

    def __init__(self, server: LiveServer, row: Row) -> None:
        self.server = server
        self.path = f"{BASE}/{row.dialect}"
        self._row = row
        # Four chunks for who counts every begun one, three for who lets the last one be longer.
        self._file = OldFile.of(row.name, 3 * CHUNK + 77, CHUNK)
        self._longer = row.dialect != "webuploader"

    def piece(self, index: int) -> bytes:
        last = self._longer and index == 2
        return self._file.data[index * CHUNK :] if last else self._file.piece(index)

    def filled(self, fields: Mapping[str, str], index: int) -> dict[str, str]:
        words = {
            "name": self._row.name,
            "id": md5(self._row.name.encode()),
            "total": str(len(self._file.data)),
            "chunk": str(CHUNK),
            "floor": "3",
            "ceil": "4",
            "size": str(len(self.piece(index))),
        }
        return {name: value.format_map(words) for name, value in fields.items()}

    def send(self, fields: Mapping[str, str], index: int, **more: str) -> Answer:
        parts: list[tuple[str, str | bytes]] = [*{**self.filled(fields, index), **more}.items()]
        return post_form(self.server.port, self.path, [*parts, ("file", self.piece(index))])

    def prepare(self) -> None:
        prefix = {"simple-uploader": "", "webuploader": ""}.get(
            self._row.dialect, self._row.dialect
        )
        for index in self._row.present:
            fields = uploader_fields(prefix, index + 1) if self._longer else web(index)
            assert self.send(fields, index).status == 200

    def ask(self) -> Answer:
        row, port, path = self._row, self.server.port, self.path + self._row.path
        if row.chunk is not None:
            return self.send(row.fields, row.chunk, **row.more)
        fields = self.filled(row.fields, 0)
        return get(port, path, fields) if row.method == "GET" else post_json(port, path, fields)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_rows(speaking: LiveServer, row: Row) -> None:
    scene = Scene(speaking, row)
    scene.prepare()
    answer = scene.ask()
    assert answer.status == row.status, answer
    if row.expected is None:
        assert answer.body == b""
        return
    document = answer.problem
    assert {name: document.get(name) for name in row.expected} == row.expected
    assert (document["code"] == 0) == (answer.status < 400)
    assert answer["Cache-Control"] == "no-store"


@pytest.mark.parametrize("dialect", ["simple-uploader", "flow", "resumable", "webuploader"])
def test_a_file_in_each_dialect(speaking: LiveServer, dialect: str) -> None:
    row = Row(f"a whole {dialect}", dialect, "POST", "/merge", {}, 202, {})
    scene = Scene(speaking, row)
    prefix = {"simple-uploader": "", "webuploader": ""}.get(dialect, dialect)
    count = 4 if dialect == "webuploader" else 3
    for index in reversed(range(count)):
        fields = web(index) if dialect == "webuploader" else uploader_fields(prefix, index + 1)
        assert scene.send(fields, index).status == 200
    fields = WEB_MERGE if dialect == "webuploader" else uploader_fields(prefix, None)
    answer = post_json(speaking.port, f"{scene.path}/merge", scene.filled(fields, 0))
    assert answer.status == 202, answer
    finished(speaking, answer.problem["data"]["taskId"], scene._file.data)


def test_one_chunk_of_webuploader_has_no_number(speaking: LiveServer) -> None:
    parts: list[tuple[str, str | bytes]] = [("id", "WU_FILE_0"), ("name", "one.tar"), ("size", "3")]
    path = f"{BASE}/webuploader"
    assert post_form(speaking.port, path, [*parts, ("file", b"abc")]).status == 200
    answer = post_json(speaking.port, f"{path}/merge", {"name": "one.tar", "size": 3})
    finished(speaking, answer.problem["data"]["taskId"], b"abc")


def test_what_passes_is_503_where_the_client_would_give_up(speaking: LiveServer) -> None:
    """resumable.js gives a file up after 409; simple-uploader.js does not."""
    for dialect, wanted in (("simple-uploader", 409), ("resumable", 503)):
        row = Row(f"evicted {dialect}", dialect, "POST", "", {}, 200, {})
        scene = Scene(speaking, row)
        prefix = "" if dialect == "simple-uploader" else dialect
        fields = uploader_fields(prefix, 1)
        length = {"Content-Length": "100000"}
        filled = scene.filled(fields, 0)
        upload_id = scene.send(uploader_fields(prefix, 2), 1).problem["data"]["uploadId"]
        query = "&".join(f"{name}={value.replace(' ', '%20')}" for name, value in filled.items())
        with Raw(speaking.port) as raw:
            raw.head("POST", f"{scene.path}?{query}", length)
            raw.send(b"x" * 10)
            held = partial(held_and_idle, stored(speaking, upload_id), 0)
            wait_until(held, what="the chunk is held")
            assert scene.send(fields, 0).status == 200
            assert raw.answer("POST").status == wanted


@pytest.mark.parametrize(
    ("dialects", "named"),
    [
        (["simple-uploader", "unheard-of"], "unheard-of"),
        ([{"name": "flow", "path": BASE + "/chunks"}], "belongs to own"),
        ([{"name": "flow", "merge": BASE + "/merge"}], "belongs to own"),
        ([{"name": "flow", "path": "/x"}, {"name": "resumable", "path": "/x"}], "belongs to flow"),
        ([{"name": "flow", "path": "/livez"}], "belongs to this server"),
        ([{"name": "flow", "chunk": "/files/abc"}], "belongs to this server"),
        ([{"name": "flow", "path": "no path"}], "is no path"),
        ([{"name": "flow", "path": "/{id}"}], "is no path"),
        ([{"name": "flow", "chunk_size": 0}], "chunk_size"),
    ],
)
def test_conflicts_are_refused_at_start(tmp_path: Path, dialects: list[Any], named: str) -> None:
    server = LiveServer(tmp_path, legacy_dialects=dialects)
    ran = run_tusboat(tmp_path, "serve", env=server.env)
    assert ran.code not in (0, None)
    assert named in ran.stderr
    assert "Traceback" not in ran.stderr


def test_conflicts_are_refused_with_several_processes(tmp_path: Path) -> None:
    dialects = [{"name": "flow", "path": "/livez"}]
    server = LiveServer(tmp_path, legacy_dialects=dialects, workers=2)
    ran = run_tusboat(tmp_path, "serve", env=server.env)
    assert ran.code not in (0, None)
    assert "belongs to this server" in ran.stderr


def test_paths_of_one_s_own(serve: Serve) -> None:
    paths = {"check": "/uploader/chunk", "chunk": "/uploader/chunk", "merge": "/uploader/mergeFile"}
    server = serve(legacy_base_path="/old", legacy_dialects=[{"name": "simple-uploader", **paths}])
    fields = {"filename": "a.tar", "identifier": "1-a", "totalSize": "3"}
    cut = {"chunkNumber": "1", "chunkSize": "10", "currentChunkSize": "3", "totalChunks": "1"}
    parts: list[tuple[str, str | bytes]] = [*{**fields, **cut}.items(), ("file", b"abc")]
    assert get(server.port, "/uploader/chunk", {**fields, **cut}).status == 204
    assert post_form(server.port, "/uploader/chunk", parts).status == 200
    answer = post_json(server.port, "/uploader/mergeFile", fields)
    finished(server, answer.problem["data"]["taskId"], b"abc")
    assert get(server.port, "/old/chunks", {"fileName": "x"}).status == 200
    assert ask(server.port, "GET", f"{BASE}/chunks").status == 404


def test_the_folder_could_go_alone() -> None:
    """One file of the server knows of it, beside its own."""
    folder = ROOT / "server" / "protocols" / "legacy"
    knowing = [
        path.relative_to(ROOT).as_posix()
        for room in ("server", "hooks", "buildah")
        for path in (ROOT / room).rglob("*.py")
        if "protocols.legacy" in path.read_text() and folder not in path.parents
    ]
    assert knowing == ["server/app.py"]


def test_the_readme_names_every_dialect() -> None:
    for path in ("server/README.md", "examples/legacy/README.md"):
        named = set(re.findall(r"`([a-z-]+)`", (ROOT / path).read_text()))
        assert set(DIALECTS) <= named
