"""Reads TIFF files that Pillow cannot read, using ``tifffile``. Needs the extra ``images``."""

import logging
from collections.abc import Sequence
from importlib import import_module
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from sam2fast.io.tiff_header import (
    ALPHAS,
    BLACK_IS_ZERO,
    CMYK,
    COMPRESSION,
    EXTRA_SAMPLES,
    FLOAT,
    ORIENTATION,
    PALETTE,
    PILLOW_COMPRESSIONS,
    PREMULTIPLIED,
    RGB,
    WHITE_IS_ZERO,
    YCBCR,
    TiffPage,
)

JPEG = 7  # value of COMPRESSION
_SILENT = logging.NullHandler()  # without a handler, Python would print tifffile's messages on damaged metadata
READ = (WHITE_IS_ZERO, BLACK_IS_ZERO, RGB, PALETTE, CMYK)


def read_tiff(file: BinaryIO, page: TiffPage, channels: list[int]) -> NDArray[Any]:
    """Returns the stored values ``(H, W, C)`` of a page, upright and without alpha.

    CMYK and palette colours are converted to 8-bit RGB, and values of fewer than 8 bits to 8 bits.

    Args:
        channels: Indices of the pages that store the image's channels. Each page may have several bands.

    Raises:
        ValueError: If tifffile is missing, imagecodecs is missing but needed for the compression, or the values are not
            colours.
        OSError, RuntimeError, LookupError, ValueError: If the file is damaged.
    """
    is_jpeg = page.photometric == YCBCR and page.first(COMPRESSION, 1) == JPEG  # tifffile decodes JPEG as RGB
    if not (page.photometric in READ or is_jpeg) or page.sample_format > FLOAT:
        raise ValueError(f"it has {page.kind}, which is not an image (photometric interpretation {page.photometric})")
    try:
        tifffile = import_module("tifffile")
        if page.first(COMPRESSION, 1) != 1 or page.bits % 8:
            import_module("imagecodecs")
    except ImportError as error:
        raise ValueError(f"it has {describe(page, channels)}: pip install 'sam2fast[images]' to read it") from error
    logging.getLogger("tifffile").addHandler(_SILENT)
    file.seek(0)
    try:
        with tifffile.TiffFile(file) as opened:
            bands = np.concatenate([_bands_last(opened.pages[number]) for number in channels], axis=-1)
            colours = opened.pages[page.number].colormap if page.photometric == PALETTE else None
    except tifffile.TiffFileError as error:  # a ValueError only in new versions
        raise ValueError(str(error)) from error
    if colours is not None:
        bands = np.rint(np.moveaxis(colours[:, bands[..., 0]], 0, -1) / 257).astype(np.uint8)
    elif page.photometric == CMYK:
        inks = bands[..., :4] / np.iinfo(bands.dtype).max
        bands = np.rint(255 * (1 - inks[..., :3]) * (1 - inks[..., 3:])).astype(np.uint8)
    else:
        bands = _without_alpha(bands, page.tags.get(EXTRA_SAMPLES, ()))
        if page.bits < 8:
            bands = np.rint(bands * (255 / ((1 << page.bits) - 1))).astype(np.uint8)
    return upright(bands, page.first(ORIENTATION, 1))


def describe(page: TiffPage, channels: list[int]) -> str:
    """Describes the values of a page that Pillow does not read, for messages."""
    if len(channels) > 1:
        return f"{len(channels)} channels in separate pages"
    if (compression := page.first(COMPRESSION, 1)) not in PILLOW_COMPRESSIONS:
        return f"{page.kind} (compression {compression})"
    return page.kind


def upright(image: NDArray[Any], orientation: int) -> NDArray[Any]:
    """Rotates and flips an image ``(H, W, ...)`` by the orientation of TIFF and EXIF, 1 to 8."""
    if orientation in (5, 6, 7, 8):
        image = image.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        image = image[::-1]
    if orientation in (2, 3, 6, 7):
        image = image[:, ::-1]
    return image


def _without_alpha(bands: NDArray[Any], extra: Sequence[int]) -> NDArray[Any]:
    """Drops alpha bands. As in Pillow, divides premultiplied colours by alpha. Transparent pixels become 0."""
    alphas = [bands.shape[2] - len(extra) + i for i, meaning in enumerate(extra) if meaning in ALPHAS]
    if PREMULTIPLIED in extra:
        most = 1 if bands.dtype.kind == "f" else np.iinfo(bands.dtype).max
        share = bands[..., alphas[0] : alphas[0] + 1] / most
        values = np.divide(bands, share, out=np.zeros(bands.shape), where=share > 0)
        bands = (values if bands.dtype.kind == "f" else np.rint(values).clip(0, most)).astype(bands.dtype)
    return np.delete(bands, alphas, axis=2) if alphas else bands


def _bands_last(page: Any) -> NDArray[Any]:
    """Returns the values ``(H, W, C)`` of a page, or of the first slice of a volume."""
    values, axes = page.asarray(), page.axes
    while axes[0] == "Z":
        values, axes = values[0], axes[1:]
    if axes == "SYX":
        return np.moveaxis(values, 0, -1)
    return values[..., None] if axes == "YX" else values
