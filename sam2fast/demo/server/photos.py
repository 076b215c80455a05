"""Photographs: images that are opened as sessions of one frame, in their full size."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from sam2fast.demo.server.demo_errors import BadPhotoError, message_without_path
from sam2fast.io.images import IMAGE_READ_ERRORS, open_image
from sam2fast.transforms import ImageError, to_pixels

ENDINGS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")  # of accepted files
SUFFIXES = (".jpg", ".png", ".webp")  # of stored ones
SIGNATURES = (b"\xff\xd8\xff", b"\x89PNG", b"RIFF", b"BM", b"II*\0", b"MM\0*")
MAX_PIXELS = 1 << 26
POSTER_SIDE = 480
_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF")
# What browsers show as Pillow reads it; an MPO file is a JPEG with further images.
_KEPT = {"JPEG": ".jpg", "MPO": ".jpg", "PNG": ".png", "WEBP": ".webp"}
_KEPT_MODES = ("1", "L", "LA", "P", "RGB", "RGBA")
_ORIENTATION = 0x0112  # of EXIF; 1 is upright
_QUALITY = 95  # of a JPEG file that had to be rotated


def is_photo(file: str | Path) -> bool:
    """Whether a file of the library is a photograph, by its suffix."""
    return Path(file).suffix in SUFFIXES


def store_photo(source: Path, target: Path) -> Path:
    """Copies an uploaded photograph, or converts it if browsers do not show it or it is not upright.

    Args:
        source: a file of an untrusted client.
        target: the path of the result without its suffix.

    Returns:
        The result's path.

    Raises:
        BadPhotoError: it cannot be read, or has too many pixels.
    """
    with _reading(source), open_image(source, _FORMATS) as image:
        check_pixels(image.width, image.height)
        kind, mode = image.format or "", image.mode
        is_upright = image.getexif().get(_ORIENTATION, 1) == 1
        is_still = kind == "MPO" or getattr(image, "n_frames", 1) == 1
        image.load()  # a damaged file is refused now
    suffix = _KEPT.get(kind)
    if suffix and mode in _KEPT_MODES and is_upright and is_still:
        path = target.with_name(target.name + suffix)
        shutil.copyfile(source, path)
        return path
    path = target.with_name(target.name + (".jpg" if suffix == ".jpg" else ".png"))
    with _reading(source):
        pixels = to_pixels(source).numpy()
    upright = Image.fromarray(pixels if pixels.dtype == np.uint8 else np.rint(pixels * 255).astype(np.uint8))
    if path.suffix == ".jpg":
        upright.save(path, "JPEG", quality=_QUALITY)
    else:
        upright.save(path, "PNG", compress_level=1)
    return path


def check_pixels(width: int, height: int) -> None:
    """Raises a BadPhotoError if a photograph is too large."""
    if width * height > MAX_PIXELS:
        raise BadPhotoError(
            f"the photograph has {width}x{height} pixels; at most {MAX_PIXELS / 1e6:.0f} million are accepted"
        )


def read_photo(file: Path) -> NDArray[np.uint8]:
    """The pixels ``(H, W, 3)`` of a stored photograph.

    Raises:
        BadPhotoError: it cannot be read.
    """
    with _reading(file), open_image(file, _FORMATS) as image:
        return np.asarray(image.convert("RGB"))


def poster_of(file: Path) -> tuple[Image.Image, tuple[int, int]]:
    """A small image of a stored photograph, and the photograph's size (H, W).

    Raises:
        BadPhotoError: it cannot be read.
    """
    with _reading(file), open_image(file, _FORMATS) as image:
        height, width = image.height, image.width
        image.draft("RGB", (POSTER_SIDE, POSTER_SIDE))  # JPEG files are decoded in a smaller size
        poster = ImageOps.exif_transpose(image).convert("RGB")
    poster.thumbnail((POSTER_SIDE, POSTER_SIDE))
    return poster, (height, width)


@contextmanager
def _reading(file: Path) -> Iterator[None]:
    try:
        yield
    except (*IMAGE_READ_ERRORS, ImageError) as error:
        raise BadPhotoError(f"this photograph cannot be used: {message_without_path(error, file)}") from error
