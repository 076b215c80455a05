"""Boundaries and dilation in words against references in pixels."""

import math

import numpy as np
import plain_evaluator as plain
import pytest
from scipy import ndimage

from sam2fast.evaluation import bits as words
from sam2fast.evaluation.bits import WORD, Bits, blank, boundary, count, dilated
from sam2fast.evaluation.j_and_f import boundary_f

SHAPES = [(1, 1), (1, 200), (200, 1), (9, 63), (9, 64), (9, 65), (30, 127), (31, 128), (70, 150)]


def random_mask(shape: tuple[int, int], share: float, seed: int = 0) -> np.ndarray:
    return np.random.default_rng([*shape, seed]).random(shape) < share


def pack(masks: np.ndarray) -> Bits:
    room = blank(masks.shape)
    room[..., : masks.shape[-1]] = masks
    return words.pack(room)


def unpack(bits: np.ndarray, width: int) -> np.ndarray:
    return np.unpackbits(bits.view(np.uint8), axis=-1, bitorder="little")[..., :width].astype(bool)


@pytest.mark.parametrize("shape", SHAPES)
def test_packing_and_counting(shape):
    mask = random_mask(shape, 0.5)
    bits = pack(mask)
    assert bits.shape == (shape[0], -(-shape[1] // WORD) + 1) and bits.dtype == np.uint64
    assert np.array_equal(unpack(bits, shape[1]), mask) and count(bits) == mask.sum()
    assert np.array_equal(pack(np.stack([mask, ~mask]))[1], pack(~mask))


@pytest.mark.parametrize("shape", SHAPES)
def test_outlines(shape):
    for share in (0.02, 0.5, 0.98):
        mask = random_mask(shape, share)
        bits = boundary(pack(mask), shape[1])
        assert np.array_equal(unpack(bits, shape[1]), plain.outline(mask)), share
        assert count(bits) == plain.outline(mask).sum(), "nothing is set beyond the row's end"


def test_outlines_of_a_part():
    """A crop of words and rows around the mask."""
    mask = np.zeros((40, 300), dtype=bool)
    mask[10:20, 64:192] = random_mask((10, 128), 0.5)
    part = pack(mask)[9:21, :4]  # a row more above and below, a word more on each side
    whole = boundary(pack(mask), 300)
    assert np.array_equal(boundary(part, 300), whole[9:21, :4]) and count(whole[9:21, :4]) == count(whole)
    # At the image's right edge there is no neighbour.
    assert np.array_equal(boundary(part, 192), boundary(pack(mask[:, :192]), 192)[9:21])


@pytest.mark.parametrize("shape", SHAPES)
def test_dilation(shape):
    mask = random_mask(shape, 0.01) | random_mask(shape, 1.5 / math.prod(shape), 1)
    nearest = ndimage.distance_transform_edt(~mask) if mask.any() else np.full(shape, np.inf)
    for radius in (0, 1, 2, 3, 8, 19, 40, 100, 250):
        assert np.array_equal(unpack(dilated(pack(mask), radius), shape[1]), nearest <= radius), radius
        assert not dilated(pack(np.zeros(shape, dtype=bool)), radius).any()


def test_counting_with_older_numpy(monkeypatch):
    bits = pack(random_mask((30, 127), 0.3))
    expected = count(bits)
    monkeypatch.delattr(np, "bitwise_count", raising=False)
    assert count(bits) == expected > 1000


@pytest.mark.parametrize("shape", [(60, 64), (60, 65), (45, 128), (45, 191), (100, 320)])
def test_f_of_small_objects_anywhere(shape):
    """The position of a mask in the words does not matter."""
    rng = np.random.default_rng([*shape])
    values = set()
    for noise in np.linspace(0, 0.001, 40).round(3):
        truth, pred = np.zeros((2, *shape), dtype=bool)
        top, left = rng.integers(0, shape[0] - 3), rng.integers(0, shape[1] - 3)
        truth[top : top + rng.integers(1, 30), left : left + rng.integers(1, 90)] = True
        down, right = rng.integers(0, 7, 2)
        pred[down:, right:] = truth[: shape[0] - down, : shape[1] - right]
        pred ^= rng.random(shape) < noise
        values.add(float(boundary_f(pred, truth)))
        assert boundary_f(pred, truth) == pytest.approx(plain.f_of(pred, truth), abs=1e-12)
    assert len(values) > 10
