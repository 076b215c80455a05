"""Holds the work that calls start on a GPU if a user sets nothing, as bench/results/README.md shows it."""

import json
import os
import subprocess
import sys

from checkout import ROOT


def test_committed_counts():
    """Compares the present code's counts, without processor times.

    The command runs in its own process, whose large tensors leave no unused memory behind: it would be 10 GB.
    """
    *_, path = sorted((ROOT / "bench" / "results").rglob("default-counts-*.json"))
    data = json.loads(path.read_text())
    command = [sys.executable, ROOT / "tests/support/default_counts.py", "--model", data["model"], "--json"]
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "1000000"}
    run = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    found = json.loads(run.stdout)["rows"]
    for one, other in zip(data["rows"], found, strict=True):
        assert one | {"thread_ms": None} == other | {"thread_ms": None}
    by_name = {row["call"]: row for row in found}
    assert by_name["frame of a video, 1 object"]["encoded"] == 1
    assert by_name["`predict`, 64 boxes, one mask each"]["down_bytes"] < 35e6
    assert by_name["`predict`, 64 boxes, three masks each"]["down_bytes"] < 103e6
