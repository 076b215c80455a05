"""Compares the records of two automatic mask generators."""

from typing import Any, NamedTuple

import numpy as np
import torch

from sam2fast.utils.testing import mask_iou

Record = dict[str, Any]
IOU = 0.999
TOLERANCE = 1e-3  # of scores, and of boxes as a share of the image's longer side


def assert_same_mask(expected: Record, actual: Record) -> None:
    """The same mask but for rounding, from the same point of the same crop."""
    assert mask_iou(expected["segmentation"], actual["segmentation"]) >= IOU
    assert abs(expected["area"] - actual["area"]) <= (1 - IOU) * max(expected["area"], actual["area"])
    side = max(expected["segmentation"].shape)
    np.testing.assert_allclose(actual["bbox"], expected["bbox"], rtol=0, atol=TOLERANCE * side)
    for score in ("predicted_iou", "stability_score"):
        np.testing.assert_allclose(actual[score], expected[score], rtol=0, atol=TOLERANCE, err_msg=score)
    assert actual["point_coords"] == expected["point_coords"]
    assert actual["crop_box"] == expected["crop_box"]


def assert_same_masks(expected: list[Record], actual: list[Record]) -> None:
    """Equal numbers of masks in the same order."""
    assert len(expected) == len(actual)
    for pair in zip(expected, actual, strict=True):
        assert_same_mask(*pair)


class Matching(NamedTuple):
    """The matching of two lists of masks."""

    pairs: list[tuple[int, int, float]]  # indices in both lists, and their IoU
    left: list[int]  # of the first list without a counterpart
    right: list[int]  # of the second


def match(first: list[Record], second: list[Record], least: float = 0.5) -> Matching:
    """Matches masks greedily by IoU, down to a minimum."""
    ious = _ious(first, second)
    pairs = []
    while ious.size and ious.max() >= least:
        i, j = np.unravel_index(ious.argmax(), ious.shape)
        pairs.append((int(i), int(j), float(ious[i, j])))
        ious[i], ious[:, j] = -1, -1
    taken = [{pair[side] for pair in pairs} for side in (0, 1)]
    left, right = ([i for i in range(len(x)) if i not in t] for x, t in zip((first, second), taken, strict=True))
    return Matching(pairs, left, right)


def _ious(first: list[Record], second: list[Record]) -> np.ndarray:
    if not first or not second:
        return np.zeros((len(first), len(second)))
    a, b = (torch.from_numpy(np.stack([r["segmentation"].ravel() for r in x])) for x in (first, second))
    shared = torch.zeros(len(a), len(b), dtype=torch.float64)
    for p, q in zip(a.split(1 << 18, dim=1), b.split(1 << 18, dim=1), strict=True):
        shared += (p.float() @ q.float().T).double()
    areas = [x.sum(1, dtype=torch.float64) for x in (a, b)]
    return (shared / (areas[0][:, None] + areas[1] - shared)).numpy()


def near_threshold(record: Record, others: list[Record], thresholds: dict[str, float]) -> str | None:
    """The threshold of IoU, stability or NMS that rounding may have carried this mask across, if any."""
    values = {
        "pred_iou_thresh": [record["predicted_iou"]],
        "stability_score_thresh": [record["stability_score"]],
        "box_nms_thresh": [_box_iou(record["bbox"], other["bbox"]) for other in others],
    }
    for name, threshold in thresholds.items():
        if any(abs(value - threshold) <= TOLERANCE for value in values[name]):
            return name
    return None


def _box_iou(a: list[float], b: list[float]) -> float:
    width, height = (max(0.0, min(a[i] + a[i + 2], b[i] + b[i + 2]) - max(a[i], b[i])) for i in (0, 1))
    union = a[2] * a[3] + b[2] * b[3] - width * height
    return width * height / union if union else 0.0
