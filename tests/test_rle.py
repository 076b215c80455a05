import numpy as np
import pytest
from pycocotools import mask as coco

from sam2fast.rle import decode_rle, encode_rle


def disc(height: int, width: int) -> np.ndarray:
    y, x = np.ogrid[:height, :width]
    return np.hypot(x - width / 2, y - height / 2) < min(height, width) / 3


def random_masks() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    shapes = rng.integers(1, 40, size=(200, 2))
    return [rng.random((h, w)) < rng.random() for h, w in shapes]


MASKS = {
    "empty": np.zeros((7, 5), dtype=bool),
    "full": np.ones((7, 5), dtype=bool),
    "one pixel": np.ones((1, 1), dtype=bool),
    "one background pixel": np.zeros((1, 1), dtype=bool),
    "row": np.array([[1, 0, 0, 1, 1, 0, 1]], dtype=bool),
    "column": np.array([[0], [1], [1], [0]], dtype=bool),
    "begins with foreground": np.eye(9, dtype=bool),
    "disc": disc(480, 640),
    "long runs": np.repeat([[False], [True], [False]], 1500, axis=0).repeat(2000, axis=1),
    "not contiguous": disc(60, 80)[::-2, ::3],
}


def assert_as_pycocotools(mask: np.ndarray) -> None:
    official = coco.encode(np.asfortranarray(mask.astype(np.uint8)))
    ours = encode_rle(mask)
    assert ours == {"size": official["size"], "counts": official["counts"].decode()}
    assert coco.area(ours) == mask.sum()
    for rle in (ours, official):
        decoded = decode_rle(rle)
        assert decoded.dtype == bool
        np.testing.assert_array_equal(decoded, mask)


@pytest.mark.parametrize("name", MASKS)
def test_as_pycocotools(name):
    assert_as_pycocotools(MASKS[name])


def test_random_masks_as_pycocotools():
    for mask in random_masks():
        assert_as_pycocotools(mask)


def test_numbers_other_than_zero_are_foreground():
    values = np.array([[0, 255, -1], [0.0, 0.5, 0]])
    np.testing.assert_array_equal(decode_rle(encode_rle(values)), values != 0)


def test_one_mask_at_a_time():
    with pytest.raises(ValueError, match=r"\(H, W\).*\(2, 3, 4\)"):
        encode_rle(np.zeros((2, 3, 4)))


@pytest.mark.parametrize(
    ("size", "counts"),
    [
        ([7, 5], ""),
        ([7, 5], "T"),  # a group that announces another
        ([7, 5], "é"),
        ([7, 5], "S2"),  # too many pixels
        ([7, 5], "3"),  # too few
        ([2, 2], "5O"),  # a negative run
        ([2, 2], "oooooooooooooooooooo0"),
        ([2, 2], [0, 4]),
    ],
)
def test_damaged_counts(size, counts):
    with pytest.raises(ValueError):
        decode_rle({"size": size, "counts": counts})
