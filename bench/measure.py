"""Times one call on its device; the device's own limits to compare with are measured in the package.

On a GPU the call is recorded as a CUDA graph and replayed: the time that Python takes between launches would hide
differences between kernels. A call that cannot be recorded, since it waits for the device, is timed eagerly.
"""

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from backend_calls import OURS, said
from registry import Case, check
from suite.subjects import timed

from sam2fast.profiling.limits import Limits, samples, wait
from sam2fast.tracking.cuda_graphs import CudaGraphs

REPLAYED, CLOCK = "graph replay", "clock"
# Calls that are made without waiting, to time the host alone. CUDA queues about a thousand launches.
QUEUED = 10
MOST_RUNS = 200


class NotRecordableError(RuntimeError):
    """A call that does not become a CUDA graph."""


def measure(call: Callable[[], Any], device: torch.device, budget_s: float = 0.5, least: int = 5) -> dict[str, Any]:
    """Times of a call, as columns of a row, over as many calls as fit the budget, after a warm-up.

    On a GPU each replay is timed by events. The device's cache is flushed before it: inputs come from memory.

    Returns:
        Percentiles of milliseconds; milliseconds of one eager call with the host's share (``wall ms``); microseconds
        until an eager call returns, without waiting (``host us``); what it was timed by: "graph replay", "events: " and
        why not, or on a CPU "clock"; MiB allocated during the call beyond what was there, where torch counts them.
    """
    wall = _wall_s(call, device)
    host_us, peak = _host_us(call, device, wall, budget_s), _peak_mib(call, device)
    taken, timed_by = _samples(call, device, _runs(wall, budget_s, least))
    percentiles = {f"p{q} ms": taken[q * (len(taken) - 1) // 100] for q in (20, 50, 80)}
    return percentiles | {"wall ms": wall * 1e3, "host us": host_us, "timed by": timed_by, "peak MiB": peak}


def device_time(call: Callable[[], Any], device: torch.device, budget_s: float, least: int = 5) -> tuple[float, str]:
    """The median of :func:`measure` alone, in milliseconds, and what it was timed by; of so many calls at least."""
    taken, timed_by = _samples(call, device, _runs(_wall_s(call, device), budget_s, least))
    return taken[len(taken) // 2], timed_by


def case_rows(case: Case, device: torch.device, limits: Limits, **how: Any) -> list[dict[str, Any]]:
    """A row for each subject that runs here, the baseline first; ``how`` is that of :func:`measure`.

    Raises:
        WrongResultError: a result differs by more than the case allows; nothing is timed then.
    """
    rows = []
    with torch.no_grad():
        for subject, call in check(case, case.prepare(device), device).items():
            row = {"op": case.op, "shape": case.shape, "dtype": case.dtype, "subject": subject}
            row |= measure(call, device, **how) | {"FLOP": case.work.products, "bytes": case.work.bytes}
            row["of limit"] = limits.fraction(case.dtype, row["FLOP"], row["bytes"], row["p50 ms"])
            rows.append(row)
            print({key: f"{x:.3g}" if isinstance(x, float) else x for key, x in row.items()}, flush=True)
    return rows


def speed(rows: Sequence[dict[str, Any]]) -> str:
    """Our time, its share of the limit, and how much faster than the baseline it is."""
    ours = next((row for name in OURS for row in rows if row["subject"] == name), None)
    if ours is None:
        return ""
    ratio = rows[0]["p50 ms"] / ours["p50 ms"]
    share, baseline = ours["of limit"], rows[0]["subject"]
    return f"{ours['op']} {ours['shape']}: {ours['p50 ms']:.3g} ms, {share:.0%} of the limit, {ratio:.2f}x {baseline}"


def _runs(wall: float, budget_s: float, least: int = 5) -> int:
    return int(min(MOST_RUNS, max(least, budget_s / max(wall, 1e-6))))


def _wall_s(call: Callable[[], Any], device: torch.device) -> float:
    """Seconds of a call, after a first one."""
    call()
    return timed(str(device), call)[0]


def _host_us(call: Callable[[], Any], device: torch.device, wall: float, budget_s: float) -> float:
    runs = int(min(QUEUED, max(1, budget_s / 4 / max(wall, 1e-6))))
    wait(device)
    start = time.perf_counter()
    for _ in range(runs):
        call()
    taken = time.perf_counter() - start
    wait(device)
    return taken / runs * 1e6


def _peak_mib(call: Callable[[], Any], device: torch.device) -> float | str:
    if device.type != "cuda":
        return ""
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
def recorded(call: Callable[[], Any], device: torch.device) -> Iterator[Callable[[], None]]:
    """Inside, a function that replays one recorded call on the current stream. Its memory goes back afterwards.

    Raises:
        NotRecordableError: the call waits for the device, or cannot be captured; it can be made as before.
    """

    def run() -> None:
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
