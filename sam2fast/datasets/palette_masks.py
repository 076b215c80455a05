"""Converts masks to label images, the format of video object segmentation data sets, and back."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sam2fast.datasets.annotations import Masks
from sam2fast.datasets.dataset_files import Labels, OverlapError
from sam2fast.datasets.segmentations import area_of
from sam2fast.io.label_maps import label_dtype, paint_labels
from sam2fast.io.rle import RLE, decode_rle, encode_rle

# Rules for pixels of overlapping objects.
REFUSE, SMALLER_ID, LARGER_AREA = OVERLAPS = ("refuse", "smaller-id", "larger-area")


def paint(
    masks: Masks, size: tuple[int, int], indices: Mapping[int, int], overlaps: str, where: str
) -> tuple[NDArray[np.integer[Any]], list[int]]:
    """Paints masks of ``size``. Returns labels ``(H, W)`` uint8 or uint16, and the ids of objects that lost pixels.

    ``overlaps`` selects the object at a pixel with several objects: the smaller id, or the larger area (on ties
    the smaller id). If ``overlaps`` is ``refuse``, raises OverlapError with the objects' ids.
    """
    areas = {number: area_of(rle) for number, rle in masks.items()}
    # Later objects overwrite earlier objects.
    order = sorted(masks, key=lambda number: (areas[number] if overlaps == LARGER_AREA else 0, -number))
    labels = paint_labels([masks[number] for number in order], *size, [indices[number] for number in order])
    labels = labels.astype(label_dtype(indices.values()), copy=False)
    left = np.bincount(labels.ravel(), minlength=max(indices.values(), default=0) + 1)
    losers = sorted(number for number, area in areas.items() if left[indices[number]] < area)
    if losers and overlaps == REFUSE:
        lost = decode_rle(masks[losers[0]])
        overlapping = sorted(number for number, rle in masks.items() if (decode_rle(rle) & lost).any())
        raise OverlapError(
            f"{where}: objects {', '.join(map(str, overlapping))} overlap, and a label image has one object at "
            f"each pixel; choose --overlaps {SMALLER_ID} or {LARGER_AREA}, which loses pixels, or a layout that keeps "
            "them (sav, sav-png, coco-jsonl)"
        )
    return labels, losers


def masks_in(labels: Labels, indices: Mapping[int, int]) -> dict[int, RLE]:
    """Returns run lengths of the objects in ``indices``. Objects that the image does not show have empty masks."""
    return {number: encode_rle(labels == index) for number, index in indices.items()}
