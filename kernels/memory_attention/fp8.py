"""Rounding of rows to float8_e4m3fn with a scale each, for queries and keys of memory attention."""

from typing import Literal, TypeAlias

import torch
from torch import Tensor

from sam2fast.kernels._dispatch import current_backend, why_no_triton

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
