"""Times one call on its device; the device's own limits to compare with are measured in the package.

On a GPU the call is recorded as a CUDA graph and replayed: the time that Python takes between launches would hide
differences between kernels. A call that cannot be recorded, since it waits for the device, is timed eagerly.
"""

import contextlib
import functools
import gc
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from backend_calls import said

from sam2fast.profiling.limits import samples, wait

REPLAYED, CLOCK = "graph replay", "clock"
# Calls that are made without waiting, to time the host alone. CUDA queues about a thousand launches.
QUEUED = 10
MOST_RUNS = 200


class Timing(NamedTuple):
    """Milliseconds per call, and MiB."""

    p20: float
    p50: float
    p80: float
    wall: float  # of one eager call with the host's share, waiting for the device
    host_us: float  # microseconds until an eager call returns, without waiting; averaged over several
    peak_mib: float  # allocated during the call beyond what was there; NaN where torch does not count
    timed_by: str  # "graph replay", "events: " and why not, or on a CPU "clock"


class NotRecordableError(RuntimeError):
    """A call that does not become a CUDA graph."""


def measure(call: Callable[[], Any], device: torch.device, budget_s: float = 0.5) -> Timing:
    """Percentiles over as many calls as fit the budget, at least five, after a warm-up.

    On a GPU each replay is timed by events. The device's cache is flushed before it: inputs come from memory.
    """
    wall = _wall_s(call, device)
    host_us = _host_us(call, device, wall, budget_s)
    peak = _peak(call, device)
    taken, timed_by = _samples(call, device, _runs(wall, budget_s))
    p20, p50, p80 = (taken[int(q * (len(taken) - 1))] for q in (0.2, 0.5, 0.8))
    return Timing(p20, p50, p80, wall * 1e3, host_us, peak, timed_by)


def device_time(call: Callable[[], Any], device: torch.device, budget_s: float, least: int = 5) -> tuple[float, str]:
    """The median of :func:`measure` alone, in milliseconds, and what it was timed by; of so many calls at least."""
    taken, timed_by = _samples(call, device, _runs(_wall_s(call, device), budget_s, least))
    return taken[len(taken) // 2], timed_by


def _runs(wall: float, budget_s: float, least: int = 5) -> int:
    return int(min(MOST_RUNS, max(least, budget_s / max(wall, 1e-6))))


def _wall_s(call: Callable[[], Any], device: torch.device) -> float:
    """Seconds of a call, after a first one."""
    call()
    wait(device)
    start = time.perf_counter()
    call()
    wait(device)
    return time.perf_counter() - start


def _host_us(call: Callable[[], Any], device: torch.device, wall: float, budget_s: float) -> float:
    runs = int(min(QUEUED, max(1, budget_s / 4 / max(wall, 1e-6))))
    wait(device)
    start = time.perf_counter()
    for _ in range(runs):
        call()
    taken = time.perf_counter() - start
    wait(device)
    return taken / runs * 1e6


def _peak(call: Callable[[], Any], device: torch.device) -> float:
    if device.type != "cuda":
        return float("nan")
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    call()
    torch.cuda.synchronize(device)
    return (torch.cuda.max_memory_allocated(device) - before) / 2**20


def _samples(call: Callable[[], Any], device: torch.device, runs: int) -> tuple[list[float], str]:
    """Milliseconds of so many calls in rising order, and what they were timed by."""
    if device.type != "cuda":
        return sorted(samples(call, device, runs)), CLOCK
    try:
        with recorded(call, device) as replay:
            replay()  # the first one also brings the graph to the device
            return sorted(samples(replay, device, runs)), REPLAYED
    except NotRecordableError as error:
        return sorted(samples(call, device, runs)), f"events: {error}"


@contextlib.contextmanager
def recorded(call: Callable[[], Any], device: torch.device) -> Iterator[Callable[[], Any]]:
    """Inside, a function that replays one recorded call on the current stream. Its memory goes back afterwards.

    Raises:
        NotRecordableError: the call waits for the device, or cannot be captured; it can be made as before.
    """
    stream = _stream(device)
    stream.wait_stream(torch.cuda.current_stream(device))
    graph, pool = torch.cuda.CUDAGraph(), torch.cuda.graph_pool_handle()
    with torch.cuda.device(device), torch.cuda.stream(stream):
        try:
            _warm_up(call)
            torch.cuda.synchronize(device)
            kept = _capture(call, graph, pool, device)
        except Exception as error:  # whatever the call or CUDA raises
            raise NotRecordableError(said(error)) from error
        finally:
            torch.cuda.synchronize(device)
    try:
        yield graph.replay
    finally:
        torch.cuda.synchronize(device)
        del kept
        graph.reset()
        torch.cuda.empty_cache()


@functools.cache
def _stream(device: torch.device) -> torch.cuda.Stream:
    """One for all recordings: what libraries keep for each stream is made once, outside the graphs' memory."""
    return torch.cuda.Stream(device)


def _warm_up(call: Callable[[], Any]) -> None:
    """Libraries make what they need for the stream. Then a call that waits is found before it spoils a capture."""
    call()
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        call()
    finally:
        torch.cuda.set_sync_debug_mode(before)


def _capture(call: Callable[[], Any], graph: torch.cuda.CUDAGraph, pool: Any, device: torch.device) -> Any:
    """The result of the call, whose memory the graph writes to.

    Not ``torch.cuda.graph``, which stays on its own stream where a capture fails, and collects garbage every time.
    """
    collecting = gc.isenabled()
    gc.disable()  # what is collected may free memory of the device, which ends a capture
    try:
        graph.capture_begin(pool=pool, capture_error_mode="thread_local")
        try:
            kept = call()
        except BaseException:
            _abandon(graph, pool, device)
            raise
        try:
            graph.capture_end()
        except RuntimeError:
            _return_pool(pool, device)
            raise
    finally:
        if collecting:
            gc.enable()
    return kept


def _abandon(graph: torch.cuda.CUDAGraph, pool: Any, device: torch.device) -> None:
    try:
        graph.capture_end()
    except RuntimeError:
        _return_pool(pool, device)


def _return_pool(pool: Any, device: torch.device) -> None:
    """Torch goes on taking memory from the pool where a capture did not end well."""
    index = torch.cuda.current_device() if device.index is None else device.index
    for name in ("_cuda_endAllocateToPool", "_cuda_releasePool"):
        with contextlib.suppress(AttributeError, RuntimeError):
            getattr(torch._C, name)(index, pool)
