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
    config.pluginmanager.register(ProcessorTimes("seconds.json", True))
"""
TEST = """
import time

def test_it():
    time.sleep(1.1)
    start = time.process_time()
    while time.process_time() < start + {}:
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


def test_the_choice_keeps_a_case_of_each_function():
    seconds = {
        "tests/a/test_rest.py::test_rest": 10_000.0,
        "tests/a/test_a.py::test_cases[1]": 2.0,
        "tests/a/test_a.py::test_cases[2]": 1.0,
        "tests/a/test_a.py::test_cheap": 0.1,
        "tests/a/test_b.py::test_long[x]": 9.0,
        "tests/a/test_b.py::test_long[y]": 8.0,
        "tests/a/test_b.py::test_longer": 20.0,
        f"tests/{DEAR[0]}[x]": 5.0,
    }
    slow = choose(seconds)
    names = shortened(slow, seconds)
    assert names == ["a/test_a.py::test_cases[1]", "a/test_b.py", "a/test_rest.py"]
    assert {test for test in seconds if is_in(test, names)} == slow


@pytest.mark.parametrize(("seconds", "fails"), [(0, False), (1.1, True)])
def test_a_dear_test_that_is_not_listed_fails_the_run(tmp_path, seconds, fails):
    """Tests that only processor time counts."""
    (tmp_path / "conftest.py").write_text(PLUGIN.format(str(TESTS / "support")))
    (tmp_path / "test_dear.py").write_text(TEST.format(seconds))
    options = ["-p", "no:cacheprovider", "-p", "no:xdist"]
    run = subprocess.run([sys.executable, "-m", "pytest", *options], cwd=tmp_path, capture_output=True, text=True)
    assert run.returncode == fails and ("test_it takes 1.1 s of processor time" in run.stdout) == fails
    (measured,) = json.loads((tmp_path / "seconds.json").read_text()).values()
    assert abs(measured - seconds) < 0.2
