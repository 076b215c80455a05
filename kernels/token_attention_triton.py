"""Computes attention between a few tokens and an image in one kernel, without padding heads of 16 channels.

A warp multiplies 16 queries by blocks of keys. With many keys, all warps of a program process the same queries and
different blocks of keys, and combine results at the end. With few keys, each warp processes different queries and all
keys.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs

import math

import triton
import triton.language as tl
from torch import Tensor

from sam2fast.kernels._launch import LaunchConfig, launch_config, product_precision
from sam2fast.kernels._tiles import padded
from sam2fast.kernels.token_attention import FEW, shape_class

# Attention score of masked keys. The score is finite instead of -inf, since all keys of a warp may be masked. The score
# is a power of two, so that LOWEST * scale - LOWEST * scale is exactly 0 even as a fused multiply-add.
LOWEST = tl.constexpr(-(2.0**96))
# True if Triton can prefetch operands of batched matrix products. Triton 3.2's compiler would abort the process.
LOADS_AHEAD = tuple(map(int, triton.__version__.split(".")[:2])) >= (3, 3)


@triton.jit
def _load(
    x,  # (rows, HEADS * D) of one batch item, pointer to the first channel of a head
    row,  # (WARPS, BLOCK), indices of rows to load
    rows,
    stride,  # stride between rows
    D: tl.constexpr,
    WIDTH: tl.constexpr,
    EVEN: tl.constexpr,  # True if all rows are valid
):
    channel = tl.arange(0, WIDTH)
    offsets = (row * stride)[:, :, None] + channel[None, None, :]
    if EVEN and D == WIDTH:
        return tl.load(x + offsets)
    return tl.load(x + offsets, mask=(row < rows)[:, :, None] & (channel < D)[None, None, :], other=0.0)


@triton.jit
def _sum(x, y):
    return (x.to(tl.float32) + y.to(tl.float32)).to(x.dtype)


@triton.jit
def _add_keys(
    q,  # (WARPS, BLOCK_M, WIDTH), queries
    key, value,  # (M, HEADS * D) of one batch item, pointers to the first channel of a head
    key_position,  # (M, HEADS * D), added to keys only with POSITIONED
    n,  # (WARPS, BLOCK_N), indices of keys
    M, key_stride, value_stride, position_stride, scale,
    highest, total,  # (WARPS, BLOCK_M), largest scores and sums of weights
    sums,  # (WARPS, BLOCK_M, WIDTH), weighted sums of values
    D: tl.constexpr, WIDTH: tl.constexpr, EVEN: tl.constexpr, POSITIONED: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Adds a block of keys per warp to the largest scores, sums of weights and weighted sums of values."""
    v = _load(value, n, M, value_stride, D, WIDTH, EVEN)  # loading values overlaps the product of queries and keys
    k = _load(key, n, M, key_stride, D, WIDTH, EVEN)
    if POSITIONED:
        k = _sum(k, _load(key_position, n, M, position_stride, D, WIDTH, EVEN))
    scores = tl.dot(q, tl.permute(k, (0, 2, 1)), input_precision=PRECISION)
    if not EVEN:
        scores = tl.where((n < M)[:, None, :], scores, LOWEST)
    higher = tl.maximum(highest, tl.max(scores, 2))
    shrink = tl.math.exp2((highest - higher) * scale)
    weights = tl.math.exp2(scores * scale - (higher * scale)[:, :, None])
    total = total * shrink + tl.sum(weights, 2)
    return higher, total, tl.dot(weights.to(v.dtype), v, sums * shrink[:, :, None], input_precision=PRECISION)


# N and M differ between calls, so one compiled kernel serves all numbers of tokens.
@triton.jit(do_not_specialize=["N", "M"])
def _token_attention_kernel(
    query,  # (B, N, HEADS * D) of any row stride
    key,  # (B, M, HEADS * D) of any row stride
    value,  # (B, M, HEADS * D) of any row stride
    query_position,  # (N, HEADS * D), added to queries only with QUERY_POSITION
    key_position,  # (M, HEADS * D), added to keys only with KEY_POSITION
    out,  # (B, N, HEADS * D)
    N,
    M,  # number of keys, at most BLOCK_N without SPLIT
    of_query, of_key, of_value,  # strides between batch items, 0 for a batch size of 1
    query_stride, key_stride, value_stride,  # strides between rows
    scale,  # factor of attention scores, multiplied by log2(e) for exp2
    HEADS: tl.constexpr,
    D: tl.constexpr,  # channels of a head
    WIDTH: tl.constexpr,  # smallest power of two >= D, at least 16
    SPLIT: tl.constexpr,  # True if keys are divided between warps
    EVEN: tl.constexpr,  # True only if SPLIT, and M is a multiple of BLOCK_N * WARPS
    QUERY_POSITION: tl.constexpr,
    KEY_POSITION: tl.constexpr,
    PRECISION: tl.constexpr,
    WARPS: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
):  # fmt: skip
    head = tl.program_id(0) % HEADS  # adjacent programs process heads in the same cache lines
    tiles = tl.cdiv(N, BLOCK_M if SPLIT else BLOCK_M * WARPS)
    tile = tl.program_id(0) // HEADS % tiles
    b = (tl.program_id(0) // HEADS // tiles).to(tl.int64)
    query += b * of_query + head * D
    key += b * of_key + head * D
    value += b * of_value + head * D
    key_position += head * D
    out += b * N * (HEADS * D) + head * D

    # The first axis of all tensors is a batch of matrix products, which Triton distributes over warps.
    warp = tl.arange(0, WARPS)[:, None]
    m = (tile if SPLIT else tile * WARPS + warp) * BLOCK_M + tl.arange(0, BLOCK_M)[None, :] + 0 * warp
    n = (warp if SPLIT else 0 * warp) * BLOCK_N + tl.arange(0, BLOCK_N)[None, :]
    q = _load(query, m, N, query_stride, D, WIDTH, False)
    if QUERY_POSITION:
        q = _sum(q, _load(query_position + head * D, m, N, HEADS * D, D, WIDTH, False))
    highest = tl.full([WARPS, BLOCK_M], LOWEST, tl.float32)
    total = tl.zeros([WARPS, BLOCK_M], tl.float32)
    sums = tl.zeros([WARPS, BLOCK_M, WIDTH], tl.float32)
    channel = tl.arange(0, WIDTH)
    dtype = out.dtype.element_ty
    if SPLIT:
        for start in tl.range(0, M, BLOCK_N * WARPS):
            highest, total, sums = _add_keys(
                q, key, value, key_position, start + n, M, key_stride, value_stride, HEADS * D, scale, highest, total,
                sums, D, WIDTH, EVEN, KEY_POSITION, PRECISION,
            )  # fmt: skip
        factor = tl.math.exp2((highest - tl.max(highest, 0)[None, :]) * scale)
        result = tl.sum(sums * factor[:, :, None], 0) / tl.sum(total * factor, 0)[:, None]
        row = tile * BLOCK_M + tl.arange(0, BLOCK_M)
        mask = (row < N)[:, None] & (channel < D)[None, :]
        tl.store(out + (row * (HEADS * D))[:, None] + channel[None, :], result.to(dtype), mask=mask)
    else:
        _, total, sums = _add_keys(
            q, key, value, key_position, n, M, key_stride, value_stride, HEADS * D, scale, highest, total, sums,
            D, WIDTH, EVEN, KEY_POSITION, PRECISION,
        )  # fmt: skip
        mask = (m < N)[:, :, None] & (channel < D)[None, None, :]
        result = (sums / total[:, :, None]).to(dtype)
        tl.store(out + (m * (HEADS * D))[:, :, None] + channel[None, None, :], result, mask=mask)


def config(arch: str, dtype: str, shape: str) -> LaunchConfig:
    """Returns the number of queries per warp. For ``many`` keys, also the number of keys per warp and step.

    Tensor cores need at least 16 queries: the tokens of two objects. Times were not measured, but estimated from the
    machine code for sm_90. For all keys of a map, eight warps take 10,700 clocks with 64 keys per step, and 12,800
    clocks with 32 keys per step. 16 warps take 12,100 clocks. Adding positions to keys takes another 2,700 clocks.
    With positions, three pipeline stages of 64 keys need 100 KB of shared memory, which sm_80, sm_90 and sm_100 have,
    and one stage needs 24 KB. Other NVIDIA GPUs have 99 KB, and AMD GPUs have 64 KB.
    """
    if shape != "many":
        return LaunchConfig({"BLOCK_M": 16}, {"num_warps": 4, "num_stages": 1})
    block, stages = 64 if arch in ("sm_80", "sm_90", "sm_100") else 32, 3
    if arch.startswith("gfx"):
        block, stages = 64, 1
    if dtype == "float32":
        block, stages = 32, 2
    return LaunchConfig({"BLOCK_M": 16, "BLOCK_N": block}, {"num_warps": 8, "num_stages": stages if LOADS_AHEAD else 1})


def token_attention_triton(query, key, value, query_position, key_position, num_heads) -> Tensor:
    """Computes :func:`sam2fast.kernels.token_attention.token_attention` on the GPU without synchronising."""
    out = query.new_empty(len(key if len(query) == 1 else query), *query.shape[1:])
    if out.numel() == 0:
        return out
    M, C = key.shape[1:]
    is_split, d = M > FEW, C // num_heads
    query, key, value = (x if x.stride(2) == 1 else x.contiguous() for x in (query, key, value))
    if is_split and len(key) == 1:  # all prompts become one batch item
        if query_position is not None:
            query_position = query_position.repeat(len(query), 1)
        query = query.reshape(1, -1, C)
    items, N = len(key if len(query) == 1 else query), query.shape[1]
    launch = launch_config("token_attention", config, query, shape_class(M))
    warps, block_m = launch.options["num_warps"], launch.meta["BLOCK_M"]
    block_n = launch.meta["BLOCK_N"] if is_split else padded(M)
    tiles = triton.cdiv(N, block_m if is_split else block_m * warps)
    launch.launch(
        "token_attention", _token_attention_kernel, (num_heads * tiles * items,), query, key, value,
        query if query_position is None else query_position.contiguous(),
        key if key_position is None else key_position.contiguous(), out, N, M,
        *(x.stride(0) if len(x) > 1 else 0 for x in (query, key, value)),
        *(x.stride(1) for x in (query, key, value)), d**-0.5 * math.log2(math.e),
        HEADS=num_heads, D=d, WIDTH=padded(d), SPLIT=is_split, PRECISION=product_precision(query.dtype),
        EVEN=is_split and M % (block_n * warps) == 0, QUERY_POSITION=query_position is not None,
        KEY_POSITION=key_position is not None, WARPS=warps, BLOCK_M=block_m, BLOCK_N=block_n,
    )  # fmt: skip
    return out
