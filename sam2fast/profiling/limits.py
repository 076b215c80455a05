"""Times calls, and measures a device's limits of memory bandwidth and matrix multiplications."""

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch

from sam2fast.kernels._cpu import linear

RUNS = 10
# Number of copied elements, and sides of multiplied matrices. These sizes are large enough to use the whole device.
COPIED, COPIED_ON_CPU = 2**28, 2**24
SIDE, SIDE_ON_CPU, SMALLEST_SIDE = 8192, 2048, 256
# Approximate maximum time of a matrix multiplication.
LONGEST_MS = 200.0


class Limits(NamedTuple):
    """Stores the measured rates of a device."""

    bytes_per_s: float  # rate of a large copy, counting read and written bytes
    flops_per_s: dict[str, float]  # rate of a large matrix multiplication, by dtype

    def fraction(self, dtype: str, flops: float, nbytes: float, ms: float) -> float:
        """Returns the fraction of the limit: the minimum time of memory traffic and arithmetic over ``ms``."""
        floor = max(nbytes / self.bytes_per_s, flops / self.flops_per_s.get(dtype, float("inf")))
        return floor * 1e3 / ms


def measure_limits(device: torch.device, dtypes: Sequence[torch.dtype] = (torch.float32, torch.bfloat16)) -> Limits:
    """Measures a large copy, and for each dtype a matrix multiplication: the faster of torch's and ours."""
    big = device.type == "cuda"
    source = torch.randn(COPIED if big else COPIED_ON_CPU, device=device)
    target = torch.empty_like(source)
    copied = _median(lambda: target.copy_(source), device) / 1e3
    flops = {str(dtype).removeprefix("torch."): _matmul_flops(dtype, device) for dtype in dtypes}
    return Limits(2 * source.nbytes / copied, flops)


def _matmul_flops(dtype: torch.dtype, device: torch.device) -> float:
    """Returns FLOPs per second of matrix multiplications. If the processor emulates the dtype, matrices are smaller."""
    side = SIDE if device.type == "cuda" else SMALLEST_SIDE
    while True:
        a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
        with torch.no_grad():
            calls = (lambda a=a, b=b: a @ b, lambda a=a, b=b: linear(a, b))
            took = [samples(call, device, 1)[0] for call in calls]
            if side < SIDE_ON_CPU and min(took) < LONGEST_MS / 8:
                side *= 2
                continue
            # An implementation that was much slower, for example by emulation, is not measured again.
            ms = min(_median(call, device) for call, once in zip(calls, took, strict=True) if once < 4 * min(took))
        return 2 * side**3 / (ms / 1e3)


def _median(call: Callable[[], Any], device: torch.device) -> float:
    call()
    wait(device)
    return statistics.median(samples(call, device, RUNS))


# Bytes written to flush the cache: more than the last-level cache of any GPU.
FLUSHED_BYTES = 256 * 2**20


def wait(device: torch.device) -> None:
    """Waits until the device has finished its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def samples(call: Callable[[], Any], device: torch.device, runs: int) -> list[float]:
    """Returns the milliseconds of ``runs`` calls. On GPUs, flushes the cache before each call, and times by events."""
    if device.type != "cuda":
        times = []
        for _ in range(runs):
            begun = time.perf_counter()
            call()
            times.append((time.perf_counter() - begun) * 1e3)
        return times
    flush = torch.empty(FLUSHED_BYTES, dtype=torch.int8, device=device)
    pairs = [[torch.cuda.Event(enable_timing=True) for _ in range(2)] for _ in range(runs)]
    stream = torch.cuda.current_stream(device)
    for start, end in pairs:
        flush.zero_()
        start.record(stream)
        call()
        end.record(stream)
    torch.cuda.synchronize(device)
    return [start.elapsed_time(end) for start, end in pairs]
