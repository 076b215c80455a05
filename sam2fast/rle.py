"""Masks as COCO's compressed run lengths, as ``pycocotools.mask`` writes and reads them."""

from collections.abc import Mapping
from typing import Any, TypedDict

import numpy as np

# A number is written in groups of five bits, lowest first. The sixth bit says that another group follows; the whole is
# shifted into printable characters.
GROUP_BITS = 5
GROUP = (1 << GROUP_BITS) - 1
SIGN = 1 << (GROUP_BITS - 1)
MORE = 1 << GROUP_BITS
FIRST_CHARACTER = 48
MAX_GROUPS = 12  # 60 bits: every count that fits in int64 with its sign


class RLE(TypedDict):
    """One mask: ``size`` is [height, width], ``counts`` the compressed run lengths."""

    size: list[int]
    counts: str


def encode_rle(mask: np.ndarray) -> RLE:
    """Run lengths of one mask ``(H, W)``, down the columns, beginning with background.

    Args:
        mask: bool or numbers; what is not zero is foreground.

    Raises:
        ValueError: the mask has another rank.
    """
    mask = np.asarray(mask)
    if mask.ndim != 2:
        raise ValueError(f"expected one mask (H, W), got shape {mask.shape}")
    pixels = (mask != 0).ravel(order="F")
    changes = np.flatnonzero(pixels[1:] != pixels[:-1]) + 1
    edges = np.concatenate([[0], changes, [pixels.size]])
    lengths = np.diff(edges)
    if pixels.size and pixels[0]:
        lengths = np.concatenate([[0], lengths])
    return {"size": list(mask.shape), "counts": _compress(lengths)}


def decode_rle(rle: Mapping[str, Any]) -> np.ndarray:
    """The bool mask ``(H, W)`` of ``{"size": [H, W], "counts": str or bytes}``.

    Raises:
        ValueError: the counts are damaged or do not fill the size.
    """
    height, width = (int(side) for side in rle["size"])
    counts = rle["counts"]
    if not isinstance(counts, str | bytes):
        raise ValueError(f"expected compressed counts, a string, got {type(counts).__name__}")
    lengths = _decompress(counts.encode() if isinstance(counts, str) else counts)
    area = height * width
    if lengths.min() < 0 or lengths.max() > area or lengths.sum() != area:
        raise ValueError(f"the run lengths do not add up to the {area} pixels of a mask {height}x{width}")
    values = np.arange(len(lengths)) % 2 == 1
    return np.repeat(values, lengths).reshape(height, width, order="F")


def _compress(lengths: np.ndarray) -> str:
    rest = lengths.astype(np.int64)
    # From the fourth on, a number is the difference to the run before last: neighbouring columns are alike.
    rest[3:] -= lengths[1:-2]
    groups = np.zeros((len(rest), MAX_GROUPS), dtype=np.uint8)
    used = np.zeros(groups.shape, dtype=bool)
    unfinished = np.ones(len(rest), dtype=bool)
    for i in range(MAX_GROUPS):
        used[:, i] = unfinished
        group = rest & GROUP
        rest >>= GROUP_BITS
        # Done once the rest is nothing but copies of the sign bit written last.
        unfinished &= np.where(group & SIGN, rest != -1, rest != 0)
        groups[:, i] = group + np.where(unfinished, MORE, 0) + FIRST_CHARACTER
        if not unfinished.any():
            break
    return groups[used].tobytes().decode("ascii")


def _decompress(counts: bytes) -> np.ndarray:
    groups = np.frombuffer(counts, dtype=np.uint8).astype(np.int64) - FIRST_CHARACTER
    if not len(groups) or groups.min() < 0 or groups.max() > GROUP + MORE or groups[-1] & MORE:
        raise ValueError("the counts are cut short or hold characters that run lengths never have")
    last = np.flatnonzero(groups & MORE == 0)
    first = np.concatenate([[0], last[:-1] + 1])
    if (last - first).max() >= MAX_GROUPS:
        raise ValueError("the counts hold a number of more than 60 bits")
    shift = GROUP_BITS * (np.arange(len(groups)) - np.repeat(first, last - first + 1))
    numbers = np.add.reduceat((groups & GROUP) << shift, first)
    numbers -= np.where(groups[last] & SIGN, np.int64(1) << (shift[last] + GROUP_BITS), 0)
    # Undoes the differences, which link every second run.
    numbers[1::2] = np.cumsum(numbers[1::2])
    numbers[2::2] = np.cumsum(numbers[2::2])
    return numbers
