"""Holds the work that calls start on a GPU if a user sets nothing, as bench/results/README.md shows it."""

import ctypes
import gc
import json
import sys

import pytest
from checkout import ROOT
from default_counts import all_counts


@pytest.fixture
def returned_memory():
    """Returns 7 GB to the system after a test, which glibc would keep."""
    yield
    gc.collect()
    if sys.platform == "linux":
        ctypes.CDLL("libc.so.6").malloc_trim(0)


@pytest.mark.usefixtures("returned_memory")
def test_committed_counts():
    """All but the processor time are those of the present code."""
    *_, path = sorted((ROOT / "bench" / "results").rglob("default-counts-*.json"))
    data = json.loads(path.read_text())
    found = [
        {"kind": kind, "call": name, **counts._asdict()}
        for kind, some in all_counts(data["model"]).items()
        for name, counts in some.items()
    ]
    for one, other in zip(data["rows"], found, strict=True):
        assert one | {"thread_ms": None} == other | {"thread_ms": None}
    by_name = {row["call"]: row for row in found}
    assert by_name["frame of a video, 1 object"]["encoded"] == 1
    assert by_name["`predict`, 64 boxes, one mask each"]["down_bytes"] < 35e6
    assert by_name["`predict`, 64 boxes, three masks each"]["down_bytes"] < 103e6
