"""Masks as bits, 64 pixels of a row in a word: outlines, dilation and counts in a fraction of the memory."""

import math
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

WORD = 64

# (..., H, words): pixel x of a row is bit x % 64 of word x // 64. Bits beyond the row's end are 0, and the last word of
# a row is empty, so that what is moved out of a row does not come into the next one.
Bits: TypeAlias = NDArray[np.uint64]


def blank(shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """Empty masks ``(..., H, W)`` with as many more columns as :func:`pack` needs."""
    *rest, width = shape
    return np.zeros((*rest, WORD * (-(-width // WORD) + 1)), dtype=np.bool_)


def pack(masks: NDArray[np.bool_]) -> Bits:
    """Masks ``(..., H, 64 * words)``, contiguous as :func:`blank` gives them, as words ``(..., H, words)``."""
    packed = np.packbits(masks.reshape(-1), bitorder="little").view("<u8")
    return packed.reshape(*masks.shape[:-1], masks.shape[-1] // WORD)


def count(bits: Bits) -> int:
    """How many pixels are set."""
    if hasattr(np, "bitwise_count"):  # from NumPy 2 on
        return int(np.bitwise_count(bits).sum(dtype=np.int64))
    return int.from_bytes(bits.tobytes(), "little").bit_count()


def boundary(masks: Bits, width: int) -> Bits:
    """Pixels that differ from their right, lower or lower right neighbour.

    In the last row and the last column only the neighbour along it counts, and the last corner has none.

    Args:
        masks: from the picture's first row or an empty one, to its last row or an empty one.
        width: pixels from the masks' first word to the picture's right edge; may lie beyond the last word, if what is
            between is empty.
    """
    right = _moved_left(masks, 1)
    right[..., -1] = 0
    word, bit = divmod(width - 1, WORD)
    if word < masks.shape[-1]:
        # A pixel of the last column is its own neighbour, so that it never differs from that.
        right[..., word] |= masks[..., word] & np.uint64(1 << bit)
    out = masks ^ right
    below = masks[..., :-1, :] ^ masks[..., 1:, :]
    below |= masks[..., :-1, :] ^ right[..., 1:, :]
    out[..., :-1, :] |= below
    return out


def dilated(masks: Bits, radius: int) -> Bits:
    """Masks dilated by the disk ``dx² + dy² <= radius²``, as far as the words reach.

    Bits beyond the row's end may be set.
    """
    height, words = masks.shape[-2:]
    if radius >= WORD:  # more than an empty word at a row's end is needed
        wider = np.zeros((*masks.shape[:-1], words + radius // WORD), dtype=masks.dtype)
        wider[..., :words] = masks
        masks = wider
    out = np.zeros_like(masks)
    wide, reach = masks, 0  # dilated along the rows, by so many pixels
    # From the disk's ends, where it is narrow, to its middle; rows farther away than the height meet nothing.
    for dy in range(min(radius, height - 1), -1, -1):
        half = math.isqrt(radius**2 - dy**2)
        while reach < half:
            # Not more than one beyond what is there: what has left the words on one side would be missing.
            step = min(reach + 1, half - reach, WORD - 1)
            wider = _moved_left(wide, step)
            wider |= _moved_right(wide, step)
            wider |= wide
            wide, reach = wider, reach + step
        out[..., : height - dy, :] |= wide[..., dy:, :]
        if dy:
            out[..., dy:, :] |= wide[..., : height - dy, :]
    return out[..., :words]


def _moved_left(masks: Bits, pixels: int) -> Bits:
    """Each pixel gets the value of the one ``pixels`` to its right, the next row's at a row's end; 0 < pixels < 64."""
    flat = masks.reshape(-1)
    out = flat >> np.uint64(pixels)
    out[:-1] |= flat[1:] << np.uint64(WORD - pixels)
    return out.reshape(masks.shape)


def _moved_right(masks: Bits, pixels: int) -> Bits:
    """Each pixel gets the value of the one ``pixels`` to its left, the last row's at a row's start; 0 < pixels < 64."""
    flat = masks.reshape(-1)
    out = flat << np.uint64(pixels)
    out[1:] |= flat[:-1] >> np.uint64(WORD - pixels)
    return out.reshape(masks.shape)
