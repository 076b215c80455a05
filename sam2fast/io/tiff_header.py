"""Reads headers of TIFF files: pages, and the georeference of GeoTIFF files."""

import re
import struct
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, BinaryIO

SIGNATURES = {b"II*\0": ("<", False), b"MM\0*": (">", False), b"II+\0": ("<", True), b"MM\0+": (">", True)}
MOST_PAGES = 1 << 16  # maximum pages, since a damaged header may contain more
MOST_ENTRIES = 1 << 12  # maximum entries of a page
MOST_VALUES = 1 << 24  # maximum values of a tag; the limit allows OME's long descriptions
# Maps TIFF field types to characters of the struct module. Text is read as bytes.
FIELD_TYPES = {1: "B", 2: "B", 3: "H", 4: "I", 6: "b", 8: "h", 9: "i", 11: "f", 12: "d", 13: "I", 16: "Q", 18: "Q"}
NEW_SUBFILE_TYPE, WIDTH, HEIGHT, BITS, COMPRESSION, PHOTOMETRIC = 254, 256, 257, 258, 259, 262
DESCRIPTION, ORIENTATION, SAMPLES, PLANAR, EXTRA_SAMPLES, SAMPLE_FORMAT = 270, 274, 277, 284, 338, 339
STRIPS, TILES, SUB_IFDS = 273, 324, 330  # tags of offsets in the file
PIXEL_SCALE, TIE_POINTS, TRANSFORMATION, GEO_KEYS, NODATA = 33550, 33922, 34264, 34735, 42113
TAGS = {NEW_SUBFILE_TYPE, WIDTH, HEIGHT, BITS, COMPRESSION, PHOTOMETRIC, ORIENTATION, SAMPLES, PLANAR}
TAGS |= {EXTRA_SAMPLES, SAMPLE_FORMAT, NODATA, STRIPS, TILES, SUB_IFDS}
TAGS_OF_FIRST = TAGS | {DESCRIPTION, PIXEL_SCALE, TIE_POINTS, TRANSFORMATION, GEO_KEYS}
MODEL_TYPE, RASTER_TYPE, GEOGRAPHIC_CODE, PROJECTED_CODE = 1024, 1025, 2048, 3072  # keys in GEO_KEYS
PROJECTED, PIXEL_IS_POINT, USER_DEFINED = 1, 2, 32767
REDUCED, TRANSPARENCY = 1, 4  # bits of NEW_SUBFILE_TYPE
WHITE_IS_ZERO, BLACK_IS_ZERO, RGB, PALETTE, CMYK, YCBCR, LAB, CFA = 0, 1, 2, 3, 5, 6, 8, 32803
PREMULTIPLIED = 1
ALPHAS = (PREMULTIPLIED, 2)  # values of EXTRA_SAMPLES
UNSIGNED, SIGNED, FLOAT, VOID = 1, 2, 3, 4  # sample formats
NAMES = {UNSIGNED: "uint", SIGNED: "int", FLOAT: "float"}
# Compressions that Pillow 10.3 decodes: none, CCITT, LZW, JPEG, Deflate, PackBits, ThunderScan, LZMA.
PILLOW_COMPRESSIONS = {1, 2, 3, 4, 5, 6, 7, 8, 32771, 32773, 32809, 32946, 34925}
PILLOW_GREYS = {
    *((BLACK_IS_ZERO, UNSIGNED, bits) for bits in (1, 2, 4, 8, 12, 16)),
    *((WHITE_IS_ZERO, UNSIGNED, bits) for bits in (1, 2, 4, 8)),
    *((PALETTE, UNSIGNED, bits) for bits in (1, 2, 4, 8)),
}
# Grey modes whose bytes Pillow swaps incorrectly in big-endian, compressed files.
PILLOW_DEEP_GREYS = {
    *((BLACK_IS_ZERO, sample_format, 32) for sample_format in (UNSIGNED, SIGNED, FLOAT)),
    (BLACK_IS_ZERO, SIGNED, 16),
}
COLOURS = {BLACK_IS_ZERO: 1, PALETTE: 1, RGB: 3, CMYK: 4, YCBCR: 3, LAB: 3}  # number of bands without extra samples
# Extra samples of 8-bit images that Pillow 10.3 reads. 0 stands for a band of unspecified meaning.
PILLOW_EXTRAS: dict[int, tuple[tuple[int, ...], ...]] = {
    BLACK_IS_ZERO: ((1,), (2,)),
    PALETTE: ((0,), (2,)),
    RGB: ((), *((first, *further) for first in (0, 1, 2) for further in ((), (0,), (0, 0)))),
    CMYK: ((), (0,), (0, 0)),
    YCBCR: ((),),
    LAB: ((),),
}
# Extra samples of 16-bit images that Pillow 10.3 reads.
PILLOW_DEEP_EXTRAS: dict[int, tuple[tuple[int, ...], ...]] = {RGB: ((), (1,), (2,)), CMYK: ((),)}


@dataclass(frozen=True)
class TiffPage:
    """Describes a page of a TIFF file. A page stores one image.

    Attributes:
        number: Index of the page in the file.
        tags: Values of the page's tags, for tags in :data:`TAGS`.
        is_big_endian: True if the most significant byte of numbers is first.
        is_big_tiff: True if the file is BigTIFF.
    """

    number: int
    tags: Mapping[int, tuple[Any, ...]]
    is_big_endian: bool
    is_big_tiff: bool

    def first(self, tag: int, default: int) -> int:
        """Returns the first value of a tag, or ``default`` if the page does not have the tag."""
        return int(self.tags.get(tag, (default,))[0])

    @property
    def width(self) -> int:
        """Number of stored columns, before the orientation is applied."""
        return self.first(WIDTH, 0)

    @property
    def height(self) -> int:
        """Number of stored rows, before the orientation is applied."""
        return self.first(HEIGHT, 0)

    @property
    def samples(self) -> int:
        """Number of bands."""
        return self.first(SAMPLES, 1)

    @property
    def bits(self) -> int:
        """Number of bits of a value."""
        return self.first(BITS, 1)

    @property
    def alphas(self) -> int:
        """Number of bands that are marked as alpha."""
        return sum(extra in ALPHAS for extra in self.tags.get(EXTRA_SAMPLES, ()))

    @property
    def photometric(self) -> int:
        """Meaning of the values, such as :data:`RGB`."""
        return self.first(PHOTOMETRIC, BLACK_IS_ZERO)

    @property
    def is_separate(self) -> bool:
        """True if each band is stored in a separate plane."""
        return self.samples > 1 and self.first(PLANAR, 1) == 2

    @property
    def is_reduced(self) -> bool:
        """True if the page is marked as a thumbnail or a mask of another page."""
        return bool(self.first(NEW_SUBFILE_TYPE, 0) & (REDUCED | TRANSPARENCY))

    @property
    def sample_format(self) -> int:
        """Type of the values, such as :data:`SIGNED`."""
        value = self.first(SAMPLE_FORMAT, UNSIGNED)
        return UNSIGNED if value == VOID else value

    @property
    def nodata(self) -> float | None:
        """GDAL's value of pixels without data, or None."""
        try:
            return float(bytes(self.tags.get(NODATA, ())).rstrip(b"\0 "))
        except ValueError:
            return None

    @property
    def kind(self) -> str:
        """Description of the bands and their data type, for messages."""
        name = f"{NAMES.get(self.sample_format, 'complex')}{self.bits}"
        bands = f"{self.samples} band{'s' if self.samples > 1 else ''} of {name}"
        if self.photometric == WHITE_IS_ZERO:
            bands += " where 0 is white"
        if self.photometric == CFA:
            bands += ", raw values of a camera's sensor"
        return bands + (" in separate planes" if self.is_separate else "")

    @property
    def pillow_is_right(self) -> bool:
        """True if Pillow decodes the page correctly."""
        bits, is_packed = self.tags.get(BITS, (1,)), self.first(COMPRESSION, 1) != 1
        if self.first(COMPRESSION, 1) not in PILLOW_COMPRESSIONS or len({*bits}) > 1:
            return False
        if self.is_big_endian and self.is_big_tiff:
            return False
        if 0 in self.tags.get(STRIPS, ()) or 0 in self.tags.get(TILES, ()):
            return False  # GDAL does not store empty tiles, but Pillow reads empty tiles from offset 0
        if self.samples == 1 and self.first(PLANAR, 1) == 2 and not is_packed:  # Pillow ignores the sample format
            return self.sample_format == UNSIGNED and bits[0] == 8 and self.photometric in (BLACK_IS_ZERO, PALETTE)
        if self.samples == 1:
            is_swapped = self.is_big_endian and (is_packed or self.sample_format == UNSIGNED)
            known = (self.photometric, self.sample_format, bits[0])
            return known in PILLOW_GREYS or (known in PILLOW_DEEP_GREYS and not is_swapped)
        extra = self.tags.get(EXTRA_SAMPLES, ())
        if self.sample_format != UNSIGNED or bits[0] not in (8, 16) or self.photometric not in COLOURS:
            return False
        if self.is_separate and not is_packed and (bits[0] == 16 or extra not in ((), (2,))):
            return False  # Pillow decodes these planes as 8 bits, or not at all
        further = self.samples - COLOURS[self.photometric]
        if bits[0] == 16:
            return len(extra) == further and extra in PILLOW_DEEP_EXTRAS.get(self.photometric, ())
        if self.photometric == BLACK_IS_ZERO and self.is_separate:
            return False
        if self.photometric == RGB and further == 1 and extra in ((), (999,)):  # alpha in files of old programs
            return True
        return len(extra) == further and extra in PILLOW_EXTRAS[self.photometric]


@dataclass(frozen=True)
class Place:
    """Stores the georeference of an image.

    Attributes:
        epsg: EPSG code of the coordinate system.
        transform: Coefficients ``(a, b, c, d, e, f)`` of ``x = a column + b row + c`` and ``y = d column + e row + f``.
            Columns and rows start at the upper left corner of the image.
    """

    epsg: int
    transform: tuple[float, float, float, float, float, float]


@dataclass(frozen=True)
class TiffHeader:
    """Stores the pages of a TIFF file. There is at least one page."""

    pages: tuple[TiffPage, ...]

    @cached_property
    def images(self) -> tuple[TiffPage, ...]:
        """Pages except thumbnails, masks and pages with further channels of an image: at least one page.

        Thumbnails are pages that are marked as thumbnails, and leading pages with fewer than half of the largest page's
        pixels.
        """
        pages = [page for page in self.pages if not page.is_reduced] or [*self.pages]
        most = max(page.width * page.height for page in pages)
        while 2 * pages[0].width * pages[0].height < most:
            del pages[0]
        count, step = self.channels
        return tuple(page for i, page in enumerate(pages) if not step or i // step % count == 0)

    @cached_property
    def channels(self) -> tuple[int, int]:
        """Number of channels in separate pages, and distance in pages from one channel to the next.

        The value is ``(1, 0)`` if each image is a single page. OME and ImageJ describe channels in the first page.
        """
        text = bytes(self.pages[0].tags.get(DESCRIPTION, ())).decode(errors="replace")
        if text.startswith("ImageJ=") and (match := re.search(r"^channels=(\d+)", text, re.MULTILINE)):
            count, step = int(match[1]), 1
        elif pixels := re.search(r"<(?:\w+:)?Pixels\s[^>]*>", text):
            sizes = {axis: int(size) for axis, size in re.findall(r'Size([CZT])="(\d+)"', pixels[0])}
            order = re.search(r'DimensionOrder="XY([CZT]{3})"', pixels[0])
            count, step = sizes.get("C", 1) // self.pages[0].samples, 1
            for axis in order[1].partition("C")[0] if order else "":
                step *= sizes.get(axis, 1)
        else:
            return 1, 0
        return (count, step) if count > 1 and count * step <= len(self.pages) else (1, 0)

    def channel_pages(self, page: TiffPage) -> list[int]:
        """Returns the numbers of the pages that contain channels of the image ``page``."""
        count, step = self.channels
        return [page.number + i * step for i in range(count)]

    @property
    def is_georeferenced(self) -> bool:
        """True if the first image has GeoTIFF tags."""
        return any(tag in self.images[0].tags for tag in (GEO_KEYS, PIXEL_SCALE, TIE_POINTS, TRANSFORMATION))

    @property
    def place(self) -> Place | None:
        """Georeference of the first image, or None if its EPSG code or transform is missing."""
        page = self.images[0]
        keys = page.tags.get(GEO_KEYS, ())
        # Each key consists of four numbers: id, location of the value (0 for this key), count, and value.
        values = {keys[i]: keys[i + 3] for i in range(4, len(keys) - 3, 4) if keys[i + 1] == 0}
        epsg = values.get(PROJECTED_CODE if values.get(MODEL_TYPE) == PROJECTED else GEOGRAPHIC_CODE)
        if not epsg or epsg == USER_DEFINED or page.first(ORIENTATION, 1) != 1:
            return None
        if len(matrix := page.tags.get(TRANSFORMATION, ())) == 16:
            a, b, c, d, e, f = matrix[0], matrix[1], matrix[3], matrix[4], matrix[5], matrix[7]
        elif len(tie := page.tags.get(TIE_POINTS, ())) == 6 and len(scale := page.tags.get(PIXEL_SCALE, ())) >= 2:
            a, b, d, e = scale[0], 0.0, 0.0, -scale[1]
            c, f = tie[3] - a * tie[0], tie[4] - e * tie[1]
        else:
            return None
        if values.get(RASTER_TYPE) == PIXEL_IS_POINT:  # if True, coordinates refer to centres of pixels
            c, f = c - (a + b) / 2, f - (d + e) / 2
        return Place(epsg, (a, b, c, d, e, f))


def read_tiff_header(file: BinaryIO) -> TiffHeader | None:
    """Reads the header of a TIFF file, and rewinds the file. Returns None for damaged files and other formats."""
    file.seek(0)
    try:
        order, is_big = SIGNATURES[file.read(4)]
        if is_big:
            file.seek(8)
        (offset,) = struct.unpack(order + ("Q" if is_big else "I"), file.read(8 if is_big else 4))
        pages: list[TiffPage] = []
        seen = set()
        while offset and offset not in seen and len(pages) < MOST_PAGES:
            seen.add(offset)
            tags, offset = _read_directory(file, offset, order, is_big, TAGS if pages else TAGS_OF_FIRST)
            pages.append(TiffPage(len(pages), tags, order == ">", is_big))
        return TiffHeader(tuple(pages)) if pages else None
    except (KeyError, struct.error, OverflowError, OSError):
        return None
    finally:
        file.seek(0)


def _read_directory(
    file: BinaryIO, offset: int, order: str, is_big: bool, selected: Collection[int]
) -> tuple[dict[int, tuple[Any, ...]], int]:
    """Reads the selected tags of a page, and the offset of the next page."""
    counts, entry, place = ("Q", "HHQ", "Q") if is_big else ("H", "HHI", "I")
    file.seek(offset)
    size, length = struct.calcsize(order + counts), struct.calcsize(order + entry + place)
    (count,) = struct.unpack(order + counts, file.read(size))
    count = min(count, MOST_ENTRIES)
    content = file.read(count * length + struct.calcsize(order + place))
    tags = {}
    for start in range(0, count * length, length):
        tag, field_type, number = struct.unpack_from(order + entry, content, start)
        if tag not in selected or field_type not in FIELD_TYPES or not 0 < number <= MOST_VALUES:
            continue
        form = f"{order}{number}{FIELD_TYPES[field_type]}"
        at = start + struct.calcsize(order + entry)
        if struct.calcsize(form) <= struct.calcsize(order + place):
            tags[tag] = struct.unpack_from(form, content, at)
        else:
            file.seek(struct.unpack_from(order + place, content, at)[0])
            tags[tag] = struct.unpack(form, file.read(struct.calcsize(form)))
    return tags, struct.unpack_from(order + place, content, count * length)[0]
