"""Functions of the original's modules that sam2fast itself does not need.

``as_sam2`` provides them under the official names. Arguments and results are the original's.
"""

import copy
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sam2fast.checkpoints import load_checkpoint
from sam2fast.modeling.layers import get_activation
from sam2fast.modeling.position_encoding import axial_rope, sine_1d
from sam2fast.tracking.memory_selection import closest_conditioning_frames
from sam2fast.training.prompt_sampling import BOX_LABELS, sample_box, sample_error_center, sample_error_point

Value = TypeVar("Value")


def _load_checkpoint(model: nn.Module, ckpt_path: str | Path | None) -> None:
    """Loads a checkpoint into a model; does nothing without a path.

    Raises:
        FileNotFoundError, CheckpointError, ImportError: the file cannot be read, or does not fit.
    """
    if ckpt_path is not None:
        device = next(model.parameters()).device
        load_checkpoint(model, ckpt_path, device, allow_image_only=False, assign=False)


def select_closest_cond_frames(
    frame_idx: int, cond_frame_outputs: Mapping[int, Value], max_cond_frame_num: int
) -> tuple[dict[int, Value], dict[int, Value]]:
    """The conditioning frames that are closest in time, and the others.

    See :func:`~sam2fast.tracking.memory_selection.closest_conditioning_frames`.
    """
    chosen = closest_conditioning_frames(frame_idx, cond_frame_outputs, max_cond_frame_num)
    others = {t: output for t, output in cond_frame_outputs.items() if t not in chosen}
    return {t: cond_frame_outputs[t] for t in chosen}, others


def get_1d_sine_pe(pos_inds: Tensor, dim: int, temperature: float = 10000) -> Tensor:
    """``(..., dim)`` sines, then cosines, of positions ``(...)``."""
    return sine_1d(pos_inds, dim, temperature)


def get_activation_fn(activation: str) -> Callable[[Tensor], Tensor]:
    """``relu``, ``gelu`` or ``glu``; a ``ValueError`` for others."""
    return get_activation(activation)


def get_clones(module: nn.Module, N: int) -> nn.ModuleList:
    """N deep copies of a module."""
    return nn.ModuleList(copy.deepcopy(module) for _ in range(N))


def sample_box_points(
    masks: Tensor,
    noise: float = 0.1,
    noise_bound: float = 20,
    top_left_label: int = BOX_LABELS[0],
    bottom_right_label: int = BOX_LABELS[1],
) -> tuple[Tensor, Tensor]:
    """Corners ``(B, 2, 2)`` fp32 of noisy boxes around ``masks (B, 1, H, W)``, and their labels ``(B, 2)`` int32.

    See :func:`~sam2fast.training.prompt_sampling.sample_box`. The noise comes from torch's generator.
    """
    # Without noise the generator must not advance.
    draws = torch.rand if noise > 0 else torch.zeros
    corners = sample_box(masks, draws(len(masks), 4, device=masks.device), noise, float(noise_bound))["point_coords"]
    labels = torch.tensor([top_left_label, bottom_right_label], dtype=torch.int32, device=masks.device)
    return corners, labels.repeat(len(masks), 1)


def sample_random_points_from_errors(
    gt_masks: Tensor, pred_masks: Tensor | None, num_pt: int = 1
) -> tuple[Tensor, Tensor]:
    """Clicks ``(B, num_pt, 2)`` fp32 where bool masks ``(B, 1, H, W)`` differ, with labels ``(B, num_pt)`` int32.

    See :func:`~sam2fast.training.prompt_sampling.sample_error_point`. Uses torch's generator, but fewer numbers
    than the original. Without errors the label is 0, even if there is no background.
    """
    wrong = gt_masks if pred_masks is None else gt_masks ^ pred_masks
    # fp32 cannot index all pixels of a large image; MPS has no fp64.
    dtype = torch.float32 if gt_masks.device.type == "mps" else torch.float64
    draws = torch.rand(num_pt, len(gt_masks), 1, dtype=dtype, device=gt_masks.device)
    points = gt_masks.new_zeros(len(gt_masks), num_pt, 2, dtype=torch.float32)
    labels = gt_masks.new_zeros(len(gt_masks), num_pt, dtype=torch.int32)
    for i, draw in enumerate(draws):
        prompt = sample_error_point(gt_masks, pred_masks, draw)
        points[:, i] = prompt["point_coords"][:, 0]
        labels[:, i] = prompt["point_labels"][:, 0] * wrong.flatten(1).any(dim=1)
    return points, labels


def sample_one_point_from_error_center(
    gt_masks: Tensor, pred_masks: Tensor | None, padding: bool = True
) -> tuple[Tensor, Tensor]:
    """Clicks ``(B, 1, 2)`` fp32 at the error pixel farthest from the error's edge, with labels ``(B, 1)`` int32.

    See :func:`~sam2fast.training.prompt_sampling.sample_error_center`, which needs scipy instead of OpenCV.
    """
    prompt = sample_error_center(gt_masks, pred_masks, padding)
    return prompt["point_coords"], prompt["point_labels"]


def get_next_point(gt_masks: Tensor, pred_masks: Tensor | None, method: str) -> tuple[Tensor, Tensor]:
    """One click by :func:`sample_random_points_from_errors` (``uniform``) or
    :func:`sample_one_point_from_error_center` (``center``).

    Raises:
        ValueError: another method.
    """
    if method == "uniform":
        return sample_random_points_from_errors(gt_masks, pred_masks)
    if method == "center":
        return sample_one_point_from_error_center(gt_masks, pred_masks)
    raise ValueError(f"unknown sampling method {method!r}; expected 'uniform' or 'center'")


def init_t_xy(end_x: int, end_y: int) -> tuple[Tensor, Tensor]:
    """Column and row, fp32, of each position of a map, row by row."""
    position = torch.arange(end_x * end_y)
    return (position % end_x).float(), (position // end_x).float()


def compute_axial_cis(dim: int, end_x: int, end_y: int, theta: float = 10000.0) -> Tensor:
    """Complex rotations ``(end_x * end_y, dim / 2)``; see :func:`~sam2fast.modeling.position_encoding.axial_rope`."""
    return torch.complex(*axial_rope(dim, end_x, end_y, theta, torch.device("cpu")))


def reshape_for_broadcast(freqs_cis: Tensor, x: Tensor) -> Tensor:
    """``freqs_cis (N, C)`` with leading dimensions of 1, as many as ``x (..., N, C)`` has.

    Raises:
        ValueError: the last two dimensions differ.
    """
    if freqs_cis.shape != x.shape[-2:]:
        raise ValueError(f"rotations {tuple(freqs_cis.shape)} do not fit {tuple(x.shape)}")
    return freqs_cis.view(*(1,) * (x.ndim - 2), *freqs_cis.shape)


def apply_rotary_enc(xq: Tensor, xk: Tensor, freqs_cis: Tensor, repeat_freqs_k: bool = False) -> tuple[Tensor, Tensor]:
    """Queries and keys ``(B, heads, N, C)``, channel pairs rotated by complex ``freqs_cis (N, C / 2)``.

    With ``repeat_freqs_k`` the keys may be several maps in a row, which get the same rotations.
    """
    repeats = xk.shape[-2] // xq.shape[-2] if repeat_freqs_k else 1
    return _rotated(xq, freqs_cis), _rotated(xk, freqs_cis.repeat(repeats, 1)) if xk.shape[-2] else xk


def _rotated(x: Tensor, rotations: Tensor) -> Tensor:
    pairs = torch.view_as_complex(x.float().unflatten(-1, (-1, 2)).contiguous())
    return torch.view_as_real(pairs * reshape_for_broadcast(rotations, pairs)).flatten(-2).to(x.dtype)


def window_partition(x: Tensor, window_size: int) -> tuple[Tensor, tuple[int, int]]:
    """Windows ``(B * windows, w, w, C)`` of a map ``(B, H, W, C)``, padded with zeros, and the padded (H, W)."""
    w = window_size
    x = F.pad(x, (0, 0, 0, -x.shape[2] % w, 0, -x.shape[1] % w))
    _, height, width, _ = x.shape
    windows = x.unflatten(2, (-1, w)).unflatten(1, (-1, w)).transpose(2, 3)  # (B, rows, columns, w, w, C)
    return windows.flatten(0, 2), (height, width)


def window_unpartition(windows: Tensor, window_size: int, pad_hw: tuple[int, int], hw: tuple[int, int]) -> Tensor:
    """The map ``(B, H, W, C)`` of windows as :func:`window_partition` makes them, without its padding."""
    rows, columns = (side // window_size for side in pad_hw)
    x = windows.unflatten(0, (-1, rows, columns)).transpose(2, 3)  # (B, rows, w, columns, w, C)
    return x.flatten(3, 4).flatten(1, 2)[:, : hw[0], : hw[1]]


def do_pool(x: Tensor, pool: nn.Module | None, norm: nn.Module | None = None) -> Tensor:
    """A map ``(B, H, W, C)`` after a pooling of ``(B, C, H, W)`` and a norm; both are optional."""
    if pool is None:
        return x
    x = pool(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
    return x if norm is None else norm(x)
