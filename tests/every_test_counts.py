"""A pytest plugin for .ci/run: a run that left a test out has failed.

Left out is what was skipped, what was expected to fail, what was deselected by anything but the
marker `slow`, and a test file from which nothing was collected. Appends a line `PASSED FAILED` to
the file `--tally`.

Knows: pytest.
Must not know: what is tested.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    """Take the file for the counts."""
    parser.addoption("--tally", type=Path, required=True, help="append `PASSED FAILED` here")


def pytest_configure(config: pytest.Config) -> None:
    """Start counting."""
    if config.inipath is None:
        # pytest looks for it above every path among the arguments, options' values included.
        raise pytest.UsageError("the project's configuration was not read; is it `--tally=FILE`?")
    config.pluginmanager.register(_Count(config))


class _Count:
    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._complaints: list[str] = []

    @pytest.hookimpl(tryfirst=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        collected = {item.path for item in items}
        self._complaints += [
            f"nothing was collected from {path}" for path in self._files() if path not in collected
        ]

    def pytest_deselected(self, items: Sequence[pytest.Item]) -> None:
        slow_is_out = self._config.getoption("markexpr") == "not slow"
        self._complaints += [
            f"deselected, but not by the marker `slow`: {item.nodeid}"
            for item in items
            if bool(item.get_closest_marker("slow")) != slow_is_out
        ]

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.skipped:
            self._complaints.append(f"skipped: {report.nodeid}")

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if hasattr(report, "wasxfail"):
            self._complaints.append(f"expected to fail: {report.nodeid}")
        elif report.skipped:
            self._complaints.append(f"skipped: {report.nodeid}")

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        counts = self._counts()
        if not counts.get("passed"):
            self._complaints.append("no test passed")
        if self._complaints and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED
        with self._config.getoption("tally").open("a") as tally:
            failed = counts.get("failed", 0) + counts.get("error", 0)
            tally.write(f"{counts.get('passed', 0)} {failed}\n")

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if self._complaints:
            terminalreporter.section("every test counts here", red=True)
            for complaint in self._complaints:
                terminalreporter.line(complaint)

    def _counts(self) -> dict[str, int]:
        reporter = self._config.pluginmanager.get_plugin("terminalreporter")
        assert reporter is not None
        return {key: len(reports) for key, reports in reporter.stats.items()}

    def _files(self) -> Iterator[Path]:
        for folder in self._config.getini("testpaths"):
            for pattern in self._config.getini("python_files"):
                yield from (self._config.rootpath / folder).rglob(pattern)
