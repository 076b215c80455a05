"""The tracker's operations in numpy equal those in torch."""

import numpy as np
import pytest
import torch

from sam2fast.deploy.onnx.runtime import arrays
from sam2fast.kernels import mask_ops
from sam2fast.utils.testing import relative_error


@pytest.mark.parametrize("size", [(7, 5), (40, 61), (12, 90), (23, 31)])
@pytest.mark.parametrize("antialias", [False, True])
def test_resize(size, antialias):
    x = np.random.default_rng(0).standard_normal((2, 1, 23, 31)).astype(np.float32)
    options = {"mode": "bilinear", "align_corners": False, "antialias": antialias}
    expected = torch.nn.functional.interpolate(torch.from_numpy(x), size, **options)
    assert relative_error(expected, arrays.resize(x, size, antialias)) < 1e-5


@pytest.mark.parametrize("share", [0.2, 0.45, 0.6, 1.0])
def test_small_components(share):
    logits = np.random.default_rng(0).standard_normal((3, 1, 40, 50)).astype(np.float32) + 1 - 2 * share
    expected = mask_ops.fill_holes_in_mask_scores(torch.from_numpy(logits), 6)
    assert np.array_equal(expected.numpy(), arrays.fill_holes(logits, 6))
    both = mask_ops.fill_holes_and_remove_sprinkles(torch.from_numpy(logits), 0.1, 3, 5)
    assert np.array_equal(both.numpy(), arrays.without_holes_and_sprinkles(logits, 0.1, 3, 5))


def test_overlaps():
    logits = np.random.default_rng(0).standard_normal((3, 1, 9, 8)).astype(np.float32).round(1) * 20
    expected = mask_ops.suppress_overlaps(torch.from_numpy(logits))
    assert np.array_equal(expected.numpy(), arrays.suppress_overlaps(logits))
