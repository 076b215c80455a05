"""What recordings hang on and hold, on a stand-in for CUDA."""

import contextlib
import gc
import itertools
import threading
import time
import weakref
from collections import Counter
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from sam2fast.amg import parameters as amg_parameters
from sam2fast.engine import graphs
from sam2fast.engine.derived import TensorCache
from sam2fast.engine.graphs import AHEAD, AWAITED, CudaGraphs, RecordingError, memory_of_graphs, numerics
from sam2fast.engine.replay import GraphCalls, GraphPool

GPU = torch.device("cuda", 0)
GIB = 2**30


class Stream:
    """One that knows whom it has waited for; of each priority there are 32, as torch has them."""

    made: Counter[int] = Counter()
    device = GPU

    def __init__(self, device: torch.device | None = None, priority: int = 0) -> None:
        self.waited: list[Any] = []
        self.id = priority, self.made[priority] % 32
        self.made[priority] += 1

    def wait_stream(self, other: Any) -> None:
        self.waited.append(other)

    wait_event = wait_stream


class Graph:
    def pool(self) -> tuple[int, int]:
        return self._pool

    def replay(self) -> None:
        pass


@pytest.fixture
def cuda(monkeypatch):
    """Streams and graphs; beginning to record waits. Where ``invalid`` is true, a capture ends in an error of CUDA."""
    monkeypatch.setattr(graphs, "_capture_streams", {})
    monkeypatch.setattr(graphs, "_abandoned", [])
    monkeypatch.setattr(Stream, "made", Counter())
    handles = itertools.count(1)
    found = SimpleNamespace(current=Stream(), recording=set(), broken=0, reserved=6 * GIB)
    found.underway, found.released, found.emptied, found.invalid = [], [], 0, False

    def empty_cache():
        found.emptied += 1
        if found.underway:
            raise RuntimeError("captures_underway.empty() INTERNAL ASSERT FAILED")

    @contextlib.contextmanager
    def graph(which, pool, stream, capture_error_mode):
        found.broken += bool(found.recording)
        empty_cache()
        found.recording.add(which)
        found.reserved -= GIB  # torch gives unused memory back first
        found.underway.append(pool)
        try:
            yield
        finally:
            found.recording.remove(which)
            if found.invalid:
                raise RuntimeError("operation failed due to a previous error during capture")
            end(0, pool)
            which._pool = pool

    def end(device, pool):
        if pool not in found.underway:
            raise RuntimeError("endAllocatePool: not currently recording to mempool_id")
        found.underway.remove(pool)

    stand_ins = {
        "device": lambda which: contextlib.nullcontext(),
        "stream": lambda which: contextlib.nullcontext(),
        "current_stream": lambda which=None: found.current,
        "Stream": Stream,
        "CUDAGraph": Graph,
        "graph": graph,
        "graph_pool_handle": lambda: (0, next(handles)),
        "empty_cache": empty_cache,
        "Event": lambda: SimpleNamespace(record=lambda stream: None),
        "memory_reserved": lambda device: found.reserved if device == GPU else 0,
    }
    for name, stand_in in stand_ins.items():
        monkeypatch.setattr(torch.cuda, name, stand_in)
    monkeypatch.setattr(torch._C, "_cuda_endAllocateToPool", end, raising=False)  # from torch 2.8 on
    monkeypatch.setattr(torch._C, "_cuda_releasePool", lambda device, pool: found.released.append(pool))
    return found


# ---- what is recorded ----


def test_recordings_of_several_predictors_take_turns(cuda):
    """In threads of their own: each begins by waiting for the device."""
    threads = [
        threading.Thread(target=CudaGraphs(GPU).record, args=(lambda: time.sleep(0.02),), daemon=True) for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert cuda.broken == 0 and not any(thread.is_alive() for thread in threads)


def test_a_recording_may_begin_in_the_first_run_of_another(cuda):
    """Which holds the lock, in the same thread."""
    inner, made = CudaGraphs(GPU), []
    outer = threading.Thread(
        target=CudaGraphs(GPU).record, args=(lambda: made or made.append(inner.record(lambda: None)),), daemon=True
    )
    outer.start()
    outer.join(20)
    assert not outer.is_alive() and made and cuda.broken == 0


def captures(*recorders: CudaGraphs) -> list[tuple[int, int]]:
    return [recorder._capture.id for recorder in recorders]


@pytest.mark.parametrize("priority", [AWAITED, AHEAD])
def test_recorders_have_streams_to_capture_on_that_nobody_else_has(cuda, priority):
    """Not those that others are given meanwhile, however many, nor each other's."""
    kept = []
    for _ in range(16):
        kept.append(CudaGraphs(GPU, priority))
        gone = CudaGraphs(GPU, priority)
        others = [gone._capture.id, *(Stream(GPU).id for _ in range(40))]
        assert not set(captures(*kept)) & set(others)
        del gone
    assert len(set(captures(*kept))) == 16 and {of_stream for of_stream, _ in captures(*kept)} == {priority}
    assert not {recorder._first.id for recorder in kept} & set(captures(*kept))


def test_streams_of_recorders_that_are_gone_are_captured_on_again(cuda):
    kept = [CudaGraphs(GPU) for _ in range(31)]
    for _ in range(100):
        assert CudaGraphs(GPU)._capture.id not in captures(*kept)
    kept.append(CudaGraphs(GPU))
    assert len(set(captures(*kept))) == 32
    more = CudaGraphs(GPU)  # has somebody's
    assert captures(more)[0] in captures(*kept)
    del more, kept[7]
    gc.collect()
    kept.append(CudaGraphs(GPU))
    assert len(set(captures(*kept))) == 32


def test_streams_keep_their_priority_when_captured_on_again(cuda):
    """Recorders of the other priority take none of them."""
    for _ in range(32):
        CudaGraphs(GPU, AHEAD)
    gc.collect()
    awaited, ahead = [CudaGraphs(GPU) for _ in range(32)], [CudaGraphs(GPU, AHEAD) for _ in range(32)]
    assert {of_stream for of_stream, _ in captures(*awaited)} == {AWAITED}
    assert {of_stream for of_stream, _ in captures(*ahead)} == {AHEAD}
    assert len(set(captures(*awaited, *ahead))) == 64


@contextlib.contextmanager
def kept(owner: Any, *names: str):
    """Restores the values of some attributes."""
    before = {name: getattr(owner, name) for name in names}
    try:
        yield
    finally:
        for name, value in before.items():
            setattr(owner, name, value)


@pytest.mark.parametrize(
    ("owner", "name"),
    [
        (torch.backends.cudnn, "allow_tf32"),
        (torch.backends.cuda.matmul, "allow_tf32"),
        (torch.backends.cuda.matmul, "allow_fp16_accumulation"),
        (torch.backends.cuda.matmul, "allow_bf16_reduced_precision_reduction"),
        # Once it was set, torch refuses to read the older one.
        (getattr(torch.backends.cudnn, "conv", None), "fp32_precision"),
    ],
    ids=lambda x: x if isinstance(x, str) else "",
)
def test_switches_of_products_count(owner, name):
    if not hasattr(owner, name):
        pytest.skip(f"this torch has no {name}")
    seen = []
    with kept(owner, name):
        for value in ("ieee", "tf32", "ieee") if name == "fp32_precision" else (False, True, False):
            setattr(owner, name, value)
            seen.append(numerics(torch.device("cpu")))
    assert seen[0] == seen[2] != seen[1]


def test_switches_at_odds():
    """Torch refuses to read the older switch where convolutions and recurrent networks have different newer ones."""
    cudnn = torch.backends.cudnn
    if not hasattr(getattr(cudnn, "conv", None), "fp32_precision"):
        pytest.skip("this torch has the older switch alone")
    seen, is_allowed = [], cudnn.allow_tf32
    with kept(cudnn.rnn, "fp32_precision"), kept(cudnn.conv, "fp32_precision"):
        try:
            for allowed in (False, True):
                for other in ("ieee", "tf32"):
                    cudnn.allow_tf32, cudnn.rnn.fp32_precision = allowed, other
                    seen.append(numerics(torch.device("cpu")))
        finally:
            cudnn.allow_tf32 = is_allowed
    assert seen[0] == seen[1] != seen[2] == seen[3]  # a recurrent network is none of this model's parts


@pytest.mark.parametrize("kind", ["math", "flash", "mem_efficient", "cudnn"])
def test_switches_of_attention_count(kind):
    switch, was = (
        getattr(torch.backends.cuda, f"enable_{kind}_sdp"),
        getattr(torch.backends.cuda, f"{kind}_sdp_enabled")(),
    )
    before = numerics(torch.device("cpu"))
    try:
        switch(not was)
        assert numerics(torch.device("cpu")) != before
    finally:
        switch(was)


# ---- failures ----


class Failing:
    """A function that is to be recorded, whose calls raise these errors in turn, where they are not None."""

    def __init__(self, *errors: Exception | None) -> None:
        self.errors, self.calls = list(errors), 0
        self.memory: weakref.ref[torch.Tensor] | None = None

    def __call__(self) -> None:
        self.calls += 1
        allocated = torch.zeros(1)
        self.memory = weakref.ref(allocated)
        if self.errors and self.errors[0] is not None:
            raise self.errors.pop(0)
        del self.errors[:1]


def out_of_memory() -> Exception:
    return torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")


def caused_by_memory() -> Exception:
    error = RuntimeError("operation not permitted when stream is capturing")
    error.__cause__ = out_of_memory()
    return error


def of_the_driver() -> Exception:
    return RuntimeError("CUDA error: out of memory")


@pytest.mark.parametrize("make", [out_of_memory, caused_by_memory, of_the_driver])
@pytest.mark.parametrize("runs_before", [0, 1], ids=["first run", "capture"])
def test_for_lack_of_memory_a_recording_is_tried_again(cuda, monkeypatch, make, runs_before):
    """With what was cached given back, and what the failed run had allocated."""
    empty, freed = torch.cuda.empty_cache, []
    function = Failing(*[None] * runs_before, make())

    def emptied():
        if function.calls == 1 + runs_before:
            freed.append(function.memory() is None)
        empty()

    monkeypatch.setattr(torch.cuda, "empty_cache", emptied)
    CudaGraphs(GPU).record(function)()
    assert function.calls == 3 + runs_before and freed[-1]


@pytest.mark.parametrize("runs_before", [0, 1], ids=["first run", "capture"])
def test_and_given_up_the_second_time(cuda, runs_before):
    recorder, runs = CudaGraphs(GPU), [None] * runs_before
    with pytest.raises(RecordingError) as caught:
        recorder.record(Failing(*runs, out_of_memory(), *runs, out_of_memory()))
    assert isinstance(caught.value.__cause__, torch.OutOfMemoryError) and not cuda.underway
    recorder.record(Failing())()


def test_other_failures_are_not_tried_again(cuda):
    for errors, kind in (([None, ValueError("in the capture")], RecordingError), ([ValueError("at once")], ValueError)):
        function = Failing(*errors)
        with pytest.raises(kind):
            CudaGraphs(GPU).record(function)
        assert function.calls == len(errors)


@pytest.mark.parametrize("priority", [AWAITED, AHEAD])
def test_after_an_invalid_capture_others_are_recorded(cuda, priority):
    """Such as that of a function that waited for the device. Torch lets nobody record in its pool any more."""
    recorder = CudaGraphs(GPU, priority)
    recorder.record(Failing())
    first, stream = recorder._pool_owner, recorder._capture
    cuda.invalid = True
    with pytest.raises(RecordingError):
        recorder.record(Failing())
    cuda.invalid = False
    assert not cuda.underway and cuda.released == [first.pool()] and len(graphs._abandoned) == 1
    recorder.record(Failing())()
    assert recorder._pool_owner.pool() != first.pool()
    assert recorder._capture.id != stream.id, "whose cuBLAS workspace may be in the first pool"
    assert recorder._capture.id[0] == priority


def test_constants_are_freed_in_the_order_of_the_stream_that_clears(cuda, monkeypatch):
    """It waits for the last replay; the stream that they were computed on does not."""
    used = []
    monkeypatch.setattr(torch.Tensor, "is_cuda", True)
    monkeypatch.setattr(torch.Tensor, "record_stream", lambda self, stream: used.append((self, stream)))
    recorder, weight = CudaGraphs(GPU), torch.ones(2)
    with recorder.constants.in_use(), torch.no_grad():
        monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
        value = TensorCache()("twice", (weight,), lambda: weight * 2)
    recorder.clear()
    ((tensor, stream),) = used
    assert tensor is value and stream is cuda.current


# ---- letting go ----


def test_weights_are_not_written_while_they_are_read(cuda):
    """What follows the release waits for the last replay, which may be under way on another stream."""
    pool, other = GraphPool(GPU), Stream()
    recorded, current = GraphCalls(pool), cuda.current
    cuda.current = other
    with pool.turn():
        recorded.call(("nothings",), lambda given: None, [], lambda found: None)
    cuda.current, (_, end) = current, pool.last
    pool.clear()
    assert current.waited == [end] and not recorded._calls


def test_open_sessions_keep_no_graphs(cuda):
    """Their workspaces are theirs until they end, and hold the recorder."""
    recorder, take = CudaGraphs(GPU), reserving(cuda, GIB)
    assert memory_of_graphs(GPU) == 0
    recorder.record(take)
    assert memory_of_graphs(GPU) == GIB and memory_of_graphs(torch.device("cuda", 1)) == 0
    recorder.record(take)
    assert memory_of_graphs(GPU) == 2 * GIB
    recorder.clear()
    assert memory_of_graphs(GPU) == 0
    recorder.record(take)
    del recorder
    gc.collect()
    assert memory_of_graphs(GPU) == 0
    assert not [ref for ref in graphs._recorders if ref() is None]


def test_a_failed_recording_keeps_what_the_pool_has_grown_by(cuda):
    """As long as there is a pool."""
    recorder, take = CudaGraphs(GPU), reserving(cuda, GIB)

    def fail() -> None:
        take()
        if cuda.recording:
            raise RuntimeError("not in a graph")

    with pytest.raises(RecordingError):
        recorder.record(fail)
    assert memory_of_graphs(GPU) == 0
    recorder.record(take)
    with pytest.raises(RecordingError):
        recorder.record(fail)
    assert memory_of_graphs(GPU) == 2 * GIB


def reserving(cuda, size: int):
    """A function for which torch reserves memory, also when it is not recorded."""

    def take() -> None:
        cuda.reserved += size

    return take


def test_memory_of_graphs_is_not_free(cuda, monkeypatch):
    """Nothing but they can use what torch has reserved for them."""
    model = SimpleNamespace(device=GPU, hidden_dim=256, sam_image_embedding_size=64)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (2 * GIB, 16 * GIB))
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 4 * GIB)
    prompt = 4 * 256 * 64**2 * amg_parameters.EMBEDDINGS_PER_PROMPT
    assert amg_parameters.decoder_batch_size(1000, model) == int(0.7 * 4 * GIB / prompt)
    recorder = CudaGraphs(GPU)
    recorder.record(reserving(cuda, GIB))  # 7 GiB are reserved then, and 1 GiB of them is the graph's
    assert amg_parameters.decoder_batch_size(1000, model) == int(0.7 * 4 * GIB / prompt)
    recorder.record(reserving(cuda, 3 * GIB))
    cuda.reserved = 7 * GIB  # and of the 3 GiB not in use none is free
    assert amg_parameters.decoder_batch_size(1000, model) == int(0.7 * 2 * GIB / prompt)
    recorder.clear()
    assert amg_parameters.decoder_batch_size(1000, model) == int(0.7 * 5 * GIB / prompt)
