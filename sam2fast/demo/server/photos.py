"""Photographs: images that are opened as sessions of one frame, in their full size.

Transparent parts are shown over grey, to users and to the model: a file may have any colours there. Functions that
read a photograph raise BadPhotoError if it cannot be read or has too many pixels.
"""

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from io import BufferedReader, FileIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from sam2fast.demo.server.demo_errors import BadPhotoError, message_without_path
from sam2fast.demo.server.jobs import Report, ignore_progress
from sam2fast.io.image_files import as_rgb, has_eight_bits, read_header, read_image, read_image_size
from sam2fast.io.images import AVIF_BRANDS, HEIF_BRANDS, IMAGE_READ_ERRORS, is_animation, open_image
from sam2fast.io.tiff_header import SIGNATURES as TIFF_SIGNATURES

# The files that are accepted; AVIF needs Pillow 11.3, HEIF needs pillow-heif.
_ENDINGS = {
    "JPEG": (".jpg", ".jpeg"),
    "PNG": (".png",),
    "WEBP": (".webp",),
    "BMP": (".bmp",),
    "TIFF": (".tif", ".tiff"),
    "AVIF": (".avif",),
    "HEIF": (".heic", ".heif"),
}


def _known_formats() -> tuple[str, ...]:
    """Returns Pillow's names of the accepted formats, without the formats that are not installed."""
    with suppress(ImportError):
        from pillow_heif import register_heif_opener

        register_heif_opener()
    Image.init()
    return tuple(name for name in _ENDINGS if name in Image.OPEN)


_FORMATS = _known_formats()
ENDINGS = tuple(ending for name in _FORMATS for ending in _ENDINGS[name])
SUFFIXES = (".jpg", ".png", ".webp")  # of stored ones
SIGNATURES = (b"\xff\xd8\xff", b"\x89PNG", b"RIFF", b"BM", *TIFF_SIGNATURES)
# HEIC and AVIF files begin with the first box of MP4; these brands follow it.
BRANDS = (*HEIF_BRANDS, *AVIF_BRANDS)
GREY = (128, 128, 128)  # behind transparent parts
MAX_PIXELS = 1 << 26
MAX_BYTES = 1 << 30  # of all bands
POSTER_SIDE = 480
# What browsers show as Pillow reads it; an MPO file is a JPEG with further images.
_KEPT = {"JPEG": ".jpg", "MPO": ".jpg", "PNG": ".png", "WEBP": ".webp"}
_ORIENTATION = 0x0112  # of EXIF; 1 is upright
_QUALITY = 95  # of JPEG files that are written
_LOSSY = ("JPEG", "MPO", "HEIF", "AVIF")


def is_photo(file: str | Path) -> bool:
    """Returns True if a file of the library has the suffix of a photograph."""
    return Path(file).suffix in SUFFIXES


class _CountedFile(BufferedReader):
    """A file that reports the share of its bytes that was read."""

    def __init__(self, file: Path, report: Report) -> None:
        super().__init__(FileIO(file))
        self._size, self._report = file.stat().st_size, report

    def read(self, size: int | None = -1, /) -> bytes:
        """Reads as every file does."""
        data = super().read(size)
        self._report(self.tell() / self._size)
        return data


def store_photo(source: Path, target: Path, report: Report = ignore_progress) -> Path:
    """Copies an uploaded photograph, or converts it if browsers do not show it or it is not upright.

    Args:
        source: File of an untrusted client.
        target: Path of the result without its suffix. The result's path is returned.
        report: Function that receives the share that is done: a conversion decodes, reads and writes.
    """
    with _reading(source):
        is_lossy = False
        if read_header(source) is None:
            steps = 1
            with (
                _CountedFile(source, lambda share: report(share / steps)) as file,
                open_image(file, _FORMATS) as image,
            ):
                check_pixels(image.width, image.height)
                kind = image.format or ""
                is_upright = image.getexif().get(_ORIENTATION, 1) == 1
                is_kept = kind in _KEPT and is_upright and not is_animation(image) and has_eight_bits(source)
                steps = 1 if is_kept else 3
                image.load()  # a damaged file is refused now
            if is_kept:
                path = target.with_name(target.name + _KEPT[kind])
                shutil.copyfile(source, path)
                return path
            is_lossy = kind in _LOSSY
        photo = _read(source)
    report(2 / 3)
    path = target.with_name(target.name + (".jpg" if is_lossy and photo.mode == "RGB" else ".png"))
    if path.suffix == ".jpg":
        photo.save(path, "JPEG", quality=_QUALITY)
    else:
        photo.save(path, "PNG", compress_level=1)
    return path


def check_pixels(width: int, height: int) -> None:
    """Raises a BadPhotoError if a photograph is too large."""
    if width * height > MAX_PIXELS:
        raise BadPhotoError(
            f"the photograph has {width}x{height} pixels; at most {MAX_PIXELS / 1e6:.0f} million are accepted"
        )


def read_photo(file: Path) -> NDArray[np.uint8]:
    """Reads the pixels ``(H, W, 3)`` of a stored photograph, with grey behind transparent parts."""
    with _reading(file), open_image(file, _FORMATS) as image:
        return np.asarray(_over_grey(image))


def model_input(file: Path) -> Path | NDArray[np.uint8]:
    """Returns the model's input for a stored photograph: the file, or its pixels if parts are transparent."""
    with _reading(file), open_image(file, _FORMATS) as image:
        return read_photo(file) if image.has_transparency_data else file


def read_cutout(file: Path, alpha_of: Callable[[NDArray[np.uint8]], NDArray[np.uint8]]) -> NDArray[np.uint8]:
    """Reads the pixels ``(H, W, 4)`` of a stored photograph with alpha. Transparent pixels are black.

    Args:
        alpha_of: Function that returns the alpha ``(H, W)`` for the photograph as the model sees it.
    """
    with _reading(file), open_image(file, _FORMATS) as image:
        alpha = alpha_of(np.asarray(_over_grey(image)))
        pixels = np.array(image.convert("RGBA"))
    own = pixels[..., 3].astype(np.uint16)
    pixels[..., 3] = (own * alpha + 127) // 255
    pixels[pixels[..., 3] == 0] = 0  # colours under transparent parts may be erased content
    return pixels


def poster_of(file: Path) -> tuple[Image.Image, tuple[int, int]]:
    """Returns a small image of a stored photograph, and the photograph's size (H, W)."""
    with _reading(file), open_image(file, _FORMATS) as image:
        height, width = image.height, image.width
        image.draft("RGB", (POSTER_SIDE, POSTER_SIDE))  # JPEG files are decoded in a smaller size
        poster = _upright(image)
        poster.thumbnail((POSTER_SIDE, POSTER_SIDE))
        return _over_grey(poster), (height, width)


def thumbnail_of(file: Path) -> Image.Image:
    """Returns a small image of a file that need not be stored yet."""
    with _reading(file):
        if read_header(file) is None:
            with open_image(file, _FORMATS) as image:
                check_pixels(image.width, image.height)
            if has_eight_bits(file):
                return poster_of(file)[0]
        thumbnail = _read(file)
    thumbnail.thumbnail((POSTER_SIDE, POSTER_SIDE))
    return _over_grey(thumbnail)


def _read(file: Path) -> Image.Image:
    """Reads a photograph in 8 bits, upright: RGB, or RGBA if it has alpha that Pillow reads."""
    header, alpha = read_header(file), None
    if header is not None:
        check_pixels(*read_image_size(file))
        page = header.images[0]
        if page.width * page.height * page.samples * page.bits > 8 * MAX_BYTES:
            raise BadPhotoError(f"the photograph has {page.kind}, more than {MAX_BYTES >> 30} GiB")
    if header is None or header.images[0].pillow_is_right:
        with open_image(file, _FORMATS) as image:
            alpha = _upright(image).convert("RGBA").getchannel("A") if image.has_transparency_data else None
    stored = read_image(file)
    photo = Image.fromarray(as_rgb(stored, stored.own_scale()))
    if alpha is not None and alpha.size == photo.size:  # of another page it is not
        photo.putalpha(alpha)
    return photo


def _upright(image: Image.Image) -> Image.Image:
    return ImageOps.exif_transpose(image) or image


def _over_grey(image: Image.Image) -> Image.Image:
    if not image.has_transparency_data:
        return image.convert("RGB")
    image = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", image.size, GREY), image).convert("RGB")


@contextmanager
def _reading(file: Path) -> Iterator[None]:
    try:
        yield
    except IMAGE_READ_ERRORS as error:
        raise BadPhotoError(f"this photograph cannot be used: {message_without_path(error, file)}") from error
