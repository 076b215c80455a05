"""Attention in windows."""

import math
from collections import Counter
from collections.abc import Callable, Iterable

import torch
import torch.nn.functional as F
from backend_calls import by_triton, runs_kernels
from inputs import random
from published_models import Windowed, hiera_blocks
from registry import TIMED, Calls, Case, Record, Work, name_of
from torch import Tensor
from tuning_candidates import Search, search

from sam2fast.kernels._launch import ANY
from sam2fast.kernels.window_attention import window_attention
from sam2fast.kernels.window_attention.sdpa import CUDNN, DEFAULT, FLASH


def window_ways(qkv: Tensor, bias: Tensor, heads: int, window: int, pooled: bool) -> dict[str, Callable[[], Tensor]]:
    """Attention in windows by subject: the dispatcher's choice, which for a whole map may be SDPA, and our kernel."""
    arguments = qkv, bias, heads, window, (2, 2) if pooled else None

    def call() -> Tensor:
        return window_attention(*arguments)

    ways = {"SDPA": lambda: cut_out_windows(qkv, bias, heads, window, pooled), "sam2fast": call}
    return ways | ({"triton": by_triton(call)} if runs_kernels(qkv.device) else {})


def cut_out_windows(qkv: Tensor, bias: Tensor, heads: int, window: int, pooled: bool) -> Tensor:
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
    out = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(query.shape).transpose(2, 3)
    return out.flatten(3, 4).flatten(1, 2)[:, :H, :W]


def work(block: Windowed, size: int) -> Work:
    """Both products of each query with the keys of its window; the projected map read, the result written."""
    window = block.window or block.side
    pairs = math.ceil(block.side / window) ** 2 * window**4 / block.stride**2  # padding included
    channels = block.heads * block.width
    moved = size * channels * (3 * block.side**2 + (block.side // block.stride) ** 2)
    return Work(moved, products=4 * pairs * channels, exponentials=pairs * block.heads)


def window_case(block: Windowed, dtype: torch.dtype) -> Case:
    """Attention in windows, or over the whole map, without projections; pooled queries are a quarter of the keys."""
    side, window, heads, d, stride = block

    def prepare(device: torch.device) -> Calls:
        qkv = random(1, side, side, 3 * heads * d, device=device, dtype=dtype)
        bias = random(3 * heads * d, device=device, dtype=dtype, seed=1)
        return window_ways(qkv, bias, heads, window, stride == 2)

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


def lines() -> Iterable[tuple[str, str, Work]]:
    for block, calls in Counter(hiera_blocks("b+")).items():
        where = f"windows of {block.window}" if block.window else "one window"
        pooled = ", pooled" if block.stride > 1 else ""
        name = f"base+, {block.side}×{block.side}, {where}{pooled}, {block.heads} × {block.width}"
        yield f"{name}, {calls} call{'s' * (calls > 1)}", "bf16", work(block, 2)


def window_search(
    dtype: str, shape: str, tiles: Iterable[tuple[int, ...]], choices: tuple[int, ...] = (), order: int = 1
) -> Search:
    """``tiles``: BLOCK_M, BLOCK_N, warps, stages, and ROWS_PER_WARP where tiles of few queries take fewer warps."""
    names = "BLOCK_M BLOCK_N num_warps num_stages ROWS_PER_WARP"
    choice = "SDPA" if choices else ""
    return search("window_attention", names, tiles, dtype, shape, choice=choice, choices=choices, order=order)


# Most windows are one or two blocks of keys, which leaves little to overlap; a whole map is many. What spills on sm_90
# is left out: in bfloat16 all of it, since ahead-of-time compilation refuses it, in fp32 the worst.
WINDOWS = [(64, 32, 4, 1), (64, 32, 4, 2), (64, 64, 4, 1), (64, 64, 8, 1), (64, 32, 8, 1),
           (128, 32, 8, 1), (128, 32, 8, 2), (128, 64, 8, 1), (128, 64, 8, 2), (64, 32, 4, 1, 8), (64, 64, 4, 1, 8),
           (64, 64, 4, 1, 16), (128, 32, 8, 1, 16), (128, 32, 8, 2, 16), (128, 64, 8, 1, 16)]  # fmt: skip
WHOLE_MAP = [(64, 64, 4, 1), (64, 64, 4, 2), (64, 64, 4, 3), (64, 128, 4, 2), (64, 128, 4, 3), (128, 32, 8, 3),
             (128, 64, 8, 1), (128, 64, 8, 2), (128, 64, 8, 3), (128, 128, 8, 2), (128, 128, 8, 3)]  # fmt: skip
FP32_WINDOWS = [(64, 32, 4, 1), (64, 32, 4, 2), (64, 32, 8, 1), (64, 32, 8, 2), (64, 64, 4, 1), (128, 32, 8, 1),
                (128, 32, 8, 2), (128, 64, 8, 1)]  # fmt: skip
FP32_WHOLE_MAP = [(64, 32, 4, 1), (64, 32, 4, 2), (64, 32, 8, 1), (64, 32, 8, 2), (64, 32, 8, 3), (64, 64, 4, 2),
                  (128, 32, 8, 1), (128, 32, 8, 2), (128, 32, 8, 3), (128, 64, 8, 1)]  # fmt: skip
# Of tiny, base+ and large at 1024x1024, and tiny's stage changes.
BLOCKS = [Windowed(256, 8, 1, 96), Windowed(64, 14, 4, 96), Windowed(64, 0, 4, 96), Windowed(128, 4, 4, 56),
          Windowed(64, 16, 8, 72), Windowed(256, 8, 2, 96, 2), Windowed(64, 14, 8, 96, 2)]  # fmt: skip

RECORD = Record(
    cases=[window_case(block, dtype) for block in BLOCKS for dtype in TIMED],
    small=[window_case(Windowed(8, window, 2, 16), dtype) for dtype in TIMED for window in (4, 0)],
    searches=[
        window_search("bfloat16", ANY, WINDOWS),
        window_search("bfloat16", "global", WHOLE_MAP, (DEFAULT, FLASH, CUDNN)),
        window_search("float32", ANY, FP32_WINDOWS, order=4),
        window_search("float32", "global", FP32_WHOLE_MAP, (DEFAULT,), order=4),
    ],
    work=lines,
)
