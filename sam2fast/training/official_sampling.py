"""Official functions that sample prompts. The module ``as_sam2`` provides the functions under the official names.

The functions have the arguments and results of ``sam2.modeling.sam2_utils``.
"""

import torch
from torch import Tensor

from sam2fast.training.prompt_sampling import BOX_LABELS, sample_box, sample_error_center, sample_error_point


def sample_box_points(
    masks: Tensor,
    noise: float = 0.1,
    noise_bound: float = 20,
    top_left_label: int = BOX_LABELS[0],
    bottom_right_label: int = BOX_LABELS[1],
) -> tuple[Tensor, Tensor]:
    """Returns corners ``(B, 2, 2)`` fp32 of noisy boxes around ``masks (B, 1, H, W)``, with labels ``(B, 2)`` int32.

    See :func:`~sam2fast.training.prompt_sampling.sample_box`. The random noise comes from torch's generator.
    """
    # Draws no random numbers if ``noise`` is 0, because torch's generator must not advance.
    draws = torch.rand if noise > 0 else torch.zeros
    corners = sample_box(masks, draws(len(masks), 4, device=masks.device), noise, float(noise_bound))["point_coords"]
    labels = torch.tensor([top_left_label, bottom_right_label], dtype=torch.int32, device=masks.device)
    return corners, labels.repeat(len(masks), 1)


def sample_random_points_from_errors(
    gt_masks: Tensor, pred_masks: Tensor | None, num_pt: int = 1
) -> tuple[Tensor, Tensor]:
    """Samples clicks ``(B, num_pt, 2)`` fp32 on wrong pixels of masks ``(B, 1, H, W)``; labels ``(B, num_pt)`` int32.

    See :func:`~sam2fast.training.prompt_sampling.sample_error_point`. Random numbers come from torch's generator. The
    official function draws more numbers. If no pixel is wrong, the label is 0, even if the mask covers the whole image.
    """
    wrong = gt_masks if pred_masks is None else gt_masks ^ pred_masks
    # Draws fp64 random numbers, because fp32 cannot index all pixels of a large image. MPS has no fp64.
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
    """Returns clicks ``(B, 1, 2)`` fp32 in the middle of regions of wrong pixels, and labels ``(B, 1)`` int32.

    See :func:`~sam2fast.training.prompt_sampling.sample_error_center`, which needs scipy instead of OpenCV.
    """
    prompt = sample_error_center(gt_masks, pred_masks, padding)
    return prompt["point_coords"], prompt["point_labels"]


def get_next_point(gt_masks: Tensor, pred_masks: Tensor | None, method: str) -> tuple[Tensor, Tensor]:
    """Samples one click with :func:`sample_random_points_from_errors` if ``method`` is ``uniform``.

    If ``method`` is ``center``, calls :func:`sample_one_point_from_error_center`.
    """
    if method == "uniform":
        return sample_random_points_from_errors(gt_masks, pred_masks)
    if method == "center":
        return sample_one_point_from_error_center(gt_masks, pred_masks)
    raise ValueError(f"unknown sampling method {method!r}; expected 'uniform' or 'center'")
