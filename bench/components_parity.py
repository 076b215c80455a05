"""The kernel of connected components against its reference: labels and areas of random masks, equal in two runs."""

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from parity_rows import Rows, integer

from sam2fast.kernels._dispatch import backend, launches
from sam2fast.kernels.connected_components import connected_components, connected_components_reference


class Plan(NamedTuple):
    """What is tried: at least so many random masks, of any density and of sizes up to these."""

    masks: int = 10_000
    side: int = 300
    batch: int = 64
    seed: int | None = None  # by the clock, so that each run sees others


# For a short visit to a GPU.
SHORT = Plan(masks=1000)
# For memory checkers and interpreters, which take a hundred times as long.
QUICK = Plan(masks=8, side=40, batch=3)


def components_parity(device: torch.device, save: Callable[[Rows], None], plan: Plan | None = None) -> bool:
    """One row; false if a result is wrong or differs between two runs.

    Raises:
        RuntimeError: the kernel was not launched.
    """
    plan = plan or Plan()
    generator = torch.Generator().manual_seed(int(time.time()) if plan.seed is None else plan.seed)
    wrong = done = 0
    while done < plan.masks:
        batch = integer(1, plan.batch, generator)
        height, width = (integer(1, plan.side, generator) for _ in range(2))
        density = float(torch.rand((), generator=generator))
        mask = torch.rand(batch, 1, height, width, generator=generator) < density
        expected = connected_components_reference(mask)
        before = launches["connected_components"]
        with backend("triton"):
            runs = [connected_components(mask.to(device)) for _ in range(2)]
        if launches["connected_components"] != before + 2:
            raise RuntimeError("the kernel was not launched")
        equal = all(torch.equal(e, a.cpu()) for run in runs for e, a in zip(expected, run, strict=True))
        wrong += 0 if equal else batch
        done += batch
    row: dict[str, Any] = {"op": "connected_components", "random masks": done, "wrong": wrong}
    save([{**row, "seed": generator.initial_seed()}])
    return wrong == 0
