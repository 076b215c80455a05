"""Measures what each test costs, for the choice of slow tests."""

import json
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from _pytest.runner import runtestprotocol
from slow_tests import DEAR, LIMIT, is_in, processor_seconds, read_list

LISTED = {*read_list(), *DEAR}  # tests that may take more than ``LIMIT``
WAITING = 1 / 3  # cost of a second of waiting, during which other processes of `make test` run


class Clock:
    """Measures processor time, with child processes that ended, and time since its creation."""

    def __init__(self) -> None:
        self._processor, self._time = processor_seconds(), time.perf_counter()

    def spent(self) -> tuple[float, float]:
        return processor_seconds() - self._processor, time.perf_counter() - self._time


CLOCK = pytest.StashKey[Clock]()


def cost_of(processor: float, duration: float) -> float:
    return max(processor, WAITING * duration)


class ProcessorTimes:
    """Plugin that measures, writes and checks what tests cost: processor time in seconds, or a third of the duration.

    The cost of a fixture that tests share is divided among these tests.

    Args:
        file: JSON file for the costs by test, or None.
        is_strict: If True, the run fails if a test that is not in the list takes more than ``LIMIT`` seconds of
            processor time, without shared fixtures. Such a test runs twice, and the second run counts: the first run
            may have imported modules and filled caches for other tests.
        is_worker: If True, another process writes and checks the costs.
    """

    def __init__(self, file: str | None, is_strict: bool, is_worker: bool) -> None:
        self._file, self._is_strict, self._is_worker = file, is_strict, is_worker
        self._reports: dict[str, Any] = {}  # the last phase of each test, which has the costs of all phases
        self._shared: list[tuple[str, str, float, float]] = []  # shared fixtures that the test has set up

    def pytest_runtest_protocol(self, item: pytest.Item, nextitem: pytest.Item | None) -> bool | None:
        if not self._is_strict or is_in(item.nodeid, LISTED):
            return None
        item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
        reports = runtestprotocol(item, log=False, nextitem=nextitem)
        if reports[-1].processor > LIMIT and all(report.passed for report in reports):
            item._initrequest()
            reports = runtestprotocol(item, log=False, nextitem=nextitem)
        for report in reports:
            item.ihook.pytest_runtest_logreport(report=report)
        item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
        return True

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        item.stash[CLOCK], self._shared = Clock(), []

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[Any]:
        report = yield
        processor, duration = item.stash.get(CLOCK, Clock()).spent()
        report.processor = processor - sum(shared[2] for shared in self._shared)
        report.cost = cost_of(report.processor, duration - sum(shared[3] for shared in self._shared))
        report.shared, report.fixtures = self._shared, list(getattr(item, "fixturenames", ()))
        return report

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(self, fixturedef: pytest.FixtureDef[Any]) -> Iterator[Any]:
        clock = Clock()
        result = yield
        if fixturedef.scope != "function":
            self._shared.append((fixturedef.baseid, fixturedef.argname, *clock.spent()))
        return result

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if hasattr(report, "cost"):  # unless the process of the test crashed
            self._reports[report.nodeid] = report

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> Iterator[None]:
        if self._is_worker:
            return (yield)
        if self._file is not None:
            Path(self._file).write_text(json.dumps(self._costs(), indent=0) + "\n", encoding="utf-8")
        if self._is_strict and self._dear() and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED
        return (yield)

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        dear = self._dear()
        for test, seconds in dear.items() if self._is_strict else ():
            terminalreporter.write_line(f"{test} takes {seconds:.1f} s of processor time")
        if dear:
            terminalreporter.write_line(
                f"{len(dear)} tests outside of tests/slow_tests.txt take more than {LIMIT:g} s of processor time: make "
                "them cheaper, or run `make slow-tests`"
            )

    def _costs(self) -> dict[str, float]:
        costs = {test: report.cost for test, report in self._reports.items()}
        shared: dict[tuple[str, str], float] = defaultdict(float)
        for report in self._reports.values():
            for folder, fixture, processor, duration in report.shared:
                shared[folder, fixture] += cost_of(processor, duration)
        for (folder, fixture), cost in shared.items():
            users = [x.nodeid for x in self._reports.values() if x.nodeid.startswith(folder) and fixture in x.fixtures]
            for test in users:
                costs[test] += cost / len(users)
        return costs

    def _dear(self) -> dict[str, float]:
        times = {test: report.processor for test, report in self._reports.items()}
        return {test: x for test, x in times.items() if x > LIMIT and not is_in(test, LISTED)}
