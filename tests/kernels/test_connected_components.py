import numpy as np
import pytest
import scipy.ndimage
import torch

from sam2fast.kernels.connected_components import connected_components

EIGHT_NEIGHBOURS = np.ones((3, 3))


def expected_by_scipy(mask):
    """Labels by first pixel and areas, as our contract has them, from scipy's components."""
    labels, areas = np.zeros(mask.shape, np.int32), np.zeros(mask.shape, np.int32)
    for n, image in enumerate(mask[:, 0].numpy()):
        components, count = scipy.ndimage.label(image, structure=EIGHT_NEIGHBOURS)
        for c in range(1, count + 1):
            inside = components == c
            labels[n, 0][inside] = np.flatnonzero(inside)[0] + 1
            areas[n, 0][inside] = inside.sum()
    return torch.from_numpy(labels), torch.from_numpy(areas)


def spiral(size):
    mask = np.zeros((size, size), bool)
    top, left, bottom, right = 0, 0, size - 1, size - 1
    while top <= bottom and left <= right:
        mask[top, max(left - 2, 0) : right + 1] = True
        mask[top : bottom + 1, right] = True
        mask[bottom, left : right + 1] = True
        mask[top + 2 : bottom + 1, left] = True
        top, left, bottom, right = top + 2, left + 2, bottom - 2, right - 2
    return mask


def shapes():
    rng = np.random.default_rng(0)
    y, x = np.mgrid[0:40, 0:56]
    named = {
        "empty": np.zeros((5, 7), bool),
        "full": np.ones((6, 9), bool),
        "one pixel": np.ones((1, 1), bool),
        "one row": rng.random((1, 57)) < 0.5,
        "one column": rng.random((57, 1)) < 0.5,
        "checkerboard": (x + y) % 2 == 0,
        "falling diagonals": (x - y) % 3 == 0,
        "rising diagonals": (x + y) % 3 == 0,
        "serpentine": ((y % 2 == 0) | (x == np.where(y % 4 == 1, 55, 0))),
        "spiral": spiral(41),
        "comb": (y == 39) | (x % 2 == 0),
        "comb upside down": (y == 0) | (x % 2 == 0),
    }
    for density in (0.05, 0.3, 0.41, 0.6, 0.95):
        named[f"random {density}"] = rng.random((37, 53)) < density
    return named


@pytest.mark.parametrize("mask", shapes().values(), ids=shapes().keys())
def test_matches_scipy(mask):
    mask = torch.from_numpy(mask)[None, None]
    labels, areas = connected_components(mask)
    assert labels.dtype == areas.dtype == torch.int32
    assert all(map(torch.equal, (labels, areas), expected_by_scipy(mask)))


def test_masks_of_a_batch_do_not_mix():
    mask = torch.rand(5, 1, 23, 31, generator=torch.Generator().manual_seed(0)) < 0.5
    mask[2] = True
    assert all(map(torch.equal, connected_components(mask), expected_by_scipy(mask)))


@pytest.mark.parametrize("shape", [(0, 1, 8, 8), (2, 1, 0, 8), (2, 1, 8, 0)], ids=str)
def test_nothing(shape):
    labels, areas = connected_components(torch.zeros(shape, dtype=torch.bool))
    assert labels.shape == areas.shape == shape


def test_uint8_and_strided_input():
    mask = (torch.rand(2, 1, 20, 30, generator=torch.Generator().manual_seed(1)) < 0.5).transpose(2, 3)
    expected = connected_components(mask.contiguous())
    assert all(map(torch.equal, expected, connected_components(mask)))
    assert all(map(torch.equal, expected, connected_components(mask.to(torch.uint8) * 7)))


@pytest.mark.parametrize(
    "mask", [torch.zeros(1, 1, 4, 4), torch.zeros(1, 4, 4, dtype=torch.bool)], ids=["float", "3-d"]
)
def test_other_input_is_refused(mask):
    with pytest.raises(ValueError, match="expected a bool or uint8 mask"):
        connected_components(mask)
