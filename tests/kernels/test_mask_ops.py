import oracle  # noqa: F401  (makes the official package importable)
import pytest
import torch
import torch.nn.functional as F
from parity import random_map
from sam2.utils.misc import fill_holes_in_mask_scores as official_fill_holes
from sam2.utils.misc import mask_to_box
from sam2.utils.transforms import SAM2Transforms as OfficialTransforms

from sam2fast.kernels._dispatch import backend, launches
from sam2fast.kernels.mask_ops import (
    fill_holes_and_remove_sprinkles,
    fill_holes_in_mask_scores,
    masks_to_boxes,
    upsample_masks,
)
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


def test_components_really_change():
    logits = blobs()
    filled = fill_holes_and_remove_sprinkles(logits, max_hole_area=8)
    assert ((filled > 0) & (logits <= 0)).any() and not ((filled <= 0) & (logits > 0)).any()
    removed = fill_holes_and_remove_sprinkles(logits, max_sprinkle_area=8)
    assert ((removed <= 0) & (logits > 0)).any() and not ((removed > 0) & (logits <= 0)).any()


def test_a_filled_hole_does_not_enlarge_the_sprinkle_around_it():
    logits = torch.full((1, 1, 9, 9), -3.0)
    logits[..., 3:6, 3:6] = 3.0
    logits[..., 4, 4] = -3.0
    out = fill_holes_and_remove_sprinkles(logits, max_hole_area=1, max_sprinkle_area=8)
    assert out[0, 0, 4, 4] == 10.0 and (out[0, 0, 3, 3:6] == -10.0).all()


def test_nothing_to_do_is_free():
    logits = blobs()
    assert fill_holes_and_remove_sprinkles(logits) is logits


def test_upsampling():
    logits = blobs()
    expected = F.interpolate(logits, (100, 77), mode="bilinear", align_corners=False)
    assert torch.equal(upsample_masks(logits, (100, 77)), expected)


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


def flood(mask, y, x, seen):
    """The 8-connected component of a set pixel, by walking."""
    component, waiting = [], [(y, x)]
    seen[y][x] = True
    while waiting:
        y, x = waiting.pop()
        component.append((y, x))
        for v in range(max(y - 1, 0), min(y + 2, len(mask))):
            for u in range(max(x - 1, 0), min(x + 2, len(mask[0]))):
                if mask[v][u] and not seen[v][u]:
                    seen[v][u] = True
                    waiting.append((v, u))
    return component


def slowly(logits, threshold, max_hole, max_sprinkle):
    """Holes and sprinkles one pixel at a time."""
    out = logits.clone()
    for image, result in zip(logits.flatten(0, 1), out.flatten(0, 1), strict=True):
        for of_holes, limit in ((True, max_hole), (False, max_sprinkle)):
            mask = (image <= threshold).tolist() if of_holes else (image > threshold).tolist()
            seen = [[False] * len(row) for row in mask]
            for y, row in enumerate(mask):
                for x, is_set in enumerate(row):
                    if is_set and not seen[y][x]:
                        component = flood(mask, y, x, seen)
                        if len(component) <= limit:
                            for v, u in component:
                                result[v, u] = threshold + (10.0 if of_holes else -10.0)
    return out


@pytest.mark.parametrize("size", [(20, 31), (1, 40), (33, 2)], ids=str)
@pytest.mark.parametrize(("threshold", "hole", "sprinkle"), [(0.0, 5, 0), (0.0, 0, 5), (0.3, 4, 9)])
@pytest.mark.parametrize("name", ["torch", "triton"])
def test_equals_an_independent_slow_implementation(size, threshold, hole, sprinkle, name, triton_device):
    logits = random_map(2, 2, *size)
    before = launches["connected_components"]
    with backend(name):
        out = fill_holes_and_remove_sprinkles(logits.to(triton_device), threshold, hole, sprinkle).cpu()
    assert torch.equal(out, slowly(logits, threshold, hole, sprinkle))
    assert launches["connected_components"] - before == (name == "triton") * ((hole > 0) + (sprinkle > 0))


@pytest.mark.parametrize("area", [1, 8, 1000])
def test_video_variant(area):
    logits = blobs(c=1)
    assert torch.equal(fill_holes_in_mask_scores(logits, area), official_fill_holes(logits, area))
    with pytest.raises(ValueError, match="positive"):
        fill_holes_in_mask_scores(logits, 0)
