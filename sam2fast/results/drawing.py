"""Draws masks from any source on frames."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sam2fast.io.overlay import Colour, colour_of_number, draw_objects
from sam2fast.results.frame_masks import mask_array, object_number


def draw_masks(
    rgb: NDArray[np.uint8], masks: Any, ids: Sequence[Any] | None = None, colours: Sequence[Colour] | None = None
) -> NDArray[np.uint8]:
    """Returns the image with tinted, outlined masks, ``(H, W, 3)`` uint8. Later masks cover earlier masks.

    Args:
        rgb: Image ``(H, W, 3)`` uint8, not modified.
        masks: Masks ``(N, H, W)`` or ``(N, 1, H, W)``, bool or logits, array or tensor.
        ids: Ids of the N objects. Defaults to 0, 1, ... An id has the same colour in every image.
        colours: Colours of the N objects. Defaults to :func:`colour_of` of each id.

    Raises:
        ValueError: If shapes, dtypes or numbers of elements do not fit.
    """
    if rgb.ndim != 3 or rgb.shape[2] != 3 or rgb.dtype != np.uint8:
        raise ValueError(f"expected an RGB uint8 image (H, W, 3), got {rgb.dtype} {rgb.shape}")
    names = range(len(masks)) if ids is None else ids
    pixels = mask_array(masks, len(names))
    if len(pixels) and pixels.shape[1:] != rgb.shape[:2]:
        raise ValueError(f"expected masks of the image's size {rgb.shape[:2]}, got {pixels.shape[1:]}")
    tints = [colour_of(name) for name in names] if colours is None else list(colours)
    if len(tints) != len(pixels):
        raise ValueError(f"{len(tints)} colours for {len(pixels)} masks")
    return draw_objects(rgb, reversed(list(zip(pixels, tints, strict=True))))


def colour_of(obj_id: Any) -> Colour:
    """Returns the RGB colour of an id, the same in every image. The colours of 0 to 4 are easiest to distinguish."""
    return colour_of_number(object_number(obj_id))
