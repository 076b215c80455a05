"""Attention of a map to itself for Hopper in Gluon: a candidate, compiled without a GPU and bounded as by ``sass.py``.

    python bench/candidates/gluon_attention.py

In ``specialised_attention.py``, each tile of 128 queries reads all keys and values, and L2 is the limit. Here two
programs on neighbouring multiprocessors, a pair, have a tile each and read keys and values once, by multicast. Triton
does not compile that kernel for pairs. In each program one group of warps loads, and two compute 64 rows each: the
softmax of a block overlaps the weighted sum of the block before.

Nothing has been run: there was no GPU, and Triton's interpreter does not take Gluon. The bound assumes that what a pair
reads leaves the L2 cache once. "Alone" is the bound if each program reads for itself. It needs triton 3.7, in which a
program cannot arrive at a barrier in the other's shared memory: all threads of a pair meet once per block instead.
"""

import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # bench/, where a script's imports are

import aot
import sass
import triton
from recorded import Launch
from sass_kernels import Report, memory_tile
from sass_model import CHIPS, bound
from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon._runtime import GluonASTSource
from triton.experimental.gluon.language.nvidia.hopper import cluster, mbarrier, tma, warpgroup_mma, warpgroup_mma_wait

from sam2fast.kernels._launch import FUSED

TARGET = "sm_90"
CTAS = 2  # programs of a pair
WARPS = 4  # of each group; also of the one that loads, since the pair's barrier waits for full groups
KEYS, VALUES = gl.constexpr(3), gl.constexpr(2)  # tiles that fit
GROUPS = 2  # of warps that compute
SHAPE = {"D": 256, "WIDTH": 256, "BLOCK_M": 128, "BLOCK_N": 64}
ROWS, COPIES = [[1, 0]], [[0, 0]]  # the pair divides the rows of a tensor, or each has all of it


@gluon.constexpr_function
def _accumulator(columns):
    return gl.NVMMADistributedLayout([3, 0], [WARPS, 1], [16, columns, 16], ROWS)


@gluon.jit
def _load(desc, tiles, ready, block, i, BLOCK_N: gl.constexpr, TILES: gl.constexpr):
    """Loads tile ``i`` into the shared memory of both programs; each expects it."""
    mbarrier.expect(ready.index(i % TILES), desc.nbytes_per_cta)
    tile = tiles.index(i % TILES)
    tma.async_copy_global_to_shared(desc, [block * BLOCK_N, 0], ready.index(i % TILES), tile, multicast=True)


@gluon.jit
def _wait(ready, i, TILES: gl.constexpr, pred=True):
    mbarrier.wait(ready.index(i % TILES), i // TILES & 1, pred=pred)


@gluon.jit
def _load_all(q, k, v, tiles, ready, row, first, blocks, BLOCK_N: gl.constexpr, GROUP_M: gl.constexpr):
    mbarrier.expect(ready[0], 2 * q.nbytes_per_cta)
    for group in gl.static_range(2):
        tma.async_copy_global_to_shared(q, [row + group * GROUP_M, 0], ready[0], tiles[0].index(group))
    for i in gl.static_range(2):
        if i < blocks:
            _load(k, tiles[1], ready[1], first + i, i, BLOCK_N, KEYS)
    _load(v, tiles[2], ready[2], first, 0, BLOCK_N, VALUES)
    if blocks > 2:
        _load(k, tiles[1], ready[1], first + 2, 2, BLOCK_N, KEYS)
    for i in range(1, blocks):
        cluster.arrive(relaxed=True)
        cluster.wait()  # until nobody reads keys i - 1 and values i - 2 any more
        _load(v, tiles[2], ready[2], first + i, i, BLOCK_N, VALUES)
        if i + 2 < blocks:
            _load(k, tiles[1], ready[1], first + i + 2, i + 2, BLOCK_N, KEYS)


@gluon.jit
def _softmax(scores, highest, total, scale):
    higher = gl.maximum(highest, gl.max(scores, 1) * scale)
    weights = gl.exp2(scores * scale - higher[:, None])
    shrink = gl.exp2(highest - higher)
    return weights, higher, total * shrink + gl.sum(weights, 1), shrink


@gluon.jit
def _attend_rows(
    GROUP: gl.constexpr, tiles, ready, sums, log_weights, row, blocks, N, scale,
    GROUP_M: gl.constexpr, BLOCK_N: gl.constexpr, WIDTH: gl.constexpr,
):  # fmt: skip
    """One group of warps of each program, with half of the group's rows."""
    SCORES: gl.constexpr = _accumulator(BLOCK_N)
    SUMS: gl.constexpr = _accumulator(WIDTH)
    WEIGHTS: gl.constexpr = gl.DotOperandLayout(0, SUMS, 2)
    query = tiles[0].index(GROUP)
    dtype: gl.constexpr = query.dtype
    highest = gl.full([GROUP_M], float("-inf"), gl.float32, gl.SliceLayout(1, SCORES))
    total = gl.zeros([GROUP_M], gl.float32, gl.SliceLayout(1, SCORES))
    nothing = gl.zeros([GROUP_M, BLOCK_N], gl.float32, SCORES)
    weighted = gl.zeros([GROUP_M, WIDTH], gl.float32, SUMS)
    mbarrier.wait(ready[0], 0)
    _wait(ready[1], 0, KEYS)
    scores = warpgroup_mma(query, tiles[1].index(0).permute((1, 0)), nothing, use_acc=False, is_async=True)
    scores = warpgroup_mma_wait(0, deps=[scores])
    weights, highest, total, shrink = _softmax(scores, highest, total, scale)
    last = gl.convert_layout(weights.to(dtype), WEIGHTS)
    _wait(ready[1], 1, KEYS, blocks > 1)
    for i in range(1, blocks):
        cluster.arrive(relaxed=True)
        keys, values = tiles[1].index(i % KEYS), tiles[2].index((i - 1) % VALUES)
        scores = warpgroup_mma(query, keys.permute((1, 0)), nothing, use_acc=False, is_async=True)
        _wait(ready[2], i - 1, VALUES)
        weighted = warpgroup_mma(last, values, weighted, is_async=True)
        cluster.wait()
        scores = warpgroup_mma_wait(1, deps=[scores])
        weights, highest, total, shrink = _softmax(scores, highest, total, scale)
        following = gl.convert_layout(weights.to(dtype), WEIGHTS)
        # Here, since the assembler moves no softmax from before this wait to after that for the sum.
        _wait(ready[1], i + 1, KEYS, i + 1 < blocks)
        weighted, last, following = warpgroup_mma_wait(0, deps=[weighted, last, following])
        weighted *= gl.convert_layout(shrink, gl.SliceLayout(1, SUMS))[:, None]
        last = following
    _wait(ready[2], blocks - 1, VALUES)
    weighted = warpgroup_mma(last, tiles[2].index((blocks - 1) % VALUES), weighted, is_async=True)
    mean = warpgroup_mma_wait(0, deps=[weighted]) / gl.convert_layout(total, gl.SliceLayout(1, SUMS))[:, None]
    position = row + GROUP * GROUP_M + gl.arange(0, GROUP_M, gl.SliceLayout(1, SUMS))
    column = gl.arange(0, WIDTH, gl.SliceLayout(0, SUMS))
    gl.store(sums + position[:, None] * WIDTH + column[None, :], mean, mask=(position < N)[:, None])
    position = row + GROUP * GROUP_M + gl.arange(0, GROUP_M, gl.SliceLayout(1, SCORES))
    gl.store(log_weights + position, highest + gl.log2(total), mask=position < N)


@gluon.jit(do_not_specialize=["splits"])
def _attend_pair_kernel(
    query, keys, values, sums, log_weights, H, N, M, splits, scale, stride_qb, stride_vb, stride_vh, stride_vm,
    D: gl.constexpr, WIDTH: gl.constexpr, BLOCK_M: gl.constexpr, BLOCK_N: gl.constexpr,
    QUERIES: gl.constexpr, SHARED: gl.constexpr,
):  # fmt: skip
    """``_attend_specialised_kernel`` for splits of one or more blocks, all full. Each program here is a pair."""
    GROUP_M: gl.constexpr = BLOCK_M  # of both programs
    split = gl.program_id(1)
    b, h = (gl.program_id(2) // H).to(gl.int64), gl.program_id(2) % H
    k_rows, v_rows = keys + (b * H + h) * M * D, values + b * stride_vb + h * stride_vh
    q = tma.make_tensor_descriptor(query + b * stride_qb + h * N * D, [N, D], [D, 1], [GROUP_M, D], QUERIES)
    k = tma.make_tensor_descriptor(k_rows, [M, D], [D, 1], [BLOCK_N, D], SHARED)
    v = tma.make_tensor_descriptor(v_rows, [M, WIDTH], [stride_vm, 1], [BLOCK_N, WIDTH], SHARED)
    first = M // BLOCK_N * split // splits
    blocks = M // BLOCK_N * (split + 1) // splits - first
    row = gl.program_id(0) * 2 * GROUP_M
    part = (split.to(gl.int64) * gl.num_programs(2) + gl.program_id(2)) * N
    sums, log_weights = sums + part * WIDTH, log_weights + part

    dtype: gl.constexpr = keys.dtype.element_ty
    q_tiles = gl.allocate_shared_memory(dtype, [2, GROUP_M, D], QUERIES)
    k_tiles = gl.allocate_shared_memory(dtype, [KEYS, BLOCK_N, D], SHARED)
    v_tiles = gl.allocate_shared_memory(dtype, [VALUES, BLOCK_N, WIDTH], SHARED)
    q_ready = mbarrier.allocate_mbarrier()
    k_ready = mbarrier.allocate_mbarrier(batch=KEYS)
    v_ready = mbarrier.allocate_mbarrier(batch=VALUES)
    mbarrier.init(q_ready, count=1)
    for i in gl.static_range(KEYS):
        mbarrier.init(k_ready.index(i), count=1)
    for i in gl.static_range(VALUES):
        mbarrier.init(v_ready.index(i), count=1)
    mbarrier.sync_cluster_init()
    tiles, ready = (q_tiles, k_tiles, v_tiles), (q_ready, k_ready, v_ready)
    gl.warp_specialize(
        [
            (_attend_rows, (0, tiles, ready, sums, log_weights, row, blocks, N, scale, GROUP_M, BLOCK_N, WIDTH)),
            (_attend_rows, (1, tiles, ready, sums, log_weights, row, blocks, N, scale, GROUP_M, BLOCK_N, WIDTH)),
            (_load_all, (q, k, v, tiles, ready, row, first, blocks, BLOCK_N, GROUP_M)),
        ],
        [4, 4],
        [240, 24],
    )


def compiled(launch: Launch) -> Any:
    plain = aot.source(launch, TARGET)
    source = GluonASTSource(plain.fn, plain.signature, dict(launch.constants), plain.attrs)
    return triton.compile(source, target=aot.gpu_target(TARGET), options={"num_warps": WARPS, "num_ctas": CTAS})


def examine() -> tuple[Report, float]:
    """The report of ``sass.py``, and the bound without what the pair shares."""
    layouts = {"QUERIES": ROWS, "SHARED": COPIES}
    constants = SHAPE | {k: gl.NVMMASharedLayout(128, 16, 2, cga_layout=v) for k, v in layouts.items()}
    n = "i32:16"
    types = (*["*bf16:16"] * 3, "*fp32:16", "*fp32:16", "i32", n, n, "i32", "fp32", n, n, n, n)
    names = (name for name in _attend_pair_kernel.arg_names if name not in constants)
    named, options = dict(zip(names, types, strict=True)), {"num_warps": WARPS, **FUSED}
    shape = "256x256"
    launch = Launch("memory_attention", shape, "bfloat16", _attend_pair_kernel, named, constants, options, {})
    tile = memory_tile(launch._replace(constants=SHAPE | {"RAGGED": False}))
    kernel, name = compiled(launch), f"self-attention bfloat16 {shape} in pairs {TARGET}"
    alone = sass.read(kernel, name, launch, TARGET, tile, 1, None)
    assert alone.clocks is not None
    if spilled := aot.resources(kernel.asm["ptx"], kernel.asm["cubin"], TARGET, options)[1]:
        alone = alone._replace(problem="; ".join(filter(None, (f"spills {spilled} bytes", alone.problem))))
    shared = tile.blocks * sum(p.size * p.columns * p.depth for p in tile.products)
    found = alone.clocks._replace(l2=alone.clocks.l2 - (1 - 1 / CTAS) * shared / CHIPS[TARGET].l2)
    return alone._replace(clocks=found, bound=bound(CHIPS[TARGET], tile, found, 1, GROUPS)), alone.bound


if __name__ == "__main__":
    report, alone = examine()
    sass.show(report)
    print(f"    alone at most {alone:.1%}")
    sys.exit(bool(report.problem))
