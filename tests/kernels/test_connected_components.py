import numpy as np
import pytest
import scipy.ndimage
import torch
from kernel_checks import by_kernel

from sam2fast.kernels import _launch
from sam2fast.kernels._dispatch import backend
from sam2fast.kernels._launch import Row
from sam2fast.kernels.connected_components import connected_components
from sam2fast.kernels.mask_ops import fill_holes_in_mask_scores, fill_holes_in_mask_scores_reference

EIGHT_NEIGHBOURS = np.ones((3, 3))


def expected_by_scipy(mask):
    """Labels by first pixel and areas, as documented, from scipy's components."""
    labels, areas = np.zeros(mask.shape, np.int32), np.zeros(mask.shape, np.int32)
    for n, image in enumerate(mask[:, 0].numpy()):
        components, count = scipy.ndimage.label(image, structure=EIGHT_NEIGHBOURS)
        flat, first = components.ravel(), np.zeros(count + 1, np.int32)
        first[flat[::-1]] = np.arange(flat.size, 0, -1, dtype=np.int32)  # the last assignment wins
        sizes = np.bincount(flat, minlength=count + 1)
        first[0] = sizes[0] = 0
        labels[n, 0], areas[n, 0] = first[components], sizes[components]
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


def shapes(scale=2):
    """Masks by name, of about 20 x 28 pixels times the scale."""
    rng = np.random.default_rng(0)
    height, width = 20 * scale, 28 * scale
    y, x = np.mgrid[:height, :width]
    named = {
        "empty": np.zeros((5, 7), bool),
        "full": np.ones((6, 9), bool),
        "one pixel": np.ones((1, 1), bool),
        "one row": rng.random((1, width + 1)) < 0.5,
        "one column": rng.random((width + 1, 1)) < 0.5,
        "checkerboard": (x + y) % 2 == 0,
        "falling diagonals": (x - y) % 3 == 0,
        "rising diagonals": (x + y) % 3 == 0,
        "serpentine": ((y % 2 == 0) | (x == np.where(y % 4 == 1, width - 1, 0))),
        "spiral": spiral(height + 1),
        "comb": (y == height - 1) | (x % 2 == 0),
        "comb upside down": (y == 0) | (x % 2 == 0),
    }
    centre = np.maximum(abs(y - height // 2), abs(x - width // 2))
    named["nested rings"] = centre % 2 == 0
    named["nested rings, joined"] = (centre % 2 == 0) | ((x == width // 2) & (y < height // 2))
    named["blobs"] = scipy.ndimage.gaussian_filter(rng.standard_normal((32 * scale, 32 * scale)), scale) > 0
    for density in (0.05, 0.3, 0.41, 0.6, 0.95):
        named[f"random {density}"] = rng.random((18 * scale + 1, 26 * scale + 1)) < density
    return named


SHAPES, SMALL_SHAPES = shapes(), shapes(1)


@pytest.mark.parametrize("mask", SHAPES.values(), ids=SHAPES.keys())
def test_matches_scipy(mask):
    mask = torch.from_numpy(mask)[None, None]
    labels, areas = connected_components(mask)
    assert labels.dtype == areas.dtype == torch.int32
    assert all(map(torch.equal, (labels, areas), expected_by_scipy(mask)))


@pytest.mark.parametrize("shape", [(0, 1, 8, 8), (2, 1, 0, 8), (2, 1, 8, 0)], ids=str)
def test_empty_input(shape):
    labels, areas = connected_components(torch.zeros(shape, dtype=torch.bool))
    assert labels.shape == areas.shape == shape


def test_uint8_and_strided_input(triton_device):
    mask = (torch.rand(2, 1, 20, 30, generator=torch.Generator().manual_seed(1)) < 0.5).transpose(2, 3)
    expected = connected_components(mask.contiguous())
    assert all(map(torch.equal, expected, connected_components(mask)))
    assert all(map(torch.equal, expected, connected_components(mask.to(torch.uint8) * 7)))
    assert all(map(torch.equal, expected, by_triton(mask.to(torch.uint8) * 7, triton_device)))


@pytest.mark.parametrize(
    "mask", [torch.zeros(1, 1, 4, 4), torch.zeros(1, 4, 4, dtype=torch.bool)], ids=["float", "3-d"]
)
def test_other_input_is_refused(mask):
    with pytest.raises(ValueError, match="expected a bool or uint8 mask"):
        connected_components(mask)


@pytest.mark.parametrize(("side", "density"), [(1024, 0.2), (1024, 0.7), (4096, 0.45)])
def test_large(side, density):
    mask = torch.from_numpy(np.random.default_rng(0).random((1, 1, side, side)) < density)
    assert all(map(torch.equal, connected_components(mask), expected_by_scipy(mask)))


def test_many_masks():
    mask = torch.rand(64, 1, 61, 47, generator=torch.Generator().manual_seed(0)) < 0.45
    assert all(map(torch.equal, connected_components(mask), expected_by_scipy(mask)))


def by_triton(mask, device):
    """Labels and areas from the kernel."""
    return [x.cpu() for x in by_kernel(connected_components, mask.to(device))]


LARGE_BLOCKS = ("checkerboard", "spiral", "blobs")


@pytest.mark.parametrize(("name", "block"), [*((n, 32) for n in SHAPES), *((n, 256) for n in LARGE_BLOCKS)])
def test_kernel_matches_the_reference(name, block, triton_device, monkeypatch):
    """A row of a mask is about as long as the small blocks; the large ones hold several. In any order of programs."""
    config = Row("*", "*", "*", {"BLOCK": block}, {"num_warps": 4})
    monkeypatch.setattr(_launch, "custom_rows", lambda: {"connected_components": [config]})
    mask = torch.from_numpy((SMALL_SHAPES if block == 32 else SHAPES)[name])[None, None]
    assert all(map(torch.equal, connected_components(mask), by_triton(mask, triton_device)))


@pytest.mark.parametrize(("max_area", "is_filled"), [(3, False), (4, True), (5, True)])
@torch.no_grad()
def test_a_hole_of_the_largest_area_is_filled(triton_device, max_area, is_filled):
    logits = torch.ones(1, 1, 5, 6, device=triton_device)
    logits[..., 1:3, 2:4] = -1
    with backend("triton"):
        found = fill_holes_in_mask_scores(logits, max_area)
    assert torch.equal(found, fill_holes_in_mask_scores_reference(logits, max_area))
    assert torch.equal(found > 0, logits > 0) != is_filled
