"""Attention with warp specialization: a candidate beside ``_attend_kernel``, timed and checked by ``make gpu``.

    python bench/candidates/specialised_attention.py

The command compiles it without a GPU, with every tile of ``TILES``, and bounds it as ``sass.py`` does.

Triton assigns parts of the loop to groups of warps. One group loads keys and values by tensor descriptors. Two other
groups process half of the queries each, so that the softmax of one group overlaps the products of the other group. The
kernel supports 16-bit keys and values without offsets of scores.
"""

import contextlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # bench/, where a script's imports are

import torch
import triton
import triton.language as tl
from backend_calls import RefusedError
from torch import Tensor
from tuning_trials import launched_as

from sam2fast.kernels import _launch
from sam2fast.kernels._dispatch import interpreting
from sam2fast.kernels._launch import ANY, FUSED, Row
from sam2fast.kernels.memory_attention import launch
from sam2fast.kernels.memory_attention.kernel import _store_block, _store_log_weights

WARPS = 4  # number of warps per group; with more than four warps, Triton does not specialize warps
OLDEST_TRITON = (3, 6)
OLDEST_TRITON_FOR_PARTS = (3, 7)  # older versions do not specialize a kernel that stores columns in parts


class Tile(NamedTuple):
    """Block sizes."""

    queries: int
    keys: int
    stages: int  # of the pipeline
    # Columns of the result that are stored at once. Threads exchange these columns through shared memory. Many columns
    # would leave too little shared memory for queries, keys and values.
    stored: int = 64


# By shape class. The first tile that this version of Triton specializes is launched.
TILES = {
    "256x64": (Tile(256, 64, 2, stored=16), Tile(128, 64, 2), Tile(128, 64, 3), Tile(128, 32, 4)),
    "256x256": (Tile(128, 64, 2), Tile(128, 32, 3), Tile(128, 32, 4)),
}


@triton.jit
def _store_columns(
    rows,  # (BLOCK_M) pointers to the first of `width` columns
    x,  # (BLOCK_M, columns); columns is a power of two, at most four times COLUMNS
    mask,  # (BLOCK_M) bool, True for rows to store
    width,
    COLUMNS: tl.constexpr,  # number of columns stored at once
):  # fmt: skip
    # Halves of x are split without recursion, since Triton supports recursion only since 3.5.
    if x.shape[1] <= COLUMNS:
        _store_block(rows, x, mask, width, 0)
    else:
        left, right = _halves(x)
        if left.shape[1] <= COLUMNS:
            _store_block(rows, left, mask, width, 0)
            _store_block(rows, right, mask, width, COLUMNS)
        else:
            tl.static_assert(left.shape[1] == 2 * COLUMNS, "columns of more than four parts")
            first, second = _halves(left)
            third, fourth = _halves(right)
            _store_block(rows, first, mask, width, 0)
            _store_block(rows, second, mask, width, COLUMNS)
            _store_block(rows, third, mask, width, 2 * COLUMNS)
            _store_block(rows, fourth, mask, width, 3 * COLUMNS)


@triton.jit
def _halves(x):
    """Splits ``x`` into its left and its right half of columns."""
    return tl.split(tl.permute(tl.reshape(x, [x.shape[0], 2, x.shape[1] // 2]), [0, 2, 1]))


@triton.jit(do_not_specialize=["splits"])
def _attend_specialised_kernel(
    query,  # (B or 1, H, N, D), rotated queries
    keys,  # (B, H, M, D), rotated keys
    values,  # (B, H, M, width), with adjacent channels
    lengths,  # (B) int32, each object's number of valid keys; without RAGGED, all M keys are valid
    sums,  # (splits, B * H, N, WIDTH) fp32 out: weighted mean per split of keys; with DIRECT, result (B, H, N, width)
    log_weights,  # (splits, B * H, N) fp32 out: log2 of the sum of weights per split of keys; not used with DIRECT
    H, N, M, width,
    splits,
    scale,  # factor of attention scores, multiplied by log2(e) for exp2
    stride_qb, stride_vb, stride_vh, stride_vm, stride_ob, stride_oh, stride_om,
    RAGGED: tl.constexpr,
    DIRECT: tl.constexpr,
    EVEN: tl.constexpr,  # True if every block contains BLOCK_N valid keys
    D: tl.constexpr,
    WIDTH: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    STAGES: tl.constexpr,
    COLUMNS: tl.constexpr,
):  # fmt: skip
    split = tl.program_id(1)
    b = (tl.program_id(2) // H).to(tl.int64)
    h = tl.program_id(2) % H
    length = M
    if RAGGED:
        length = tl.load(lengths + b)
    # Tensor descriptors read zeros outside of a tensor, so loads need no masks.
    q = tl.make_tensor_descriptor(query + b * stride_qb + h * N * D, [N, D], [D, 1], [BLOCK_M, D])
    k = tl.make_tensor_descriptor(keys + (b * H + h) * M * D, [length, D], [D, 1], [BLOCK_N, D])
    v = tl.make_tensor_descriptor(
        values + b * stride_vb + h * stride_vh, [length, width], [stride_vm, 1], [BLOCK_N, WIDTH]
    )
    blocks = tl.cdiv(length, BLOCK_N)
    first = blocks * split // splits
    last = blocks * (split + 1) // splits
    block_query = q.load([tl.program_id(0) * BLOCK_M, 0])
    lane = tl.arange(0, BLOCK_N)
    highest = tl.full([BLOCK_M], float("-inf"), tl.float32)
    total = tl.zeros([BLOCK_M], tl.float32)
    weighted = tl.zeros([BLOCK_M, WIDTH], tl.float32)
    for block in tl.range(first, last, num_stages=STAGES, warp_specialize=True):
        block_keys = k.load([block * BLOCK_N, 0])
        scores = tl.dot(block_query, block_keys.T)
        if not EVEN:
            scores = tl.where((lane < length - block * BLOCK_N)[None, :], scores, float("-inf"))
        higher = tl.maximum(highest, tl.max(scores, 1) * scale)
        weights = tl.math.exp2(scores * scale - higher[:, None])
        shrink = tl.math.exp2(highest - higher)
        block_values = v.load([block * BLOCK_N, 0])
        weighted = tl.dot(weights.to(block_values.dtype), block_values, weighted * shrink[:, None])
        total = total * shrink + tl.sum(weights, 1)
        highest = higher
    position = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    mean = weighted / tl.where(total > 0, total, 1.0)[:, None]
    if DIRECT:
        rows = sums + b * stride_ob + h * stride_oh + position * stride_om
        _store_columns(rows, mean, position < N, width, COLUMNS)
    else:
        part = split.to(tl.int64) * tl.num_programs(2) + tl.program_id(2)
        _store_columns(sums + (part * N + position) * WIDTH, mean, position < N, WIDTH, COLUMNS)
        _store_log_weights(log_weights, highest, total, part, position, position < N, N)


def tile_of(shape: str, device: torch.device) -> Tile | None:
    """Returns the tile to launch for a shape class, or None if device or Triton do not specialize warps."""
    arch, width = _launch.architecture(device), int(shape.partition("x")[2])
    has_descriptors = int(arch[3:]) >= 90 if arch.startswith("sm_") else interpreting()
    version = tuple(map(int, triton.__version__.split(".")[:2]))
    fitting = (t for t in TILES[shape] if version >= (OLDEST_TRITON_FOR_PARTS if t.stored < width else OLDEST_TRITON))
    return next(fitting, None) if has_descriptors else None


def is_described(x: Tensor) -> bool:
    """Returns True if rows of ``x (B, H, M, width)`` begin at multiples of 16 bytes, as tensor descriptors require."""
    return all(n * x.element_size() % 16 == 0 for n in (*x.stride()[:3], x.storage_offset()))


class _StandIn:
    """Stands in for ``_attend_kernel`` where the launcher calls it."""

    def __init__(self, attend: Callable[..., None]) -> None:
        self._attend = attend

    def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., None]:
        def run(
            q: Tensor, _q_scales: Any, k: Tensor, _k_scales: Any, v: Tensor, lengths: Any, _offsets: Any, *rest: Any,
            **how: Any,
        ) -> None:  # fmt: skip
            if how["FP8"] or how["OFFSETS"] or v.element_size() != 2 or not is_described(v):
                raise RefusedError("the candidate takes only aligned values of 16 bits, and scores without offsets")
            self._attend(grid, q, k, v, lengths, *rest, **how)

        return run


@contextlib.contextmanager
def standing_in(attend: Callable[..., None], queries: int, keys: int) -> Iterator[None]:
    """Context manager in which ``attend`` launches attention by tiles of so many queries and keys.

    ``attend`` gets the grid, and what ``_attend_kernel`` gets except scales and offsets.
    """
    row = Row(ANY, ANY, ANY, {"BLOCK_M": queries, "BLOCK_N": keys, "CHUNK": 256}, {})
    with launched_as("memory_attention", row), mock.patch.object(launch, "_attend_kernel", _StandIn(attend)):
        yield


def launched(tile: Tile) -> contextlib.AbstractContextManager[None]:
    """Context manager that launches this kernel."""

    def attend(grid: tuple[int, ...], q: Tensor, *arguments: Any, **how: Any) -> None:
        if q.is_cuda:  # Triton allocates the descriptors' memory in the current context
            triton.set_allocator(lambda size, alignment, stream: torch.empty(size, dtype=torch.int8, device=q.device))
        constants = {name: how[name] for name in ("RAGGED", "DIRECT", "EVEN", "D", "WIDTH", "BLOCK_M", "BLOCK_N")}
        _attend_specialised_kernel[grid](
            q, *arguments, **constants, STAGES=tile.stages, COLUMNS=tile.stored, num_warps=WARPS,
            num_stages=tile.stages, **FUSED,
        )  # fmt: skip

    return standing_in(attend, tile.queries, tile.keys)


def launches(shape: str, kernel: str, target: str) -> list[Any]:
    """What the record's calls of a shape class in bfloat16 launch of this kernel, each once."""
    from kernel_records import RECORDS
    from recorded import launches_of

    found = {}
    for call in RECORDS["memory_attention"].launched():
        if (call.shape, call.dtype) == (shape, "bfloat16"):
            with contextlib.suppress(RefusedError):
                every = launches_of("memory_attention", [call], target)
                found |= {repr((each.types, each.constants)): each for each in every if each.name == kernel}
    return list(found.values())


def examine(target: str = "sm_90") -> Iterator[Any]:
    """Yields reports of ``sass.py``."""
    import aot
    import sass
    from sass_kernels import memory_tile

    for shape, tiles in TILES.items():
        for tile in tiles:
            with launched(tile):
                found = launches(shape, "attend_specialised_kernel", target)
            for each in found:
                direct = " direct" * each.constants["DIRECT"]
                name = f"memory attention bfloat16 {shape}{direct} specialised {target}"
                yield sass.read(aot.compiled_for(each, target), name, each, target, memory_tile(each), 1, None)


if __name__ == "__main__":
    from sass import show

    wrong = False
    for report in examine():
        show(report)
        wrong |= bool(report.problem)
    sys.exit(wrong)
