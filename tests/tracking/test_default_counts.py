"""Holds the work that calls start on a GPU if a user sets nothing, as bench/results/README.md shows it."""

import json
import subprocess
import sys

from checkout import ROOT


def test_committed_counts():
    """Compares the present code's counts, without processor times.

    The command runs in its own process, because it leaves 10 GB of unused memory.
    """
    *_, path = sorted((ROOT / "bench" / "results").rglob("default-counts-*.json"))
    data = json.loads(path.read_text())
    command = [sys.executable, ROOT / "tests/support/default_counts.py", "--model", data["model"], "--json"]
    found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)["rows"]
    for one, other in zip(data["rows"], found, strict=True):
        assert one | {"thread_ms": None} == other | {"thread_ms": None}
    by_name = {row["call"]: row for row in found}
    assert by_name["frame of a video, 1 object"]["encoded"] == 1
    assert by_name["`predict`, 64 boxes, one mask each"]["down_bytes"] < 35e6
    assert by_name["`predict`, 64 boxes, three masks each"]["down_bytes"] < 103e6
