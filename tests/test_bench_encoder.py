"""The bench of the encoder beside the official one: a row is whole, and other features get no time."""

import json
import sys
from types import SimpleNamespace

import curves
import encoder_side_by_side as bench
import pytest
import torch

SIZE = 64


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both encoders are small ones, and nothing waits for a compiler."""
    pair = curves.build(SIZE, torch.device("cpu"))
    named = {name: (SimpleNamespace(model=predictor), None) for name, predictor in pair.items()}
    monkeypatch.setattr(bench, "predictors", lambda size, dtype: named)
    monkeypatch.setattr(bench, "SIDE", SIZE)
    monkeypatch.setattr(torch, "compile", lambda function, **settings: function)


def test_the_command(small, tmp_path, monkeypatch, capsys):
    command = ["encoder_side_by_side.py", "--size", "t", "--dtype", "fp32", "--runs", "2", "--out", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", command)
    bench.main()
    (path,) = tmp_path.glob("encoder-cpu-*.json")
    report = json.loads(path.read_text())
    (row,) = report["rows"]
    assert (row["size"], row["dtype"], row["batch"]) == ("t", "fp32", 1) and report["machine"]["torch"]
    assert set(row["seconds"]) == {"official", "sam2fast", "official compiled", "sam2fast compiled"}
    assert all(len(seconds) == 2 and min(seconds) > 0 for seconds in row["seconds"].values())
    assert row["errors"]["official"] == 0 < row["errors"]["sam2fast"] < bench.ALLOWED["fp32"]
    official, ours = row["seconds"]["official"], row["seconds"]["sam2fast"]
    ratios = [a / b for a, b in zip(official, ours, strict=True)]
    assert row["ratio"]["eager"] == pytest.approx(sum(ratios) / 2)
    assert capsys.readouterr().out.startswith("t fp32 1 {")


def test_other_features_get_no_time(small, monkeypatch):
    monkeypatch.setattr(bench, "ALLOWED", {"fp32": 0.0})
    with pytest.raises(SystemExit, match="t fp32: features differ: .*; not timed"):
        bench.measure("t", "fp32", 1, torch.device("cpu"), runs=1)
