"""Mask ops on random masks and logits, compared with independent implementations."""

import oracle  # noqa: F401  (makes the official package importable)
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis_profiles import examples
from mask_strategies import SIDES, logits
from sam2.utils.transforms import SAM2Transforms as OfficialTransforms

from sam2fast.kernels.mask_ops import (
    mask_statistics,
    mask_statistics_reference,
    upsample_and_threshold,
    upsample_and_threshold_reference,
)
from sam2fast.kernels.run_lengths import decode_masks, encode_masks, encode_upsampled
from sam2fast.transforms import SAM2Transforms

SIZES = st.tuples(SIDES, SIDES) | st.tuples(st.integers(1, 3), st.integers(400, 900))
THRESHOLDS = st.sampled_from([0.0, 0.0, 0.5, -1.0, 1.0, 1e-6, -3e-39, 1e5])
pytestmark = pytest.mark.filterwarnings("ignore:overflow encountered:RuntimeWarning")


@examples(25)
@given(logits(), THRESHOLDS, st.sampled_from([0, 1, 2.5, 8, 1e9]), st.sampled_from([0, 1, 2.5, 8, 1e9]), SIZES)
def test_holes_and_sprinkles_as_the_original(drawn, threshold, hole, sprinkle, size):
    low_res = torch.from_numpy(drawn)[None]
    before = low_res.clone()
    expected, actual = (
        of(64, threshold, hole, sprinkle).postprocess_masks(low_res, size)
        for of in (OfficialTransforms, SAM2Transforms)
    )
    torch.testing.assert_close(actual, expected, rtol=0, atol=0, equal_nan=True)
    torch.testing.assert_close(low_res, before, rtol=0, atol=0, equal_nan=True)


@examples(50)
@given(logits(), SIZES, THRESHOLDS, st.sampled_from([1.0, 0.0, 1e-3, 20.0]))
def test_upsampled_masks_match_torch(drawn, size, threshold, offset):
    """All fast paths give the same pixels, areas, boxes and run lengths as separate masks."""
    low_res = torch.from_numpy(drawn)
    expected = upsample_and_threshold_reference(low_res, size, threshold)
    assert torch.equal(upsample_and_threshold(low_res, size, threshold), expected)
    counted, slowly = (f(low_res, size, threshold, offset) for f in (mask_statistics, mask_statistics_reference))
    for name, ours, references in zip(counted._fields, counted, slowly, strict=True):
        assert torch.equal(ours, references), name
    canvas = (size[0] + 3, size[1] + 2)
    runs = encode_upsampled(low_res, size, threshold, (1, 2), canvas)
    placed = torch.nn.functional.pad(expected, (2, 0, 1, 2))
    assert all(map(torch.equal, runs[:2], encode_masks(placed)[:2]))
    assert torch.equal(decode_masks(runs), placed)
    assert torch.equal(decode_masks(encode_upsampled(low_res, size, threshold)), expected)
