"""Times a call on its device; the device's own limits to compare with are measured in the package.

On a GPU several calls are recorded as one CUDA graph, which is replayed and its time divided: the time that Python
takes between launches, and that a graph takes to begin, would hide differences between kernels. A call that cannot be
recorded, since it waits for the device, is timed eagerly.
"""

import contextlib
import math
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from backend_calls import OURS, said
from gpu.frame_profile import kernel_names
from registry import Case, check
from suite.subjects import timed

from sam2fast.profiling.limits import FLUSHED_BYTES, Limits, samples, wait
from sam2fast.tracking.cuda_graphs import CudaGraphs

REPLAYED, CLOCK = "graph replay", "clock"
# Calls that are made without waiting, to time the host alone. CUDA queues about a thousand launches.
QUEUED = 10
MOST_RUNS = 200
# Calls of one graph: as many as take so long, but no more.
GRAPH_S, MOST_CALLS = 10e-3, 20
Call = Callable[[], Any]


class NotRecordableError(RuntimeError):
    """A call that does not become a CUDA graph."""


def measure(calls: Sequence[Call], device: torch.device, budget_s: float = 0.25, least: int = 5) -> dict[str, Any]:
    """Times of a call, as columns of a row, over as many calls as fit the budget, after a warm-up.

    Args:
        calls: the same on inputs of their own, which follow one another in a graph: none finds its inputs in the cache
            if there are enough of them.

    Returns:
        Percentiles of milliseconds; on a GPU milliseconds where the first call's inputs stay in the cache
        (``warm ms``); milliseconds of one eager call with the host's share (``wall ms``); microseconds until an eager
        call returns, without waiting (``host us``); what it was timed by: "graph replay" and how many calls,
        "events: " and why not, or on a CPU "clock"; MiB allocated during the call beyond what was there, where torch
        counts them.
    """
    first = calls[0]
    wall = _wall_s(first, device)
    host_us, peak = _host_us(first, device, wall, budget_s), _peak_mib(first, device)
    taken, timed_by = _samples(calls, device, wall, budget_s, least)
    found: dict[str, Any] = {f"p{q} ms": taken[q * (len(taken) - 1) // 100] for q in (20, 50, 80)}
    if device.type == "cuda":
        found["warm ms"] = statistics.median(_samples([first], device, wall, budget_s, least, flushed=False)[0])
    return found | {"wall ms": wall * 1e3, "host us": host_us, "timed by": timed_by, "peak MiB": peak}


def device_time(call: Call, device: torch.device, budget_s: float, least: int = 5) -> tuple[float, str]:
    """The median of :func:`measure` alone, in milliseconds, and what it was timed by; of so many samples at least.

    One input serves all calls of a graph: what fits into the cache is there from the second on.
    """
    taken, timed_by = _samples([call], device, _wall_s(call, device), budget_s, least)
    return taken[len(taken) // 2], timed_by


def case_rows(case: Case, device: torch.device, limits: Limits, **how: Any) -> list[dict[str, Any]]:
    """A row for each subject that runs here, the baseline first; ``how`` is that of :func:`measure`.

    Raises:
        WrongResultError: a result differs by more than the case allows; nothing is timed then.
    """
    rows = []
    with torch.no_grad():
        able = check(case, case.prepare(device), device)
        others = [case.prepare(device) for _ in range(_copies(case, device))]
        for subject, call in able.items():
            row: dict[str, Any] = {"op": case.op, "shape": case.shape, "dtype": case.dtype, "subject": subject}
            row |= measure([call, *(calls[subject] for calls in others)], device, **how)
            row |= {"FLOP": case.work.products, "bytes": case.work.bytes}
            row["of limit"] = limits.fraction(case.dtype, row["FLOP"], row["bytes"], row["p50 ms"])
            rows.append(row)
            print({key: f"{x:.3g}" if isinstance(x, float) else x for key, x in row.items()}, flush=True)
        if device.type == "cuda":  # at last: a profiler may slow down what follows it
            for row, call in zip(rows, able.values(), strict=True):
                row["kernels"] = kernel_names(call, device)
                print(f"{case.name}: {row['subject']} by {row['kernels']}", flush=True)
    return rows


def _copies(case: Case, device: torch.device) -> int:
    """Inputs beside the first, so that all together are larger than the cache. What compiles would compile for each."""
    if device.type != "cuda" or case.shape.endswith("compiled"):
        return 0
    return min(MOST_CALLS, math.ceil(FLUSHED_BYTES / max(case.work.bytes, 1))) - 1


def speed(rows: Sequence[dict[str, Any]]) -> str:
    """Our time, its share of the limit, and how much faster than the baseline it is."""
    ours = next((row for name in OURS for row in rows if row["subject"] == name), None)
    if ours is None:
        return ""
    ratio = rows[0]["p50 ms"] / ours["p50 ms"]
    share, baseline = ours["of limit"], rows[0]["subject"]
    return f"{ours['op']} {ours['shape']}: {ours['p50 ms']:.3g} ms, {share:.0%} of the limit, {ratio:.2f}x {baseline}"


def _wall_s(call: Call, device: torch.device) -> float:
    """Seconds of a call, after a first one."""
    call()
    return timed(str(device), call)[0]


def _host_us(call: Call, device: torch.device, wall: float, budget_s: float) -> float:
    runs = int(min(QUEUED, max(1, budget_s / 4 / max(wall, 1e-6))))
    wait(device)
    start = time.perf_counter()
    for _ in range(runs):
        call()
    taken = time.perf_counter() - start
    wait(device)
    return taken / runs * 1e6


def _peak_mib(call: Call, device: torch.device) -> float | str:
    if device.type != "cuda":
        return ""
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    call()
    torch.cuda.synchronize(device)
    return (torch.cuda.max_memory_allocated(device) - before) / 2**20


def _samples(
    calls: Sequence[Call], device: torch.device, wall: float, budget_s: float, least: int, flushed: bool = True
) -> tuple[list[float], str]:
    """Milliseconds of a call, many times in rising order, and what they were timed by."""
    if device.type != "cuda":
        return sorted(samples(calls[0], device, _runs(wall, budget_s, least))), CLOCK
    count = int(min(MOST_CALLS, max(1, GRAPH_S / max(wall, 1e-6))))
    together = [calls[i % len(calls)] for i in range(count)]
    try:
        with recorded(together, device) as replay:
            replay()  # the first one also brings the graph to the device
            taken = _by_events(replay, device, _runs(wall * count, budget_s, least), flushed)
            return sorted(ms / count for ms in taken), f"{REPLAYED} of {count}"
    except NotRecordableError as error:
        return sorted(_by_events(calls[0], device, _runs(wall, budget_s, least), flushed)), f"events: {error}"


def _runs(wall: float, budget_s: float, least: int) -> int:
    return int(min(MOST_RUNS, max(least, budget_s / max(wall, 1e-6))))


def _by_events(call: Call, device: torch.device, runs: int, flushed: bool) -> list[float]:
    """Milliseconds of each of so many calls.

    Before each, the cache is filled by reading: what was written would have to be written back during the call.
    """
    other = torch.zeros(FLUSHED_BYTES // 4, device=device)
    pairs = [[torch.cuda.Event(enable_timing=True) for _ in range(2)] for _ in range(runs)]
    stream = torch.cuda.current_stream(device)
    for start, end in pairs:
        if flushed:
            other.sum()
        start.record(stream)
        call()
        end.record(stream)
    torch.cuda.synchronize(device)
    return [start.elapsed_time(end) for start, end in pairs]


@contextlib.contextmanager
def recorded(calls: Sequence[Call], device: torch.device) -> Iterator[Callable[[], None]]:
    """Inside, a function that replays recorded calls on the current stream. Their memory goes back afterwards.

    Raises:
        NotRecordableError: a call waits for the device, or cannot be captured; it can be made as before.
    """

    def run() -> None:
        for call in calls:
            call()

    graphs, mode = CudaGraphs(device), torch.cuda.get_sync_debug_mode()
    try:
        torch.cuda.set_sync_debug_mode("error")  # a call that waits is found before it spoils a capture
        try:
            run()
        finally:
            torch.cuda.set_sync_debug_mode(mode)
        replay = graphs.record(run)
    except Exception as error:  # whatever the call or CUDA raises
        raise NotRecordableError(said(error.__cause__ or error)) from error
    try:
        yield replay
    finally:
        torch.cuda.synchronize(device)
        del replay
        graphs.clear()
        torch.cuda.empty_cache()
