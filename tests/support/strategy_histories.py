"""Random histories of the decoder's outputs, in which every rule of the tracking strategies is reached."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from plain_strategies import Decoded, Floats

SIDE = 16  # of the masks
# Predicted IoU of the best candidate and object score (mean, spread) while a regime lasts.
REGIMES = {
    "certain": ((0.92, 0.04), (6.0, 2.0)),
    "doubtful": ((0.55, 0.12), (1.0, 1.0)),
    "poor": ((0.25, 0.1), (0.5, 1.0)),
    "nearly gone": ((0.5, 0.2), (-0.5, 0.6)),
    "gone": ((0.4, 0.3), (-4.0, 2.0)),
}


def disc_logits(centre: Floats, radius: float) -> Floats:
    y, x = np.mgrid[0:SIDE, 0:SIDE]
    return 3 * (radius - np.hypot(x - centre[0], y - centre[1]))


class Batch(NamedTuple):
    """What the decoder says about N objects on T frames."""

    masks: NDArray[np.float32]  # (T, N, 3, side, side)
    ious: NDArray[np.float32]  # (T, N, 3)
    scores: NDArray[np.float32]  # (T, N)

    def decoded(self, t: int, i: int) -> Decoded:
        return Decoded(self.masks[t, i], self.ious[t, i], float(self.scores[t, i]))

    def history(self, i: int) -> list[Decoded]:
        return [self.decoded(t, i) for t in range(len(self.ious))]


def random_batch(seed: int, count: int, frames: int, side: int = 8) -> Batch:
    """What the decoder says on frames 1 to ``frames`` about ``count`` objects; some values lie on the thresholds.

    Candidates are the object, the object a little larger, and the object with one that looks like it.
    """
    rng = np.random.default_rng(seed)
    means = np.array(list(REGIMES.values()))  # (regimes, 2, 2): of IoU and score, mean and spread
    place, other = rng.uniform(1, side - 1, (count, 2)), rng.uniform(0, side, (count, 2))
    regime, found = np.zeros(count, int), []
    for _ in range(frames):
        is_new = rng.random(count) < 0.1
        regime = np.where(is_new, rng.choice(len(means), count, p=[0.5, 0.2, 0.1, 0.1, 0.1]), regime)
        (iou, iou_spread), (score, score_spread) = means[regime].transpose(1, 2, 0)
        place = (place + rng.normal(0, 0.3, place.shape)).clip(-1, side)
        other = (other + rng.normal(0, 0.2, other.shape)).clip(0, side)
        below = np.abs(rng.normal(0, 0.08, (count, 3))) * rng.permuted(np.tile([0, 1, 1], (count, 1)), axis=1)
        ious, scores = rng.normal(iou, iou_spread)[:, None] - below, rng.normal(score, score_spread)
        is_rounded = rng.random(count) < 0.5
        ious = np.where(is_rounded[:, None], ious.round(1), ious).clip(0, 1)
        scores = np.where(is_rounded, scores.round(1), scores)
        y, x = np.mgrid[0:side, 0:side]
        radius = rng.uniform(1.7, 2.3, count)
        distance, away = (np.hypot(y - p[:, :1, None], x - p[:, 1:, None]) for p in (place, other))
        mask, larger, alike = (
            3 * (r[:, None, None] - d) for r, d in ((radius, distance), (radius + 0.5, distance), (radius, away))
        )
        mask = np.where(
            (rng.random(count) < 0.3)[:, None, None], np.minimum(mask, 3 * (distance - 0.5)), mask
        )  # a hole
        mask = np.where((rng.random(count) < 0.05)[:, None, None], mask - 100, mask)  # empty
        order = rng.permuted(np.tile([0, 1, 2], (count, 1)), axis=1)
        masks = np.stack([mask, larger, np.maximum(mask, alike)], axis=1)
        found.append((np.take_along_axis(masks, order[..., None, None], axis=1), ious, scores))
    return Batch(*(np.stack(part).astype(np.float32) for part in zip(*found, strict=True)))
