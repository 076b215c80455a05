"""How calls are timed: by the clock here; on a GPU by replays of a recorded call, of which stand-ins are tested."""

import dataclasses

import measure
import pytest
import registry
import torch
from suite.subjects import Timed

from sam2fast.engine.graphs import RecordingError
from sam2fast.profiling.limits import Limits

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


def test_a_timing_on_a_cpu():
    (row,) = measure.measure([[lambda: torch.zeros(1000).sum()]], CPU, budget_s=0.01)
    assert 0 < row["p20 ms"] <= row["p50 ms"] <= row["p80 ms"] and row["wall ms"] > 0 and row["host us"] > 0
    assert row["timed by"] == "clock" and row["peak MiB"] == "" and "warm ms" not in row
    ms, timed_by = measure.device_time(lambda: torch.zeros(1000).sum(), CPU, 0.01)
    assert ms > 0 and timed_by == "clock"


class Cuda:
    """What the measurement asks of torch.cuda and of the recorder: a log, and a failure where a test wants one."""

    def __init__(self):
        self.log, self.capture_fails, self.mode, self.wall_s = [], False, 0, 1.0

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

    def by_events(self, calls, device, runs, flushed):
        self.log.append("flushed" if flushed else "warm")
        return [[call() or 6.0 for _ in range(count)] for call, count in zip(calls, runs, strict=True)]


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
    monkeypatch.setattr(measure, "_by_events", own.by_events)
    monkeypatch.setattr(measure, "timed", lambda device, call: Timed(own.wall_s, call(), 0.0))
    return own


def test_a_call_is_recorded_and_replayed(cuda):
    (row,) = measure.measure([[lambda: cuda.log.append("call")]], CUDA, budget_s=0.0)
    assert row["timed by"] == "graph replay of 1" and row["p50 ms"] == row["warm ms"] == 6.0 and row["peak MiB"] == 1.0
    once = ["call", "call", "replay", "flushed", *["replay"] * 5, "cleared", "emptied"]
    assert cuda.log[-2 * len(once) :] == once + [x.replace("flushed", "warm") for x in once] and cuda.mode == 0


def test_short_calls_are_recorded_together_on_inputs_of_their_own(cuda):
    """Their time is divided, so that of the graph itself does not count; warm ones have one input."""
    cuda.wall_s = measure.GRAPH_S / 3
    (row,) = measure.measure([[lambda i=i: cuda.log.append(i) for i in range(2)]], CUDA, budget_s=0.0)
    assert row["timed by"] == "graph replay of 3" and row["p50 ms"] == row["warm ms"] == 2.0
    at = cuda.log.index("flushed")
    assert cuda.log[at - 7 : at] == [0, 1, 0, 0, 1, 0, "replay"]
    at = cuda.log.index("warm")
    assert cuda.log[at - 7 : at] == [0, 0, 0, 0, 0, 0, "replay"]
    cuda.wall_s = 1e-6
    _, timed_by = measure.device_time(lambda: None, CUDA, 0.0)
    assert timed_by == f"graph replay of {measure.MOST_CALLS}"


def test_a_call_that_waits_is_not_captured(cuda):
    def call():
        cuda.log.append("call")
        cuda.wait()

    (row,) = measure.measure([[call]], CUDA, budget_s=0.0)
    assert row["timed by"] == "events: RuntimeError: called a synchronizing CUDA operation"
    assert set(cuda.log) == {"call", "flushed", "warm"} and cuda.mode == 0


def test_a_capture_that_fails_leaves_the_call_to_be_timed_as_it_is(cuda):
    cuda.capture_fails = True
    (row,) = measure.measure([[lambda: cuda.log.append("call")]], CUDA, budget_s=0.0)
    assert row["timed by"] == "events: RuntimeError: not permitted when stream is capturing"
    assert cuda.log[-5:] == ["call"] * 5 and "replay" not in cuda.log


class Flush:
    """What is read before each sample; it cannot be written."""

    def __init__(self, log):
        self.log = log

    def sum(self):
        self.log.append("read")


@pytest.mark.parametrize(("flushed", "before"), [(True, ["read"]), (False, [])])
def test_the_cache_is_flushed_by_reading(monkeypatch, flushed, before):
    log = []

    class Event:
        def __init__(self, enable_timing):
            assert enable_timing

        def record(self, stream):
            log.append(stream)

        def elapsed_time(self, end):
            return 3.0

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: "event")
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: log.append("wait"))
    monkeypatch.setattr(torch, "zeros", lambda count, device: Flush(log))
    calls = [lambda: log.append("a"), lambda: log.append("b")]
    assert measure._by_events(calls, CUDA, [2, 1], flushed) == [[3.0, 3.0], [3.0]]
    in_turn = [[*before, "event", name, "event"] for name in "aba"]
    assert log == [*sum(in_turn, []), "wait"]


def test_a_row_names_its_kernels_and_has_enough_inputs(cuda, monkeypatch):
    prepared, measured = [], []

    def prepare(device):
        number = len(prepared)
        prepared.append(number)
        return {"torch": lambda: number, "triton": lambda: number}

    case = registry.Case("op", "4", "bfloat16", prepare, registry.Work(bytes=measure.FLUSHED_BYTES / 4))
    monkeypatch.setattr(measure, "check", lambda case, calls, device: dict(calls))
    monkeypatch.setattr(measure, "kernel_names", lambda call, device: ["flash_fwd"])
    monkeypatch.setattr(
        measure,
        "measure",
        lambda subjects, device: [measured.append([c() for c in calls]) or {"p50 ms": 1.0} for calls in subjects],
    )
    rows = measure.case_rows(case, CUDA, Limits(1e12, {}))
    assert measured == [[0, 1, 2, 3]] * 2 and [row["kernels"] for row in rows] == [["flash_fwd"]] * 2
    for shape, nbytes, count in (("4", 1, measure.MOST_CALLS), ("4", 1e12, 1), ("4, compiled", 1, 1)):
        case = dataclasses.replace(case, shape=shape, work=registry.Work(bytes=nbytes))
        assert measure._copies(case, CUDA) == count - 1
    assert measure._copies(case, CPU) == 0
