"""The bench of the evaluator: scores that differ get no time, and rows are whole."""

import json

import evaluation
import plain_evaluator as plain
import pytest


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    return evaluation.make_sets(tmp_path_factory.mktemp("sets"), videos=2, frames=5, objects=2, size=(96, 64))


@pytest.mark.parametrize("layout", evaluation.LAYOUTS)
def test_rows(sets, layout):
    row = evaluation.measure(layout, *sets[layout], processes=1, runs=2)
    assert row["difference"] < 1e-9 and row["masks"] > 0 and 20 < row["J&F"] < 100
    assert set(row["ratio"]) | {"sam2fast", "decoding alone"} == set(row["seconds"]) and "scipy" in row["ratio"]
    assert all(len(seconds) == 2 and min(seconds) > 0 for seconds in row["seconds"].values())
    assert row["files"] == 2 * (6 if layout == "davis" else row["masks"])
    line = evaluation.report(json.loads(json.dumps(row)))
    assert line.startswith(f"{layout}, 1 processes, {row['masks']} masks: scipy ") and "as fast as scipy" in line


def test_scores_that_differ_get_no_time(sets, monkeypatch):
    monkeypatch.setattr(plain, "f_of", lambda pred, truth, dilate: 0.5)
    with pytest.raises(SystemExit, match="the scores differ by .*; not timed"):
        evaluation.measure("davis", *sets["davis"], processes=1, runs=1)


def test_the_difference_is_infinite_where_objects_differ():
    assert evaluation.largest_difference({"a": {1: (2.0, 3.0)}}, {"a": {1: (2.0, 3.5)}}) == 0.5
    assert evaluation.largest_difference({"a": {1: (2.0, 3.0)}}, {"a": {2: (2.0, 3.0)}}) == float("inf")
