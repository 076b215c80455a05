"""Attention in windows."""

import functools
import itertools
import math
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # bench/, where a script's imports are

import torch
import torch.nn.functional as F
from backend_calls import both_ways, forced, kernel_if_any, runs_kernels
from inputs import Windowed, hiera_blocks, meta, random, small
from parity_rows import Check, Draw, integer, name_of, simple_check, sizes
from parity_rows import Plan as Sizes
from registry import TIMED, Call, Calls, Case, Record, Sample, Search, Work, search
from torch import Tensor
from tuning_trials import launched_by

from sam2fast.kernels._dispatch import FLOATS
from sam2fast.kernels._launch import ANY, Row, architecture
from sam2fast.kernels._sdpa import CUDNN, DEFAULT, FLASH
from sam2fast.kernels.window_attention import (
    WIDEST,
    maxima,
    pooled_window_attention,
    pooled_window_attention_reference,
    window_attention,
    window_attention_reference,
)


def cut_out_windows(
    qkv: Tensor,
    bias: Tensor,
    heads: int,
    window: int,
    pooled: bool,
    attend: Callable[..., Tensor] = F.scaled_dot_product_attention,
) -> Tensor:
    """Attention by SDPA on windows that are cut out of the map, padded where they must be, and put back."""
    B, H, W, channels = qkv.shape
    height, width = window or H, window or W
    if H % height or W % width:
        padded = bias.expand(B, H + -H % height, W + -W % width, -1).contiguous()
        padded[:, :H, :W] = qkv
        qkv = padded
    tiles = qkv.unflatten(2, (-1, width)).unflatten(1, (-1, height)).transpose(2, 3)  # (B, rows, columns, h, w, 3·C)
    query, key, value = tiles.split(channels // 3, dim=-1)
    if pooled:
        query = query.unflatten(4, (-1, 2)).unflatten(3, (-1, 2)).amax((4, 6))
        H, W = H // 2, W // 2
    q, k, v = (x.flatten(3, 4).unflatten(-1, (heads, -1)).flatten(0, 2).transpose(1, 2) for x in (query, key, value))
    out = attend(q, k, v).transpose(1, 2).reshape(query.shape).transpose(2, 3)
    return out.flatten(3, 4).flatten(1, 2)[:, :H, :W]


def work(block: Windowed, size: int) -> Work:
    """Both products of each query with the keys of its window; the projected map read, the result written."""
    window = block.window or block.side
    pairs = math.ceil(block.side / window) ** 2 * window**4 / block.stride**2  # padding included
    channels = block.heads * block.width
    moved = size * channels * (3 * block.side**2 + (block.side // block.stride) ** 2)
    return Work(moved, products=4 * pairs * channels, exponentials=pairs * block.heads)


# Tiles of windows of 14 and 16 that are timed beside those of `config`: the whole window in one program, which reads
# keys and values once, and the tiles of smaller windows, which an H100 was measured with.
_WHOLE = {"BLOCK_M": 256, "BLOCK_N": 32, "ROWS_PER_WARP": 16, "PIECES": 1}
_SMALLER = {"BLOCK_M": 64, "BLOCK_N": 64, "ROWS_PER_WARP": 16, "PIECES": 1}
OTHER_TILES = {
    "whole windows": (_WHOLE, {"num_warps": 16, "num_stages": 3}),
    "tiles of 64": (_SMALLER, {"num_warps": 4, "num_stages": 1}),
}


def window_case(block: Windowed, dtype: torch.dtype) -> Case:
    """Attention in windows, or over the whole map, without projections; pooled queries are a quarter of the keys."""
    side, window, heads, d, stride = block

    def prepare(device: torch.device) -> Calls:
        qkv = random(1, side, side, 3 * heads * d, device=device, dtype=dtype)
        bias = random(3 * heads * d, device=device, dtype=dtype, seed=1)
        pooling = (2, 2) if stride == 2 else None  # the dispatcher's choice for a whole map may be SDPA

        def attend() -> Tensor:
            return window_attention(qkv, bias, heads, window, pooling)

        own = both_ways(attend, device)
        if window > 8 and dtype == torch.bfloat16 and runs_kernels(device):
            own |= {
                name: launched_by(attend, "window_attention", Row(architecture(device), name_of(dtype), ANY, *chosen))
                for name, chosen in OTHER_TILES.items()
            }
        cut = functools.partial(cut_out_windows, qkv, bias, heads, window, stride == 2)
        one_window = not window and dtype != torch.float32
        others = forced(lambda attend: functools.partial(cut, attend), device) if one_window else {}
        return {"SDPA": cut} | own | others

    return Case(
        "window_attention",
        f"{side}x{side} window {window} {heads}x{d}" + " pooled" * (stride == 2),
        name_of(dtype),
        prepare,
        work(block, dtype.itemsize),
        # Honest results: SDPA's own in fp32 are 8.5e-6 from float64; two in bfloat16 differ by 0.026 to 0.056.
        tolerance=1e-4 if dtype == torch.float32 else 0.1,
        launch=ANY if window else "global",
    )


def pooled_case(block: Windowed, dtype: torch.dtype) -> Case:
    """Attention with pooled queries, and the residual's maxima: by torch, in two launches, and in one."""
    side, window, heads, d, _ = block
    C, of_attention, rest = heads * d, work(block, dtype.itemsize), (heads, window, (2, 2))

    def prepare(device: torch.device) -> Calls:
        projected = random(1, side, side, 4 * C, device=device, dtype=dtype)
        bias = random(3 * C, device=device, dtype=dtype, seed=1)

        def apart() -> tuple[Tensor, Tensor]:
            return window_attention(projected[..., : 3 * C], bias, *rest), maxima(projected[..., 3 * C :], (2, 2))

        return {
            "torch": lambda: pooled_window_attention_reference(projected, bias, *rest),
            "maxima by torch": kernel_if_any(apart, device),
            **both_ways(lambda: pooled_window_attention(projected, bias, *rest), device),
        }

    done = of_attention._replace(bytes=of_attention.bytes + dtype.itemsize * C * side**2 * 5 // 4)
    name, tolerance = f"{side}x{side} window {window} {heads}x{d}", 1e-4 if dtype == torch.float32 else 0.1
    return Case("pooled_window_attention", name, name_of(dtype), prepare, done, tolerance)


def pooled_draw(most: tuple[int, ...], dtype: torch.dtype, generator: torch.Generator, on: torch.device) -> Draw:
    """Oblong maps, mostly padded, of any even window."""
    (B, H, W, half, heads, eighths), seed = sizes(most, generator), integer(0, 2**31, generator)
    H, W, C = H + 1, W + 1, 8 * heads * eighths
    projected = random(B, H, W, 4 * C, device=on, dtype=dtype, seed=seed)
    bias, rest = random(3 * C, device=on, dtype=dtype, seed=seed + 1), (heads, 2 * half, (2, 2))
    exact = pooled_window_attention_reference(projected.double(), bias.double(), *rest)
    return Draw(
        lambda _: torch.cat(pooled_window_attention(projected, bias, *rest)),
        f"{B}x{H}x{W}, window {2 * half}, {heads}x{8 * eighths}",
        torch.cat(exact),
        torch.cat(pooled_window_attention_reference(projected, bias, *rest)),
    )


def lines() -> Iterable[tuple[str, str, Work]]:
    for block, calls in Counter(hiera_blocks("b+")).items():
        where = f"windows of {block.window}" if block.window else "one window"
        pooled = ", pooled" if block.stride > 1 else ""
        name = f"base+, {block.side}×{block.side}, {where}{pooled}, {block.heads} × {block.width}"
        yield f"{name}, {calls} call{'s' * (calls > 1)}", "bf16", work(block, 2)


def window_search(
    dtype: str, shape: str, tiles: Iterable[tuple[int, ...]], choices: tuple[int, ...] = (), order: int = 1
) -> Search:
    """``tiles``: BLOCK_M, BLOCK_N, warps, stages, and ROWS_PER_WARP where tiles of few queries take fewer warps.

    Heads are one piece, since two may be wrong on sm_90.
    """
    names = "PIECES BLOCK_M BLOCK_N num_warps num_stages ROWS_PER_WARP"
    tiles = [(1, *tile) for tile in tiles]
    choice = "SDPA" if choices else ""
    return search(
        "window_attention", names, tiles, dtype=dtype, shape=shape, choice=choice, choices=choices, order=order
    )


# Of tiny (heads of 96 channels), base+ (56) and large (72).
REAL = (
    Windowed(256, 8, 1, 96), Windowed(256, 8, 2, 96, 2), Windowed(256, 8, 4, 56, 2),
    Windowed(128, 4, 2, 96), Windowed(128, 4, 8, 56, 2), Windowed(128, 4, 4, 72),
    Windowed(64, 14, 4, 96), Windowed(64, 14, 8, 96, 2), Windowed(64, 14, 8, 56),
    Windowed(64, 16, 8, 72), Windowed(64, 16, 16, 72, 2),
    Windowed(32, 7, 8, 96), Windowed(32, 7, 16, 56),
    Windowed(64, 0, 4, 96), Windowed(64, 0, 8, 56), Windowed(64, 0, 8, 72),
)  # fmt: skip


class Plan(NamedTuple):
    """What is tried for every window and dtype: the maps of SAM 2, and so many small ones."""

    windows: Sequence[int] = (4, 7, 8, 14, 16, 0)
    head_widths: Sequence[int] = (56, 72, 96, 8, 24, 128)  # for small maps; those of SAM 2 as often as all others
    real: Sequence[Windowed] = REAL
    draws: int = 4  # of small maps; nearly each compiles a kernel of its own
    whole: int = 40  # longest side of a small map that is one window
    windows_across: int = 3  # most of a small map, padded ones included
    batch: int = 5  # most small maps


Shape = tuple[int, int, int, int, int, int, bool]  # batch, height, width, window or 0, heads, their width, pooled


def groups(
    plan: Plan, dtype: torch.dtype, window: int, generator: torch.Generator, device: torch.device
) -> Iterator[Iterator[Draw]]:
    """Of the models' maps, and of small ones, with heads that the kernel takes."""
    plan = plan._replace(head_widths=[d for d in plan.head_widths if d <= WIDEST])
    for shapes in (real_shapes(window, plan, generator), small_shapes(window, plan, generator)):
        yield (window_draw(shape, dtype, generator, device) for shape in shapes)


def real_shapes(window: int, plan: Plan, generator: torch.Generator) -> Iterator[Shape]:
    """The models' maps of this window, one or two at once."""
    for block in plan.real:
        if block.window == window:
            batch, side = integer(1, 2, generator), block.side
            yield batch, side, side, window, block.heads, block.width, block.stride == 2


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
        yield integer(1, plan.batch, generator), height, width, window, integer(1, 3, generator), d, pooled


def window_draw(shape: Shape, dtype: torch.dtype, generator: torch.Generator, device: torch.device) -> Draw:
    """Normal projections of the shape, for the launcher itself; under autocast, as often, the bias stays fp32."""
    from sam2fast.kernels import window_attention_triton as launch

    batch, height, width, window, heads, d, pooled = shape
    channels, seed = 3 * heads * d, integer(0, 2**31, generator)
    qkv = random(batch, height, width, channels, device=device, dtype=dtype, seed=seed)
    of_bias = (dtype, torch.float32)[integer(0, 1, generator)]
    bias = random(channels, device=device, dtype=of_bias, seed=seed + 1)
    rest = heads, window, (2, 2) if pooled else None
    # One map at a time: the scores of whole maps are held. Under inference, the reference takes long rows on the CPU
    # in fp32.
    with torch.enable_grad():
        exact = [window_attention_reference(x.double(), bias.double(), *rest) for x in qkv.split(1)]
    return Draw(
        lambda _: launch.window_attention_triton(qkv, bias, *rest),
        f"{batch}x{height}x{width}, window {window}, {heads}x{d}" + ", pooled" * pooled,
        torch.cat(exact).detach(),
        window_attention_reference(qkv, bias, *rest),
    )


QUICK = Plan(real=(), draws=2, whole=12, windows_across=2, batch=2)
# Most windows are one or two blocks of keys, which leaves little to overlap; a whole map is many. What spills on sm_90
# is left out: in bfloat16 all of it, since ahead-of-time compilation refuses it, in fp32 the worst.
WINDOWS = [(64, 32, 4, 1), (64, 32, 4, 2), (64, 64, 4, 1), (64, 64, 8, 1), (64, 32, 8, 1),
           (128, 32, 8, 1), (128, 32, 8, 2), (128, 64, 8, 1), (128, 64, 8, 2), (64, 32, 4, 1, 8), (64, 64, 4, 1, 8),
           (64, 64, 4, 1, 16), (64, 32, 4, 1, 16), (128, 32, 8, 1, 16), (128, 32, 8, 2, 16),
           (128, 64, 8, 1, 16), (128, 32, 8, 3, 16), (256, 32, 16, 3, 16)]  # fmt: skip
WHOLE_MAP = [(64, 64, 4, 1), (64, 64, 4, 2), (64, 64, 4, 3), (64, 128, 4, 2), (64, 128, 4, 3), (128, 32, 8, 3),
             (128, 64, 8, 1), (128, 64, 8, 2), (128, 64, 8, 3), (128, 128, 8, 2), (128, 128, 8, 3)]  # fmt: skip
FP32_WINDOWS = [(64, 32, 4, 1), (64, 32, 4, 2), (64, 32, 8, 1), (64, 32, 8, 2), (64, 64, 4, 1), (128, 32, 8, 1),
                (128, 32, 8, 2), (128, 64, 8, 1)]  # fmt: skip
FP32_WHOLE_MAP = [(64, 32, 4, 1), (64, 32, 4, 2), (64, 32, 8, 1), (64, 32, 8, 2), (64, 32, 8, 3), (64, 64, 4, 2),
                  (128, 32, 8, 1), (128, 32, 8, 2), (128, 32, 8, 3), (128, 64, 8, 1)]  # fmt: skip
# Of tiny, base+ and large at 1024x1024, and tiny's stage changes.
BLOCKS = [Windowed(256, 8, 1, 96), Windowed(64, 14, 4, 96), Windowed(64, 0, 4, 96), Windowed(128, 4, 4, 56),
          Windowed(64, 16, 8, 72), Windowed(256, 8, 2, 96, 2), Windowed(64, 14, 8, 96, 2)]  # fmt: skip

# What is compiled ahead of time. The widest heads need the most resources where windows are padded; no model pools a
# whole map.
COMPILED = [Windowed(64, 8, 2, 56), Windowed(64, 16, 8, 72, 2), Windowed(64, 14, 4, WIDEST),
            Windowed(64, 14, 4, WIDEST, 2), Windowed(64, 0, 8, 56), Windowed(64, 0, 8, 72),
            Windowed(64, 0, 4, WIDEST)]  # fmt: skip


def launched() -> Iterator[Call]:
    for dtype, block in itertools.product(FLOATS, COMPILED):
        C = block.heads * block.width
        given = meta(1, block.side, block.side, 3 * C, dtype=dtype), meta(3 * C, dtype=dtype), block.heads, block.window
        stride = (2, 2) if block.stride > 1 else None
        yield Call("window_attention", (*given, stride), name_of(dtype), ANY if block.window else "global")
        if block.stride > 1:
            projected = meta(1, block.side, block.side, 4 * C, dtype=dtype)
            yield Call("pooled_window_attention", (projected, *given[1:], (2, 2)), name_of(dtype))


RECORD = Record(
    cases=[
        *(window_case(block, dtype) for block in BLOCKS for dtype in TIMED),
        *(pooled_case(block, dtype) for block in BLOCKS if block.stride > 1 for dtype in TIMED),
    ],
    small=[
        *(window_case(Windowed(8, window, 2, 16), dtype) for dtype in TIMED for window in (4, 0)),
        *(pooled_case(Windowed(8, 4, 2, 16, 2), dtype) for dtype in TIMED),
    ],
    searches=[
        window_search("bfloat16", ANY, WINDOWS),
        window_search("bfloat16", "global", WHOLE_MAP, (DEFAULT, FLASH, CUDNN)),
        window_search("float32", ANY, FP32_WINDOWS, order=4),
        window_search("float32", "global", FP32_WHOLE_MAP, (DEFAULT,), order=4),
    ],
    work=lines,
    samples={
        name: Sample(
            window_attention,
            lambda stride=stride: (small((2, 8, 12, 48)), small((48,)), 2, 4, stride),
            "window_attention",
            batched=0,
            has_gradient=True,
            is_bounded=True,
        )
        for name, stride in (("window_attention", None), ("window_attention pooled", (2, 2)))
    }
    | {
        "pooled_window_attention": Sample(
            pooled_window_attention,
            lambda: (small((2, 8, 12, 64)), small((48,)), 2, 4, (2, 2)),
            "window_attention",
            "pooled_window_attention",
            batched=0,
            has_gradient=True,
            is_bounded=True,
        )
    },
    launched=launched,
    parity={
        "window_attention": Check(
            groups,
            full=Plan(),
            short=Plan(draws=1),
            quick=QUICK,
            tiny=QUICK._replace(
                windows=(4, 7, 0), head_widths=(8, 24), real=(Windowed(8, 4, 2, 24, 2), Windowed(8, 7, 1, 8))
            ),
            ops=("window_attention",),
            launchers=[("window_attention_triton.window_attention_triton", 0)],
            variants=lambda plan: plan.windows,
            variant="window",
        ),
        "pooled_window_attention": simple_check(
            pooled_draw,
            *(Sizes(30, (3, 40, 40, 8, 3, 9)), Sizes(8, (3, 40, 40, 8, 3, 9))),
            *(Sizes(3, (2, 9, 9, 4, 2, 3)), Sizes(3, (2, 9, 9, 4, 2, 3))),
            launchers=["window_attention_triton.pooled_window_attention_triton:1"],
        ),
    },
)

if __name__ == "__main__":
    from one_op import main

    main(RECORD)
