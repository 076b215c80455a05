import torch
import torch.nn.functional as F

from sam2fast.kernels.connected_components import connected_components

# How far beyond the threshold a filled hole or a removed sprinkle is put, in logits (the original's constant).
MARGIN = 10.0
# A filled hole's logit in the video predictor's flavour.
FILLED_IN_VIDEO = 0.1


def fill_holes_and_remove_sprinkles_reference(
    logits: torch.Tensor, threshold: float, max_hole_area: float, max_sprinkle_area: float
) -> torch.Tensor:
    flat = logits.flatten(0, 1).unsqueeze(1)  # (N·C, 1, H, W)
    out = flat
    if max_hole_area > 0:
        out = torch.where(_small_components(flat <= threshold, max_hole_area), threshold + MARGIN, out)
    if max_sprinkle_area > 0:
        out = torch.where(_small_components(flat > threshold, max_sprinkle_area), threshold - MARGIN, out)
    return out.view_as(logits)


def fill_holes_in_mask_scores_reference(mask: torch.Tensor, max_area: float) -> torch.Tensor:
    return torch.where(_small_components(mask <= 0, max_area), FILLED_IN_VIDEO, mask)


def _small_components(mask: torch.Tensor, max_area: float) -> torch.Tensor:
    _, areas = connected_components(mask)
    return mask & (areas <= max_area)


def upsample_masks_reference(logits: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    return F.interpolate(logits, size=size, mode="bilinear", align_corners=False)


def masks_to_boxes_reference(masks: torch.Tensor) -> torch.Tensor:
    H, W = masks.shape[-2:]
    x = torch.arange(W, device=masks.device)
    y = torch.arange(H, device=masks.device)
    columns, rows = masks.any(dim=-2), masks.any(dim=-1)  # (..., W), (..., H)
    left, top = torch.where(columns, x, W).amin(-1), torch.where(rows, y, H).amin(-1)
    right, bottom = torch.where(columns, x, -1).amax(-1), torch.where(rows, y, -1).amax(-1)
    return torch.stack([left, top, right, bottom], dim=-1).to(torch.int32)
