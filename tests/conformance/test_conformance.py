"""Every row of the conformance table against a live server, and the README's count of them."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.conformance import checksum, concatenation, core, creation, endings, lengths, patch
from tests.conformance.case import BEARER, TOKEN, UNKNOWN, Case, play
from tests.live import ROOT, LiveServer
from tests.raw import TUS, ask

TABLES = (core, patch, creation, lengths, endings, checksum, concatenation)
CASES = [case for table in TABLES for case in table.CASES]
BEGIN, END = "<!-- rows: begin -->\n", "<!-- rows: end -->"
README = Path(__file__).with_name("README.md")

Servers = Callable[[str], LiveServer]


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    """One server for each name in the rows, started when the first row asks for it.

    No worker runs: what is on the disk afterwards is what the request left.
    """
    folder = tmp_path_factory.mktemp("conformance")
    tokens = folder / "tokens.toml"
    digest = hashlib.sha256(TOKEN.encode()).hexdigest()
    tokens.write_text(f'[[token]]\nname = "anna"\nsha256 = "{digest}"\n')
    settings: dict[str, dict[str, object]] = {
        "plain": {},
        "limited": {"max_size": 1000},
        "guarded": {"tokens_file": tokens},
    }
    running: dict[str, LiveServer] = {}
    with ExitStack() as stack:

        def start(name: str) -> LiveServer:
            if name not in running:
                running[name] = stack.enter_context(
                    LiveServer(folder, data_dir=folder / name, run_worker=False, **settings[name])
                )
            return running[name]

        yield start


def identified(case: Case) -> str:
    return f"{case.spec}: {case.name}"


@pytest.mark.parametrize("case", CASES, ids=identified)
def test_row(servers: Servers, case: Case) -> None:
    play(servers(case.server), case)


EARLY = [case for case in CASES if case.refused and case.body and not case.late]


@pytest.mark.parametrize("case", EARLY, ids=identified)
def test_a_refusal_does_not_wait_for_the_body(servers: Servers, case: Case) -> None:
    """The answer is there when one byte of the body is."""
    play(servers(case.server), case, hold_body=True)


def test_a_guarded_upload_is_there_for_its_owner_only(servers: Servers) -> None:
    """The rows with 401 would pass, too, on a server that knows nobody at all."""
    server = servers("guarded")
    assert ask(server.port, "HEAD", UNKNOWN, {**TUS, **BEARER}).status == 404
    assert ask(server.port, "HEAD", UNKNOWN, TUS).status == 401


def test_each_row_has_a_name_of_its_own() -> None:
    assert [name for name, count in Counter(map(identified, CASES)).items() if count > 1] == []


def table() -> str:
    """The sections in the order of the rows, and how many rows each has."""
    count = Counter(case.spec for case in CASES)
    rows = [f"| {section} | {number} |" for section, number in count.items()]
    return "\n".join(["| section | rows |", "|---|---|", *rows, f"| all | {len(CASES)} |"])


def test_the_readme_counts_the_rows() -> None:
    assert README.read_text().partition(BEGIN)[2].partition(END)[0].strip() == table()


def test_what_the_readme_says_is_shown_elsewhere_is_there() -> None:
    """Each `file.py::test` in the README exists."""
    named = [word for word in README.read_text().split("`") if "::" in word]
    assert named
    for name in named:
        path, _, function = name.partition("::")
        assert f"def {function}(" in (ROOT / path).read_text(), name
