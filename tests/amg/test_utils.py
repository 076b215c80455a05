"""``sam2fast.amg`` against ``sam2.utils.amg``, live, and on empty inputs, where the official package fails."""

import copy
import sys
import types
from typing import Any

import numpy as np
import oracle  # noqa: F401  (makes the official package importable)
import pytest
import sam2.utils.amg as official
import scipy.ndimage
import torch

from sam2fast import amg

RNG_SEED = 0


def blobs(count: int, height: int, width: int, seed: int = RNG_SEED) -> torch.Tensor:
    """Bool masks with holes and islands of all sizes; the first is empty, the second full."""
    rng = np.random.default_rng(seed)
    masks = []
    for _ in range(count):
        noise = scipy.ndimage.gaussian_filter(rng.normal(size=(height, width)), rng.uniform(0.5, 3))
        masks.append(noise > np.quantile(noise, rng.uniform(0.1, 0.9)))
    masks[0][:], masks[1][:] = False, True
    return torch.from_numpy(np.stack(masks))


def same(expected: Any, actual: Any) -> None:
    if isinstance(expected, list | tuple):
        assert type(expected) is type(actual) and len(expected) == len(actual)
        for pair in zip(expected, actual, strict=True):
            same(*pair)
    elif isinstance(expected, torch.Tensor | np.ndarray):
        assert type(expected) is type(actual)
        assert expected.dtype == actual.dtype
        assert expected.shape == actual.shape
        np.testing.assert_array_equal(np.asarray(expected), np.asarray(actual))
    else:
        assert expected == actual and type(expected) is type(actual)


def columns() -> dict[str, Any]:
    return {"a": torch.arange(10).view(5, 2), "b": np.arange(5) * 0.5, "c": [{"i": i} for i in range(5)]}


def same_data(expected: Any, actual: Any) -> None:
    assert dict(expected.items()).keys() == dict(actual.items()).keys()
    for name, column in expected.items():
        same(column, actual[name])


@pytest.mark.parametrize(
    "keep",
    [
        torch.tensor([3, 0, 0]),
        torch.tensor([True, False, True, True, False]),
        torch.zeros(5, dtype=torch.bool),
        torch.zeros(0, dtype=torch.int64),
    ],
    ids=["indices", "bool", "none", "no indices"],
)
def test_mask_data_filter(keep):
    expected, actual = official.MaskData(**columns()), amg.MaskData(**columns())
    for data in (expected, actual):
        data.filter(keep)
    same_data(expected, actual)


def test_mask_data_cat_copies():
    results = []
    for kind in (official.MaskData, amg.MaskData):
        data, other = kind(), kind(**columns())
        data.cat(other)
        other["a"][:] = -1
        other["c"][0]["i"] = -1
        data.cat(kind(**columns()))
        data.to_numpy()
        results.append(data)
    same_data(*results)
    assert results[1]["a"].dtype == np.float32
    assert results[1]["c"][0] == {"i": 0}


def test_mask_data_items():
    data = amg.MaskData(a=[1])
    data["b"] = torch.ones(1)
    del data["a"]
    assert [name for name, _ in data.items()] == ["b"]
    with pytest.raises(KeyError):
        data["a"]
    for wrong in (None, 3, "text", (1, 2)):
        with pytest.raises(TypeError, match="b is a"):
            data["b"] = wrong
    with pytest.raises(TypeError, match="c is a"):
        amg.MaskData(c=5)


def masks_with_a_corner() -> torch.Tensor:
    masks = blobs(8, 23, 31)
    masks[2] = False
    masks[2, 22, 30] = True
    return masks


def ties() -> np.ndarray:
    """Islands of 2, 3, 3 and 1 pixels."""
    mask = np.zeros((7, 9), dtype=bool)
    mask[0, :2] = mask[2, :3] = mask[4, 5:8] = mask[6, 0] = True
    return mask


def boxes_of_all_places() -> torch.Tensor:
    corners = np.random.default_rng(RNG_SEED).integers(0, 170, size=(400, 2, 2)).astype(np.float32)
    return torch.from_numpy(np.concatenate([corners.min(1), corners.max(1)], axis=1))


def logits_of_all_levels() -> torch.Tensor:
    values = 3 * torch.randn(6, 20, 30, generator=torch.Generator().manual_seed(RNG_SEED))
    values += torch.arange(6)[:, None, None] * 2 - 5
    values[0] = -100  # nothing above either level
    return values


CROP, IMAGE = [7, 30, 50, 60], [0, 0, 300, 200]
SHAPES, KINDS = ((0,), (5,), (5, 3)), (torch.int64, torch.float32)
RUN_LENGTHS = official.mask_to_rle_pytorch(blobs(7, 23, 31))
# Arguments of each function for which it returns what the official package returns.
CALLS: dict[str, list[tuple[Any, ...]]] = {
    "build_point_grid": [(1,), (2,), (7,), (32,)],
    "build_all_layer_point_grids": [(32, 0, 1), (32, 2, 2), (10, 1, 3), (9, 2, 1.5)],
    "generate_crop_boxes": [
        (size, layers, overlap)
        for size in ((1200, 1800), (37, 91), (600, 600), (5, 3), (1, 1))
        for layers in (0, 1, 3)
        for overlap in (0.0, 512 / 1500, 0.9)
    ],
    "batch_iterator": [(3, list(range(n)), torch.arange(n), np.arange(n)) for n in (0, 1, 6, 7)],
    "box_xyxy_to_xywh": [([3, 4, 10, 20],), (np.array([3.5, 4, 10, 20]),), (torch.tensor([3, 4, 10, 20]),)],
    "uncrop_boxes_xyxy": [(torch.ones(*shape, 4, dtype=kind), CROP) for shape in SHAPES for kind in KINDS],
    "uncrop_points": [(torch.ones(*shape, 2, dtype=kind), CROP) for shape in SHAPES for kind in KINDS],
    "uncrop_masks": [
        (blobs(3, y1 - y0, x1 - x0), [x0, y0, x1, y1], 30, 40)
        for x0, y0, x1, y1 in ((0, 0, 40, 30), (5, 0, 25, 30), (0, 3, 40, 30), (11, 7, 12, 8))
    ],
    "batched_mask_to_box": [
        (masks_with_a_corner(),),
        (blobs(8, 23, 31)[3],),
        (masks_with_a_corner().view(2, 4, 23, 31),),
    ],
    "is_box_near_crop_edge": [
        (boxes, crop, IMAGE, *tolerance)
        for boxes in (boxes_of_all_places(), boxes_of_all_places().long())
        for crop in (IMAGE, [0, 0, 170, 120], [130, 80, 300, 200], [40, 50, 260, 160])
        for tolerance in ((), (3.0,))
    ],
    "calculate_stability_score": [
        (logits_of_all_levels(), threshold, offset) for threshold, offset in ((0.0, 1.0), (0.5, 0.0), (-2.0, 3.0))
    ],
    "remove_small_regions": [
        (mask, threshold, mode)
        for mask in (*blobs(12, 33, 47).numpy(), *blobs(6, 33, 47, seed=1).numpy(), ties())
        for threshold in (0, 1, 3, 8.5, 40, 10_000)
        for mode in ("holes", "islands")
    ],
    "mask_to_rle_pytorch": [(blobs(7, *size),) for size in ((23, 31), (1, 1), (1, 9), (9, 1), (64, 64))],
    **{name: [(rle,) for rle in RUN_LENGTHS] for name in ("rle_to_mask", "area_from_rle", "coco_encode_rle")},
}


@pytest.fixture
def cv2(monkeypatch) -> None:
    """OpenCV's function that the official package uses, by scipy."""

    def connected_components_with_stats(
        mask: np.ndarray, connectivity: int
    ) -> tuple[int, np.ndarray, np.ndarray, None]:
        assert connectivity == 8
        labels, count = scipy.ndimage.label(mask, structure=np.ones((3, 3)))
        stats = np.bincount(labels.ravel(), minlength=count + 1)[:, None]
        return count + 1, labels, stats, None

    module: Any = types.ModuleType("cv2")
    module.connectedComponentsWithStats = connected_components_with_stats
    monkeypatch.setitem(sys.modules, "cv2", module)


@pytest.mark.usefixtures("cv2")
@pytest.mark.parametrize("name", CALLS)
def test_as_the_original(name):
    """The arguments stay as they were."""
    for arguments in CALLS[name]:
        expected, given = getattr(official, name)(*copy.deepcopy(arguments)), copy.deepcopy(arguments)
        actual = getattr(amg, name)(*given)
        same(arguments, given)
        same(list(expected), list(actual)) if name == "batch_iterator" else same(expected, actual)


def test_empty_inputs():
    """Also those for which the official package fails."""
    for shape in ((0, 5, 4), (3, 0, 4), (3, 5, 0)):
        boxes = amg.batched_mask_to_box(torch.zeros(shape, dtype=torch.bool))
        np.testing.assert_array_equal(official.batched_mask_to_box(torch.zeros(shape, dtype=torch.bool)), boxes)
        assert boxes.dtype == torch.int64
    assert amg.is_box_near_crop_edge(torch.zeros(0, 4), IMAGE, IMAGE).shape == (0,)
    assert amg.calculate_stability_score(torch.zeros(0, 20, 30), 0.0, 1.0).shape == (0,)
    mask, changed = amg.remove_small_regions(np.zeros((0, 4), dtype=bool), 3, "holes")
    assert mask.shape == (0, 4) and not changed


def test_wrong_arguments():
    with pytest.raises(ValueError, match="n_per_side must be at least 1"):
        amg.build_all_layer_point_grids(2, 2, 2)
    for args in ([], [[1, 2], [1]]):
        with pytest.raises(ValueError, match="equal length"):
            list(amg.batch_iterator(3, *args))
    with pytest.raises(ValueError, match="mode must be"):
        amg.remove_small_regions(ties(), 3, "hole")
