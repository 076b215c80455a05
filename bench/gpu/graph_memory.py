"""Checks that graphs keep the memory that they use: A and B are recorded, A is dropped, C is recorded, B is replayed.

Matrix multiplications whose sums are split take workspaces of cuBLAS, which torch frees with the first graph of a
stream.
"""

import gc
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from sam2fast.engine.graphs import CudaGraphs

SHAPE = (64, 16384, 64)  # of products whose sums are long, so that several programs share each
FILLED = 64  # tensors that take the place of memory that was freed
REPLAYS = 3


class Called:
    """Calls the functions again on a device that records nothing, in the place of ``CudaGraphs``."""

    def __init__(self, device: torch.device) -> None:
        pass

    def record(self, function: Callable[[], None]) -> Callable[[], None]:
        function()
        return function

    def clear(self) -> None:
        pass


def rows_of(device: torch.device) -> Iterator[dict[str, Any]]:
    """Yields a row for graphs of one recorder, and one for graphs of a recorder each."""
    dtype, recorder = (torch.bfloat16, CudaGraphs) if device.type == "cuda" else (torch.float32, Called)
    for name, count in (("one recorder", 1), ("a recorder each", 3)):
        recorders = [recorder(device) for _ in range(count)] * (3 // count)
        row = {"op": "memory of graphs", "recorders": name, "wrong": wrong(recorders, device, dtype)}
        for each in dict.fromkeys(recorders):
            each.clear()
        yield row


@torch.no_grad()
def wrong(recorders: Sequence[CudaGraphs | Called], device: torch.device, dtype: torch.dtype) -> int:
    """Returns how many replays of B and C, and how many other tensors, have wrong values."""
    m, k, n = SHAPE
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(3, m, k, generator=generator).to(device, dtype)
    weight = torch.randn(k, n, generator=generator).to(device, dtype)
    results = torch.empty_like(inputs)

    def recorded(i: int) -> tuple[Callable[[], None], Tensor]:
        """Returns a replay, and its result as long as nothing has happened since."""

        def run() -> None:
            results[i].copy_(inputs[i] @ weight @ weight.T)

        replay = recorders[i].record(run)
        replay()
        return replay, results[i].clone()

    first, second = recorded(0), recorded(1)
    del first
    if recorders[0] is not recorders[1]:
        recorders[0].clear()
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
    others = [torch.full((m, k), 7.0, device=device) for _ in range(FILLED)]
    replays, found = {1: second, 2: recorded(2)}, 0
    for _ in range(REPLAYS):
        for i, (replay, expected) in replays.items():
            results[i].zero_()
            replay()
            found += not torch.equal(results[i], expected)
    return found + sum(not bool((x == 7).all()) for x in others)
