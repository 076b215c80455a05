"""Chooses the tests that ``make test`` leaves out, from the cost of each test (``processor_times.py``).

    python tests/support/slow_tests.py out/seconds.json

Writes ``tests/slow_tests.txt``. ``make slow-tests`` runs all tests first.
"""

import json
import os
import sys
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from functools import cache
from pathlib import Path

import pytest

LIST = Path(__file__).parents[1] / "slow_tests.txt"
# Folders of tests that compare with the official package.
CORE = [
    "amg",
    "checkpoints",
    "compat",
    "datasets",
    "engine",
    "modeling",
    "predictors",
    "results",
    "sessions",
    "strategies",
    "tracking",
]
# Maximum costs of a fast test, as shares of the cost of all tests, because processors differ.
MOST_IN_CORE, MOST = 4e-5, 1.5e-5
MOST_OF_ONLY_CASE = 7e-5  # of the only fast case of a function
MOST_OF_ONLY_TEST = 1.6e-4  # of the only fast test of a file
LIMIT = 1.0  # maximum processor time in seconds of a test that is not in the list, on any processor
# Fast tests that may take more: compilation, parity, and one case of features whose tests are all expensive.
DEAR = (
    "cli/test_compare.py::test_an_image_with_two_models",
    "cli/test_demo.py::test_a_users_image_and_weights_for_images_only",
    "cli/test_export.py::test_options_reach_the_export",
    "cli/test_find.py::test_masks_and_a_table_by_likeness",
    "cli/test_profile.py::test_an_image_as_json",
    "cli/test_train.py::test_trains_and_prints_the_folder_of_checkpoints",
    "compat/test_official_flow.py::test_a_subclass_like_samurai",
    "deploy/onnx/test_onnx_export.py::test_a_graph_that_differs_is_seen",
    "modeling/test_compilation.py::test_an_encoder_that_a_user_compiles_has_one_graph_per_size",
    "modeling/test_compilation.py::test_a_decoder_that_a_user_compiles_has_one_graph",
    "modeling/test_compilation.py::test_a_block_with_rotations_has_one_graph",
    "modeling/test_family.py::test_a_stream_and_a_saved_session",
    "modeling/test_peft.py::test_adapters_of_peft_are_loaded[rslora]",
    "predictors/test_video_parity.py::test_parity",
    "strategies/test_d4sm.py::test_recorded_choices_memories_and_logits_of_two_objects",
    "training/test_official_yaml.py::test_changes_are_kept",
)
# Ids of all tests that this process collected.
COLLECTED = pytest.StashKey[set[str]]()


def processor_seconds() -> float:
    """Returns the processor time of this process and of the child processes that ended."""
    return sum(os.times()[:4])


def names_of(test: str) -> tuple[str, str, str]:
    """Returns the names by which the list may contain a test: its file, its function and itself."""
    test = test.removeprefix("tests/")
    return test.partition("::")[0], test.partition("[")[0], test


def is_in(test: str, names: Collection[str]) -> bool:
    return any(name in names for name in names_of(test))


@cache
def read_list() -> set[str]:
    """Returns the names of slow tests: files, functions and tests."""
    return {line for line in LIST.read_text(encoding="utf-8").splitlines() if line and not line.startswith("#")}


def choose(seconds: Mapping[str, float]) -> set[str]:
    """Returns the slow tests among tests with their costs."""
    total = sum(seconds.values())
    by_function, by_file = defaultdict(dict), defaultdict(dict)
    for test, time in seconds.items():
        file, function, _ = names_of(test)
        by_function[function][test] = by_file[file][test] = time / total
    slow: set[str] = set()
    for function, cases in by_function.items():
        most, first = MOST_IN_CORE if function.partition("/")[0] in CORE else MOST, min(cases, key=cases.__getitem__)
        slow |= {test for test, x in cases.items() if x > (MOST_OF_ONLY_CASE if test == first else most)}
    for tests in by_file.values():
        first = min(tests, key=tests.__getitem__)
        if tests.keys() <= slow and tests[first] <= MOST_OF_ONLY_TEST:
            slow.remove(first)
    return {test for test in slow if not is_in(test, DEAR)}


def shortened(slow: Iterable[str], tests: Iterable[str]) -> list[str]:
    """Returns names of tests. Where all tests of a file or of a function are slow, its name stands for them."""
    slow, all_tests = set(slow), defaultdict(set)
    for test in tests:
        for name in names_of(test):
            all_tests[name].add(test)
    return sorted({next(name for name in names_of(test) if all_tests[name] <= slow) for test in slow})


def main() -> None:
    seconds = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    slow = choose(seconds)
    lines = [
        "# Tests that `make test` leaves out: files, functions and tests. Written by `make slow-tests`.",
        *shortened(slow, seconds),
    ]
    LIST.write_text("\n".join(lines) + "\n", encoding="utf-8")
    fast = sum(time for test, time in seconds.items() if test not in slow)
    rest = sum(seconds.values()) - fast
    print(f"{len(seconds) - len(slow)} fast tests, {fast:.0f} s; {len(slow)} slow tests, {rest:.0f} s")


if __name__ == "__main__":
    main()
