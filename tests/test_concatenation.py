"""tus concatenation: a final upload is its parts in order, at once, and one file when asked."""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import requests

from tests.archives import write_docker_archive
from tests.concatenated import PARTIAL, concatenate, pieces_of, send_parts, stored
from tests.conftest import Serve
from tests.failures import tiny_disk
from tests.journeys import assert_image, ended, nothing_left, row
from tests.live import LiveServer, run_tusboat, wait_until
from tests.raw import OCTETS, TUS, Raw, append, ask, create, metadata, offset, status
from tests.registries import RunningRegistry, plain_registry
from tests.uploading import documents

__all__ = ["plain_registry"]

MIB = 2**20


def test_options_names_the_extensions(server: LiveServer) -> None:
    answer = ask(server.port, "OPTIONS", "/files/")
    extensions = set(answer["Tus-Extension"].split(","))
    assert {"concatenation", "concatenation-unfinished"} <= extensions


@pytest.mark.parametrize("count", [1, 2, 5])
def test_parts_become_one_upload(server: LiveServer, count: int) -> None:
    data = random.Random(count).randbytes(3 * MIB + 11)
    parts = send_parts(server.port, pieces_of(data, count))
    answer = concatenate(server.port, parts, metadata(filename="whole.tar"))
    assert answer.status == 201
    final = answer["Location"]
    head = ask(server.port, "HEAD", final, TUS)
    assert (head["Upload-Offset"], head["Upload-Length"]) == (str(len(data)), str(len(data)))
    assert head["Upload-Concat"] == "final;" + " ".join(parts)
    document = ended(server, final)
    assert document["status"] == "done"
    assert [step["name"] for step in document["steps"]][:2] == ["assemble", "verify"]
    assert document["steps"][0]["state"] == "done"
    assert document["steps"][0]["bytes_done"] == len(data)
    assert document["digests"]["sha256"] == hashlib.sha256(data).hexdigest()
    assert document["digests"]["md5"] == hashlib.md5(data, usedforsecurity=False).hexdigest()
    assert stored(server, final).read_bytes() == data
    assert not any(stored(server, part).exists() for part in parts), "the parts' space is back"
    # A sender that never heard the last answers asks again, and finds everything there.
    for part, piece in zip(parts, pieces_of(data, count), strict=True):
        answer = ask(server.port, "HEAD", part, TUS)
        assert (answer["Upload-Offset"], answer["Upload-Concat"]) == (str(len(piece)), "partial")
    assert concatenate(server.port, parts, metadata(filename="whole.tar"))["Location"] == final
    assert status(server.port, final)["status"] == "done"


def test_an_image_in_parts(serve: Serve, plain_registry: RunningRegistry, tmp_path: Path) -> None:
    archive = write_docker_archive(tmp_path / "llm.tar", sizes=(300_000, 2_000_000), seed="parts")
    data = (tmp_path / "llm.tar").read_bytes()
    server = serve(registries=[row(plain_registry)])
    parts = send_parts(server.port, pieces_of(data, 4))
    md5 = hashlib.md5(data, usedforsecurity=False).hexdigest()
    said = metadata(filename="llm.tar", image=f"{plain_registry.host}/team/parts:v1", md5=md5)
    document = ended(server, concatenate(server.port, parts, said)["Location"])
    assert_image(plain_registry, archive, document)
    states = {step["name"]: step["state"] for step in document["steps"]}
    assert (states["assemble"], states["verify"]) == ("done", "done")
    assert nothing_left(server)
    uploads = server.data_dir / "uploads"
    assert [path.name for path in uploads.iterdir() if "." not in path.name] == []


def test_a_wrong_digest_of_the_whole(server: LiveServer) -> None:
    parts = send_parts(server.port, [b"one", b"two"])
    final = concatenate(server.port, parts, metadata(md5="0" * 32))["Location"]
    document = ended(server, final)
    assert (document["status"], document["error"]["code"]) == ("failed", "digest_mismatch")


def test_a_digest_said_with_a_part_counts_for_the_whole_only(server: LiveServer) -> None:
    # tus-js-client sends the same headers with every request.
    said = {"Repr-Digest": "md5=:AAAAAAAAAAAAAAAAAAAAAA==:"}
    part = create(server.port, 3, {**PARTIAL, **said})
    assert append(server.port, part, 0, b"abc", said).status == 204
    assert ended(server, concatenate(server.port, [part])["Location"])["status"] == "done"
    other = send_parts(server.port, [b"abc"])
    final = concatenate(server.port, other, said)["Location"]
    assert ended(server, final)["error"]["code"] == "digest_mismatch"


def test_the_order_is_the_list_s(server: LiveServer) -> None:
    one, two = send_parts(server.port, [b"first", b"second"])
    final = concatenate(server.port, [two, one])["Location"]
    ended(server, final)
    assert stored(server, final).read_bytes() == b"secondfirst"


def test_empty_parts(server: LiveServer) -> None:
    parts = send_parts(server.port, [b"", b"middle", b"", b""])
    final = concatenate(server.port, parts)["Location"]
    assert ended(server, final)["status"] == "done"
    assert stored(server, final).read_bytes() == b"middle"
    nothing = concatenate(server.port, send_parts(server.port, [b"", b""]))["Location"]
    assert ended(server, nothing)["length"] == 0


def test_parts_that_still_arrive(server: LiveServer) -> None:
    first, second = create(server.port, 6, PARTIAL), create(server.port, 4, PARTIAL)
    append(server.port, first, 0, b"abc")
    final = concatenate(server.port, [first, second])["Location"]
    head = ask(server.port, "HEAD", final, TUS)
    assert (head.status, head["Upload-Length"]) == (200, "10")
    assert "upload-offset" not in head.headers
    assert "upload-defer-length" not in head.headers
    assert head["Upload-Expires"]
    document = status(server.port, final)
    assert (document["status"], document["offset"]) == ("receiving", 3)
    answer = append(server.port, first, 3, b"def")
    assert answer.status == 204
    assert answer["Upload-Expires"], "a whole part expires as long as the others do not come"
    assert append(server.port, second, 0, b"ghij").status == 204
    assert ended(server, final)["status"] == "done"
    assert stored(server, final).read_bytes() == b"abcdefghij"


def test_a_part_whose_length_comes_late(server: LiveServer) -> None:
    answer = ask(server.port, "POST", "/files/", {**TUS, **PARTIAL, "Upload-Defer-Length": "1"})
    part = answer["Location"]
    final = concatenate(server.port, [part])["Location"]
    assert "upload-length" not in ask(server.port, "HEAD", final, TUS).headers
    assert append(server.port, part, 0, b"abcd", {"Upload-Length": "4"}).status == 204
    assert ended(server, final)["length"] == 4


def test_a_final_upload_takes_no_bytes(server: LiveServer) -> None:
    part = create(server.port, 6, PARTIAL)
    final = concatenate(server.port, [part])["Location"]
    answer = append(server.port, final, 0, b"abc")
    assert (answer.status, answer.problem["code"]) == (403, "forbidden")
    assert offset(server.port, part) == 0
    # Over the other protocol, too.
    ietf = {"Upload-Draft-Interop-Version": "6", "Upload-Complete": "?1", "Upload-Offset": "0"}
    answer = ask(
        server.port, "PATCH", final, {**ietf, "Content-Type": "application/partial-upload"}, b"abc"
    )
    assert answer.status == 403
    append(server.port, part, 0, b"abcdef")
    assert ended(server, final)["status"] == "done"
    assert append(server.port, final, 6, b"").status == 403


def test_the_same_twice_at_once_is_one_upload(server: LiveServer) -> None:
    parts = send_parts(server.port, [b"a" * 1000, b"b" * 1000])
    before = len(documents(server.url))
    with ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(lambda _: concatenate(server.port, parts), range(16)))
    assert {(answer.status, answer["Location"]) for answer in answers} == {
        (201, answers[0]["Location"])
    }
    final = answers[0]["Location"]
    assert ended(server, final)["status"] == "done"
    assert stored(server, final).read_bytes() == b"a" * 1000 + b"b" * 1000
    assert len(documents(server.url)) == before - 1, "two parts went from the list, one upload came"


def test_a_part_is_used_once(server: LiveServer) -> None:
    one, two, three = send_parts(server.port, [b"1", b"2", b"3"])
    final = concatenate(server.port, [one, two])["Location"]
    answer = concatenate(server.port, [three, two])
    assert (answer.status, answer.problem["code"]) == (409, "partial_in_use")
    # What was refused left nothing behind: the free part is still free.
    other = concatenate(server.port, [three])
    assert other.status == 201
    assert concatenate(server.port, [one, two], metadata(filename="x")).status == 409
    assert ended(server, final)["status"] == ended(server, other["Location"])["status"] == "done"


def refused_lists(server: LiveServer) -> dict[str, tuple[list[str], int]]:
    part = send_parts(server.port, [b"abc"])[0]
    plain = create(server.port, 3)
    return {
        "unknown": (["/files/" + "0" * 32], 400),
        "no upload's URL": (["/elsewhere/" + "0" * 32], 400),
        "not partial": ([part, plain], 400),
        "twice": ([part, part], 400),
        "nothing": ([""], 400),
        "two spaces": ([part, "", part], 400),
        "climbing": (["/files/../../etc/passwd"], 400),
    }


@pytest.mark.parametrize(
    "name",
    ["unknown", "no upload's URL", "not partial", "twice", "nothing", "two spaces", "climbing"],
)
def test_lists_that_are_refused(server: LiveServer, name: str) -> None:
    parts, expected = refused_lists(server)[name]
    before = {path.name for path in (server.data_dir / "uploads").iterdir()}
    answer = concatenate(server.port, parts)
    assert (answer.status, answer["Tus-Resumable"]) == (expected, "1.0.0")
    assert answer.problem["hint"]
    assert {path.name for path in (server.data_dir / "uploads").iterdir()} == before


@pytest.mark.parametrize("value", ["", "whole", "Partial", "final", "final;", "partial;/files/x"])
def test_values_that_are_none(server: LiveServer, value: str) -> None:
    answer = ask(server.port, "POST", "/files/", {**TUS, "Upload-Concat": value})
    assert answer.status == 400, value


@pytest.mark.parametrize("name", ["Upload-Length", "Upload-Defer-Length"])
def test_a_final_upload_has_no_length_of_its_own(server: LiveServer, name: str) -> None:
    part = send_parts(server.port, [b"a"])[0]
    answer = concatenate(server.port, [part], {name: "1"})
    assert answer.status == 400
    with_body = {**TUS, **OCTETS, "Upload-Concat": f"final;{part}"}
    assert ask(server.port, "POST", "/files/", with_body, b"x").status == 400
    assert concatenate(server.port, [part]).status == 201


def test_absolute_urls_and_prefixes(server: LiveServer) -> None:
    one, two, three = send_parts(server.port, [b"1", b"2", b"3"])
    urls = [server.url + one, "https://console.example/api" + two, three.rsplit("/", 1)[-1]]
    final = concatenate(server.port, urls)["Location"]
    assert ended(server, final)["status"] == "done"
    assert stored(server, final).read_bytes() == b"123"


def test_partials_are_no_jobs(server: LiveServer) -> None:
    part = send_parts(server.port, [b"abc"])[0]
    document = status(server.port, part)
    assert (document["status"], document["offset"], document["steps"]) == ("receiving", 3, [])
    listed = [row["id"] for row in documents(server.url)]
    assert part.rsplit("/", 1)[-1] in listed
    final = concatenate(server.port, [part])["Location"]
    ended(server, final)
    listed = [row["id"] for row in documents(server.url)]
    assert part.rsplit("/", 1)[-1] not in listed
    assert final.rsplit("/", 1)[-1] in listed


def test_deleting_the_whole_takes_its_parts(server: LiveServer) -> None:
    parts = [create(server.port, 2**20, PARTIAL) for _ in range(2)]
    final = concatenate(server.port, parts)["Location"]
    answer = ask(server.port, "DELETE", parts[0], TUS)
    assert (answer.status, answer.problem["code"]) == (409, "part_of_final")
    with Raw(server.port) as raw:
        place = {"Upload-Offset": "0", "Content-Length": str(2**20)}
        raw.head("PATCH", parts[1], {**TUS, **OCTETS, **place})
        raw.send(b"x" * 1000)
        wait_until(lambda: stored(server, parts[1]).stat().st_size == 1000)
        assert ask(server.port, "DELETE", final, TUS).status == 204
    for path in (final, *parts):
        assert ask(server.port, "HEAD", path, TUS).status == 404
    left = [path.name for path in (server.data_dir / "uploads").iterdir()]
    assert not [name for name in left if name.split(".")[0] in str((final, *parts))]


def test_a_partial_can_be_deleted_before_it_is_a_part(server: LiveServer) -> None:
    part = send_parts(server.port, [b"abc"])[0]
    assert ask(server.port, "DELETE", part, TUS).status == 204
    assert concatenate(server.port, [part]).status == 400


def test_canceled_while_parts_arrive(server: LiveServer) -> None:
    parts = [*send_parts(server.port, [b"abc"]), create(server.port, 5, PARTIAL)]
    final = concatenate(server.port, parts)["Location"]
    answer = requests.post(
        f"{server.url}/api/uploads/{final.rsplit('/', 1)[-1]}/cancel", timeout=20
    )
    assert answer.json()["status"] == "canceled"
    assert append(server.port, parts[1], 0, b"defgh").status == 410
    assert ask(server.port, "HEAD", final, TUS).status == 410
    assert not any(stored(server, path).exists() for path in (final, *parts))


def test_expiry(serve: Serve) -> None:
    server = serve(unfinished_ttl_hours=1.5 / 3600, sweep_minutes=60)
    lonely = send_parts(server.port, [b"abc"])[0]
    first, second = create(server.port, 3, PARTIAL), create(server.port, 9, PARTIAL)
    append(server.port, first, 0, b"abc")
    final = concatenate(server.port, [first, second])["Location"]
    # As long as one part goes on, none of them expires.
    for at in range(5):
        time.sleep(0.6)
        assert append(server.port, second, at, b"x").status == 204
    assert ask(server.port, "HEAD", first, TUS).status == 200
    assert ask(server.port, "HEAD", lonely, TUS).status == 410
    wait_until(lambda: ask(server.port, "HEAD", final, TUS).status == 410, seconds=20)
    assert append(server.port, second, 5, b"x").status == 410
    ran = run_tusboat(server.data_dir.parent, "gc", env=server.env)
    assert ran.code == 0, ran
    assert not any(stored(server, path).exists() for path in (lonely, first, second, final))
    assert status(server.port, final)["status"] == "expired"


def test_max_size_holds_for_the_whole(serve: Serve) -> None:
    server = serve(max_size=10)
    parts = send_parts(server.port, [b"x" * 8, b"y" * 8])
    answer = concatenate(server.port, parts)
    assert answer.status == 413
    assert concatenate(server.port, parts[:1]).status == 201


def test_another_caller_s_parts(serve: Serve, tmp_path: Path) -> None:
    tokens = {"alice": "a" * 40, "bob": "b" * 40}
    rows = [
        f'[[token]]\nname = "{name}"\nsha256 = "{hashlib.sha256(token.encode()).hexdigest()}"\n'
        'repositories = ["*"]\n'
        for name, token in tokens.items()
    ]
    (tmp_path / "tokens.toml").write_text("\n".join(rows))
    server = serve(tokens_file=tmp_path / "tokens.toml")
    alice, bob = ({"Authorization": f"Bearer {token}"} for token in tokens.values())
    part = create(server.port, 3, {**PARTIAL, **alice})
    assert append(server.port, part, 0, b"abc", alice).status == 204
    answer = concatenate(server.port, [part], bob)
    assert (answer.status, answer.problem["code"]) == (400, "unknown_partial")
    first = concatenate(server.port, [part], alice)
    assert first.status == 201
    assert concatenate(server.port, [part], bob).status == 400


def test_download_of_what_was_sent_in_parts(serve: Serve) -> None:
    server = serve(downloads=True)
    final = concatenate(server.port, send_parts(server.port, [b"abc", b"defg"]))["Location"]
    ended(server, final)
    assert ask(server.port, "GET", final).body == b"abcdefg"


def test_killed_at_any_moment_of_assembling(serve: Serve) -> None:
    """kill -9 while the parts become one file, again and again: the right file comes out."""
    chance = random.Random(4)
    data = b"".join(chance.randbytes(MIB) for _ in range(256))
    server = serve()
    parts = send_parts(server.port, pieces_of(data, 3))
    said = metadata(md5=hashlib.md5(data, usedforsecurity=False).hexdigest())
    final = concatenate(server.port, parts, said)["Location"]
    assert offset(server.port, final) == len(data)
    kills = 0
    for _ in range(4):
        before = stored(server, final).stat().st_size
        victim = threading.Timer(chance.uniform(0.0, 0.2), server.kill)
        victim.start()
        victim.join()
        kills += before < len(data)
        server.start()
        assert offset(server.port, final) == len(data)
    document = ended(server, final)
    assert document["status"] == "done", document
    assert stored(server, final).read_bytes() == data
    assert kills, "it was killed at least once before the file was whole"
    assert not any(stored(server, part).exists() for part in parts)


def test_assembled_on_a_disk_that_is_nearly_full(serve: Serve, tmp_path: Path) -> None:
    """The parts' space comes back as they are copied: less is free than one part is long."""
    with tiny_disk(tmp_path / "disk", "64m") as disk:
        server = serve(data_dir=disk / "data")
        data = b"".join(random.Random(8).randbytes(MIB) for _ in range(54))
        parts = send_parts(server.port, pieces_of(data, 2))
        free = shutil.disk_usage(disk).free
        assert free < len(data) // 2
        final = concatenate(server.port, parts)["Location"]
        document = ended(server, final)
        assert document["status"] == "done", document
        assert document["digests"]["sha256"] == hashlib.sha256(data).hexdigest()
        assert shutil.disk_usage(disk).free > free - MIB
        server.stop()


def test_a_part_that_was_damaged_meanwhile(serve: Serve) -> None:
    server = serve(run_worker=False)
    parts = send_parts(server.port, [b"abc" * 1000, b"def" * 1000])
    final = concatenate(server.port, parts)["Location"]
    os.truncate(stored(server, parts[1]), 1000)
    server.stop()
    # Only what is whole is worked on; the sender is asked for the rest.
    server = serve(data_dir=server.data_dir)
    assert "upload-offset" not in ask(server.port, "HEAD", final, TUS).headers
    assert append(server.port, parts[1], 1000, (b"def" * 1000)[1000:]).status == 204
    assert ended(server, final)["status"] == "done"
    assert stored(server, final).read_bytes() == b"abc" * 1000 + b"def" * 1000


def test_a_refusal_takes_nothing_from_the_parts_that_were_free(server: LiveServer) -> None:
    taken, free = send_parts(server.port, [b"taken", b"free"])
    assert concatenate(server.port, [taken]).status == 201
    with ThreadPoolExecutor(8) as threads:
        answers = list(
            threads.map(lambda _: concatenate(server.port, [free, taken]).status, range(40))
        )
    assert set(answers) == {409}
    assert offset(server.port, free) == 4
    assert ended(server, concatenate(server.port, [free])["Location"])["status"] == "done"


def test_of_two_uploads_with_common_parts_one_wins(server: LiveServer) -> None:
    for _ in range(12):
        one, two = send_parts(server.port, [b"one", b"two"])
        with ThreadPoolExecutor(8) as threads:
            lists = [[one, two], [two, one]] * 4
            answers = list(threads.map(lambda parts: concatenate(server.port, parts), lists))
        won = {answer["Location"] for answer in answers if answer.status == 201}
        assert len(won) == 1, [answer.status for answer in answers]
        assert {answer.status for answer in answers} <= {201, 409}
        assert ended(server, won.pop())["status"] == "done"


def test_canceling_a_part_and_using_it_exclude_each_other(server: LiveServer) -> None:
    outcomes = set()
    for _ in range(12):
        part = send_parts(server.port, [b"abc"])[0]
        cancel = f"{server.url}/api/uploads/{part.rsplit('/', 1)[-1]}/cancel"
        with ThreadPoolExecutor(2) as threads:
            canceled = threads.submit(requests.post, cancel, timeout=30)
            final = concatenate(server.port, [part])
            codes = (canceled.result().status_code, final.status)
        outcomes.add(codes)
        assert codes in {(200, 410), (200, 409), (200, 400), (409, 201)}, codes
        if final.status == 201:
            assert ended(server, final["Location"])["status"] == "done"
    assert outcomes


def test_a_list_that_is_too_long(server: LiveServer) -> None:
    parts = [f"/files/{number:032x}" for number in range(257)]
    answer = concatenate(server.port, parts)
    assert (answer.status, answer.problem["code"]) == (400, "too_many_parts")


def test_commas_are_no_separators(server: LiveServer) -> None:
    one, two = send_parts(server.port, [b"1", b"2"])
    assert concatenate(server.port, [f"{one},{two}"]).status == 400
    assert concatenate(server.port, [one, two]).status == 201


def test_a_length_that_is_not_known_where_the_whole_is_limited(serve: Serve) -> None:
    server = serve(max_size=10)
    deferred = {**TUS, **PARTIAL, "Upload-Defer-Length": "1"}
    part = ask(server.port, "POST", "/files/", deferred)["Location"]
    answer = concatenate(server.port, [part, *send_parts(server.port, [b"x" * 8])])
    assert (answer.status, answer.problem["code"]) == (400, "unknown_length")


def test_a_part_has_its_own_document_and_no_digest(server: LiveServer) -> None:
    parts = send_parts(server.port, [b"abc", b"defg"])
    final = concatenate(server.port, parts, metadata(md5="0" * 32))["Location"]
    ended(server, final)
    document = status(server.port, parts[1])
    assert (document["id"], document["length"]) == (parts[1].rsplit("/", 1)[-1], 4)
    assert document["status"] == "failed", "as the whole"
    ietf = {"Upload-Draft-Interop-Version": "6", "Want-Repr-Digest": "sha-256=1"}
    assert "repr-digest" not in ask(server.port, "HEAD", parts[1], ietf).headers
    retry = f"/api/uploads/{parts[1].rsplit('/', 1)[-1]}/retry"
    answer = ask(server.port, "POST", retry)
    assert (answer.status, answer.problem["code"]) == (409, "part_of_final")


def test_the_same_again_after_the_end(serve: Serve) -> None:
    server = serve(finished_ttl_hours=0.5 / 3600)
    for act in ("delete", "fail"):
        parts = send_parts(server.port, [b"abc"])
        final = concatenate(server.port, parts, metadata(md5="0" * 32))["Location"]
        assert ended(server, final)["status"] == "failed"
        if act == "delete":
            assert ask(server.port, "DELETE", final, TUS).status == 204
        time.sleep(0.6)
        assert run_tusboat(server.data_dir.parent, "gc", env=server.env).code == 0
        again = concatenate(server.port, parts, metadata(md5="0" * 32))
        assert again["Location"] == final
        assert not stored(server, final).exists()
        retry = f"/api/uploads/{final.rsplit('/', 1)[-1]}/retry"
        assert ask(server.port, "POST", retry).status == 409


def test_a_part_is_no_download(serve: Serve) -> None:
    server = serve(downloads=True, run_worker=False)
    parts = send_parts(server.port, [b"abc"])
    assert ask(server.port, "GET", parts[0]).status == 404
    final = concatenate(server.port, parts)["Location"]
    assert ask(server.port, "GET", parts[0]).status == 404
    assert ask(server.port, "GET", final).status == 404, "not assembled yet"


def test_many_parts_cost_little(serve: Serve) -> None:
    server = serve(run_worker=False)
    parts = [create(server.port, 2, PARTIAL) for _ in range(200)]
    final = concatenate(server.port, parts)["Location"]
    begun = time.monotonic()
    assert append(server.port, parts[0], 0, b"xy").status == 204
    assert [row["id"] for row in documents(server.url)] == [final.rsplit("/", 1)[-1]]
    assert run_tusboat(server.data_dir.parent, "gc", "--dry-run", env=server.env).code == 0
    assert time.monotonic() - begun < 20, "it was minutes when each part looked at all the others"


def test_a_kill_in_the_middle_of_a_removal_leaves_nothing_for_ever(serve: Serve) -> None:
    server = serve(run_worker=False)
    final = concatenate(server.port, send_parts(server.port, [b"abc"]))["Location"]
    stored(server, final).unlink()
    sidecar = stored(server, final).with_suffix(".info")
    os.utime(sidecar, (time.time() - 4000,) * 2)
    assert run_tusboat(server.data_dir.parent, "gc", env=server.env).code == 0
    assert not [path for path in (server.data_dir / "uploads").iterdir() if path.is_file()]
