"""Times one call on its device; the device's own limits to compare with are measured in the package."""

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import torch

from sam2fast.profiling.limits import Limits, measure_limits
from sam2fast.profiling.timing import samples, wait

__all__ = ["Limits", "Timing", "measure", "measure_limits"]


class Timing(NamedTuple):
    """Milliseconds per call, and MiB."""

    p20: float
    p50: float
    p80: float
    wall: float  # of one call with the host's share, waiting for the device
    peak_mib: float  # allocated during the call beyond what was there; NaN where torch does not count


def measure(call: Callable[[], Any], device: torch.device, budget_s: float = 0.5) -> Timing:
    """Percentiles over as many calls as fit the budget, at least five, after a warm-up.

    On a GPU each call is timed by events, and the device's cache is flushed before it, so that inputs come from memory.
    """
    call()
    wait(device)
    start = time.perf_counter()
    call()
    wait(device)
    wall = time.perf_counter() - start
    runs = int(min(200, max(5, budget_s / max(wall, 1e-6))))
    peak = _peak(call, device)
    taken = sorted(samples(call, device, runs))
    p20, p50, p80 = (taken[int(q * (len(taken) - 1))] for q in (0.2, 0.5, 0.8))
    return Timing(p20, p50, p80, wall * 1e3, peak)


def _peak(call: Callable[[], Any], device: torch.device) -> float:
    if device.type != "cuda":
        return float("nan")
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    call()
    torch.cuda.synchronize(device)
    return (torch.cuda.max_memory_allocated(device) - before) / 2**20
