import oracle  # noqa: F401  (makes the official package importable)
import pytest
import torch
import torch.nn.functional as F
from parity import random_map
from sam2.utils.misc import fill_holes_in_mask_scores as official_fill_holes
from sam2.utils.misc import mask_to_box
from sam2.utils.transforms import SAM2Transforms as OfficialTransforms

from sam2fast.kernels.mask_ops import fill_holes_and_remove_sprinkles, fill_holes_in_mask_scores, masks_to_boxes
from sam2fast.transforms import SAM2Transforms


def blobs(n=3, c=2, h=64, w=48):
    """Logits with components of many sizes in foreground and background."""
    return F.avg_pool2d(random_map(n, c, h + 2, w + 2), 3, stride=1) * 5


@pytest.mark.parametrize("size", [(64, 48), (200, 333), (31, 20)], ids=str)
@pytest.mark.parametrize(
    ("threshold", "hole", "sprinkle"),
    [(0.0, 0, 0), (0.0, 8, 0), (0.0, 0, 8), (0.0, 1, 1), (0.5, 12, 20), (-1.0, 3.5, 1e9)],
)
def test_postprocessing_equals_the_official_one(size, threshold, hole, sprinkle):
    logits = blobs()
    expected = OfficialTransforms(256, threshold, hole, sprinkle).postprocess_masks(logits, size)
    assert torch.equal(SAM2Transforms(256, threshold, hole, sprinkle).postprocess_masks(logits, size), expected)


def test_a_filled_hole_does_not_enlarge_the_sprinkle_around_it():
    logits = torch.full((1, 1, 9, 9), -3.0)
    logits[..., 3:6, 3:6] = 3.0
    logits[..., 4, 4] = -3.0
    out = fill_holes_and_remove_sprinkles(logits, max_hole_area=1, max_sprinkle_area=8)
    assert out[0, 0, 4, 4] == 10.0 and (out[0, 0, 3, 3:6] == -10.0).all()


def test_nothing_to_do_is_free():
    logits = blobs()
    assert fill_holes_and_remove_sprinkles(logits) is logits


def test_boxes():
    masks = random_map(5, 1, 13, 17) > 1.5
    masks[2] = False
    masks[3] = False
    masks[3, 0, 12, 16] = True
    expected = mask_to_box(masks)
    assert torch.equal(masks_to_boxes(masks), expected.to(torch.int32))
    assert masks_to_boxes(masks)[2, 0].tolist() == [17, 13, -1, -1]
    with pytest.raises(ValueError, match="bool"):
        masks_to_boxes(masks.float())


@pytest.mark.parametrize("area", [1, 8, 1000])
def test_video_variant(area):
    logits = blobs(c=1)
    assert torch.equal(fill_holes_in_mask_scores(logits, area), official_fill_holes(logits, area))
    with pytest.raises(ValueError, match="positive"):
        fill_holes_in_mask_scores(logits, 0)
