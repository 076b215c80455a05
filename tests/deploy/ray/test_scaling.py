"""The scaling benchmark: its rows, and its refusal of different masks. Nothing is timed here."""

import argparse

import pytest
import scaling

from sam2fast.deploy.parallel.runners import in_this_process

SMALL = argparse.Namespace(workers=[1], clips=2, frames=2, runs=2, empty=5)


def test_rows(monkeypatch, tmp_path):
    monkeypatch.setattr(scaling, "runners", lambda workers: {"here": lambda: in_this_process("cpu")})
    clips, empty = scaling.measure(SMALL, tmp_path)
    assert clips["efficiency"] == 1.0 and len(clips["samples"]) == 2
    for sample in clips["samples"]:
        assert sample["frames_per_second"] == pytest.approx(4 / sample["seconds"])
        assert sample["seconds_whole"] >= sample["seconds"] > 0
    assert (empty["op"], empty["workers"]) == ("empty jobs", 1) and empty["jobs_per_second"] > 0
    assert "100% of as many single ones" in scaling.report(clips) and "empty jobs/s" in scaling.report(empty)
