"""Masks of several objects that do not overlap."""

import oracle  # noqa: F401  (makes the official package importable)
import pytest
import torch
from parity import random_map
from sam2.modeling.sam2_base import SAM2Base as OfficialBase

from sam2fast.kernels._dispatch import backend, launches
from sam2fast.kernels.mask_ops import suppress_overlaps, suppress_overlaps_reference

# Every three of these values, in every order.
VALUES = torch.tensor([torch.nan, torch.inf, 7.0, 0.0, -0.0, -10.0, -12.0, -torch.inf])
HOSTILE = torch.cartesian_prod(VALUES, VALUES, VALUES).T.reshape(3, 1, 8, 64)
NAMES = pytest.mark.parametrize("name", ["torch", "triton"])


def official(logits):
    return OfficialBase._apply_non_overlapping_constraints(None, logits)


def same(expected, actual):
    torch.testing.assert_close(actual.cpu(), expected, rtol=0, atol=0, equal_nan=True)


@NAMES
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("shape", [(2, 1, 16, 16), (5, 1, 7, 33), (16, 1, 1, 1), (3, 1, 40, 41), (2, 1, 0, 4)], ids=str)
def test_equals_the_official_one(name, dtype, shape, triton_device):
    logits = (random_map(*shape) * 12).to(dtype)
    before = launches["suppress_overlaps"]
    with backend(name):
        same(official(logits), suppress_overlaps(logits.to(triton_device)))
    assert launches["suppress_overlaps"] - before == (name == "triton" and logits.numel() > 0)


@NAMES
def test_ties_and_values_that_are_not_finite(name, triton_device):
    """The first of equals keeps its pixel, and so does the first NaN."""
    with backend(name):
        same(official(HOSTILE), suppress_overlaps(HOSTILE.to(triton_device)))


@torch.no_grad()
def test_on_the_cpu_without_gradients():
    """A separate implementation compares object maps one after the other."""
    for case in (HOSTILE, (random_map(6, 1, 10, 12) * 12)[::2, :, ::3].mT, (random_map(16, 1, 9, 7) * 12).bfloat16()):
        with backend("torch"):
            same(suppress_overlaps_reference(case), suppress_overlaps(case))


@NAMES
def test_fewer_than_two_objects(name):
    for logits in (random_map(1, 1, 4, 5), random_map(0, 1, 4, 5)):
        with backend(name):
            assert suppress_overlaps(logits) is logits


@NAMES
def test_gradient(name, triton_device):
    results = []
    for function, used, device in ((official, "torch", "cpu"), (suppress_overlaps, name, triton_device)):
        leaf = (random_map(4, 1, 9, 10) * 12).to(device).requires_grad_()
        with backend(used):
            out = function(leaf)
            out.backward(random_map(4, 1, 9, 10, seed=1).to(device))
        results.append((out.detach().cpu(), leaf.grad.cpu()))
    for expected, actual in zip(*results, strict=True):
        same(expected, actual)


def test_refused_input(triton_device):
    for wrong in (random_map(2, 4, 5), random_map(2, 2, 4, 5), random_map(2, 1, 4, 5) > 0):
        with pytest.raises(ValueError, match=r"floating logits \(N, 1, H, W\)"):
            suppress_overlaps(wrong)
    with backend("triton"), pytest.raises(RuntimeError, match=r"does not support torch\.float64"):
        suppress_overlaps(random_map(2, 1, 4, 5).double().to(triton_device))
