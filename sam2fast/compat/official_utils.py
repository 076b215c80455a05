"""Provides functions of the original's modules that sam2fast itself does not need, with the same arguments and results.

``as_sam2`` provides them under the official names.
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
    """Returns the closest frames and the others, as :func:`closest_conditioning_frames` chooses."""
    chosen = closest_conditioning_frames(frame_idx, cond_frame_outputs, max_cond_frame_num)
    others = {t: output for t, output in cond_frame_outputs.items() if t not in chosen}
    return {t: cond_frame_outputs[t] for t in chosen}, others


def get_1d_sine_pe(pos_inds: Tensor, dim: int, temperature: float = 10000) -> Tensor:
    """Returns sines, then cosines, ``(..., dim)`` of positions ``(...)``."""
    periods = sine_periods(dim, pos_inds.device, temperature)[0, : dim // 2]
    angle = pos_inds[..., None] / periods
    return torch.cat([angle.sin(), angle.cos()], dim=-1)


def reshape_for_broadcast(freqs_cis: Tensor, x: Tensor) -> Tensor:
    """Returns ``freqs_cis (N, C)`` as ``(1, ..., N, C)``, for ``x (..., N, C)``. Raises ValueError if N, C differ."""
    if freqs_cis.shape != x.shape[-2:]:
        raise ValueError(f"rotations {tuple(freqs_cis.shape)} do not fit {tuple(x.shape)}")
    return freqs_cis.view(*(1,) * (x.ndim - 2), *freqs_cis.shape)


def apply_rotary_enc(xq: Tensor, xk: Tensor, freqs_cis: Tensor, repeat_freqs_k: bool = False) -> tuple[Tensor, Tensor]:
    """Rotates channel pairs of queries and keys ``(B, heads, N, C)`` by complex ``freqs_cis (N, C / 2)``.

    With ``repeat_freqs_k``, the keys may be several maps in a row, which get the same rotations.
    """
    repeats = xk.shape[-2] // xq.shape[-2] if repeat_freqs_k else 1
    return _rotated(xq, freqs_cis), _rotated(xk, freqs_cis.repeat(repeats, 1)) if xk.shape[-2] else xk


def _rotated(x: Tensor, rotations: Tensor) -> Tensor:
    pairs = torch.view_as_complex(x.float().unflatten(-1, (-1, 2)).contiguous())
    return torch.view_as_real(pairs * reshape_for_broadcast(rotations, pairs)).flatten(-2).to(x.dtype)
