"""What the model says about its own masks."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from sam2fast.modeling.sam2_base import NO_OBJ_SCORE

if TYPE_CHECKING:
    from sam2fast.tracking.state import FrameResult


class TrackScores(NamedTuple):
    """Scores of N objects on a frame; of one without a result there, IoU 0 and logits -1024."""

    iou: Tensor  # (N,) predicted IoU of each mask
    object_score: Tensor  # (N,) logit of each object's presence
    low_res_logits: Tensor  # (N, 1, S/4, S/4) fp32

    @classmethod
    def joined(cls, parts: Sequence["TrackScores"], order: Sequence[int]) -> "TrackScores":
        """The objects of several, all of them in another order: the one at ``order[i]`` of all in a row becomes i."""
        if len(parts) == 1:
            return parts[0]
        rows = torch.tensor(order, device="cpu").to(parts[0].iou.device, non_blocking=True)
        return cls(*(torch.cat(tensors)[rows] for tensors in zip(*parts, strict=True)))

    @classmethod
    def of(cls, results: Sequence["FrameResult | None"], low_res: Tensor) -> "TrackScores":
        """Of results whose masks ``(N, 1, h, w)`` are on the device."""
        none = torch.zeros(1, device="cpu")
        iou = torch.cat([none[:0], *(none if r is None else r.iou[0] for r in results)])
        absent = torch.tensor([NO_OBJ_SCORE], device="cpu")
        score = torch.cat([absent[:0], *(absent if r is None else r.score[0] for r in results)])
        return cls(iou.to(low_res.device), score.to(low_res.device), low_res)
