"""Run lengths and polygons: damaged input is refused, or read as by pycocotools."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, example, given
from hypothesis import strategies as st
from hypothesis_profiles import examples
from junk import SCALARS, anything
from pycocotools import mask as coco

from sam2fast.amg import rle_to_mask
from sam2fast.io.rle import decode_rle, encode_rle, rasterise_polygons, read_run_lengths

# of pycocotools
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
SIDES = st.one_of(st.integers(1, 24), st.sampled_from([1, 2, 31, 32, 33, 64, 200]))


@st.composite
def masks(draw: st.DrawFn, count: st.SearchStrategy[int] | None = None) -> np.ndarray:
    """Bool ``(N, H, W)`` of one size: noise of any density, blobs, stripes, empty and full ones."""
    shape = draw(count if count is not None else st.integers(1, 4)), draw(SIDES), draw(SIDES)
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    density = draw(st.sampled_from([0.0, 0.02, 0.3, 0.5, 0.7, 0.98, 1.0]))
    grain = draw(st.sampled_from([1, 1, 2, 5]))
    coarse = rng.random((shape[0], -(-shape[1] // grain), -(-shape[2] // grain))) < density
    return np.asarray(coarse.repeat(grain, 1).repeat(grain, 2)[:, : shape[1], : shape[2]])


@examples(40)
@given(masks(st.just(1)), st.data())
def test_damaged_counts(drawn, data):
    """Damaged input is either decoded as by pycocotools, or refused."""
    rle = encode_rle(drawn[0])
    counts = list(rle["counts"])
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, len(counts)))
        counts[place : place + data.draw(st.integers(0, 2))] = data.draw(
            st.text(st.characters(min_codepoint=46, max_codepoint=114) | st.characters(), max_size=3)
        )
    damaged = {"size": rle["size"], "counts": "".join(counts)}
    try:
        mask = decode_rle(damaged)
    except ValueError as error:
        assert "counts" in str(error) or "run lengths" in str(error)
        with pytest.raises(ValueError):
            read_run_lengths([damaged])
    else:
        assert mask.dtype == bool and list(mask.shape) == rle["size"]
        np.testing.assert_array_equal(rle_to_mask(damaged), mask)
        np.testing.assert_array_equal(coco.decode(damaged), mask)


SIZE_LIKE = st.lists(st.integers(-2, 2**40) | st.integers(0, 6) | st.floats(), max_size=3) | anything()
COUNTS_LIKE = st.lists(st.integers(0, 9) | st.integers() | st.floats() | SCALARS, max_size=4) | anything()


@examples(60)
@example({})
@example({"size": [2], "counts": [2]})
@example({"size": [-2, -2], "counts": [4]})
@example({"size": [np.inf, 2], "counts": [4]})
@example({"size": [2, 2], "counts": None})
@example({"size": [2, 2], "counts": [None]})
@example({"size": [2, 2], "counts": [2**70]})
@example({"size": [2, 2], "counts": [[1], [3]]})
@example({"size": [2, 2], "counts": [1.5, 2.5]})
@example({"size": [2, 2], "counts": "\ud800"})
@example({"size": torch.empty(2, 0)})
@given(st.fixed_dictionaries({}, optional={"size": SIZE_LIKE | st.just([2, 3]), "counts": COUNTS_LIKE}) | anything())
def test_other_types_than_run_lengths(rle):
    """Any input gives a mask or a ``ValueError``, in little memory."""
    for read in (rle_to_mask, decode_rle):
        # Large masks of a few long runs are valid, but too slow here.
        assume(not isinstance(rle, dict) or _is_small(rle.get("size")))
        try:
            mask = read(rle)
        except ValueError:
            continue
        assert mask.dtype == bool and mask.shape == tuple(rle["size"])


def test_more_pixels_than_run_lengths_count():
    for read in (decode_rle, lambda rle: read_run_lengths([rle])):
        with pytest.raises(ValueError, match="has more than 2147483647 pixels"):
            read({"size": [2**16, 2**16], "counts": "0"})


def _is_small(size: Any) -> bool:
    try:
        height, width = size
        return not 10**6 < height * width < 2**31
    except (TypeError, ValueError, RuntimeError):  # RuntimeError: of tensors
        return True


CORNER = st.integers(-40, 80) | st.floats(-40, 80) | st.sampled_from([0, 0.5, 39.5, 40, 40.0, -0.0])


@examples(15)
@given(
    st.lists(st.lists(st.tuples(CORNER, CORNER), min_size=3, max_size=7), min_size=1, max_size=3),
    st.tuples(st.integers(40, 43), st.integers(40, 43)),
)
def test_polygons(polygons, size):
    """Several polygons give their union; pixels well inside a triangle are set, and all lie within one of its box."""
    flat = [[float(v) for corner in polygon for v in corner] for polygon in polygons]
    alone = [decode_rle(rasterise_polygons([polygon], size)) for polygon in flat]
    np.testing.assert_array_equal(decode_rle(rasterise_polygons(flat, size)), np.any(alone, axis=0))
    for polygon, mask in zip(flat, alone, strict=True):
        rows, columns = np.nonzero(mask)
        x, y = polygon[::2], polygon[1::2]
        assert mask.shape == size
        assert all(min(x) - 1.5 <= column <= max(x) + 1.5 for column in columns)
        assert all(min(y) - 1.5 <= row <= max(y) + 1.5 for row in rows)
        inside = _well_inside(np.array(polygon[:6]).reshape(3, 2), size) if len(polygon) == 6 else np.zeros(size, bool)
        assert mask[inside].all()


def _well_inside(corners: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Pixels of a triangle at least two pixels from each side."""
    y, x = np.mgrid[: size[0], : size[1]]
    distances = []
    for (ax, ay), (bx, by) in zip(corners, np.roll(corners, -1, axis=0), strict=True):
        length = np.hypot(bx - ax, by - ay)
        distances.append(((bx - ax) * (y + 0.5 - ay) - (by - ay) * (x + 0.5 - ax)) / max(length, 1e-9))
    return (np.min(distances, axis=0) > 2) | (np.max(distances, axis=0) < -2)


@examples(30)
@example(5)
@example(np.zeros(0))
@given(st.lists(st.lists(CORNER | SCALARS, max_size=8), max_size=3) | anything())
def test_other_types_than_polygons(polygons):
    try:
        rle = rasterise_polygons(polygons, (40, 40))
    except ValueError as error:
        assert "polygon" in str(error)
    else:
        assert decode_rle(rle).shape == (40, 40)
