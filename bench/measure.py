"""Times one call on its device, and measures the device's own limits to compare with."""

import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import torch

from sam2fast.kernels._cpu import linear


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
    _wait(device)
    start = time.perf_counter()
    call()
    _wait(device)
    wall = time.perf_counter() - start
    runs = int(min(200, max(5, budget_s / max(wall, 1e-6))))
    peak = _peak(call, device)
    samples = sorted(_by_events(call, runs) if device.type == "cuda" else _by_clock(call, runs))
    p20, p50, p80 = (samples[int(q * (len(samples) - 1))] for q in (0.2, 0.5, 0.8))
    return Timing(p20, p50, p80, wall * 1e3, peak)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _by_clock(call: Callable[[], Any], runs: int) -> list[float]:
    samples = []
    for _ in range(runs):
        start = time.perf_counter()
        call()
        samples.append((time.perf_counter() - start) * 1e3)
    return samples


def _by_events(call: Callable[[], Any], runs: int) -> list[float]:
    flush = torch.empty(256 * 2**20, dtype=torch.int8, device="cuda")
    pairs = [[torch.cuda.Event(enable_timing=True) for _ in range(2)] for _ in range(runs)]
    for start, end in pairs:
        flush.zero_()
        start.record()
        call()
        end.record()
    torch.cuda.synchronize()
    return [start.elapsed_time(end) for start, end in pairs]


def _peak(call: Callable[[], Any], device: torch.device) -> float:
    if device.type != "cuda":
        return float("nan")
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    call()
    torch.cuda.synchronize(device)
    return (torch.cuda.max_memory_allocated(device) - before) / 2**20


class Limits(NamedTuple):
    """What the device was seen to do."""

    bytes_per_s: float  # a large copy, read and written bytes counted
    flops_per_s: dict[str, float]  # a large matrix product, by dtype

    def fraction(self, dtype: str, flops: float, nbytes: float, ms: float) -> float:
        """Share of the limit: the time that memory or arithmetic alone would take, over the time taken."""
        floor = max(nbytes / self.bytes_per_s, flops / self.flops_per_s.get(dtype, float("inf")))
        return floor * 1e3 / ms


def measure_limits(device: torch.device) -> Limits:
    """A copy and a matrix product per dtype, large enough to fill the device; of two ways to multiply the faster."""
    big = device.type == "cuda"
    source = torch.randn((2**28 if big else 2**24), device=device)
    target = torch.empty_like(source)
    copied = statistics.median(_samples(lambda: target.copy_(source), device)) / 1e3
    side, flops = (8192 if big else 2048), {}
    for dtype in (torch.float32, torch.bfloat16):
        a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
        with torch.no_grad():
            ways = (lambda a=a, b=b: a @ b, lambda a=a, b=b: linear(a, b))
            ms = min(statistics.median(_samples(way, device)) for way in ways)
        flops[str(dtype).removeprefix("torch.")] = 2 * side**3 / (ms / 1e3)
    return Limits(2 * source.nbytes / copied, flops)


def _samples(call: Callable[[], Any], device: torch.device) -> list[float]:
    call()
    _wait(device)
    return _by_events(call, 10) if device.type == "cuda" else _by_clock(call, 10)
