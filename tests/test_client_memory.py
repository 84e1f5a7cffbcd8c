"""What is remembered between runs, how long is waited, and how an end is worded."""

from __future__ import annotations

import json
import os
import stat
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from hooks.record import Record, StepRecord, StepState
from server.client import display as display_module
from server.client import patience as patience_module
from server.client.display import Display, JsonDisplay, PlainDisplay, QuietDisplay, printable
from server.client.document import Document
from server.client.errors import ClientError, GaveUp, TryAgain, UploadEnded
from server.client.followed import conclude
from server.client.memory import DAY_SECONDS, Memory
from server.client.patience import Patience
from server.client.table import joined

KEY, OTHER = "a" * 32, "b" * 32


def keep(memory: Memory, key: str, upload_id: str) -> bool:
    return memory.keep(key, upload_id, server="http://a", file=Path("llm.tar"))


def test_it_remembers_and_forgets(tmp_path: Path) -> None:
    memory = Memory(tmp_path / "state")
    assert memory.find(KEY) is None
    memory.forget(KEY)
    assert keep(memory, KEY, "first")
    assert keep(memory, OTHER, "second")
    assert Memory(tmp_path / "state").find(KEY) == "first"
    memory.forget(KEY)
    assert (memory.find(KEY), memory.find(OTHER)) == (None, "second")


def test_only_the_user_can_look(tmp_path: Path) -> None:
    keep(Memory(tmp_path), KEY, "first")
    directory = tmp_path / "tusboat" / "uploads"
    modes = {stat.S_IMODE(path.stat().st_mode) for path in directory.iterdir()}
    assert (stat.S_IMODE(directory.stat().st_mode), modes) == (0o700, {0o600})


def test_a_spoilt_file_is_as_good_as_none(tmp_path: Path) -> None:
    memory = Memory(tmp_path)
    keep(memory, KEY, "first")
    path = tmp_path / "tusboat" / "uploads" / f"{KEY}.json"
    for content in (b"", b"{", b"[]", b'"text"', b"{}", b"\xff"):
        path.write_bytes(content)
        assert memory.find(KEY) is None
    assert keep(memory, KEY, "second")
    assert memory.find(KEY) == "second"


def test_many_at_once_leave_whole_files_and_nothing_else(tmp_path: Path) -> None:
    def work(number: int) -> None:
        memory = Memory(tmp_path)
        for _ in range(20):
            assert keep(memory, KEY, f"same-{number}")
            assert keep(memory, f"{number:032d}", f"own-{number}")
            assert (memory.find(KEY) or "").startswith("same-")
            assert memory.find(f"{number:032d}") == f"own-{number}"

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    files = list((tmp_path / "tusboat" / "uploads").iterdir())
    assert len(files) == 7
    assert all(json.loads(path.read_text())["upload_id"] for path in files)


def test_what_is_a_month_old_goes(tmp_path: Path) -> None:
    memory = Memory(tmp_path)
    keep(memory, KEY, "old")
    path = tmp_path / "tusboat" / "uploads" / f"{KEY}.json"
    old = time.time() - 31 * DAY_SECONDS
    os.utime(path, (old, old))
    keep(memory, OTHER, "new")
    assert not path.exists()


def test_a_directory_that_cannot_be_made_is_no_reason_to_stop(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    memory = Memory(tmp_path / "file")
    assert memory.find(KEY) is None
    assert not keep(memory, KEY, "first")
    memory.forget(KEY)


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The pauses that were asked for; a clock that jumps by each stands in for waiting."""
    slept: list[float] = []

    class Clock:
        @staticmethod
        def monotonic() -> float:
            return 1000 + sum(slept)

        @staticmethod
        def sleep(seconds: float) -> None:
            slept.append(seconds)

    monkeypatch.setattr(patience_module, "time", Clock)
    return slept


def test_pauses_grow_to_a_limit_until_the_allowed_time_is_over(pauses: list[float]) -> None:
    said: list[str] = []
    patience = Patience(600, said.append)

    def wait_for_ever() -> None:
        for _ in range(1000):
            patience.wait(TryAgain("refused", "hint", code="code"))

    with pytest.raises(GaveUp, match=r"10 min without progress.*refused") as caught:
        wait_for_ever()
    assert (caught.value.hint, caught.value.code) == ("hint", "code")
    assert 0.25 <= pauses[0] <= 0.5
    assert max(pauses) <= 30
    assert sum(pauses) == pytest.approx(600)
    assert 20 < len(pauses) < 60
    assert len(said) == 1


def test_progress_begins_anew(pauses: list[float]) -> None:
    said: list[str] = []
    patience = Patience(100, said.append)
    for _ in range(30):
        patience.wait(TryAgain("refused"))
        patience.progressed()
    assert max(pauses) <= 0.5
    assert len(said) == 30


def test_the_server_may_ask_for_a_longer_pause(pauses: list[float]) -> None:
    patience = Patience(100, lambda _: None)
    patience.wait(TryAgain("busy", retry_after_seconds=20))
    assert pauses == [20]


def document(**fields: Any) -> dict[str, Any]:
    return {
        "id": "f" * 32,
        "filename": "llm.tar",
        "length": 10,
        "offset": 10,
        "protocol": "tus",
        "owner": "local",
        "status": "done",
        "image": None,
        "digests": {"md5": None, "sha256": None},
        "created_at": "2026-11-24T00:00:00.000Z",
        "updated_at": "2026-11-24T00:00:00.000Z",
        "expires_at": None,
        "steps": [],
        "results": [],
        "error": None,
        **fields,
    }


def failure(step: str) -> dict[str, Any]:
    return {"code": "c", "step": step, "message": "m", "hint": "h", "retryable": False, "new": 1}


def test_fields_of_a_newer_server_are_passed_over() -> None:
    step = {
        "name": "push",
        "state": "done",
        "started_at": None,
        "finished_at": None,
        "bytes_done": 1,
        "bytes_total": 1,
        "message": "",
    }
    raw = document(news=1, steps=[{**step, "news": 1}], error=failure("push"))
    assert Document.parse(raw).record.step("push").bytes_done == 1


@pytest.mark.parametrize(
    "raw", [{}, {"id": "x"}, document(status="new"), document(steps=[1]), document(steps=None)]
)
def test_what_is_not_a_document_is_said(raw: dict[str, Any]) -> None:
    with pytest.raises(ClientError, match="cannot be understood"):
        Document.parse(raw)


def test_each_bad_end_says_what_to_do() -> None:
    ends = {
        "expired": (document(status="expired", offset=5), "upload again"),
        "canceled": (document(status="canceled"), ""),
        "push": (document(status="failed", error=failure("push")), f"tusboat retry {'f' * 32}"),
        "verify": (document(status="failed", error=failure("verify")), "upload the archive again"),
        "no cause": (document(status="failed"), "tusboat retry"),
    }
    for name, (raw, hint) in ends.items():
        with pytest.raises(UploadEnded) as caught:
            Document.parse(raw).check_done()
        assert hint in caught.value.hint, name
        assert "f" * 32 in caught.value.message
    Document.parse(document()).check_done()


def test_a_good_end_gives_each_digest_on_stdout(capsys: pytest.CaptureFixture[str]) -> None:
    results = [{"image": f"h/n:{one}", "digest": f"sha256:{one}", "platforms": []} for one in "ab"]
    conclude(PlainDisplay(), Document.parse(document(results=results)))
    assert capsys.readouterr().out == "sha256:a\nsha256:b\n"
    conclude(PlainDisplay(), Document.parse(document(expires_at="2026-11-25T00:00:00.000Z")))
    captured = capsys.readouterr()
    assert captured.out == ""
    assert f"kept on the server as upload {'f' * 32} until 2026-11-25" in captured.err


def test_each_transition_is_said_once(capsys: pytest.CaptureFixture[str]) -> None:
    def step(state: str, done: int) -> dict[str, Any]:
        return {
            "name": "push",
            "state": state,
            "started_at": "2026-11-24T00:00:00.000Z",
            "finished_at": "2026-11-24T00:00:02.500Z" if state == "done" else None,
            "bytes_done": done,
            "bytes_total": 9,
            "message": "",
        }

    states = [("waiting", 0), ("running", 1), ("running", 5), ("done", 9), ("done", 9)]
    plain, lines = PlainDisplay(), JsonDisplay()
    for state, done in states:
        plain.document(Document.parse(document(status="running", steps=[step(state, done)])))
    assert capsys.readouterr().err == "push: running\npush: done in 2.5 s\n"
    for state, done in states:
        lines.document(Document.parse(document(status="running", steps=[step(state, done)])))
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [event["event"] for event in events] == ["status", "step", "step"]


def test_a_step_that_has_far_to_go_is_told_of_now_and_then(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [100.0]
    monkeypatch.setattr(display_module.time, "monotonic", lambda: now[0])

    def moved(display: Display, done: int, seconds: float) -> None:
        now[0] += seconds
        step = StepRecord("push", StepState.RUNNING, bytes_done=done, bytes_total=4 * 1024)
        display.step("f", step, changed=done == 0)

    plain, lines, quiet = PlainDisplay(), JsonDisplay(), QuietDisplay()
    for display in (plain, quiet):
        for seconds, done in ((1, 0), (6, 1024), (6, 2048), (6, 3072), (6, 4096)):
            moved(display, done, seconds)
    said = capsys.readouterr().err.splitlines()
    assert said == [
        "push: running",
        "push: 2 KiB of 4 KiB (50 %)",
        "push: 4 KiB of 4 KiB (100 %)",
    ]
    for seconds, done in ((1, 0), (0.4, 10), (0.7, 20), (0.1, 30)):
        moved(lines, done, seconds)
    events = [json.loads(text) for text in capsys.readouterr().out.splitlines()]
    assert [event["step"]["bytes_done"] for event in events] == [0, 20]


def test_what_was_not_verified_is_not_called_so(capsys: pytest.CaptureFixture[str]) -> None:
    step = {"name": "verify", "state": "skipped", "started_at": None, "finished_at": None}
    step |= {"bytes_done": 0, "bytes_total": 0, "message": "no md5"}
    display = PlainDisplay()
    for raw in (document(status="running", steps=[step]), document(steps=[step])):
        display.document(Document.parse(raw))
    display.finished(Document.parse(document(steps=[step])))
    assert "not verified, but kept on the server" in capsys.readouterr().err


def test_parts_of_one_file_are_one_row() -> None:
    def part(number: int, owner: str = "anna", of: str | None = "key") -> Record:
        raw = document(status="receiving", owner=owner, part_of=of, length=30, offset=10 * number)
        name = f"llm (v1).tar (part {number + 1} of 3)"
        return Document.parse({**raw, "id": f"{owner}{number}", "filename": name}).record

    records = [part(0), part(0, "bert"), part(1), part(2), part(3, of=None)]
    rows = joined(records)
    assert [row.id for row in rows] == ["anna0", "bert0", "anna3"]
    assert (rows[0].filename, rows[0].length, rows[0].offset) == ("llm (v1).tar in 3 parts", 90, 30)
    assert rows[2] == records[-1]


def test_a_stranger_cannot_command_the_terminal() -> None:
    assert printable("a\x1b[2Jb\x07\u202ec\nd") == "a\ufffd[2Jb\ufffd\ufffdc\nd"
