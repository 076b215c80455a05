"""Lines of ``masks.jsonl``: run lengths, areas, boxes, and the visible object where masks overlap."""

import numpy as np
import pytest
import torch
from pycocotools import mask as coco_masks

from sam2fast.cli.track_folder import frame_record, label_map
from sam2fast.cli.user_errors import UserError
from sam2fast.io.rle import compress_run_lengths
from sam2fast.kernels.mask_ops import upsample_masks
from sam2fast.kernels.run_lengths import encode_masks, run_length_areas
from sam2fast.results.overlaps import boxes_of
from sam2fast.tracking.outputs import TrackScores

SIZE = (45, 70)


def scores_of(low_res):
    count = len(low_res)
    return TrackScores(torch.linspace(0.1234567, 1, count), torch.linspace(-5, 5, count), low_res)


def smooth_logits(count, seed=0, side=16):
    generator = torch.Generator().manual_seed(seed)
    return upsample_masks(torch.randn(count, 1, 5, 5, generator=generator) * 4, (side, side))


def record_of(masks):
    return frame_record(7, 0.28, [f"o{i}" for i in range(len(masks))], masks, scores_of(masks), SIZE)


def test_areas_and_boxes_match_pycocotools():
    rng = np.random.default_rng(0)
    masks = [rng.random(SIZE) < share for share in (0.5, 0.002, 0.001, 0.9995)]
    for rows, columns in ((slice(3, 9), slice(5, 6)), (slice(0, 45), slice(69, 70)), (slice(44, 45), slice(0, 70))):
        mask = np.zeros(SIZE, dtype=bool)
        mask[rows, columns] = True
        masks.append(mask)
    across = np.zeros(SIZE, dtype=bool)  # a single run over the end of a column
    across[30:, 8] = across[:4, 9] = True
    masks += [across, np.ones(SIZE, dtype=bool), np.zeros(SIZE, dtype=bool)]
    runs = encode_masks(torch.from_numpy(np.stack(masks)))
    rles = compress_run_lengths(runs)
    assert run_length_areas(runs).tolist() == [int(coco_masks.area(rle)) for rle in rles]
    assert boxes_of(runs) == [*(coco_masks.toBbox(rle).tolist() for rle in rles[:-1]), None]


@pytest.mark.parametrize("seed", range(3))
def test_the_greatest_logit_is_visible_where_masks_overlap(seed):
    low_res = smooth_logits(3, seed)
    logits = upsample_masks(low_res, SIZE)[:, 0]
    assert ((logits > 0).sum(0) > 1).any()
    record = record_of(low_res)
    assert any("visible" in entry for entry in record["objects"])
    expected = np.where((logits > 0).any(0), logits.argmax(0) + 1, 0)
    np.testing.assert_array_equal(label_map(record, {"o0": 1, "o1": 2, "o2": 3}, SIZE), expected)


@pytest.mark.parametrize("broken", ["iou", "object_score"])
def test_scores_that_are_not_finite(broken):
    low_res = smooth_logits(2)
    scores = scores_of(low_res)._replace(**{broken: torch.tensor([0.5, float("nan")])})
    with pytest.raises(UserError, match="frame 7.*not finite"):
        frame_record(7, None, [1, 2], low_res, scores, SIZE)
