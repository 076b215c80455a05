"""The kernel of attention in windows against its torch twin in float64: SAM 2's maps, and small ones of any shape."""

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from inputs import random
from parity_rows import NOTHING_RUN, Draw, Rows, add_group, integer
from torch import Tensor

from sam2fast.kernels.window_attention import window_attention_reference
from sam2fast.kernels.window_attention.shapes import WIDEST


class Shape(NamedTuple):
    """One input."""

    batch: int
    height: int
    width: int
    window: int  # 0 for the whole map
    heads: int
    d: int
    pooled: bool

    def __str__(self) -> str:
        window = f"window {self.window}" if self.window else "whole map"
        pooled = " pooled" if self.pooled else ""
        return f"{self.batch} of {self.height}x{self.width} {window} {self.heads}x{self.d}{pooled}"


# Side, window, heads, channels of a head, whether queries are pooled: of tiny (96), base+ (56) and large (72).
REAL = (
    (256, 8, 1, 96, False), (256, 8, 2, 96, True), (256, 8, 4, 56, True),
    (128, 4, 2, 96, False), (128, 4, 8, 56, True), (128, 4, 4, 72, False),
    (64, 14, 4, 96, False), (64, 14, 8, 96, True), (64, 14, 8, 56, False),
    (64, 16, 8, 72, False), (64, 16, 16, 72, True),
    (32, 7, 8, 96, False), (32, 7, 16, 56, False),
    (64, 0, 4, 96, False), (64, 0, 8, 56, False), (64, 0, 8, 72, False),
)  # fmt: skip


class Plan(NamedTuple):
    """What is tried: the real maps, and so many small ones, for every window and dtype."""

    windows: Sequence[int] = (4, 7, 8, 14, 16, 0)
    dtypes: Sequence[torch.dtype] = (torch.float32, torch.bfloat16, torch.float16)
    head_widths: Sequence[int] = (56, 72, 96, 8, 24, 128)  # for small maps; those of SAM 2 as often as all others
    real: Sequence[tuple[int, int, int, int, bool]] = REAL
    draws: int = 4  # of small maps; nearly each compiles a kernel of its own
    whole: int = 40  # longest side of a small map that is one window
    windows_across: int = 3  # most of a small map, padded ones included
    batch: int = 5  # most small maps
    poison: bool = True  # whether memory that nobody wrote holds NaN
    seed: int | None = None  # of the draws; by the clock, so that each run sees others


# For a short visit to a GPU, where every combination of window, width and dtype is compiled first.
SHORT = Plan(dtypes=(torch.float32, torch.bfloat16), draws=1)
# For memory checkers and interpreters, which take a hundred times as long.
QUICK = Plan(real=(), draws=2, whole=12, windows_across=2, batch=2, poison=False)


def window_parity(device: torch.device, save: Callable[[Rows], None], plan: Plan | None = None) -> bool:
    """A row per dtype and window, saved as they come; false if a result is wrong or differs between two runs."""
    plan, rows = plan or Plan(), []
    seed = int(time.time()) if plan.seed is None else plan.seed
    for dtype in plan.dtypes:
        for window in plan.windows:
            generator = torch.Generator().manual_seed(seed + window)
            with torch.no_grad():
                rows.append(_row(dtype, window, plan, generator, device))
            save(rows)
            print(rows[-1], flush=True)
    return not any(row["wrong"] for row in rows)


def _row(
    dtype: torch.dtype, window: int, plan: Plan, generator: torch.Generator, device: torch.device
) -> dict[str, Any]:
    row: dict[str, Any] = {"op": "window_attention", "dtype": str(dtype).removeprefix("torch."), "window": window}
    row |= NOTHING_RUN
    plan = plan._replace(head_widths=[d for d in plan.head_widths if d <= WIDEST[dtype]])  # what every GPU can launch
    for shapes in (real_shapes(window, plan, generator), small_shapes(window, plan, generator)):
        draws = (window_draw(shape, dtype, generator, device) for shape in shapes)
        add_group(row, "window_attention", draws, (None,), plan.poison)
    return {**row, "seed": generator.initial_seed()}


def real_shapes(window: int, plan: Plan, generator: torch.Generator) -> Iterator[Shape]:
    """SAM 2's maps of this window, one or two at once."""
    for side, own, heads, d, pooled in plan.real:
        if own == window:
            yield Shape(integer(1, 2, generator), side, side, window, heads, d, pooled)


def small_shapes(window: int, plan: Plan, generator: torch.Generator) -> Iterator[Shape]:
    """Random ones: from one position to a few windows, mostly oblong and padded, pooled in turn where that is possible.

    Maps that are one window are pooled where both sides are even, as the kernel wants them.
    """
    longest = plan.windows_across * window or plan.whole
    for turn in range(plan.draws):
        height, width = (integer(1, longest, generator) for _ in range(2))
        pooled = window % 2 == 0 and turn % 2 == 1
        if pooled:  # at least one query
            height, width = (side + side % 2 if window == 0 else max(2, side) for side in (height, width))
        d = plan.head_widths[integer(0, len(plan.head_widths) - 1, generator)]
        yield Shape(integer(1, plan.batch, generator), height, width, window, integer(1, 3, generator), d, pooled)


def window_draw(shape: Shape, dtype: torch.dtype, generator: torch.Generator, device: torch.device) -> Draw:
    """Normal projections of the shape, for the launcher itself; under autocast, as often, the bias stays fp32."""
    from sam2fast.kernels.window_attention import launch

    channels, seed = 3 * shape.heads * shape.d, integer(0, 2**31, generator)
    qkv = random(shape.batch, shape.height, shape.width, channels, device=device, dtype=dtype, seed=seed)
    of_bias = (dtype, torch.float32)[integer(0, 1, generator)]
    bias = random(channels, device=device, dtype=of_bias, seed=seed + 1)
    rest = shape.heads, shape.window, (2, 2) if shape.pooled else None
    return Draw(
        in_float64(qkv, bias, *rest),
        window_attention_reference(qkv, bias, *rest),
        lambda _: launch.window_attention_triton(qkv, bias, *rest),
        str(shape),
    )


def in_float64(qkv: Tensor, bias: Tensor, heads: int, window: int, stride: tuple[int, int] | None) -> Tensor:
    """The twin in float64, one map at a time: the scores of whole maps are held."""
    # Under inference, the twin takes long rows on the CPU in fp32.
    with torch.enable_grad():
        each = [window_attention_reference(x.double(), bias.double(), heads, window, stride) for x in qkv.split(1)]
    return torch.cat(each).detach()
