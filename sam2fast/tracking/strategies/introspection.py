"""Finds frames on which an alternative mask of the decoder shows a distractor beside the object, as in DAM4SAM.

Videnovic et al., "A Distractor-Aware Memory for Visual Object Tracking with SAM2", 2024.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from sam2fast.kernels.connected_components import connected_components
from sam2fast.modeling.sam2_base import gather_chosen
from sam2fast.tracking.strategies.boxes import area_of, boxes_of, hull_of

LEAST_IOU, MOST_OVERLAP, LEAST_RATIO, MOST_RATIO = 0.8, 0.7, 0.8, 1.2
NEWEST, WINDOW = 10, 300  # a median includes at most NEWEST sizes, less than WINDOW frames old
REST = 5  # minimum number of frames between two frames with a distractor


class Sizes(NamedTuple):
    """Stores the mask sizes of B objects after a frame, fp64."""

    sizes: Tensor  # (B, NEWEST) areas in pixels of the newest visible masks, newest first; 0 for empty entries
    ages: Tensor  # (B, NEWEST) ages of the sizes in frames
    since: Tensor  # (B, 1) number of frames since the last frame with a distractor, plus 1; 0 without a distractor
    frames: Tensor  # (B, 1) number of tracked frames

    @classmethod
    def of(cls, state: Tensor) -> "Sizes":
        """Unpacks a state ``(B, SIZES)``."""
        return cls(*state.split([NEWEST, NEWEST, 1, 1], dim=1))

    def add(self, size: Tensor) -> "Sizes":
        """Returns the sizes after one more frame, with masks of ``size (B, 1)`` pixels. ``since`` is unchanged."""
        is_visible, ages = size >= 1, self.ages + 1
        sizes = torch.where(is_visible, torch.cat([size, self.sizes[:, :-1]], dim=1), self.sizes)
        shifted = torch.cat([torch.zeros_like(size), ages[:, :-1]], dim=1)
        return Sizes(sizes, torch.where(is_visible, shifted, ages), self.since, self.frames + 1)

    def ratio(self, size: Tensor) -> Tensor:
        """Divides an added ``size (B, 1)`` by the median of the sizes. Returns -1 on the first frame and for size 0."""
        is_valid = (self.sizes > 0) & (self.ages < WINDOW)
        ordered = torch.where(is_valid, self.sizes, float("inf")).sort(dim=1).values
        last = (is_valid.sum(dim=1, keepdim=True) - 1).clamp(min=0)
        middle = ordered.gather(1, last // 2) + ordered.gather(1, (last + 1) // 2)
        return torch.where((self.frames > 1) & (size >= 1), size / (middle / 2), -1.0)


SIZES = 2 * NEWEST + 2


def find_distractors(shown: Tensor, choice: Tensor, iou: Tensor, before: Sizes, last: int) -> tuple[Tensor, Sizes]:
    """Determines for each object if the frame shows a distractor.

    Args:
        shown: Candidate masks ``(B, M, H, W)`` bool at the size of the video.
        choice: Indices ``(B, 1)`` int64 of the selected candidates.
        iou: Predicted IoUs ``(B, 1)`` of the selected candidates.
        before: Sizes after the previous frame.
        last: 1 if sides of boxes include the last pixel, else 0.

    Returns:
        ``(B, 1)`` bool, True if the frame shows a distractor; and the sizes after the frame.
    """
    selected = gather_chosen(shown, choice)
    size = selected.sum(dim=(2, 3)).double()
    after = before.add(size)
    ratio = after.ratio(size)
    is_rested = (before.since == 0) | (before.since > REST)
    gate = (iou.double() > LEAST_IOU) & (ratio >= LEAST_RATIO) & (ratio <= MOST_RATIO) & is_rested
    if shown.shape[1] == 1:
        is_added = torch.zeros_like(gate)
    else:
        is_added = gate & (_least_overlap(shown, choice, selected, last) <= MOST_OVERLAP)
    since = torch.where(before.since > 0, before.since + 1, 0.0)
    return is_added, after._replace(since=torch.where(is_added, 1.0, since))


def _least_overlap(shown: Tensor, choice: Tensor, selected: Tensor, last: int) -> Tensor:
    """Returns the smallest ratio ``(B, 1)`` of two box areas over all candidates that are not selected.

    The ratio is the area of the selected mask's box, divided by the area of the box around this mask and the candidate.
    Only the candidate's largest connected component outside of the selected mask counts.
    """
    B, M, H, W = shown.shape
    others = torch.remainder(choice + torch.arange(1, M, device=choice.device), M)
    beside = gather_chosen(shown, others) & ~selected
    labels, areas = connected_components(beside.reshape(-1, 1, H, W))
    labels, areas = labels.view(B, M - 1, H, W), areas.view(B, M - 1, H, W)
    is_largest = beside & (areas == areas.amax(dim=(2, 3), keepdim=True))
    first = torch.where(is_largest, labels, H * W + 1).amin(dim=(2, 3), keepdim=True)
    parts = beside & (labels == first)
    box = boxes_of(selected)
    both = box, hull_of(box, boxes_of(parts))
    inner, outer = (torch.cat([boxes[..., :2], boxes[..., 2:] + last], dim=-1) for boxes in both)
    width, height = outer[..., 2] - outer[..., 0], outer[..., 3] - outer[..., 1]
    is_box = (width > 1) & (height > 1) & parts.any(dim=3).any(dim=2)
    share = area_of(inner) / torch.where(is_box, area_of(outer), 1.0)
    return torch.where(is_box, share, 1.0).amin(dim=1, keepdim=True)
