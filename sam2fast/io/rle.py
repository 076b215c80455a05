"""Converts masks and polygons to COCO's run lengths: compressed as by ``pycocotools.mask``, or lists of integers."""

import reprlib
from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

import numpy as np
import torch

from sam2fast.kernels.run_lengths import MOST_PIXELS, RunLengths, encode_masks
from sam2fast.utils.errors import requires

# A number is written in groups of five bits, lowest group first. The sixth bit of a group is 1 if another group
# follows. An offset makes each group a printable character.
GROUP_BITS = 5
GROUP = (1 << GROUP_BITS) - 1
SIGN = 1 << (GROUP_BITS - 1)
MORE = 1 << GROUP_BITS
FIRST_CHARACTER = 48
MAX_GROUPS = 12  # maximum groups of a number: 60 bits, which fit in int64 with a sign
CORNERS = 3  # minimum corners of a polygon
# Maximum distance of a corner from the image, in sides of the image. The limit exists since the time and memory of
# pycocotools depend on the lengths of edges.
MOST_OUTSIDE = 1


class RLE(TypedDict):
    """Stores a mask: ``size`` is [height, width], and ``counts`` the compressed run lengths."""

    size: list[int]
    counts: str


class UncompressedRLE(TypedDict):
    """Stores a mask: ``size`` is [height, width], and ``counts`` the run lengths.

    The first run is background and may have length 0.
    """

    size: list[int]
    counts: list[int]


def encode_rle(mask: np.ndarray) -> RLE:
    """Encodes a mask ``(H, W)`` as column-major run lengths, beginning with background.

    Args:
        mask: Booleans or numbers. Nonzero pixels are foreground.

    Raises:
        ValueError: If the mask does not have two dimensions.
    """
    mask = np.asarray(mask)
    if mask.ndim != 2:
        raise ValueError(f"expected one mask (H, W), got shape {mask.shape}")
    return compress_run_lengths(encode_masks(torch.from_numpy(np.ascontiguousarray(mask != 0))[None]))[0]


def decode_rle(rle: Mapping[str, Any]) -> np.ndarray:
    """Decodes ``{"size": [H, W], "counts": ...}`` to a bool mask ``(H, W)``.

    Args:
        rle: Run lengths. The counts are compressed (str or bytes) or a list of integers.

    Raises:
        ValueError: If the counts are invalid or do not add up to H * W.
    """
    (height, width), counts = _parts_of(rle)
    lengths = _lengths_of(counts, height, width)
    values = np.arange(len(lengths)) % 2 == 1
    return np.repeat(values, lengths).reshape(height, width, order="F")


def compress_run_lengths(runs: RunLengths) -> list[RLE]:
    """Copies run lengths to the CPU, and compresses the counts of each mask as ``pycocotools.mask.encode`` does."""
    counts, offsets = runs.counts.cpu().numpy(), runs.offsets.cpu().numpy()
    return [{"size": list(runs.size), "counts": counts} for counts in _compress(counts, offsets)]


def list_run_lengths(runs: RunLengths) -> list[UncompressedRLE]:
    """Copies run lengths to the CPU, and converts the counts of each mask to a list of integers.

    Source: ``sam2.utils.amg.mask_to_rle_pytorch``.
    """
    counts, offsets = runs.counts.tolist(), runs.offsets.tolist()
    ends = zip(offsets[:-1], offsets[1:], strict=True)
    return [{"size": list(runs.size), "counts": counts[first:last]} for first, last in ends]


def read_run_lengths(rles: Sequence[Mapping[str, Any]]) -> RunLengths:
    """Converts COCO's run lengths of masks of equal size to :class:`RunLengths` on the CPU.

    Args:
        rles: One or more ``{"size": [H, W], "counts": ...}``, with compressed counts (str or bytes) or integers.

    Raises:
        ValueError: If ``rles`` is empty, sizes differ, or counts are invalid or do not add up to H * W.
    """
    parts = [_parts_of(rle) for rle in rles]
    sizes = {size for size, _ in parts}
    if len(sizes) != 1:
        raise ValueError(f"expected one or more masks of equal size, got sizes {sorted(sizes)}")
    ((height, width),) = sizes
    lengths = [_lengths_of(counts, height, width) for _, counts in parts]
    offsets = np.cumsum([0, *map(len, lengths)])
    counts = np.concatenate(lengths).astype(np.int32)
    return RunLengths(torch.from_numpy(counts), torch.from_numpy(offsets), (height, width))


def _parts_of(rle: Mapping[str, Any]) -> tuple[tuple[int, int], Any]:
    """Returns the checked size and the unchecked counts of a mask."""
    try:
        if not isinstance(rle, Mapping):
            raise TypeError
        (height, width), counts = rle["size"], rle["counts"]
        sides = int(height), int(width)
        if sides != (height, width) or min(sides) < 0:
            raise ValueError
    except (KeyError, TypeError, ValueError, RuntimeError, OverflowError) as error:
        expected = 'run lengths must have "size" [height, width] and "counts"'
        raise ValueError(f"{expected}, got {reprlib.repr(rle)}") from error
    if sides[0] * sides[1] > MOST_PIXELS:
        raise ValueError(f"a mask of {sides[0]}x{sides[1]} has more than {MOST_PIXELS} pixels")
    return sides, counts


def _lengths_of(counts: Any, height: int, width: int) -> np.ndarray:
    """Returns the run lengths of a mask, int64. Checks that the sum is the mask's number of pixels."""
    if isinstance(counts, str | bytes):
        lengths = _decompress(counts.encode("utf-8", "surrogatepass") if isinstance(counts, str) else counts)
    else:
        lengths = _listed(counts)
    area = height * width
    if not len(lengths) or lengths.min() < 0 or lengths.max() > area or lengths.sum() != area:
        raise ValueError(f"the run lengths do not add up to the {area} pixels of a mask {height}x{width}")
    return lengths.astype(np.int64, copy=False)


def _listed(counts: Any) -> np.ndarray:
    try:
        lengths = np.asarray(counts)
    except (TypeError, ValueError, RuntimeError) as error:  # ragged lists, or tensors without numpy
        raise ValueError(f"run lengths must be a list of integers: {error}") from error
    if lengths.ndim != 1 or lengths.dtype.kind not in "iuf" or (lengths.dtype.kind == "f" and (lengths % 1).any()):
        wrong = f"{type(counts).__name__} {reprlib.repr(counts)}"
        raise ValueError(f"run lengths must be a string or a list of integers of at most 64 bits, got {wrong}")
    return lengths


def _compress(lengths: np.ndarray, offsets: np.ndarray) -> list[str]:
    """Returns the compressed counts of each mask. Mask i has ``lengths[offsets[i]:offsets[i + 1]]``."""
    rest = lengths.astype(np.int64)
    # From the fourth run of a mask on, COCO stores the difference to the run before last, since adjacent columns are
    # similar.
    linked = np.ones(len(rest), dtype=bool)
    for skipped in range(3):
        first = offsets[:-1] + skipped
        linked[first[first < offsets[1:]]] = False
    indices = np.flatnonzero(linked)
    rest[indices] -= lengths[indices - 2]
    groups, used, unfinished = [], [], np.ones(len(rest), dtype=bool)
    while unfinished.any():
        used.append(unfinished)
        group = rest & GROUP
        rest >>= GROUP_BITS
        # A number is complete when all remaining bits equal the sign bit of the last written group.
        unfinished = unfinished & np.where(group & SIGN, rest != -1, rest != 0)
        groups.append((group + np.where(unfinished, MORE, 0) + FIRST_CHARACTER).astype(np.uint8))
    if not groups:
        return ["" for _ in offsets[1:]]
    characters = np.stack(groups, 1)[np.stack(used, 1)].tobytes().decode("ascii")
    ends = np.cumsum([0, *np.sum(used, 0)])[offsets].tolist()
    return [characters[first:last] for first, last in zip(ends[:-1], ends[1:], strict=True)]


def _decompress(counts: bytes) -> np.ndarray:
    groups = np.frombuffer(counts, dtype=np.uint8).astype(np.int64) - FIRST_CHARACTER
    if not len(groups) or groups.min() < 0 or groups.max() > GROUP + MORE or groups[-1] & MORE:
        raise ValueError("the counts are truncated or contain invalid characters")
    last = np.flatnonzero(groups & MORE == 0)
    first = np.concatenate([[0], last[:-1] + 1])
    if (last - first).max() >= MAX_GROUPS:
        raise ValueError("the counts contain a number of more than 60 bits")
    shift = GROUP_BITS * (np.arange(len(groups)) - np.repeat(first, last - first + 1))
    numbers = np.add.reduceat((groups & GROUP) << shift, first)
    numbers -= np.where(groups[last] & SIGN, np.int64(1) << (shift[last] + GROUP_BITS), 0)
    # Differences refer to the run before last, so cumulative sums over every second run undo the differences.
    numbers[1::2] = np.cumsum(numbers[1::2])
    numbers[2::2] = np.cumsum(numbers[2::2])
    return numbers


def rasterise_polygons(polygons: Sequence[Any], size: tuple[int, int]) -> RLE:
    """Returns run lengths of the union of polygons, filled as by ``pycocotools.mask.frPyObjects``.

    Args:
        polygons: Lists of coordinates x, y, x, y, ... in pixels, as read from JSON.
        size: Size (H, W) of the image.

    Raises:
        ValueError: If there are no polygons, or a polygon has fewer than three corners, a value that is not a number,
            or a corner far outside the image.
        ImportError: If pycocotools is not installed.
    """
    if not isinstance(polygons, list | tuple):
        raise ValueError(f"expected a list of polygons, got {type(polygons).__name__}")
    if not polygons:
        raise ValueError("there are no polygons")
    height, width = size
    for polygon in polygons:
        _check(polygon, height, width)
    with requires("polygons need pycocotools: pip install 'sam2fast[eval]'"):
        from pycocotools import mask as coco  # type: ignore[import-untyped]

    merged = coco.merge(coco.frPyObjects(polygons, height, width))
    return {"size": [height, width], "counts": merged["counts"].decode("ascii")}


def _check(polygon: Any, height: int, width: int) -> None:
    is_flat = isinstance(polygon, list) and all(isinstance(value, int | float) for value in polygon)
    if not is_flat or len(polygon) < 2 * CORNERS or len(polygon) % 2:
        raise ValueError("a polygon must be a list of numbers x, y, x, y, ... with at least three corners")
    for values, side in ((polygon[::2], width), (polygon[1::2], height)):
        low, high = -MOST_OUTSIDE * side, (1 + MOST_OUTSIDE) * side
        if not all(low <= value <= high for value in values):  # NaN also fails
            raise ValueError("a polygon has corners far outside the image")
