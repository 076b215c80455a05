"""Attention to memory for Hopper in Gluon: a candidate beside ``_attend_kernel``, timed and checked by ``make gpu``.

    python bench/candidates/gluon_memory_attention.py

The command compiles it without a GPU, and bounds it as ``sass.py`` does. One program attends from 256 queries. One
group of warps loads queries, keys and values by tensor descriptors, and ``GROUPS`` others have 64 queries each. Each of
these issues the weighted sum of a block, then the scores of the next block, and waits for both. Meanwhile the other
groups compute their softmax. Nothing but tiles of keys and values orders the groups, so they drift apart by themselves.

Groups and the loads meet at barriers in shared memory. A tile is filled by a copy, which signals ``filled`` when all
its bytes are there. Then each group reads it, and signals ``freed``. The next copy into the tile waits for all groups.
A barrier counts its phases, and a waiting thread names the parity of the phase that must have ended. Before the first
copy into a tile, the phase of parity 1 counts as ended.

It needs Triton 3.6 or 3.7, since 3.9 names Gluon's copies differently. Triton's interpreter does not take Gluon.
``tests/support/gluon_machine.py`` runs these functions instead. It has every copy arrive and every product read as
early or as late as the barriers allow.
"""

import contextlib
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # bench/, where a script's imports are

from backend_calls import RefusedError
from candidates.specialised_attention import launches, standing_in
from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import mbarrier, tma, warpgroup_mma, warpgroup_mma_wait

from sam2fast.kernels._launch import FUSED

WARPS = 4  # of each group
GROUPS = gl.constexpr(4)  # of warps that compute
KEYS, VALUES = gl.constexpr(2), gl.constexpr(2)  # tiles that fit beside the queries
GROUP_M = gl.constexpr(64)  # queries of a group
# Registers of a thread in the groups that compute, except the first, which gets the rest, and in the one that loads.
REGISTERS = gl.constexpr([112, 112, 112, 24])
BLOCK_N = 64  # keys of a block


@gluon.constexpr_function
def _accumulator(columns):
    return gl.NVMMADistributedLayout([3, 0], [WARPS, 1], [16, columns, 16])


@gluon.jit
def _barriers(count: gl.constexpr):
    return gl.allocate_shared_memory(gl.int64, [count, 1], mbarrier.MBarrierLayout())


@gluon.jit
def _fill(rows, first, i, tiles, filled, freed, TILES: gl.constexpr, BLOCK_N: gl.constexpr):
    """Loads block ``i`` into its tile, once every group has read the block that was there."""
    tile = i % TILES
    mbarrier.wait(freed.index(tile), (i // TILES & 1) ^ 1)
    mbarrier.expect(filled.index(tile), rows.block_type.nbytes)
    tma.async_copy_global_to_shared(rows, [(first + i) * BLOCK_N, 0], filled.index(tile), tiles.index(tile))


@gluon.jit
def _load_all(q, k, v, tiles, filled, freed, row, first, blocks, BLOCK_N: gl.constexpr):
    """Loads queries, keys and values. The first group waits for them in this order."""
    if blocks > 0:  # else nothing would wait for the queries
        for group in gl.static_range(GROUPS):
            mbarrier.expect(filled[0].index(group), q.block_type.nbytes)
            place = [row + group * GROUP_M, 0]
            tma.async_copy_global_to_shared(q, place, filled[0].index(group), tiles[0].index(group))
            if group == 0:
                _fill(k, first, 0, tiles[1], filled[1], freed[0], KEYS, BLOCK_N)
    for i in range(blocks):
        _fill(v, first, i, tiles[2], filled[2], freed[1], VALUES, BLOCK_N)
        if i + 1 < blocks:
            _fill(k, first, i + 1, tiles[1], filled[1], freed[0], KEYS, BLOCK_N)


@gluon.jit
def _scores(query, tiles, filled, i, nothing):
    """Issues the product with the keys of block ``i``."""
    mbarrier.wait(filled.index(i % KEYS), i // KEYS & 1)
    keys = tiles.index(i % KEYS).permute((1, 0))
    return warpgroup_mma(query, keys, nothing, use_acc=False, is_async=True)


@gluon.jit
def _sum(weights, tiles, filled, i, weighted):
    """Issues the weighted sum of the values of block ``i``."""
    mbarrier.wait(filled.index(i % VALUES), i // VALUES & 1)
    return warpgroup_mma(weights, tiles.index(i % VALUES), weighted, is_async=True)


@gluon.jit
def _softmax(scores, highest, total, scale):
    higher = gl.maximum(highest, gl.max(scores, 1) * scale)
    weights = gl.exp2(scores * scale - higher[:, None])
    shrink = gl.exp2(highest - higher)
    return weights, higher, total * shrink + gl.sum(weights, 1), shrink


@gluon.jit
def _attend_rows(
    GROUP: gl.constexpr, tiles, filled, freed, sums, log_weights, row, blocks, left, N, scale,
    BLOCK_N: gl.constexpr, WIDTH: gl.constexpr,
):  # fmt: skip
    """One group's queries; ``left`` keys are in the last block."""
    SCORES: gl.constexpr = _accumulator(BLOCK_N)
    SUMS: gl.constexpr = _accumulator(WIDTH)
    WEIGHTS: gl.constexpr = gl.DotOperandLayout(0, SUMS, 2)
    ROWS: gl.constexpr = gl.SliceLayout(1, SUMS)
    query = tiles[0].index(GROUP)
    dtype: gl.constexpr = query.dtype
    highest = gl.full([GROUP_M], float("-inf"), gl.float32, gl.SliceLayout(1, SCORES))
    total = gl.full([GROUP_M], 0.0, gl.float32, gl.SliceLayout(1, SCORES))
    nothing = gl.full([GROUP_M, BLOCK_N], 0.0, gl.float32, SCORES)
    weighted = gl.full([GROUP_M, WIDTH], 0.0, gl.float32, SUMS)
    if blocks > 0:
        mbarrier.wait(filled[0].index(GROUP), 0)
        scores = _scores(query, tiles[1], filled[1], 0, nothing)
        scores = warpgroup_mma_wait(0, deps=[scores])
        mbarrier.arrive(freed[0].index(0))
        for i in range(blocks - 1):
            weights, highest, total, shrink = _softmax(scores, highest, total, scale)
            narrow = gl.convert_layout(weights.to(dtype), WEIGHTS)
            weighted = weighted * gl.convert_layout(shrink, ROWS)[:, None]
            weighted = _sum(narrow, tiles[2], filled[2], i, weighted)
            scores = _scores(query, tiles[1], filled[1], i + 1, nothing)
            weighted, narrow = warpgroup_mma_wait(1, deps=[weighted, narrow])
            mbarrier.arrive(freed[1].index(i % VALUES))
            scores = warpgroup_mma_wait(0, deps=[scores])
            mbarrier.arrive(freed[0].index((i + 1) % KEYS))
        is_key = gl.arange(0, BLOCK_N, gl.SliceLayout(0, SCORES)) < left
        scores = gl.where(is_key[None, :], scores, float("-inf"))
        weights, highest, total, shrink = _softmax(scores, highest, total, scale)
        narrow = gl.convert_layout(weights.to(dtype), WEIGHTS)
        weighted = weighted * gl.convert_layout(shrink, ROWS)[:, None]
        weighted = _sum(narrow, tiles[2], filled[2], blocks - 1, weighted)
        weighted, narrow = warpgroup_mma_wait(0, deps=[weighted, narrow])
    some = gl.where(total > 0, total, 1.0)  # an object may have no memory, a split no block
    position = row + GROUP * GROUP_M + gl.arange(0, GROUP_M, ROWS)
    column = gl.arange(0, WIDTH, gl.SliceLayout(0, SUMS))
    mean = weighted / gl.convert_layout(some, ROWS)[:, None]
    gl.store(sums + position[:, None] * WIDTH + column[None, :], mean, mask=(position < N)[:, None])
    position = row + GROUP * GROUP_M + gl.arange(0, GROUP_M, gl.SliceLayout(1, SCORES))
    log_weight = gl.where(total > 0, highest + gl.log2(some), float("-inf"))
    gl.store(log_weights + position, log_weight, mask=position < N)


@gluon.jit(do_not_specialize=["splits"])
def _attend_in_groups_kernel(
    query, keys, values, lengths, sums, log_weights, H, N, M, splits, scale,
    stride_qb, stride_vb, stride_vh, stride_vm,
    RAGGED: gl.constexpr, D: gl.constexpr, WIDTH: gl.constexpr, BLOCK_N: gl.constexpr, LAYOUT: gl.constexpr,
):  # fmt: skip
    """``_attend_specialised_kernel`` without ``DIRECT``, for values of ``WIDTH`` channels."""
    split = gl.program_id(1)
    b, h = (gl.program_id(2) // H).to(gl.int64), gl.program_id(2) % H
    length = M
    if RAGGED:
        length = gl.load(lengths + b)
    k_rows, v_rows = keys + (b * H + h) * M * D, values + b * stride_vb + h * stride_vh
    q = tma.make_tensor_descriptor(query + b * stride_qb + h * N * D, [N, D], [D, 1], [GROUP_M, D], LAYOUT)
    k = tma.make_tensor_descriptor(k_rows, [length, D], [D, 1], [BLOCK_N, D], LAYOUT)
    v = tma.make_tensor_descriptor(v_rows, [length, WIDTH], [stride_vm, 1], [BLOCK_N, WIDTH], LAYOUT)
    every = (length + BLOCK_N - 1) // BLOCK_N
    first = every * split // splits
    blocks = every * (split + 1) // splits - first
    left = length - (first + blocks - 1) * BLOCK_N
    row = gl.program_id(0) * GROUPS * GROUP_M
    part = (split.to(gl.int64) * gl.num_programs(2) + gl.program_id(2)) * N
    sums, log_weights = sums + part * WIDTH, log_weights + part

    dtype: gl.constexpr = keys.dtype.element_ty
    tiles = (
        gl.allocate_shared_memory(dtype, [GROUPS, GROUP_M, D], LAYOUT),
        gl.allocate_shared_memory(dtype, [KEYS, BLOCK_N, D], LAYOUT),
        gl.allocate_shared_memory(dtype, [VALUES, BLOCK_N, WIDTH], LAYOUT),
    )
    q_filled = _barriers(GROUPS)
    k_filled, k_freed = _barriers(KEYS), _barriers(KEYS)
    v_filled, v_freed = _barriers(VALUES), _barriers(VALUES)
    for i in gl.static_range(GROUPS):
        mbarrier.init(q_filled.index(i), count=1)
    for i in gl.static_range(KEYS):
        mbarrier.init(k_filled.index(i), count=1)
        mbarrier.init(k_freed.index(i), count=GROUPS)
    for i in gl.static_range(VALUES):
        mbarrier.init(v_filled.index(i), count=1)
        mbarrier.init(v_freed.index(i), count=GROUPS)
    filled, freed = (q_filled, k_filled, v_filled), (k_freed, v_freed)
    gl.warp_specialize(
        [
            (_attend_rows, (0, tiles, filled, freed, sums, log_weights, row, blocks, left, N, scale, BLOCK_N, WIDTH)),
            (_attend_rows, (1, tiles, filled, freed, sums, log_weights, row, blocks, left, N, scale, BLOCK_N, WIDTH)),
            (_attend_rows, (2, tiles, filled, freed, sums, log_weights, row, blocks, left, N, scale, BLOCK_N, WIDTH)),
            (_attend_rows, (3, tiles, filled, freed, sums, log_weights, row, blocks, left, N, scale, BLOCK_N, WIDTH)),
            (_load_all, (q, k, v, tiles, filled, freed, row, first, blocks, BLOCK_N)),
        ],
        [4, 4, 4, 1],
        REGISTERS,
    )


def _attend(
    grid: tuple[int, ...], q: Any, k: Any, v: Any, lengths: Any, sums: Any, log_weights: Any, *numbers: Any, **how: Any
) -> None:
    H, N, M, width, splits, scale, *strides = numbers
    if how["DIRECT"] or (how["D"], width) != (256, 64):
        raise RefusedError("the candidate takes only heads of 256 channels and values of 64")
    layout = gl.NVMMASharedLayout(128, 8 * q.element_size(), 2)  # rows of 128 bytes, swizzled
    _attend_in_groups_kernel[grid](
        q, k, v, lengths, sums, log_weights, H, N, M, splits, scale, *strides[:4],
        **{name: how[name] for name in ("RAGGED", "D", "WIDTH", "BLOCK_N")}, LAYOUT=layout, num_warps=WARPS, **FUSED,
    )  # fmt: skip


def launched() -> contextlib.AbstractContextManager[None]:
    """Context manager that launches this kernel."""
    return standing_in(_attend, GROUPS.value * GROUP_M.value, BLOCK_N)


def examine() -> Any:
    """Returns the report of ``sass.py``. Everything that the record calls in bfloat16 compiles to this kernel."""
    import aot
    import sass
    import triton
    from sass_kernels import memory_tile
    from triton.experimental.gluon._runtime import GluonASTSource

    target, shape, dtype = "sm_90", "256x64", "bfloat16"
    with launched():
        (found,) = launches(shape, "attend_in_groups_kernel", target)
    plain = aot.source(found, target)
    source = GluonASTSource(plain.fn, plain.signature, dict(found.constants), plain.attrs)
    compiled = triton.compile(source, target=aot.gpu_target(target), options=dict(found.options))
    tile = memory_tile(found._replace(constants={**found.constants, "BLOCK_M": GROUPS.value * GROUP_M.value}))
    shown = found._replace(constants={k: v for k, v in found.constants.items() if k != "LAYOUT"})
    return sass.read(compiled, f"memory attention {dtype} {shape} in Gluon {target}", shown, target, tile, 1, None)


if __name__ == "__main__":
    from sass import show

    report = examine()
    show(report)
    sys.exit(bool(report.problem))
