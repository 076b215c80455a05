"""What a device was seen to do at most: a large copy, and a large matrix product in each dtype."""

import statistics
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch

from sam2fast.kernels._cpu import linear
from sam2fast.profiling.timing import samples, wait

RUNS = 10
# Elements of the copy and side of the product: enough to fill the device.
COPIED, COPIED_ON_CPU = 2**28, 2**24
SIDE, SIDE_ON_CPU, SMALLEST_SIDE = 8192, 2048, 256
# That a product may take, about.
LONGEST_MS = 200.0


class Limits(NamedTuple):
    """What the device was seen to do."""

    bytes_per_s: float  # a large copy, read and written bytes counted
    flops_per_s: dict[str, float]  # a large matrix product, by dtype

    def fraction(self, dtype: str, flops: float, nbytes: float, ms: float) -> float:
        """Share of the limit: the time that memory or arithmetic alone would take, over the time taken."""
        floor = max(nbytes / self.bytes_per_s, flops / self.flops_per_s.get(dtype, float("inf")))
        return floor * 1e3 / ms


def measure_limits(device: torch.device, dtypes: Sequence[torch.dtype] = (torch.float32, torch.bfloat16)) -> Limits:
    """A copy and a matrix product per dtype, large enough to fill the device; of two ways to multiply the faster."""
    big = device.type == "cuda"
    source = torch.randn(COPIED if big else COPIED_ON_CPU, device=device)
    target = torch.empty_like(source)
    copied = _median(lambda: target.copy_(source), device) / 1e3
    flops = {str(dtype).removeprefix("torch."): _products(dtype, device) for dtype in dtypes}
    return Limits(2 * source.nbytes / copied, flops)


def _products(dtype: torch.dtype, device: torch.device) -> float:
    """FLOPs per second. A processor that has to imitate a dtype gets matrices as large as it can bear."""
    side = SIDE if device.type == "cuda" else SMALLEST_SIDE
    while True:
        a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
        with torch.no_grad():
            ways = (lambda a=a, b=b: a @ b, lambda a=a, b=b: linear(a, b))
            took = [samples(way, device, 1)[0] for way in ways]
            if side < SIDE_ON_CPU and min(took) < LONGEST_MS / 8:
                side *= 2
                continue
            # An imitated dtype may be twenty times as slow one way as the other, which is then known already.
            ms = min(_median(way, device) for way, once in zip(ways, took, strict=True) if once < 4 * min(took))
        return 2 * side**3 / (ms / 1e3)


def _median(call: Callable[[], Any], device: torch.device) -> float:
    call()
    wait(device)
    return statistics.median(samples(call, device, RUNS))
