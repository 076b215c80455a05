"""Bit-packed masks, 64 pixels of a row per word, with boundaries, dilation and counts in a fraction of the memory."""

import math
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

WORD = 64

# (..., H, words): pixel x of a row is bit x % 64 of word x // 64. Bits beyond the row's end are 0. The last word of a
# row is empty, so that pixels shifted out of a row do not enter the next row.
Bits: TypeAlias = NDArray[np.uint64]


def blank(shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """Returns empty bool masks for :func:`pack`, of shape ``(..., H, W)`` with W padded to ``64 * words``."""
    *rest, width = shape
    return np.zeros((*rest, WORD * (-(-width // WORD) + 1)), dtype=np.bool_)


def pack(masks: NDArray[np.bool_]) -> Bits:
    """Packs contiguous bool masks ``(..., H, 64 * words)`` from :func:`blank` into words ``(..., H, words)``."""
    packed = np.packbits(masks.reshape(-1), bitorder="little").view("<u8")
    return packed.reshape(*masks.shape[:-1], masks.shape[-1] // WORD)


def count(bits: Bits) -> int:
    """Returns the number of set pixels."""
    if hasattr(np, "bitwise_count"):  # NumPy >= 2
        return int(np.bitwise_count(bits).sum(dtype=np.int64))
    return int.from_bytes(bits.tobytes(), "little").bit_count()


def boundary(masks: Bits, width: int) -> Bits:
    """Returns pixels that differ from their right, lower or lower right neighbour.

    In the last row, only the right neighbour counts; in the last column, only the lower neighbour counts.

    Args:
        masks: crop whose first row is empty or the image's first, and whose last row is empty or the image's last.
        width: number of pixels from the first word to the image's right edge. Pixels beyond the crop must be empty.
    """
    right = _shift_left(masks, 1)
    right[..., -1] = 0
    word, bit = divmod(width - 1, WORD)
    if word < masks.shape[-1]:
        # A pixel of the last column is its own right neighbour, and never differs from it.
        right[..., word] |= masks[..., word] & np.uint64(1 << bit)
    out = masks ^ right
    below = masks[..., :-1, :] ^ masks[..., 1:, :]
    below |= masks[..., :-1, :] ^ right[..., 1:, :]
    out[..., :-1, :] |= below
    return out


def dilated(masks: Bits, radius: int) -> Bits:
    """Dilates masks by the disk ``dx² + dy² <= radius²``, within the words. Bits beyond the row's end may be set."""
    height, words = masks.shape[-2:]
    if radius >= WORD:  # a large radius needs more than one empty word at the end of each row
        wider = np.zeros((*masks.shape[:-1], words + radius // WORD), dtype=masks.dtype)
        wider[..., :words] = masks
        masks = wider
    out = np.zeros_like(masks)
    wide, reach = masks, 0  # dilated along the rows by ``reach`` pixels
    # Goes from the disk's narrow ends to its middle. Rows farther apart than the height do not interact.
    for dy in range(min(radius, height - 1), -1, -1):
        half = math.isqrt(radius**2 - dy**2)
        while reach < half:
            # The step is at most reach + 1, because pixels shifted out of the words on one side would be missing.
            step = min(reach + 1, half - reach, WORD - 1)
            wider = _shift_left(wide, step)
            wider |= _shift_right(wide, step)
            wider |= wide
            wide, reach = wider, reach + step
        out[..., : height - dy, :] |= wide[..., dy:, :]
        if dy:
            out[..., dy:, :] |= wide[..., : height - dy, :]
    return out[..., :words]


def _shift_left(masks: Bits, pixels: int) -> Bits:
    """Shifts rows left by ``pixels``, 0 < pixels < 64. Pixels of the next row enter at the end of a row."""
    flat = masks.reshape(-1)
    out = flat >> np.uint64(pixels)
    out[:-1] |= flat[1:] << np.uint64(WORD - pixels)
    return out.reshape(masks.shape)


def _shift_right(masks: Bits, pixels: int) -> Bits:
    """Shifts rows right by ``pixels``, 0 < pixels < 64. Pixels of the previous row enter at the start of a row."""
    flat = masks.reshape(-1)
    out = flat << np.uint64(pixels)
    out[1:] |= flat[:-1] >> np.uint64(WORD - pixels)
    return out.reshape(masks.shape)
