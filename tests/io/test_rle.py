import numpy as np
import oracle  # noqa: F401  (makes the official package importable)
import pytest
import torch
from pycocotools import mask as coco
from sam2.utils.amg import mask_to_rle_pytorch

from sam2fast.io.rle import compress_run_lengths, decode_rle, encode_rle, list_run_lengths, read_run_lengths
from sam2fast.kernels.run_lengths import RunLengths, decode_masks, encode_masks


def test_numbers_other_than_zero_are_foreground():
    values = np.array([[0, 255, -1], [0.0, 0.5, 0]])
    np.testing.assert_array_equal(decode_rle(encode_rle(values)), values != 0)


def many_masks(height: int, width: int, seed: int) -> torch.Tensor:
    """A hundred of one size: of every density, empty, full, striped and chequered."""
    rng = np.random.default_rng(seed)
    masks = rng.random((100, height, width)) < np.linspace(0, 1, 100)[:, None, None]
    y, x = np.mgrid[:height, :width]
    masks[50:56] = [(y + x) % 2 == 0, (y + x) % 2 == 1, y % 2 == 0, x % 3 == 0, y < height / 2, x < width / 2]
    masks[60:90] = np.hypot(y - height / 2, x - width / 2) < rng.random((30, 1, 1)) * max(height, width)
    return torch.from_numpy(masks)


SIZES = [(1, 1), (1, 70), (70, 1), (2, 2), (31, 33), (64, 64), (7, 300), (300, 7), (120, 180), (199, 101)]


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools' own
def test_a_thousand_masks_as_pycocotools(size):
    masks = many_masks(*size, seed=sum(size))
    runs = encode_masks(masks)
    compressed = compress_run_lengths(runs)
    official = coco.encode(np.asfortranarray(masks.numpy().astype(np.uint8).transpose(1, 2, 0)))
    assert [rle["counts"].encode() for rle in compressed] == [rle["counts"] for rle in official]
    assert all(rle["size"] == list(size) for rle in compressed)
    np.testing.assert_array_equal(coco.decode(compressed).transpose(2, 0, 1), masks.numpy())

    for mask, rle in zip(masks.numpy(), compressed, strict=True):
        assert encode_rle(mask) == encode_rle(np.asfortranarray(mask)) == rle
        decoded = decode_rle(rle)
        assert decoded.dtype == bool
        np.testing.assert_array_equal(decoded, mask)
        assert encode_rle(mask[::-2, ::3]) == encode_rle(mask[::-2, ::3].copy())

    listed = list_run_lengths(runs)
    assert listed == mask_to_rle_pytorch(masks)
    assert {type(x) for rle in listed for x in (*rle["counts"], *rle["size"])} == {int}
    for rles in (compressed, official, listed):
        read = read_run_lengths(rles)
        assert read.size == size and read.counts.dtype == torch.int32 and read.offsets.dtype == torch.int64
        assert all(map(torch.equal, read[:2], runs[:2]))
    assert torch.equal(decode_masks(read), masks)


def test_no_masks():
    none = encode_masks(torch.zeros(0, 5, 7, dtype=torch.bool))
    assert compress_run_lengths(none) == list_run_lengths(none) == []


def test_masks_of_no_pixels():
    (rle,) = compress_run_lengths(encode_masks(torch.zeros(1, 0, 7, dtype=torch.bool)))
    assert rle == encode_rle(np.zeros((0, 7), dtype=bool)) == {"size": [0, 7], "counts": "0"}
    assert read_run_lengths([rle]).counts.tolist() == [0]


def test_counts_up_to_the_largest():
    """Differences of both signs that take one to seven characters."""
    counts = [0, 1, 15, 16, 2**20, 3, 2**31 - 1, 0, 5, 2**31 - 1, 511, 512, 2**9, 2**14, 2**19, 31, 32]
    for n in range(1, len(counts) + 1):
        runs = RunLengths(torch.tensor(counts[:n] * 2, dtype=torch.int32), torch.tensor([0, n, 2 * n]), (1, 1))
        first, second = compress_run_lengths(runs)
        uncompressed = {"size": [2**16, 2**16], "counts": counts[:n]}
        assert first["counts"] == second["counts"] == coco.frPyObjects(uncompressed, 2**16, 2**16)["counts"].decode()


FULL = {"size": [2, 2], "counts": [4]}
WRONG_COUNTS = [[3], [5], [], [2, -1, 3], [2**33, 4 - 2**33], "5", b"T"]
NO_COUNTS = [[[1, 2], [3]], [1, "a"], [1.5, 2.5], {"a": 1}, [4, [1]]]


@pytest.mark.parametrize(
    ("rles", "word"),
    [
        ([], "one or more masks"),
        ([FULL, {"size": [1, 4], "counts": [4]}], r"sizes \[\(1, 4\), \(2, 2\)\]"),
        *(([FULL, {"size": [2, 2], "counts": counts}], "add up|truncated|integers") for counts in WRONG_COUNTS),
        *(([{"size": [2, 2], "counts": counts}], "must be a (string or a )?list of integers") for counts in NO_COUNTS),
    ],
)
def test_refusals(rles, word):
    with pytest.raises(ValueError, match=word):
        read_run_lengths(rles)
