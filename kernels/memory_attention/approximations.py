"""Approximates memory attention: rounds queries and keys to float8_e4m3fn, or averages each block of 2x2 tokens."""

import math
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from sam2fast.kernels._dispatch import current_backend, why_no_triton

# ---- float8_e4m3fn, with a scale for each row ----

# Type of ``fp8``. With "emulated", the reference implementation computes the rounding on every device.
Fp8: TypeAlias = bool | Literal["emulated"]

LARGEST = 448.0  # largest float8_e4m3fn value
# Lower limit of a row's largest magnitude, so that rows of zeros have a positive scale.
LEAST = 1e-30
OLDEST_FP8_GPU = (8, 9)  # compute capability


def rounded_to_fp8(rows: Tensor) -> Tensor:
    """Rounds each row of ``rows (..., d)`` fp32 to float8_e4m3fn with a scale, and returns the rounded values in fp32.

    The scale is the largest magnitude of the row divided by 448, so no value overflows. Ties are rounded to even.

    Raises:
        RuntimeError: If a gradient is needed, since rounding has no gradient.
    """
    if rows.requires_grad and torch.is_grad_enabled():
        raise RuntimeError("attention in fp8 has no gradient; compute it under torch.no_grad(), or exactly")
    scale = rows.abs().amax(dim=-1, keepdim=True).clamp(min=LEAST) / LARGEST
    return (rows * (1 / scale)).to(torch.float8_e4m3fn).to(rows.dtype) * scale


def why_no_fp8(device: torch.device) -> str | None:
    """Returns the reason why kernels cannot use fp8 on a device with the active backend, or None."""
    if device.type != "cuda":
        return f"there are no kernels for fp8 on {device.type}"
    if current_backend() == "torch":
        return "the active backend is 'torch'"
    return why_no_triton(device) or too_old_for_fp8(device)


def too_old_for_fp8(device: torch.device) -> str | None:
    """Returns the reason why a CUDA device does not support fp8 matrix multiplications, or None."""
    if torch.version.hip is not None:
        return "fp8 is supported only on NVIDIA GPUs"
    capability = torch.cuda.get_device_capability(device)
    if capability < OLDEST_FP8_GPU:
        return f"fp8 needs a GPU of compute capability 8.9 or higher, but this GPU has {capability[0]}.{capability[1]}"
    return None


# torch.compile treats the result of too_old_for_fp8 as a constant.
too_old_for_fp8._dynamo_marked_constant = True  # type: ignore[attr-defined]

# ---- averages of 2x2 tokens, for EfficientTAM's variants ``_1`` and ``_2`` ----

# An object with memories of several frames attends to averages of 2x2 tokens: mean rotated keys, and mean values. An
# object with a single memory attends to all tokens of the memory. Pooling "counted" adds log 4 to the scores of mean
# keys, so that a mean key has the weight of four tokens. Pooling "raised" adds log 4 to all channels of mean keys. The
# scores then change by an amount that depends on the query.
Pooling: TypeAlias = Literal["counted", "raised"] | None
LOG_4 = math.log(4)
NUMBERS: dict[str | None, int] = {None: 0, "counted": 1, "raised": 2}  # number of each option in the kernel


def rows_for(K: int, positions: int, pooling: Pooling) -> int:
    """Returns the maximum number of keys that an object with up to K memories of ``positions`` tokens attends to."""
    return max(positions, K * positions // 4) if pooling else K * positions


def pool(tokens: Tensor, positions: int) -> Tensor:
    """Averages each block of 2x2 tokens in square maps of tokens. Returns ``(..., maps * positions / 4, c)``.

    Args:
        tokens: Tokens ``(..., maps * positions, c)``.
        positions: Number of tokens of a map.
    """
    half = math.isqrt(positions) // 2
    return tokens.unflatten(-2, (-1, half, 2, half, 2)).mean(dim=(-4, -2)).flatten(-4, -2)


def pooled_keys(keys: Tensor, positions: int, pooling: Pooling) -> Tensor:
    """Averages rotated ``keys (..., maps * positions, d)`` by :func:`pool`. With ``"raised"``, adds log 4."""
    means = pool(keys, positions)
    return means + LOG_4 if pooling == "raised" else means


def offset_of_means(pooling: Pooling) -> float:
    """Returns the number to add to attention scores of averaged keys: log 4 for pooling ``"counted"``, else 0."""
    return LOG_4 if pooling == "counted" else 0.0


def with_means(
    key: Tensor, value: Tensor, page_valid: Tensor, pointer_valid: Tensor, pooling: Pooling
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Concatenates the tokens of an object's first memory, the averaged tokens of all memories, and the pointers.

    Args:
        key, value: Rotated keys and values ``(B, heads, K * n + L, c)``: K memories of n tokens, then L pointers.
        page_valid: True for valid memories, ``(B, K)`` bool.
        pointer_valid: True for valid pointers, ``(B, L)`` bool.

    Returns:
        Keys and values ``(B, heads, M, c)``, a mask ``(B, M)`` bool that is True for keys that an object attends to,
        and numbers ``(B, M)`` fp32 to add to scores. ``M`` is ``n + K * n / 4 + L``.
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
