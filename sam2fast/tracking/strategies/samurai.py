"""SAMURAI: selects masks by motion and predicted IoU, and memories by their scores.

Yang et al., "SAMURAI: Adapting Segment Anything Model for Zero-Shot Visual Tracking with Motion-Aware Memory", 2024.
"""

from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, NamedTuple

import torch
from torch import Tensor

from sam2fast.kernels.mask_ops import upsample_and_threshold
from sam2fast.modeling.memory_selection import closest_conditioning_frames
from sam2fast.tracking.strategies.base import Attended, Decided, History, MaskCandidates, Strategy
from sam2fast.tracking.strategies.boxes import boxes_of, overlaps

if TYPE_CHECKING:
    from sam2fast.modeling.sam2_base import SAM2Base

STABLE = 15  # number of successive updates after which the predicted box is used
LEAST_IOU = 0.3  # minimum predicted IoU of a mask that updates the motion
LARGE = 144  # channels of the large model's first stage
# Pairs of standard deviations: of x, y and h as a fraction of the height, and of a. FIRST is the initial deviation,
# ADDED the process noise per frame, MEASURED the measurement noise. CHANGE_FIRST and CHANGE_ADDED are deviations of
# velocities.
FIRST, CHANGE_FIRST = (1 / 10, 1e-2), (1 / 16, 1e-5)
ADDED, CHANGE_ADDED = (1 / 20, 1e-2), (1 / 160, 1e-5)
MEASURED = (1 / 20, 1e-1)


class Motion(NamedTuple):
    """Stores Kalman filters of B objects, for a box's centre x, y, its aspect ratio a = width / height, and height h.

    The four filters of an object are independent, since the 8 x 8 covariance of position and velocity is
    block-diagonal.
    """

    position: Tensor  # (B, 4) fp64
    velocity: Tensor  # (B, 4) fp64, change of the position per frame
    variance: Tensor  # (B, 4) fp64, variance of the position
    covariance: Tensor  # (B, 4) fp64, covariance of position and velocity
    change_variance: Tensor  # (B, 4) fp64, variance of the velocity

    @classmethod
    def begin(cls, measured: Tensor) -> "Motion":
        """Returns filters that start at the measured x, y, a, h ``(B, 4)``, with zero velocity."""
        h, zeros = measured[:, 3:], torch.zeros_like(measured)
        return cls(measured, zeros, _variance(FIRST, h), zeros, _variance(CHANGE_FIRST, h))

    def predict(self) -> "Motion":
        """Returns the Kalman filters predicted for the next frame."""
        p, v, A, B, C = self
        h = p[:, 3:]
        return Motion(p + v, v, A + 2 * B + C + _variance(ADDED, h), B + C, C + _variance(CHANGE_ADDED, h))

    def update(self, measured: Tensor) -> "Motion":
        """Returns the filters after a measurement of x, y, a, h ``(B, 4)``."""
        p, v, A, B, C = self
        S, error = A + _variance(MEASURED, p[:, 3:]), measured - p
        return Motion(p + A / S * error, v + B / S * error, A - A * A / S, B - A * B / S, C - B * B / S)

    def box(self) -> Tensor:
        """Returns the boxes ``(B, 4)`` XYXY."""
        x, y, a, h = self.position.unbind(1)
        return torch.stack([x - a * h / 2, y - h / 2, x + a * h / 2, y + h / 2], dim=1)


@dataclass(frozen=True)
class Samurai(Strategy):
    """SAMURAI, for any number of objects.

    A Kalman filter tracks the box of each object. After 15 successive updates, the overlap with the filter's predicted
    box also affects which mask is selected. Memories come from the previous frame and from frames with a high predicted
    IoU, object score and overlap with the predicted box, at any distance. Objects with a score above -1 count as
    present.

    No step waits for the previous frame's scores, since a frame's scores affect only steps after the next.

    Unlike the published code, this class supports any number of objects, prompts on any frame and passes in both
    directions. The filter restarts with each prompt. As in the published code, if one of the first two frames of the
    video is not a conditioning frame, only the next frame attends to it.

    Args:
        weight: Weight of the overlap with the predicted box in the selection of a mask. If None, the weight is 0.15 for
            a large model and 0.25 for other models.
        memory_iou, memory_score, memory_motion: Thresholds of predicted IoU, object score, and overlap with the
            predicted box. Objects attend to frames above all thresholds. The overlap counts only if the predicted box
            was used.
    """

    weight: float | None = None
    memory_iou: float = 0.5
    memory_score: float = 0.0
    memory_motion: float = 0.0

    presence: ClassVar[float] = -1.0
    state_size: ClassVar[int] = 5 * 4 + 1  # Motion, and the number of successive updates
    record_size: ClassVar[int] = 2  # overlap with the predicted box; 1 if the prediction was used, else 0

    def for_model(self, model: "SAM2Base") -> "Samurai":
        if self.weight is not None:
            return self
        channels = getattr(model.image_encoder.trunk, "channel_list", [])
        is_large = len(channels) > 1 and channels[-1] >= LARGE  # excludes plain ViTs, which have one wide level
        return replace(self, weight=0.15 if is_large else 0.25)

    def choose(self, candidates: MaskCandidates, state: Tensor) -> Decided:
        masks, ious = candidates.masks, candidates.ious
        best = candidates.best()
        if masks.shape[1] == 1:
            return Decided(best)
        weight = 0.25 if self.weight is None else self.weight
        boxes = boxes_of(upsample_and_threshold(masks, (candidates.image_size,) * 2))
        stable = state[:, -1:]
        predicted = Motion(*state[:, :-1].unflatten(1, (5, 4)).unbind(1)).predict()
        overlap = overlaps(predicted.box(), boxes)
        is_trusted = stable >= STABLE
        # As in the published code, the product with the IoUs is rounded to fp32, and the sum is fp64.
        weighted = (weight * overlap + ((1 - weight) * ious).double()).argmax(dim=1, keepdim=True)
        choice = torch.where(is_trusted, weighted, best)

        iou = ious.gather(1, choice)
        measured = _centred(boxes.gather(1, choice[..., None].expand(-1, -1, 4))[:, 0])
        is_sure = torch.where(is_trusted, iou >= LEAST_IOU, iou > LEAST_IOU)
        # For new objects, the values above are not used: the filter starts at the measured box.
        is_new = stable == 0
        after = [
            torch.where(is_new, new, torch.where(is_sure, updated, unchanged))
            for new, updated, unchanged in zip(
                Motion.begin(measured), predicted.update(measured), predicted, strict=True
            )
        ]
        count = torch.where(is_sure, (stable + 1).clamp(max=STABLE), 0.0)
        count = torch.where(is_new, 1.0, count)
        record = torch.cat([overlap.gather(1, choice), torch.ones_like(stable)], dim=1)
        return Decided(choice, torch.cat([*after, count], dim=1), torch.where(is_trusted, record, 0.0))

    def attend(self, history: History) -> Attended:
        rules = history.rules
        prompted = closest_conditioning_frames(history.frame, history.conditioning, rules.max_conditioning)
        recent = self._recent(history, prompted, rules.recent)
        memories = [(t, rules.num_maskmem - 1) for t in prompted] + [(t, row) for row, t in enumerate(recent)]
        return super().attend(history)._replace(memories=memories)

    def keep(self, history: History) -> Collection[int]:
        # Includes this frame as the neighbour of the next frame, without reading its result.
        following = history._replace(frame=history.frame + 1)
        good = self._recent(following, history.conditioning, history.rules.recent + 1)
        return {*good, *super().keep(history)}

    def _recent(self, history: History, prompted: Collection[int], count: int) -> list[int]:
        """Returns up to ``count`` frames, nearest first: the neighbour and frames above the thresholds."""
        recent: list[int] = []
        for t in history.past():
            if len(recent) == count:
                break
            has_result = t not in prompted and (t in history.tracked or t in history.conditioning)
            if has_result and (t == history.neighbour or t > 1 and self._is_good(history, t)):
                recent.append(t)
        return recent

    def _is_good(self, history: History, frame: int) -> bool:
        result = (history.tracked if frame in history.tracked else history.conditioning)[frame]
        if not (float(result.iou) > self.memory_iou and float(result.score) > self.memory_score):
            return False
        overlap, was_predicted = result.record[0].tolist()
        return not was_predicted or overlap > self.memory_motion


def _centred(boxes: Tensor) -> Tensor:
    """Converts boxes ``(B, 4)`` XYXY to x, y, a, h ``(B, 4)``, see :class:`Motion`. A height of 0 becomes 1."""
    x0, y0, x1, y1 = boxes.unbind(1)
    h = torch.where(y1 > y0, y1 - y0, 1.0)
    return torch.stack([(x0 + x1) / 2, (y0 + y1) / 2, (x1 - x0) / h, h], dim=1)


def _variance(deviations: tuple[float, float], height: Tensor) -> Tensor:
    """Returns variances ``(B, 4)`` of x, y, a and h for heights ``(B, 1)``."""
    relative, of_aspect = deviations
    scaled = relative * height
    return torch.cat([scaled, scaled, torch.full_like(height, of_aspect), scaled], dim=1).square()
