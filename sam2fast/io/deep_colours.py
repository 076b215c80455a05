"""Reads PPM and JPEG 2000 files with colours of more than 8 bits, which Pillow reduces to 8 bits.

For JPEG 2000, Pillow even converts white to black.
"""

from importlib import import_module
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import ImageFile

from sam2fast.io.value_scale import FULL

SIZE_MARKER = b"\xff\x4f\xff\x51"  # marker in JPEG 2000 images
BITS_OFFSET = 42  # offset of the number of bits from SIZE_MARKER
HEAD = 1 << 16  # leading bytes of a file that contain the marker


def read_deep_colours(stream: BinaryIO, image: ImageFile.ImageFile) -> NDArray[Any] | None:
    """Returns values ``(H, W, C)`` of a file that Pillow opened, or None if Pillow reads all bits.

    Raises:
        ValueError: If imagecodecs is needed but not installed.
        OSError, RuntimeError: If the file is damaged.
    """
    if image.mode not in ("RGB", "RGBA", "LA"):
        return None
    if image.format == "PPM":
        codec, _, offset, arguments = image.tile[0]
        if codec == "ppm" and isinstance(arguments, tuple) and arguments[1] > 255:
            return _read_ppm(stream, image.size, offset, arguments[1])
    elif image.format == "JPEG2000" and _jpeg2000_bits(stream) > 8:
        return _read_jpeg2000(stream)
    return None


def _read_ppm(stream: BinaryIO, size: tuple[int, int], offset: int, most: int) -> NDArray[Any]:
    """Returns 16-bit values. As in Pillow's grey images, values are scaled to the full range."""
    width, height = size
    stream.seek(offset)
    content = stream.read(6 * width * height)
    if len(content) < 6 * width * height:
        raise OSError("image file is truncated")
    values = np.frombuffer(content, ">u2").reshape(height, width, 3)
    return np.rint(values * (FULL / most)).clip(0, FULL).astype(np.uint16)


def _jpeg2000_bits(stream: BinaryIO) -> int:
    stream.seek(0)
    start = stream.read(HEAD)
    at = start.find(SIZE_MARKER) + BITS_OFFSET
    return (start[at] & 0x7F) + 1 if BITS_OFFSET <= at < len(start) else 8


def _read_jpeg2000(stream: BinaryIO) -> NDArray[Any]:
    try:
        imagecodecs = import_module("imagecodecs")
    except ImportError as error:
        reason = "it is JPEG 2000 with colours of more than 8 bits: pip install 'sam2fast[images]' to read it"
        raise ValueError(reason) from error
    stream.seek(0)
    values: NDArray[Any] = imagecodecs.jpeg2k_decode(stream.read())
    return values[..., :3] if values.shape[2] >= 3 else values[..., 0]
