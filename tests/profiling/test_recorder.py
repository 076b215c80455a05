"""How a tree is built from what begins and ends, and what is measured on the way."""

import threading

import pytest
import torch

from sam2fast.profiling.limits import Limits, measure_limits
from sam2fast.profiling.probes import CudaPeaks, Events, Nothing, ResidentPeaks, memory_watch, stopwatch
from sam2fast.profiling.recorder import Cost, Recorder
from sam2fast.profiling.tree import Part

MIB = 2**20


class Steps:
    """A clock that goes a second further each time it is looked at."""

    now = 0

    def begin(self, path):
        return self._tick()

    def end(self, part, token):
        part.seconds += self._tick() - token

    def finish(self):
        pass

    def _tick(self):
        self.now += 1
        return self.now


def test_nested_parts():
    recorder = Recorder(Steps())
    with recorder.whole("frame"):  # 1
        recorder.run(("a", "b"), lambda: recorder.run(("c",), lambda: None))  # 2 3 4, 5 6 7
        assert recorder.run((), lambda: 5) == 5
        recorder.run(("a",), lambda: None)  # 8, 9
    root = recorder.root  # 10
    assert [path for path, _ in root.walk()] == [
        ("frame",), ("frame", "a"), ("frame", "a", "b"), ("frame", "a", "b", "c"),
    ]  # fmt: skip
    assert (root.seconds, root["a"].seconds, root["a/b"].seconds, root["a/b/c"].seconds) == (9, 5 + 1, 3, 1)
    assert (root.calls, root["a"].calls, root["a/b"].calls) == (1, 2, 1)
    assert (root.self_seconds, root["a"].self_seconds) == (3, 3)


def test_what_is_open_already_stays_one_part():
    recorder = Recorder(Steps())
    with recorder.whole("frame"):
        recorder.run(("a",), lambda: recorder.run(("a", "b"), lambda: None))
    assert [path for path, _ in recorder.root.walk()] == [("frame",), ("frame", "a"), ("frame", "a", "b")]
    assert recorder.root["a"].calls == 1


def test_an_exception_closes_what_is_open():
    recorder = Recorder(Steps())

    def fails():
        raise KeyError("on purpose")

    with pytest.raises(KeyError), recorder.whole("frame"):
        recorder.run(("a",), fails)
    assert not recorder.listens and recorder.root["a"].seconds == 1
    with recorder.whole("frame"):
        assert recorder.listens
    assert recorder.root.calls == 2


def test_other_threads_are_not_followed():
    recorder, heard = Recorder(Steps()), []
    with recorder.whole("frame"):
        thread = threading.Thread(target=lambda: heard.append(recorder.listens))
        thread.start()
        thread.join()
        assert recorder.listens
    assert heard == [False] and not recorder.listens


def test_costs_go_to_the_innermost_part():
    recorder = Recorder(Nothing(), counts=True)
    settled = []

    def late():
        settled.append(recorder.listens)
        return Cost(5, "bfloat16")

    with recorder.whole("frame"):
        recorder.add(Cost(1))
        recorder.run(("a",), lambda: recorder.add(Cost(10, nbytes=100)))
        recorder.run(("a",), lambda: recorder.add(late))
        recorder.run(("a",), lambda: recorder.add_published(lambda: 40))
        assert not settled
    root = recorder.root
    assert settled == [False]
    assert root["a"].own_flops == {"float32": 10, "bfloat16": 5}
    assert (root.flops, root.published, root.nbytes) == (16, 41, 100)
    json = root.as_json(Limits(1.0, {"float32": 1.0, "bfloat16": 1.0}))
    assert json["published_flops"] == 41 and json["children"][0]["published_flops"] == 40


def test_what_the_original_computes_is_not_split():
    inner = Part("inner", own_flops={"float32": 3.0})
    root = Part("frame", published_flops=7.0, children={"inner": inner})
    json = root.as_json(Limits(1.0, {"float32": 1.0}))
    assert json["published_flops"] == 7 and json["children"][0]["published_flops"] is None


def test_floor_and_bound():
    limits = Limits(bytes_per_s=10.0, flops_per_s={"float32": 100.0, "bfloat16": 200.0})
    products = Part("products", seconds=4, own_flops={"float32": 100.0, "bfloat16": 200.0}, own_bytes=10)
    copies = Part("copies", seconds=10, own_flops={"float32": 10.0}, own_bytes=50)
    root = Part("frame", seconds=20, children={"products": products, "copies": copies, "rest": Part("rest", seconds=1)})
    assert products.floor(limits) == (2, 0) and products.bound(limits) == "arithmetic"
    assert copies.floor(limits) == (0, 5) and copies.bound(limits) == "memory"
    assert root.floor(limits) == (2, 5) and root.bound(limits) == "memory"
    assert (products.fraction(limits), copies.fraction(limits), root.fraction(limits)) == (0.5, 0.5, 0.35)
    assert root["rest"].bound(limits) is None and root["rest"].fraction(limits) is None


@pytest.mark.skipif(not ResidentPeaks.available(), reason="the system does not say how much memory there was at most")
def test_growth_of_resident_memory():
    """Fresh pages of the system's, larger than what the allocator may have kept."""
    recorder = Recorder(ResidentPeaks())
    size = 64 * MIB
    with recorder.whole("frame"):
        recorder.run(("before",), lambda: None)
        recorder.run(("large",), lambda: len(torch.ones(2 * size, dtype=torch.uint8)))
        recorder.run(("outer",), lambda: recorder.run(("inner",), lambda: len(torch.ones(size, dtype=torch.uint8))))
        recorder.run(("after",), lambda: None)
    root = recorder.root
    # The system counts a few pages late.
    assert 2 * size - MIB <= root["large"].peak_bytes < 3 * size
    assert size - MIB <= root["outer/inner"].peak_bytes <= root["outer"].peak_bytes < 2 * size
    assert root.peak_bytes >= root["large"].peak_bytes
    assert max(root[name].peak_bytes for name in ("before", "after")) < size / 8


class Gpu:
    """Stands in for torch.cuda: events that know when they were recorded, memory that is set by hand."""

    def __init__(self, monkeypatch):
        self.time, self.waits, self.allocated, self.most = 0.0, 0, 0, 0
        gpu = self

        class Event:
            def __init__(self, enable_timing):
                assert enable_timing
                self.at = None

            def record(self, stream):
                assert stream == "current"
                self.at = gpu.time

            def elapsed_time(self, end):
                assert gpu.waits == 1, "asked before the device was done"
                return end.at - self.at

        monkeypatch.setattr(torch.cuda, "Event", Event)
        monkeypatch.setattr(torch.cuda, "current_stream", lambda device: "current")
        monkeypatch.setattr(torch.cuda, "synchronize", lambda device: setattr(gpu, "waits", gpu.waits + 1))
        monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: gpu.allocated)
        monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: gpu.most)
        monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda device: setattr(gpu, "most", gpu.allocated))

    def work(self, milliseconds):
        self.time += milliseconds

    def use(self, size):
        self.most = max(self.most, self.allocated + size)


def test_events_wait_once(monkeypatch):
    gpu = Gpu(monkeypatch)
    recorder = Recorder(stopwatch(torch.device("cuda")))
    assert isinstance(recorder._probe, Events)
    with recorder.whole("frame"):
        recorder.run(("a",), lambda: gpu.work(3))
        recorder.run(("a", "b"), lambda: gpu.work(4))
        gpu.work(1)
        assert gpu.waits == 0
    assert gpu.waits == 1
    assert recorder.root.seconds == pytest.approx(8e-3)
    assert recorder.root["a"].seconds == pytest.approx(7e-3) and recorder.root["a/b"].seconds == pytest.approx(4e-3)


def test_peaks_of_nested_parts_on_a_gpu(monkeypatch):
    gpu = Gpu(monkeypatch)
    probe, words = memory_watch(torch.device("cuda"))
    assert isinstance(probe, CudaPeaks) and "GPU" in words
    recorder, gpu.allocated = Recorder(probe), 1000

    def outer():
        gpu.use(50)
        recorder.run(("inner",), lambda: gpu.use(30))
        gpu.use(10)

    with recorder.whole("frame"):
        recorder.run(("outer",), outer)
        gpu.use(70)
        recorder.run(("last",), lambda: None)
    root = recorder.root
    peaks = (root.peak_bytes, root["outer"].peak_bytes, root["outer/inner"].peak_bytes, root["last"].peak_bytes)
    assert peaks == (70, 50, 30, 0)


def test_other_devices_are_refused():
    with pytest.raises(ValueError, match="cpu and cuda.*mps"):
        stopwatch(torch.device("mps"))


def test_memory_that_cannot_be_watched(monkeypatch):
    monkeypatch.setattr(ResidentPeaks, "available", staticmethod(lambda: False))
    probe, words = memory_watch(torch.device("cpu"))
    assert isinstance(probe, Nothing) and words.startswith("not measured")
    recorder = Recorder(probe)
    with recorder.whole("frame"):
        pass
    assert recorder.root.peak_bytes is None


def test_limits_of_this_machine(monkeypatch):
    monkeypatch.setattr("sam2fast.profiling.limits.COPIED_ON_CPU", 2**18)
    monkeypatch.setattr("sam2fast.profiling.limits.SIDE_ON_CPU", 128)
    limits = measure_limits(torch.device("cpu"), [torch.float32])
    assert set(limits.flops_per_s) == {"float32"} and limits.flops_per_s["float32"] > 0 and limits.bytes_per_s > 0
