"""Measures the processor time of each test, for the choice of slow tests."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from slow_tests import DEAR, LIMIT, is_in, processor_seconds, read_list

START = pytest.StashKey[float]()


class ProcessorTimes:
    """Plugin that measures, writes and checks the processor times of tests, with their child processes.

    The time of a fixture that several tests share counts for none of them.

    Args:
        file: JSON file for the times by test, or None.
        is_strict: If True, the run fails if a test that is not in the list takes more than ``LIMIT`` seconds.
    """

    def __init__(self, file: str | None, is_strict: bool) -> None:
        self._file, self._is_strict = file, is_strict
        self._seconds: dict[str, float] = {}
        self._shared = 0.0  # time of shared fixtures since the start of the test

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        item.stash[START], self._shared = processor_seconds(), 0.0

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[Any]:
        report = yield
        # The report of the last phase has the time of all phases.
        report.seconds = processor_seconds() - item.stash.get(START, processor_seconds()) - self._shared
        return report

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(self, fixturedef: pytest.FixtureDef[Any]) -> Iterator[Any]:
        start = processor_seconds()
        result = yield
        if fixturedef.scope != "function":
            self._shared += processor_seconds() - start
        return result

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if hasattr(report, "seconds"):  # unless the process of the test crashed
            self._seconds[report.nodeid] = report.seconds

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> Iterator[None]:
        if self._file is not None:
            Path(self._file).write_text(json.dumps(self._seconds, indent=0) + "\n", encoding="utf-8")
        if self._is_strict and self._dear() and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED
        return (yield)

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        dear = self._dear()
        for test, time in dear.items() if self._is_strict else ():
            terminalreporter.write_line(f"{test} takes {time:.1f} s of processor time")
        if dear:
            terminalreporter.write_line(
                f"{len(dear)} tests outside of tests/slow_tests.txt take more than {LIMIT:g} s of processor time: make "
                "them cheaper, or run `make slow-tests`"
            )

    def _dear(self) -> dict[str, float]:
        listed = {*read_list(), *DEAR}
        return {test: time for test, time in self._seconds.items() if time > LIMIT and not is_in(test, listed)}
