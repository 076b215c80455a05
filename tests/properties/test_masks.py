"""Mask ops on random masks and logits, compared with independent implementations."""

import hypothesis_profiles
import numpy as np
import oracle
import pytest
import scipy.ndimage
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.internal.conjecture import providers
from hypothesis_profiles import examples
from mask_strategies import SEEDS, SIDES, logits, masks
from sam2.modeling.sam2_base import SAM2Base as OfficialBase
from sam2.utils.transforms import SAM2Transforms as OfficialTransforms

from sam2fast.amg import remove_small_regions
from sam2fast.kernels.connected_components import connected_components
from sam2fast.kernels.mask_ops import (
    mask_statistics,
    mask_statistics_reference,
    masks_to_boxes,
    pack_masks,
    suppress_overlaps,
    unpack_masks,
    upsample_and_threshold,
    upsample_and_threshold_reference,
)
from sam2fast.kernels.nms import box_nms, mask_nms
from sam2fast.kernels.run_lengths import decode_masks, encode_masks, encode_upsampled
from sam2fast.transforms import SAM2Transforms

SIZES = st.tuples(SIDES, SIDES) | st.tuples(st.integers(1, 3), st.integers(400, 900))
THRESHOLDS = st.sampled_from([0.0, 0.0, 0.5, -1.0, 1.0, 1e-6, -3e-39, 1e5])
pytestmark = pytest.mark.filterwarnings("ignore:overflow encountered:RuntimeWarning")


@examples(30)
@given(masks())
def test_components_match_scipy(drawn):
    labels, areas = connected_components(torch.from_numpy(drawn)[:, None])
    for mask, label, area in zip(drawn, labels[:, 0].numpy(), areas[:, 0].numpy(), strict=True):
        expected, count = scipy.ndimage.label(mask, structure=oracle.EIGHT_NEIGHBOURS)
        for component in range(1, count + 1):
            pixels = np.flatnonzero(expected == component)
            assert (label.flat[pixels] == pixels[0] + 1).all() and (area.flat[pixels] == len(pixels)).all()
        assert not label[~mask].any() and not area[~mask].any()


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


@examples(25)
@given(masks(), st.booleans())
def test_boxes_and_bits(drawn, turned):
    pixels = torch.from_numpy(drawn.transpose(0, 2, 1)[:, ::-1].copy() if turned else drawn)
    pixels = pixels.transpose(1, 2) if turned else pixels
    for mask, box in zip(pixels.numpy(), masks_to_boxes(pixels).tolist(), strict=True):
        rows, columns = np.nonzero(mask)
        empty = [mask.shape[1], mask.shape[0], -1, -1]
        assert box == ([columns.min(), rows.min(), columns.max(), rows.max()] if len(rows) else empty)
    packed = pack_masks(pixels)
    np.testing.assert_array_equal(packed.numpy(), np.packbits(pixels.numpy(), axis=-1, bitorder="little"))
    assert torch.equal(unpack_masks(packed, pixels.shape[-1]), pixels)


@examples(25)
@given(masks(st.just(1)), st.integers(0, 60), st.sampled_from(["holes", "islands"]))
def test_small_regions(drawn, least, mode):
    mask = drawn[0]
    expected = _without_small_regions(mask, least, mode)
    cleaned, changed = remove_small_regions(mask, least, mode)
    np.testing.assert_array_equal(cleaned, expected)
    assert changed == bool((_region_areas(mask if mode == "islands" else ~mask) < least).any())


def _region_areas(regions: np.ndarray) -> np.ndarray:
    return np.bincount(scipy.ndimage.label(regions, structure=oracle.EIGHT_NEIGHBOURS)[0].ravel())[1:]


def _without_small_regions(mask: np.ndarray, least: int, mode: str) -> np.ndarray:
    labels, _ = scipy.ndimage.label(mask if mode == "islands" else ~mask, structure=oracle.EIGHT_NEIGHBOURS)
    areas = np.bincount(labels.ravel())[1:]
    kept = 1 + np.flatnonzero(areas >= least)
    if mode == "islands" and len(areas) and not len(kept):
        kept = np.array([1 + areas.argmax()])
    return np.isin(labels, kept) if mode == "islands" else ~np.isin(labels, kept)


@st.composite
def boxes_with_scores(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    """Boxes ``(N, 4)`` on a coarse grid, many of them equal, empty or inverted; scores with ties."""
    count = draw(st.integers(0, 90))
    rng = np.random.default_rng(draw(SEEDS))
    grid = draw(st.sampled_from([3, 8, 1000]))
    boxes = rng.integers(0, grid, (count, 4)).astype(np.float32)
    if draw(st.booleans()):
        boxes[:, 2:] = boxes[:, :2] + rng.integers(0, grid, (count, 2))
    scores = rng.integers(0, draw(st.sampled_from([1, 4, 10**6])), count).astype(np.float32)
    scores[rng.random(count) < draw(st.sampled_from([0, 0.1]))] = np.nan
    return boxes, scores


def _kept(scores: np.ndarray, overlap: np.ndarray, threshold: float) -> list[int]:
    """Non-maximum suppression by its definition, on a table of overlaps."""
    kept: list[int] = []
    for i in torch.from_numpy(scores).sort(descending=True, stable=True).indices.tolist():
        if not (overlap[kept, i] > threshold).any():
            kept.append(i)
    return kept


@examples(30)
@given(boxes_with_scores(), st.sampled_from([0.0, 0.25, 0.5, 0.7, 1.0, -1.0]))
def test_suppressed_boxes(drawn, threshold):
    boxes, scores = drawn
    x0, y0, x1, y1 = boxes.T
    width = np.minimum(x1[:, None], x1) - np.maximum(x0[:, None], x0)
    height = np.minimum(y1[:, None], y1) - np.maximum(y0[:, None], y0)
    shared, area = width.clip(0) * height.clip(0), (x1 - x0) * (y1 - y0)
    with np.errstate(all="ignore"):
        overlap = shared / (area[:, None] + area - shared)
    found = box_nms(torch.from_numpy(boxes), torch.from_numpy(scores), threshold)
    assert found.dtype == torch.int64 and found.tolist() == _kept(scores, overlap, np.float32(threshold))


@examples(20)
@given(masks(st.integers(0, 12)), SEEDS, st.sampled_from([0.0, 0.3, 0.5, 0.9, 1.0]))
def test_suppressed_masks(drawn, seed, threshold):
    scores = np.random.default_rng(seed).integers(0, 5, len(drawn)).astype(np.float32)
    flat = drawn.reshape(len(drawn), drawn[0].size if len(drawn) else 0).astype(np.int64)
    shared, area = flat @ flat.T, flat.sum(1)
    with np.errstate(all="ignore"):
        overlap = shared / (area[:, None] + area - shared)
    assert mask_nms(torch.from_numpy(drawn), torch.from_numpy(scores), threshold).tolist() == _kept(
        scores, overlap, threshold
    )


@examples(15)
@given(logits())
def test_overlaps_as_the_original(drawn):
    objects = torch.from_numpy(drawn)[:, None]
    expected = OfficialBase._apply_non_overlapping_constraints(None, objects)
    torch.testing.assert_close(suppress_overlaps(objects), expected, rtol=0, atol=0, equal_nan=True)


@pytest.mark.skipif(hypothesis_profiles.IS_CAMPAIGN, reason="a campaign draws at random")
def test_examples_do_not_depend_on_imports():
    """The profile still disables hypothesis's constants from imported modules."""
    constants = providers._get_local_constants()
    assert constants is hypothesis_profiles.no_constants
