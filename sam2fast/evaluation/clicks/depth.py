"""Finds the pixel of a region that is farthest from its outline, without the distances of all pixels."""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sam2fast.utils.errors import requires

# Block sides of the coarse-to-fine search. Each block is divided into 4 x 4 blocks of the next size.
SIDES = (16, 4, 1)
DIVISION = 4
# Tolerance for rounding of distances that bound blocks. Distances of single pixels are compared exactly.
ROUNDING = 1e-6
MOST_OUTLINE = 1 / 16  # fraction of outline pixels in the region's box above which the full transform is faster


class Deepest(NamedTuple):
    """Pixel and its Euclidean distance to the nearest pixel outside the region. The distance is 0 for empty regions."""

    x: int
    y: int
    depth: float


def deepest_pixel(region: NDArray[np.bool_]) -> Deepest:
    """Returns the pixel of ``region``, bool ``(H, W)``, that is farthest from the outside; the first in row order.

    The distance transform of the padded region is maximal at this pixel. Pixels beyond the array are outside.

    The distance transform is 1-Lipschitz. A block of pixels is therefore skipped if the distance at its centre, plus
    the distance from the centre to a corner, is below the best distance so far. For noisy
    regions, few blocks could be skipped, and the full transform is computed.

    Raises:
        ImportError: If scipy is not installed.
    """
    with requires("clicks need scipy: pip install 'sam2fast[eval]'"):
        from scipy.ndimage import distance_transform_edt
        from scipy.spatial import cKDTree
    rows, columns = (np.flatnonzero(region.any(axis=axis)) for axis in (1, 0))
    if not len(rows):
        return Deepest(0, 0, 0.0)
    top, left = int(rows[0]), int(columns[0])
    inside = region[top : rows[-1] + 1, left : columns[-1] + 1]
    outline = _outline(inside)
    if len(outline) > MOST_OUTLINE * inside.size:
        depths = distance_transform_edt(np.pad(inside, 1))[1:-1, 1:-1]
        y, x = divmod(int(depths.argmax()), inside.shape[1])
        return Deepest(left + x, top + y, float(depths[y, x]))
    tree = cKDTree(outline, balanced_tree=False, compact_nodes=False)
    blocks, best = _blocks_with_pixels(inside, SIDES[0]), 0.0
    steps = np.stack(np.divmod(np.arange(DIVISION**2), DIVISION), axis=1)
    for side in SIDES[:-1]:
        middles = blocks + side // 2
        distances = tree.query(middles)[0]
        best = max(best, distances[_at(inside, middles)].max(initial=0.0))
        reach = math.hypot(side // 2, side // 2)
        blocks = (blocks[distances + reach + ROUNDING >= best][:, None] + steps * (side // DIVISION)).reshape(-1, 2)
    pixels = blocks[_at(inside, blocks)]
    distances = tree.query(pixels)[0]
    y, x = min(pixels[distances == distances.max()].tolist())
    return Deepest(left + x, top + y, float(distances.max()))


def _outline(inside: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Returns outside pixels ``(N, 2)`` (y, x) with a 4-neighbour inside, which include all nearest outside pixels."""
    padded = np.pad(inside, 1)
    beside = np.zeros_like(padded)
    beside[1:] |= padded[:-1]
    beside[:-1] |= padded[1:]
    beside[:, 1:] |= padded[:, :-1]
    beside[:, :-1] |= padded[:, 1:]
    return np.stack(np.divmod(np.flatnonzero(beside > padded), padded.shape[1]), axis=1) - 1


def _blocks_with_pixels(inside: NDArray[np.bool_], side: int) -> NDArray[np.int64]:
    """Returns the top left corners ``(N, 2)`` (y, x) of blocks with any pixel of the region."""
    height, width = (-(-length // side) for length in inside.shape)
    padded = np.zeros((height * side, width * side), dtype=np.bool_)
    padded[: inside.shape[0], : inside.shape[1]] = inside
    return np.argwhere(padded.reshape(height, side, width, side).any(axis=(1, 3))) * side


def _at(inside: NDArray[np.bool_], pixels: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Returns True for pixels ``(N, 2)`` (y, x) that are inside."""
    height, width = inside.shape
    y, x = pixels.T
    return (y < height) & (x < width) & inside[np.minimum(y, height - 1), np.minimum(x, width - 1)]
