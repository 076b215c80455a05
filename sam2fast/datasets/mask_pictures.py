"""Masks as PNGs, as the data sets of video object segmentation have them: palette pictures of ids or of one object."""

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from sam2fast.training.data.synthetic.davis import palette

COLOURS = 256


def label_png(labels: NDArray[np.uint8], colours: bytes | None = None) -> bytes:
    """A palette picture as the content of a PNG file.

    Args:
        labels: ``(H, W)``, the id of each pixel's object, 0 for none; or one object as 0 and 1.
        colours: of the ids, at most 256 times red, green and blue; DAVIS's by default.

    Raises:
        ValueError: labels of another shape or type, or colours that are no palette.
    """
    if labels.ndim != 2 or labels.dtype != np.uint8:
        raise ValueError(f"labels must be uint8 (H, W), got {labels.dtype} {labels.shape}")
    if colours is not None and (len(colours) % 3 or len(colours) > 3 * COLOURS):
        raise ValueError(f"a palette has at most {COLOURS} colours of 3 bytes, got {len(colours)} bytes")
    picture = Image.fromarray(labels)
    picture.putpalette(palette().tobytes() if colours is None else colours)
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()


def palette_of(picture: Image.Image) -> bytes | None:
    """The colours of a palette picture, for :func:`label_png`; None if it is no such picture."""
    colours = picture.getpalette("RGB") if picture.mode == "P" else None
    return None if colours is None else bytes(colours)
