"""Computes attention with warp specialization: groups of warps divide loads, products and softmax.

Triton assigns parts of the loop to groups of warps. One group loads keys and values by tensor descriptors. Two other
groups process half of the queries each, so that the softmax of one group overlaps the products of the other group. The
kernel supports 16-bit keys and values without offsets of scores; ``_attend_kernel`` processes all other inputs.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs

import torch
import triton
import triton.language as tl
from torch import Tensor

from sam2fast.kernels import _launch
from sam2fast.kernels._dispatch import interpreting
from sam2fast.kernels._launch import LaunchConfig

# Key in LaunchConfig.meta: number of pipeline stages of the kernel with warp specialization. GPUs and versions of
# Triton without warp specialization use ``_attend_kernel``.
SPECIALISED = "SPECIALISED"
WARPS = 4  # number of warps per group; with more than four warps, Triton does not specialize warps
OLDEST_TRITON = (3, 6)
# Key in LaunchConfig.meta: number of columns of the result that are stored at once (default COLUMNS). Threads exchange
# these columns through shared memory. Many columns would leave too little shared memory for queries, keys and values.
# Versions of Triton before 3.7 do not specialize a kernel that stores columns in parts.
STORED = "STORED"
COLUMNS = 64
OLDEST_TRITON_FOR_PARTS = (3, 7)


@triton.jit
def _store_part(
    sums, log_weights,  # out: weighted means and log2 of sums of weights, as in _attend_specialised_kernel
    mean,  # (BLOCK_M, WIDTH) weighted means
    highest, total,
    split, position, mask, N,
    WIDTH: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    part = split.to(tl.int64) * tl.num_programs(2) + tl.program_id(2)
    _store_columns(sums + (part * N + position) * WIDTH, mean, mask, WIDTH, COLUMNS)
    log_weight = tl.where(total > 0, highest + tl.math.log2(tl.where(total > 0, total, 1.0)), float("-inf"))
    tl.store(log_weights + part * N + position, log_weight, mask=mask)


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


@triton.jit
def _store_block(
    rows, x, mask, width,
    FIRST: tl.constexpr,  # index of the output column that stores the first column of x
):  # fmt: skip
    column = FIRST + tl.arange(0, x.shape[1])
    inside = mask[:, None] & (column < width)[None, :]
    tl.store(rows[:, None] + column[None, :], x.to(rows.dtype.element_ty), mask=inside)


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
        _store_part(sums, log_weights, mean, highest, total, split, position, position < N, N, WIDTH, COLUMNS)


def specialised_stages(launch: LaunchConfig, device: torch.device, dtype: torch.dtype, WIDTH: int) -> int:
    """Returns the number of pipeline stages, or 0 if configuration, device, dtype or Triton excludes this kernel."""
    stages = launch.meta.get(SPECIALISED, 0)
    if not stages or dtype not in (torch.bfloat16, torch.float16):
        return 0
    oldest = OLDEST_TRITON_FOR_PARTS if launch.meta.get(STORED, COLUMNS) < WIDTH else OLDEST_TRITON
    if tuple(map(int, triton.__version__.split(".")[:2])) < oldest:
        return 0
    arch = _launch.architecture(device)
    has_descriptors = int(arch[3:]) >= 90 if arch.startswith("sm_") else interpreting()
    return stages if has_descriptors else 0


def allocate_descriptors(device: torch.device) -> None:
    """Makes Triton allocate the device memory of tensor descriptors through torch, in the current context."""
    if device.type == "cuda":
        triton.set_allocator(lambda size, alignment, stream: torch.empty(size, dtype=torch.int8, device=device))


def is_described(x: Tensor) -> bool:
    """Returns True if rows of ``x (B, H, M, width)`` begin at multiples of 16 bytes, as tensor descriptors require."""
    return all(n * x.element_size() % 16 == 0 for n in (*x.stride()[:3], x.storage_offset()))


def specialised_blocks(launch: LaunchConfig) -> dict[str, int]:
    """Returns constexpr arguments of ``_attend_specialised_kernel``."""
    m, n, stages = (launch.meta[name] for name in ("BLOCK_M", "BLOCK_N", SPECIALISED))
    return {"BLOCK_M": m, "BLOCK_N": n, "STAGES": stages, "COLUMNS": launch.meta.get(STORED, COLUMNS)}
