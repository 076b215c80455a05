"""How calls are timed: by the clock here; on a GPU by replays of a recorded call, of which stand-ins are tested."""

import contextlib
import math
import types

import measure
import pytest
import torch

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


def test_a_timing_on_a_cpu():
    timing = measure.measure(lambda: torch.zeros(1000).sum(), CPU, budget_s=0.01)
    assert 0 < timing.p20 <= timing.p50 <= timing.p80 and timing.wall > 0 and timing.host_us > 0
    assert timing.timed_by == "clock" and math.isnan(timing.peak_mib)
    ms, timed_by = measure.device_time(lambda: torch.zeros(1000).sum(), CPU, 0.01)
    assert ms > 0 and timed_by == "clock"


class Cuda:
    """What the measurement asks of torch.cuda: a log of it, and failures where a test wants them."""

    def __init__(self):
        self.log, self.waits, self.begin_fails, self.end_fails, self.mode = [], False, False, False, 0

    def wait(self):
        """As ``.item()`` does: an error in the mode for that and while something is captured."""
        if self.mode == "error" or "begin" in self.log[-2:]:
            raise RuntimeError("called a synchronizing CUDA operation")

    def capture_begin(self, pool, capture_error_mode):
        assert pool == "pool" and capture_error_mode == "thread_local"
        if self.begin_fails:
            raise RuntimeError("no capture")
        self.log.append("begin")

    def capture_end(self):
        self.log.append("end")
        if self.end_fails:
            raise RuntimeError("capture was invalidated")


@pytest.fixture
def cuda(monkeypatch):
    """Stand-ins for torch's functions."""
    own = Cuda()
    graph = types.SimpleNamespace(
        capture_begin=own.capture_begin,
        capture_end=own.capture_end,
        replay=lambda: own.log.append("replay"),
        reset=lambda: own.log.append("reset"),
    )
    stream = types.SimpleNamespace(wait_stream=lambda other: None)

    @contextlib.contextmanager
    def on(stream):
        own.log.append("side")
        try:
            yield
        finally:
            own.log.append("back")

    put = {
        "CUDAGraph": lambda: graph,
        "graph_pool_handle": lambda: "pool",
        "current_stream": lambda device: stream,
        "current_device": lambda: 0,
        "synchronize": lambda device: None,
        "device": contextlib.nullcontext,
        "stream": on,
        "empty_cache": lambda: own.log.append("emptied"),
        "get_sync_debug_mode": lambda: own.mode,
        "set_sync_debug_mode": lambda mode: setattr(own, "mode", mode),
        "reset_peak_memory_stats": lambda device: None,
        "memory_allocated": lambda device: 0,
        "max_memory_allocated": lambda device: 2**20,
    }
    for name, value in put.items():
        monkeypatch.setattr(torch.cuda, name, value)
    monkeypatch.setattr(measure, "_stream", lambda device: stream)
    monkeypatch.setattr(measure, "samples", lambda call, device, runs: [call() or 1.0 for _ in range(runs)])
    for name in ("_cuda_endAllocateToPool", "_cuda_releasePool"):
        record = lambda index, pool, name=name: own.log.append(name)  # noqa: E731
        monkeypatch.setattr(torch._C, name, record, raising=False)
    return own


def test_a_call_is_recorded_and_replayed(cuda):
    timing = measure.measure(lambda: cuda.log.append("call"), CUDA, budget_s=0.0)
    assert timing.timed_by == "graph replay" and timing.p50 == 1.0 and timing.peak_mib == 1.0
    assert cuda.log[cuda.log.index("side") :] == [
        "side", "call", "call", "begin", "call", "end", "back", *["replay"] * 6, "reset", "emptied",
    ]  # fmt: skip
    assert cuda.mode == 0


def test_a_call_that_waits_is_not_captured(cuda):
    def call():
        cuda.log.append("call")
        cuda.wait()

    timing = measure.measure(call, CUDA, budget_s=0.0)
    assert timing.timed_by == "events: RuntimeError: called a synchronizing CUDA operation"
    assert "begin" not in cuda.log and "replay" not in cuda.log
    assert cuda.log[-7:] == ["call", "back", *["call"] * 5] and cuda.mode == 0


@pytest.mark.parametrize("failure", ["call", "end", "begin"])
def test_a_capture_that_fails_leaves_things_in_order(cuda, failure):
    """The stream is the one before, the pool takes no memory any more, and the call is timed as it is."""
    cuda.end_fails, cuda.begin_fails = failure != "begin", failure == "begin"

    def call():
        if failure == "call" and cuda.log[-1:] == ["begin"]:
            raise RuntimeError("not permitted when stream is capturing")
        cuda.log.append("call")

    timing = measure.measure(call, CUDA, budget_s=0.0)
    expected = {"call": "not permitted", "end": "invalidated", "begin": "no capture"}[failure]
    assert timing.timed_by.startswith("events: RuntimeError") and expected in timing.timed_by
    assert cuda.log[-6:] == ["back", *["call"] * 5]
    assert ("_cuda_releasePool" in cuda.log) == (failure != "begin")
    assert "replay" not in cuda.log
