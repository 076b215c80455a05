"""Masks of JSON files, as COCO, SA-1B and SA-V have them: run lengths and polygons."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sam2fast.polygons import rasterise_polygons
from sam2fast.rle import read_run_lengths


def decode_segmentation(segmentation: Any, size: tuple[int, int]) -> NDArray[np.bool_]:
    """The mask ``(H, W)`` of run lengths, compressed or not, or of polygons, which are drawn as pycocotools does.

    Args:
        size: (height, width) of the picture.

    Raises:
        ValueError: damaged, of another size, or neither of the two.
        ImportError: polygons, and pycocotools is not installed.
    """
    if isinstance(segmentation, list):
        segmentation = rasterise_polygons(segmentation, size)
    counts, found = _run_lengths(segmentation)
    if found != size:
        raise ValueError(f"the mask has {found[1]}x{found[0]} pixels, its frame {size[1]}x{size[0]}; must be equal")
    return np.repeat(np.arange(len(counts)) % 2 == 1, counts).reshape(size, order="F")


def area_of(rle: Any) -> int:
    """Pixels in run lengths, compressed or not.

    Raises:
        ValueError: they are damaged.
    """
    return int(_run_lengths(rle)[0][1::2].sum())


def _run_lengths(rle: Any) -> tuple[NDArray[np.int32], tuple[int, int]]:
    if not isinstance(rle, Mapping):
        raise ValueError(f"a mask must be run lengths or polygons, got {str(rle)[:60]}")
    try:
        runs = read_run_lengths([rle])
    except (KeyError, IndexError, TypeError, OverflowError) as error:
        raise ValueError(f'run lengths must have "size" [height, width] and "counts": {error!r}') from error
    return runs.counts.numpy(), runs.size
