"""Implements official helper functions that sam2fast itself does not use, with the same arguments and results.

``as_sam2`` registers these functions under the official module names.
"""

from collections.abc import Mapping
from typing import TypeVar

import torch
from torch import Tensor

from sam2fast.modeling.memory_selection import closest_conditioning_frames
from sam2fast.modeling.position_encoding import sine_periods

Value = TypeVar("Value")


def select_closest_cond_frames(
    frame_idx: int, cond_frame_outputs: Mapping[int, Value], max_cond_frame_num: int
) -> tuple[dict[int, Value], dict[int, Value]]:
    """Splits outputs into :func:`closest_conditioning_frames` and the remaining frames."""
    closest = closest_conditioning_frames(frame_idx, cond_frame_outputs, max_cond_frame_num)
    others = {t: output for t, output in cond_frame_outputs.items() if t not in closest}
    return {t: cond_frame_outputs[t] for t in closest}, others


def get_1d_sine_pe(pos_inds: Tensor, dim: int, temperature: float = 10000) -> Tensor:
    """Encodes positions ``(...)`` as ``(..., dim)``: ``dim / 2`` sines, followed by ``dim / 2`` cosines."""
    periods = sine_periods(dim, pos_inds.device, temperature)[0, : dim // 2]
    angle = pos_inds[..., None] / periods
    return torch.cat([angle.sin(), angle.cos()], dim=-1)


def reshape_for_broadcast(freqs_cis: Tensor, x: Tensor) -> Tensor:
    """Reshapes ``freqs_cis (N, C)`` to broadcast with ``x (..., N, C)``. Raises ``ValueError`` if N or C differ."""
    if freqs_cis.shape != x.shape[-2:]:
        raise ValueError(f"rotations have shape {tuple(freqs_cis.shape)}; expected {tuple(x.shape[-2:])}")
    return freqs_cis.view(*(1,) * (x.ndim - 2), *freqs_cis.shape)


def apply_rotary_enc(xq: Tensor, xk: Tensor, freqs_cis: Tensor, repeat_freqs_k: bool = False) -> tuple[Tensor, Tensor]:
    """Rotates channel pairs of queries and keys ``(B, heads, N, C)`` by complex ``freqs_cis (N, C / 2)``.

    If ``repeat_freqs_k``, the number of keys may be a multiple of N, and the rotations are repeated for every N keys.
    """
    repeats = xk.shape[-2] // xq.shape[-2] if repeat_freqs_k else 1
    return _rotated(xq, freqs_cis), _rotated(xk, freqs_cis.repeat(repeats, 1)) if xk.shape[-2] else xk


def _rotated(x: Tensor, rotations: Tensor) -> Tensor:
    pairs = torch.view_as_complex(x.float().unflatten(-1, (-1, 2)).contiguous())
    return torch.view_as_real(pairs * reshape_for_broadcast(rotations, pairs)).flatten(-2).to(x.dtype)
