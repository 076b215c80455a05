"""How calls are timed: by the clock here; on a GPU by replays of a recorded call, of which stand-ins are tested."""

import measure
import pytest
import torch

from sam2fast.tracking.cuda_graphs import RecordingError

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


def test_a_timing_on_a_cpu():
    row = measure.measure(lambda: torch.zeros(1000).sum(), CPU, budget_s=0.01)
    assert 0 < row["p20 ms"] <= row["p50 ms"] <= row["p80 ms"] and row["wall ms"] > 0 and row["host us"] > 0
    assert row["timed by"] == "clock" and row["peak MiB"] == ""
    ms, timed_by = measure.device_time(lambda: torch.zeros(1000).sum(), CPU, 0.01)
    assert ms > 0 and timed_by == "clock"


class Cuda:
    """What the measurement asks of torch.cuda and of the recorder: a log, and a failure where a test wants one."""

    def __init__(self):
        self.log, self.capture_fails, self.mode = [], False, 0

    def wait(self):
        """As ``.item()`` does: an error in the mode for that."""
        if self.mode == "error":
            raise RuntimeError("called a synchronizing CUDA operation")

    def record(self, function):
        function()
        if self.capture_fails:
            raise RecordingError("could not be recorded") from RuntimeError("not permitted when stream is capturing")
        return lambda: self.log.append("replay")

    def clear(self):
        self.log.append("cleared")


@pytest.fixture
def cuda(monkeypatch):
    """Stand-ins for torch's functions."""
    own = Cuda()
    put = {
        "synchronize": lambda device: None,
        "empty_cache": lambda: own.log.append("emptied"),
        "get_sync_debug_mode": lambda: own.mode,
        "set_sync_debug_mode": lambda mode: setattr(own, "mode", mode),
        "reset_peak_memory_stats": lambda device: None,
        "memory_allocated": lambda device: 0,
        "max_memory_allocated": lambda device: 2**20,
    }
    for name, value in put.items():
        monkeypatch.setattr(torch.cuda, name, value)
    monkeypatch.setattr(measure, "CudaGraphs", lambda device: own)
    monkeypatch.setattr(measure, "samples", lambda call, device, runs: [call() or 1.0 for _ in range(runs)])
    return own


def test_a_call_is_recorded_and_replayed(cuda):
    row = measure.measure(lambda: cuda.log.append("call"), CUDA, budget_s=0.0)
    assert row["timed by"] == "graph replay" and row["p50 ms"] == 1.0 and row["peak MiB"] == 1.0
    assert cuda.log[-10:] == ["call", "call", *["replay"] * 6, "cleared", "emptied"] and cuda.mode == 0


def test_a_call_that_waits_is_not_captured(cuda):
    def call():
        cuda.log.append("call")
        cuda.wait()

    row = measure.measure(call, CUDA, budget_s=0.0)
    assert row["timed by"] == "events: RuntimeError: called a synchronizing CUDA operation"
    assert set(cuda.log) == {"call"} and cuda.mode == 0


def test_a_capture_that_fails_leaves_the_call_to_be_timed_as_it_is(cuda):
    cuda.capture_fails = True
    row = measure.measure(lambda: cuda.log.append("call"), CUDA, budget_s=0.0)
    assert row["timed by"] == "events: RuntimeError: not permitted when stream is capturing"
    assert cuda.log[-5:] == ["call"] * 5 and "replay" not in cuda.log
