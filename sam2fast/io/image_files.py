"""Reads a page and at most three bands of an image file, and chooses the scale of the values."""

import io
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile, ImageOps

from sam2fast.io.cinema_files import read_cinema_file, show_light
from sam2fast.io.deep_colours import read_deep_colours
from sam2fast.io.images import check_pixels, open_image, without_pillow_limit
from sam2fast.io.tiff import read_tiff
from sam2fast.io.tiff_header import (
    BLACK_IS_ZERO,
    ORIENTATION,
    RGB,
    SUB_IFDS,
    UNSIGNED,
    WHITE_IS_ZERO,
    TiffHeader,
    TiffPage,
    read_tiff_header,
)
from sam2fast.io.value_scale import Scale, choose_scale, sample_values, to_eight_bits

COLOURS = 3
EIGHT_BITS = ("1", "L", "LA", "P", "RGB", "RGBA")  # Pillow's modes
DEEP_COLOURS = ("RGB;16", "RGBA;16", "LA;16")  # raw modes that Pillow unpacks in either byte order
AnyFile: TypeAlias = str | Path | bytes | bytearray | memoryview | BinaryIO


@dataclass(frozen=True)
class FileImage:
    """Stores an image with the unscaled values of the file.

    Attributes:
        values: Values ``(H, W)`` (grey) or ``(H, W, 3)`` (RGB), upright, in uint8 or the file's dtype.
        page: Number of the page from 1, and number of pages.
        bands: Numbers of the selected bands from 1, and number of bands.
        is_negative: True if the smallest value is white.
        nodata: Value of pixels without data, or None.
        is_linear: True if the values are linear light. Linear light is shown by the curve of sRGB.
        remark: Description of the values, for notes to the user.
    """

    values: NDArray[Any]
    page: tuple[int, int] = (1, 1)
    bands: tuple[tuple[int, ...], int] = ((1, 2, 3), 3)
    is_negative: bool = False
    nodata: float | None = None
    is_linear: bool = False
    remark: str = ""

    def samples(self) -> NDArray[Any]:
        """Returns the values that :func:`~sam2fast.io.value_scale.choose_scale` chooses a scale from."""
        return sample_values(self.values, self.nodata)

    def own_scale(self) -> Scale | None:
        """Returns the scale of this image, or None if values are not scaled."""
        return Scale(0.0, 1.0) if self.is_linear else choose_scale(self.samples())

    def pixels(self, scale: Scale | None) -> NDArray[Any]:
        """Returns pixels ``(H, W)`` or ``(H, W, 3)``, uint8 or floats in [0, 1].

        Args:
            scale: Result of :meth:`own_scale`, or the common scale of a folder of frames.
        """
        if self.is_linear:
            return show_light(self.values, scale or Scale(0.0, 1.0))
        pixels = to_eight_bits(self.values, scale)
        if self.is_negative:
            pixels = (255 if pixels.dtype == np.uint8 else 1) - pixels
        return pixels

    def choices(self, scale: Scale | None) -> dict[str, Any]:
        """Returns page, bands and scale for JSON. Omits entries without alternatives."""
        entries: dict[str, Any] = {}
        if self.page[1] > 1:
            entries["page"] = {"number": self.page[0], "of": self.page[1]}
        if len(self.bands[0]) < self.bands[1]:
            entries["bands"] = {"numbers": list(self.bands[0]), "of": self.bands[1]}
        if scale is not None:
            entries["scale"] = {"black": scale.black, "white": scale.white}
            entries["scale"] |= {"curve": "sRGB"} if self.is_linear else {}
        return entries

    def note(self, scale: Scale | None) -> str:
        """Returns a description of page, bands and range, or an empty string if there is nothing to report."""
        parts = [self.remark] if self.remark else []
        if self.page[1] > 1:
            parts.append(f"is page {self.page[0]} of {self.page[1]}")
        taken, count = self.bands
        if len(taken) < count:
            colours = " as red, green and blue" if len(taken) == COLOURS else ""
            parts.append(f"is band {', '.join(map(str, taken))} of {count}{colours}")
        if text := self._range(scale):
            parts.append(text)
        return "; it ".join(parts)

    def _range(self, scale: Scale | None) -> str:
        is_float = self.values.dtype.kind == "f"
        values = self.values[np.isfinite(self.values)] if is_float else self.values
        scaled = (
            ""
            if scale is None
            else f": values are scaled so that {scale.black:g} is black and {scale.white:g} is white"
            + (", by the curve of sRGB" if self.is_linear else "")
        )
        if not values.size:
            return f"has no finite value, and is black{scaled}"
        if scale is None:
            without = self.values.size - values.size
            return f"has {without} values that are not finite, and are black" if without else ""
        has_data = values != self.nodata
        shown = values[has_data] if has_data.any() else values
        least, most = shown.min(), shown.max()
        if values.dtype == np.uint16 and scale == (0, most):
            return f"has 16 bits, and values up to {most} only: values are scaled so that the maximum is white"
        text = f"has values from {least:g} to {most:g}"
        if without := self.values.size - values.size:
            text += f", and {without} that are not finite"
        return text + scaled


def read_image(file: AnyFile, index: int = 0, upright: bool = True, header: TiffHeader | None = None) -> FileImage:
    """Reads an image file with Pillow, ``tifffile`` or PyAV.

    ``tifffile`` reads TIFF files that Pillow does not read correctly, and PyAV reads OpenEXR and DPX. By default, the
    image is the first page that is not a thumbnail. The first three of three or more bands are red, green and blue. The
    first of two bands is grey.

    Args:
        file: Path, content, or binary file. A binary file is read from its start, and a pipe from its position.
        index: Index of a page of a TIFF file. Thumbnails are not counted.
        upright: If True, applies the EXIF orientation. Pages of TIFF files are always upright.
        header: Header of the file. If None, the header is read.

    Raises:
        OSError, ValueError: If the file cannot be read; see :data:`~sam2fast.io.images.IMAGE_READ_ERRORS` for damaged
            files. If an extra is missing, the message names the extra.
    """
    with _opened(_seekable(file)) as stream:
        header = header or read_tiff_header(stream)
        if header is None and (cinema := read_cinema_file(stream)):
            check_pixels(cinema.width, cinema.height)
            return FileImage(cinema.decode(), is_linear=cinema.is_linear, remark=cinema.remark)
        if header is None:
            return FileImage(_by_pillow(stream, None, upright))
        page = header.images[index]
        check_pixels(page.width, page.height)
        if page.is_reduced and SUB_IFDS in page.tags:
            raise ValueError("it has only a thumbnail, like raw files of cameras: convert it to TIFF or JPEG")
        place = (index + 1, len(header.images))
        channels = header.channel_pages(page)
        if page.pillow_is_right and len(channels) == 1:
            values = _by_pillow(stream, page, upright)
            if values.dtype == np.int32 and page.sample_format == UNSIGNED:
                values = values.view(np.uint32)
            count = page.samples - page.alphas if page.photometric in (BLACK_IS_ZERO, RGB) else COLOURS
            return FileImage(values, place, _taken(count), nodata=page.nodata)
        bands = read_tiff(stream, page, channels[:COLOURS])
        count = bands.shape[2] * len(channels) // len(channels[:COLOURS])
        values = bands[..., :COLOURS] if count >= COLOURS else bands[..., 0]
        return FileImage(values, place, _taken(count), page.photometric == WHITE_IS_ZERO, page.nodata)


def as_rgb(image: FileImage, scale: Scale | None) -> NDArray[np.uint8]:
    """Returns the pixels of an image as ``(H, W, 3)`` uint8; see :meth:`FileImage.pixels`."""
    pixels = image.pixels(scale)
    if pixels.dtype != np.uint8:
        pixels = np.rint(pixels * 255).astype(np.uint8)
    return np.array(pixels if pixels.ndim == 3 else np.repeat(pixels[..., None], 3, axis=2))


def _taken(count: int) -> tuple[tuple[int, ...], int]:
    return (1, 2, 3) if count >= COLOURS else (1,), count


def read_image_size(file: AnyFile) -> tuple[int, int]:
    """Returns (width, height) from the header, before JPEG's EXIF orientation. See :func:`read_image` for errors."""
    with _opened(file) as stream:
        header = read_tiff_header(stream)
        if header is None and (cinema := read_cinema_file(stream)):
            check_pixels(cinema.width, cinema.height)
            return cinema.width, cinema.height
        if header is None:
            with open_image(stream) as image:
                return image.size
        page = header.images[0]
        check_pixels(page.width, page.height)
        size = (page.width, page.height)
        return size if page.first(ORIENTATION, 1) < 5 else size[::-1]


def read_header(file: AnyFile) -> TiffHeader | None:
    """Reads the header of a TIFF file. Returns None for other files."""
    with _opened(file) as stream:
        return read_tiff_header(stream)


def image_format(file: AnyFile) -> str | None:
    """Returns Pillow's name of an image file's format, from the header. The name is JPEG for MPO, which adds views.

    Returns None for OpenEXR and DPX files. See :func:`read_image` for errors.
    """
    with _opened(file) as stream:
        if read_tiff_header(stream) is not None:
            return "TIFF"
        if read_cinema_file(stream) is not None:
            return None
        with open_image(stream) as image:
            return "JPEG" if image.format == "MPO" else image.format


def read_if_pillow_fails(file: AnyFile) -> FileImage | None:
    """Calls :func:`read_image` for a TIFF file that Pillow reads incorrectly. Returns None for other files."""
    header = read_header(file)
    return None if header is None or header.images[0].pillow_is_right else read_image(file, header=header)


def has_eight_bits(file: AnyFile) -> bool:
    """Returns True if the first page of a file has 8 bits, grey or RGB. All programs show such files alike."""
    with _opened(file) as stream:
        header = read_tiff_header(stream)
        if header is not None:
            page = header.images[0]
            if page.number or header.channels[0] > 1 or not page.pillow_is_right:
                return False
        with open_image(stream) as image:
            rawmodes = [_rawmode(tile) for tile in getattr(image, "tile", ())]
            is_deep = any(";16" in rawmode for rawmode in rawmodes)
            return image.mode in EIGHT_BITS and not is_deep and read_deep_colours(stream, image) is None


def _seekable(file: AnyFile) -> AnyFile:
    """Reads a file that cannot be rewound, such as a web server's answer. Returns all other files unchanged."""
    if isinstance(file, str | Path | bytes | bytearray | memoryview):
        return file
    try:
        file.seek(0)
    except (AttributeError, io.UnsupportedOperation):
        return file.read()
    return file


@contextmanager
def _opened(file: AnyFile) -> Iterator[BinaryIO]:
    if isinstance(file, str | Path):
        with open(file, "rb") as stream:
            yield stream
    else:
        yield io.BytesIO(file) if isinstance(file, bytes | bytearray | memoryview) else file


def _by_pillow(stream: BinaryIO, page: TiffPage | None, upright: bool) -> NDArray[Any]:
    """Returns the values of a page: grey, or RGB of 8 or 16 bits.

    If 16-bit values use the full range, only their upper 8 bits are exact.
    """
    with _seeked(stream, page) as image:
        rawmodes = [_rawmode(tile) for tile in image.tile]
        is_deep = image.mode in ("RGB", "RGBA") and any(";16" in rawmode for rawmode in rawmodes)
        deep = None if page else read_deep_colours(stream, image)
        if deep is not None:
            return deep
        values = _values(image, upright)
    if not is_deep:
        return values
    upper = values.astype(np.uint16) << 8
    has_nodata = page is not None and page.nodata is not None
    if not has_nodata and upper.any() and choose_scale(upper) is None:
        return upper | values
    if page is not None and (page.is_separate or not rawmodes[0].startswith(DEEP_COLOURS)):
        return read_tiff(stream, page, [page.number])[..., :COLOURS]
    with _seeked(stream, page) as image:
        # Pillow returns only upper bytes. With the other byte order, Pillow returns the lower bytes.
        image.tile = [_with_rawmode(tile, _other_order(mode)) for tile, mode in zip(image.tile, rawmodes, strict=True)]
        lower = _values(image, upright)
    return upper | (lower[..., 1:2] if rawmodes[0].startswith("LA") else lower)


@contextmanager
def _seeked(stream: BinaryIO, page: TiffPage | None) -> Iterator[ImageFile.ImageFile]:
    with without_pillow_limit(), open_image(stream) as image:
        if page is not None and page.number:
            image.seek(page.number)
        yield image


def _values(image: Image.Image, upright: bool) -> NDArray[Any]:
    if upright:
        ImageOps.exif_transpose(image, in_place=True)  # in place, so that Pillow does not copy upright images
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        values = np.asarray(image)
        return values.astype(values.dtype.newbyteorder("="))
    image = image.convert("LA") if image.mode == "La" else image  # Pillow cannot convert premultiplied grey to RGB
    return np.asarray(image.convert("RGB"))


def _other_order(rawmode: str) -> str:
    if rawmode.startswith("LA"):
        return "RGBA"  # four bytes: upper and lower byte of grey, upper and lower byte of alpha
    name, order = rawmode[:-1], rawmode[-1]
    is_big = order == "B" or (order == "N" and sys.byteorder == "big")
    return name + ("L" if is_big else "B")


def _rawmode(tile: Any) -> str:
    arguments = tile[3]
    return str(arguments if isinstance(arguments, str) else arguments[0] if arguments else "")


def _with_rawmode(tile: Any, rawmode: str) -> Any:
    arguments = rawmode if isinstance(tile[3], str) else (rawmode, *tile[3][1:])
    return tile._replace(args=arguments) if hasattr(tile, "_replace") else (*tile[:3], arguments)  # Pillow < 11
