"""The list of slow tests: its names exist, it is chosen by processor time, and other tests must be fast."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from slow_tests import COLLECTED, DEAR, choose, is_in, names_of, read_list, shortened

TESTS = Path(__file__).parent
PLUGIN = """
import sys
sys.path.append({!r})
from processor_times import ProcessorTimes

def pytest_configure(config):
    config.pluginmanager.register(ProcessorTimes("seconds.json", is_strict=True, is_worker=False))
"""
BURN = """
import time
import pytest

def burn(seconds):
    start = time.process_time()
    while time.process_time() < start + seconds:
        pass
"""
TEST = """
RUNS = []

def test_it():
    RUNS.append(None)
    time.sleep(1.1)
    burn({})
"""
SHARED = """
@pytest.fixture(scope="module")
def shared():
    burn(1.1)

def test_one(shared):
    pass

def test_two(shared):
    pass
"""


def test_listed_tests_exist(request):
    """Tests names of files that were collected whole, and the existence of other files."""
    partial = {text.partition("::")[0] for text in request.config.args if "::" in text}
    tests = [test for test in request.config.stash[COLLECTED] if test.partition("::")[0] not in partial]
    names = {name for test in tests for name in names_of(test)}
    gone = {name for name in read_list() - names if name.partition("::")[0] in names}
    gone |= {name for name in read_list() if not (TESTS / name.partition("::")[0]).is_file()}
    assert not gone, "run `make slow-tests`, or remove these names"


def test_the_choice_keeps_a_case_of_each_function_and_a_test_of_each_file():
    seconds = {
        "tests/a/test_rest.py::test_rest": 26_000.0,
        "tests/a/test_a.py::test_cases[1]": 2.5,
        "tests/a/test_a.py::test_cases[2]": 1.0,
        "tests/a/test_a.py::test_cheap": 0.1,
        "tests/a/test_b.py::test_long[x]": 9.0,
        "tests/a/test_b.py::test_long[y]": 8.0,
        "tests/a/test_b.py::test_longer": 20.0,
        "tests/a/test_c.py::test_long[x]": 4.0,
        "tests/a/test_c.py::test_long[y]": 5.0,
        f"tests/{DEAR[0]}[x]": 5.0,
    }
    slow = choose(seconds)
    names = shortened(slow, seconds)
    assert names == [
        "a/test_a.py::test_cases[1]",
        "a/test_b.py",
        "a/test_c.py::test_long[y]",
        "a/test_rest.py",
    ]
    assert {test for test in seconds if is_in(test, names)} == slow


def run(folder, test):
    """Runs a test file with the plugin, and returns the finished process and the measured costs."""
    (folder / "conftest.py").write_text(PLUGIN.format(str(TESTS / "support")))
    (folder / "test_dear.py").write_text(BURN + test)
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-p", "no:xdist"]
    process = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    return process, [*json.loads((folder / "seconds.json").read_text()).values()]


@pytest.mark.parametrize(("seconds", "fails"), [("0", False), ("1.1", True), ("1.1 if len(RUNS) == 1 else 0", False)])
def test_a_dear_test_that_is_not_listed_fails_the_run(tmp_path, seconds, fails):
    """Tests that only processor time counts, of the second run. A wait has a third of its duration as cost."""
    process, (cost,) = run(tmp_path, TEST.format(seconds))
    assert process.returncode == fails and ("test_it takes 1.1 s of processor time" in process.stdout) == fails
    assert abs(cost - (1.1 if fails else 1.1 / 3)) < 0.2


def test_the_cost_of_a_shared_fixture_is_divided(tmp_path):
    process, costs = run(tmp_path, SHARED)
    assert process.returncode == 0 and len(costs) == 2 and all(abs(cost - 0.55) < 0.2 for cost in costs)
