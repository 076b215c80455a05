"""Times calls on their device; the device's own limits to compare with are measured in the package.

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

from sam2fast.engine.graphs import CudaGraphs
from sam2fast.profiling.limits import FLUSHED_BYTES, Limits, samples, wait

REPLAYED, CLOCK = "graph replay", "clock"
# Calls that are made without waiting, to time the host alone. CUDA queues about a thousand launches.
QUEUED = 10
MOST_RUNS = 200
# Calls of one graph: as many as take GRAPH_S, at most MOST_CALLS.
GRAPH_S, MOST_CALLS = 10e-3, 20
Call = Callable[[], Any]


class NotRecordableError(RuntimeError):
    """A call that does not become a CUDA graph."""


def measure(
    subjects: Sequence[Sequence[Call]], device: torch.device, budget_s: float = 0.25, least: int = 5
) -> list[dict[str, Any]]:
    """Times of each subject's call as columns of its row, after a warm-up. On a GPU the subjects take turns.

    Args:
        subjects: for each subject the same call on inputs of their own. The calls follow one another in a graph, so
            that none finds its inputs in the cache if there are enough of them.
        budget_s: seconds for the samples of each subject.
        least: the least number of samples.

    Returns:
        For each subject: percentiles of milliseconds; on a GPU milliseconds where the first call's inputs stay in the
        cache (``warm ms``); milliseconds of one eager call with the host's share (``wall ms``); microseconds until an
        eager call returns, without waiting (``host us``); what it was timed by: "graph replay" and how many calls,
        "events: " and why not, or on a CPU "clock"; MiB allocated during the call beyond what was there, where torch
        counts them.
    """
    firsts = [calls[0] for calls in subjects]
    walls = [_wall_s(call, device) for call in firsts]
    rows: list[dict[str, Any]] = [
        {"wall ms": wall * 1e3, "host us": _host_us(call, device, wall, budget_s), "peak MiB": _peak_mib(call, device)}
        for call, wall in zip(firsts, walls, strict=True)
    ]
    for row, (taken, timed_by) in zip(rows, _samples(subjects, device, walls, budget_s, least), strict=True):
        row |= {f"p{q} ms": taken[q * (len(taken) - 1) // 100] for q in (20, 50, 80)} | {"timed by": timed_by}
    if device.type == "cuda":
        warm = _samples([[call] for call in firsts], device, walls, budget_s, least, flushed=False)
        for row, (taken, _) in zip(rows, warm, strict=True):
            row["warm ms"] = statistics.median(taken)
    return rows


def device_time(call: Call, device: torch.device, budget_s: float, least: int = 5) -> tuple[float, str]:
    """Returns the median of at least ``least`` samples in milliseconds, and what it was timed by.

    One input serves all calls of a graph: what fits into the cache is there from the second on.
    """
    ((taken, timed_by),) = _samples([[call]], device, [_wall_s(call, device)], budget_s, least)
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
        found = measure([[call, *(calls[name] for calls in others)] for name, call in able.items()], device, **how)
        for subject, figures in zip(able, found, strict=True):
            row = {"op": case.op, "shape": case.shape, "dtype": case.dtype, "subject": subject, **figures}
            row |= {"FLOP": case.work.products, "bytes": case.work.bytes}
            row["of limit"] = limits.fraction(case.dtype, row["FLOP"], row["bytes"], row["p50 ms"])
            rows.append(row)
        if device.type == "cuda":  # at last: a profiler may slow down what follows it
            for row, call in zip(rows, able.values(), strict=True):
                row["kernels"] = kernel_names(call, device)
    return rows


def _copies(case: Case, device: torch.device) -> int:
    """Inputs beside the first, so that all together are larger than the cache. What compiles would compile for each."""
    if device.type != "cuda" or case.shape.endswith("compiled"):
        return 0
    return min(MOST_CALLS, math.ceil(FLUSHED_BYTES / max(case.work.bytes, 1))) - 1


LINE = "{:<78}{:>10}{:>8}{:>10}  {}"
HEADER = LINE.format("op, shape, dtype", "ours, ms", "limit", "other, ms", "fastest other way")


def line_of(rows: Sequence[dict[str, Any]]) -> str:
    """Returns a case's line below :data:`HEADER`: our time, its share of the limit, and the fastest other way."""
    first, times = rows[0], {row["subject"]: row for row in rows if "p50 ms" in row}
    name = f"{first['op']}, {first['shape']}, {first['dtype']}"
    if not times:
        return f"{name}: {first['subject']}"
    ours = next((times[subject] for subject in OURS if subject in times), None)
    other = min((row for row in times.values() if row is not ours), key=lambda row: row["p50 ms"], default=None)
    cells = ("", "") if ours is None else (f"{ours['p50 ms']:.4g}", f"{ours['of limit']:.0%}")
    cells += ("", "") if other is None else (f"{other['p50 ms']:.4g}", other["subject"])
    return LINE.format(name, *cells).rstrip()


def _wall_s(call: Call, device: torch.device) -> float:
    """Seconds of a call, after a first one."""
    call()
    return timed(str(device), call).seconds


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
    subjects: Sequence[Sequence[Call]],
    device: torch.device,
    walls: Sequence[float],
    budget_s: float,
    least: int,
    flushed: bool = True,
) -> list[tuple[list[float], str]]:
    """For each subject milliseconds of its call, many times in rising order, and what they were timed by."""
    if device.type != "cuda":
        pairs = zip(subjects, walls, strict=True)
        return [(sorted(samples(calls[0], device, _runs(wall, budget_s, least))), CLOCK) for calls, wall in pairs]
    with contextlib.ExitStack() as stack:
        found = [_timed_call(calls, device, wall, stack) for calls, wall in zip(subjects, walls, strict=True)]
        runs = [_runs(wall * count, budget_s, least) for (_, count, _), wall in zip(found, walls, strict=True)]
        taken = _by_events([call for call, *_ in found], device, runs, flushed)
        return [(sorted(ms / count for ms in each), by) for each, (_, count, by) in zip(taken, found, strict=True)]


def _timed_call(
    calls: Sequence[Call], device: torch.device, wall: float, stack: contextlib.ExitStack
) -> tuple[Call, int, str]:
    """Returns a function to time, its number of calls, and its kind. It stays recorded until the stack is closed."""
    count = int(min(MOST_CALLS, max(1, GRAPH_S / max(wall, 1e-6))))
    try:
        replay = stack.enter_context(recorded([calls[i % len(calls)] for i in range(count)], device))
    except NotRecordableError as error:
        return calls[0], 1, f"events: {error}"
    replay()  # the first one also brings the graph to the device
    return replay, count, f"{REPLAYED} of {count}"


def _runs(wall: float, budget_s: float, least: int) -> int:
    return int(min(MOST_RUNS, max(least, budget_s / max(wall, 1e-6))))


def _by_events(calls: Sequence[Call], device: torch.device, runs: Sequence[int], flushed: bool) -> list[list[float]]:
    """Milliseconds of each call in turn, as often as ``runs`` says of each.

    Before each, the cache is filled by reading: what was written would have to be written back during the call.
    """
    other = torch.zeros(FLUSHED_BYTES // 4, device=device)
    stream = torch.cuda.current_stream(device)
    pairs: list[list[Any]] = [[] for _ in calls]
    for turn in range(max(runs)):
        for call, count, own in zip(calls, runs, pairs, strict=True):
            if turn < count:
                start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
                if flushed:
                    other.sum()
                start.record(stream)
                call()
                end.record(stream)
                own.append((start, end))
    torch.cuda.synchronize(device)
    return [[start.elapsed_time(end) for start, end in own] for own in pairs]


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
