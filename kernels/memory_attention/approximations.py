"""Cheaper memory attention: queries and keys in float8_e4m3fn, and means of 2x2 tokens."""

import math
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from sam2fast.kernels._dispatch import current_backend, why_no_triton

# ---- float8_e4m3fn, with a scale for each row ----

# False, True, or the same rounding by the reference implementation on any device.
Fp8: TypeAlias = bool | Literal["emulated"]

LARGEST = 448.0  # of float8_e4m3fn
# Lower limit of a row's largest element, so that a row of zeros has a scale and stays zero.
LEAST = 1e-30
OLDEST_FP8_GPU = (8, 9)  # compute capability


def rounded_to_fp8(rows: Tensor) -> Tensor:
    """Rounds each row of ``rows (..., d)`` fp32 to float8_e4m3fn with a scale; returns the rounded values in fp32.

    The scale is the largest magnitude / 448, so that nothing overflows. Ties are rounded to even.

    Raises:
        RuntimeError: a gradient is needed; rounding has none.
    """
    if rows.requires_grad and torch.is_grad_enabled():
        raise RuntimeError("attention in fp8 has no gradient; compute it under torch.no_grad(), or exactly")
    scale = rows.abs().amax(dim=-1, keepdim=True).clamp(min=LEAST) / LARGEST
    return (rows * (1 / scale)).to(torch.float8_e4m3fn).to(rows.dtype) * scale


def why_no_fp8(device: torch.device) -> str | None:
    """Why the kernels cannot use fp8 on a device, including the active backend, or None."""
    if device.type != "cuda":
        return f"there are no kernels for fp8 on {device.type}"
    if current_backend() == "torch":
        return "the backend in force is 'torch'"
    return why_no_triton(device) or too_old_for_fp8(device)


def too_old_for_fp8(device: torch.device) -> str | None:
    """Why a CUDA device has no fp8 matrix multiplications, or None."""
    if torch.version.hip is not None:
        return "fp8 is for NVIDIA GPUs alone"
    capability = torch.cuda.get_device_capability(device)
    if capability < OLDEST_FP8_GPU:
        return f"fp8 needs a GPU of compute capability 8.9 or newer, and this one has {capability[0]}.{capability[1]}"
    return None


# A constant of a graph.
too_old_for_fp8._dynamo_marked_constant = True  # type: ignore[attr-defined]

# ---- means of tokens, as EfficientTAM's variants ``_1`` and ``_2`` are trained with ----

# Where an object has memories of several frames, it attends to means of 2x2 tokens: of keys, after they are rotated,
# and of values. A single memory is attended to as it is. With "counted" a mean counts as four tokens, by log 4 on its
# scores. With "raised" log 4 is added to each component of its key: how much a mean counts depends on the query.
Pooling: TypeAlias = Literal["counted", "raised"] | None
LOG_4 = math.log(4)
NUMBERS: dict[str | None, int] = {None: 0, "counted": 1, "raised": 2}  # for the kernel


def rows_for(K: int, positions: int, pooling: Pooling) -> int:
    """The most tokens of K memories that an object attends to."""
    return max(positions, K * positions // 4) if pooling else K * positions


def pool(tokens: Tensor, positions: int) -> Tensor:
    """Means of 2x2 tokens of each square map in ``tokens (..., maps * positions, c)``: a quarter as many tokens."""
    half = math.isqrt(positions) // 2
    return tokens.unflatten(-2, (-1, half, 2, half, 2)).mean(dim=(-4, -2)).flatten(-4, -2)


def pooled_keys(keys: Tensor, positions: int, pooling: Pooling) -> Tensor:
    """:func:`pool` of rotated ``keys (..., maps * positions, d)``."""
    means = pool(keys, positions)
    return means + LOG_4 if pooling == "raised" else means


def offset_of_means(pooling: Pooling) -> float:
    """What is added to the scores of means."""
    return LOG_4 if pooling == "counted" else 0.0


def with_means(
    key: Tensor, value: Tensor, page_valid: Tensor, pointer_valid: Tensor, pooling: Pooling
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Keys and values of a single memory's tokens, of all memories' means, and of pointers, without branches.

    Args:
        key, value: ``(B, heads, K * n + L, c)`` of K memories of n tokens each, rotated, then of L pointers.
        page_valid: ``(B, K)`` bool.
        pointer_valid: ``(B, L)`` bool.

    Returns:
        Keys and values ``(B, heads, n + K * n / 4 + L, c)``; which of them an object attends to, ``(B, n + K * n / 4 +
        L)`` bool; and offsets of scores of the same shape, fp32.
    """
    (B, K), L = page_valid.shape, pointer_valid.shape[1]
    positions = (key.shape[2] - L) // K
    is_single = page_valid.sum(dim=1, keepdim=True) == 1  # (B, 1)
    first = page_valid.int().argmax(dim=1)[:, None, None, None, None]

    def joined(x: Tensor, means: Tensor) -> Tensor:
        maps = x[:, :, : K * positions].unflatten(2, (K, positions))
        return torch.cat([maps.take_along_dim(first, dim=2)[:, :, 0], means, x[:, :, K * positions :]], dim=2)

    key, value = (
        joined(key, pooled_keys(key[:, :, : K * positions], positions, pooling)),
        joined(value, pool(value[:, :, : K * positions], positions)),
    )
    of_means = (page_valid & ~is_single).repeat_interleave(positions // 4, dim=1)
    valid = torch.cat([is_single.expand(B, positions), of_means, pointer_valid], dim=1)
    offset = valid.new_zeros(valid.shape, dtype=torch.float32)
    offset[:, positions : valid.shape[1] - L] = offset_of_means(pooling)
    return key, value, valid, offset
