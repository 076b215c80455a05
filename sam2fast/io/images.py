"""Opens image files, and writes JPEG files."""

import math
import os
import re
import struct
import threading
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from decimal import Decimal
from importlib import import_module
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

from PIL import Image, ImageFile, UnidentifiedImageError

from sam2fast.io.atomic import annotate_oserror
from sam2fast.io.file_kinds import first_bytes, kind_of

# Lower-case suffixes of image files that are read from a folder.
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".bmp", ".heic", ".heif", ".avif", ".exr", ".dpx")
IMAGE_SUFFIXES = (*SUFFIXES, ".gif")  # suffixes of images in folders; an animation stands for its first image
CINEMA_SUFFIXES = (".exr", ".dpx")
ANIMATED_FORMATS = ("PNG", "WEBP", "AVIF", "GIF")  # Pillow's names
VIDEO_SUFFIXES = (".mp4", ".m4v", ".mov", ".mkv", ".avi", ".webm")
MAX_NAMED = 5  # maximum number of names in a note on skipped files
# Refused formats. For EPS, Pillow calls Ghostscript, and for WMF, Windows. IPTC contains images of any format. For PSD,
# Pillow before 12.1.1 writes out of bounds (CVE-2026-25990). Of BUFR, GRIB and HDF5, Pillow only knows the names.
REFUSED = frozenset(("EPS", "WMF", "IPTC", "PSD", "BUFR", "GRIB", "HDF5"))
UNKNOWN = "cannot identify the image"
AVIF_BRANDS = (b"avif", b"avis")
HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
MOST_PIXELS = 1 << 28
MEGAPIXELS_VARIABLE = "SAM2FAST_MAX_MEGAPIXELS"  # environment variable, which worker processes inherit
PILLOW_PIXELS = 89_478_485  # Pillow's default limit, which is meant for small images on servers
# Exceptions that Pillow's decoders raise for files that are damaged, too large or not images. MemoryError means a
# damaged header with a huge size, since too large images are refused before decoding.
IMAGE_READ_ERRORS = (
    *(UnidentifiedImageError, OSError, SyntaxError, ValueError, RuntimeError, Image.DecompressionBombError),
    *(LookupError, TypeError, AttributeError, ArithmeticError, AssertionError, EOFError, MemoryError),
    *(struct.error, zlib.error),
)


def is_video_file(name: str) -> bool:
    """Returns True if a name has the suffix of a video file, in upper or lower case."""
    return name.lower().endswith(VIDEO_SUFFIXES)


def files_of_kind(paths: Iterable[Path], suffixes: Sequence[str] = VIDEO_SUFFIXES) -> tuple[list[Path], list[Path]]:
    """Returns visible files and hidden files with these suffixes, in upper or lower case. Includes broken links."""
    files = [path for path in paths if path.suffix.lower() in suffixes and not path.is_dir()]
    hidden = [path for path in files if path.name.startswith(".")]
    return [path for path in files if path not in hidden], hidden


def number_in_name(stem: str) -> Decimal | None:
    """Returns the number that a frame's name without suffix is, such as ``-3`` or ``0.25``, or None for other names."""
    return Decimal(stem) if re.fullmatch(r"-?[0-9]+(\.[0-9]+)?", stem) else None


def skipped_note(names: Sequence[str], hidden: Sequence[str] = ()) -> str:
    """Returns a note on skipped files of other types, and on skipped hidden files such as macOS's ``._1.jpg``."""
    groups = [(names, "{} of other kinds"), (hidden, "hidden {}")]
    parts = [
        f"{len(group)} {text.format('files' if len(group) > 1 else 'file')}: {', '.join(group[:MAX_NAMED])}"
        + (", ..." if len(group) > MAX_NAMED else "")
        for group, text in groups
        if group
    ]
    return f"skipped {' and '.join(parts)}"


def numbered_files_hint(path: str | Path) -> str:
    """Returns a hint for a message if a missing path is a pattern such as ``frames/%03d.png``, else an empty string."""
    path = Path(path)
    if not re.search(r"%[0-9]*d|#", path.name):
        return ""
    return f"; numbered files are read from their folder: give {str(path.parent)!r}"


def is_animation(image: Image.Image) -> bool:
    """Returns True if an open image has several frames in time. MPO and HEIC files have several views of one scene."""
    return image.format in ANIMATED_FORMATS and getattr(image, "n_frames", 1) > 1


def most_pixels() -> float:
    """Returns the maximum pixels of an image: from the environment, Pillow's limit if changed, or the default."""
    if stated := os.environ.get(MEGAPIXELS_VARIABLE):
        return float(stated) * 1e6
    with _PillowLimit.lock:
        pillow = _PillowLimit.value if _PillowLimit.threads else Image.MAX_IMAGE_PIXELS
    if pillow == PILLOW_PIXELS:
        return MOST_PIXELS
    return math.inf if pillow is None else 2.0 * pillow  # Pillow raises an error from twice its limit on


def check_pixels(width: int, height: int) -> None:
    """Raises ``Image.DecompressionBombError`` if an image has more pixels than :func:`most_pixels`."""
    most = most_pixels()
    if width * height > most:
        raise Image.DecompressionBombError(
            f"it has {width}x{height} pixels, more than {most / 1e6:g} million; raise the limit by --max-megapixels "
            f"{math.ceil(width * height / 1e6)} or the environment variable {MEGAPIXELS_VARIABLE}"
        )


def open_image(file: str | Path | BinaryIO, formats: tuple[str, ...] | None = None) -> ImageFile.ImageFile:
    """Opens an image by ``PIL.Image.open``. Supports HEIC, refuses the formats in :data:`REFUSED`, and limits pixels.

    The caller must close the image. :func:`~sam2fast.io.image_files.read_image` also reads files that Pillow cannot.

    Args:
        formats: Names of the formats to try. If None, all formats.

    Raises:
        UnidentifiedImageError: If the format is refused or unknown, or the format's extra is not installed.
        Image.DecompressionBombError: If the image has too many pixels; see :func:`check_pixels`.
        OSError, SyntaxError, ValueError: If ``PIL.Image.open`` raises the error.
    """
    try:
        image = _open_any_size(file, formats)
    except UnidentifiedImageError:
        head = first_bytes(file)
        if not _enable_heif(head):
            kind = kind_of(head)
            raise UnidentifiedImageError(f"it is {''.join(kind)}" if kind else UNKNOWN) from None
        try:
            image = _open_any_size(file, formats)
        except UnidentifiedImageError:
            raise UnidentifiedImageError(UNKNOWN) from None  # Pillow's message shows an address
    try:
        if image.format in REFUSED:
            raise UnidentifiedImageError(f"{image.format} files are not supported; convert the image to PNG")
        check_pixels(*image.size)
    except (UnidentifiedImageError, Image.DecompressionBombError):
        image.close()
        raise
    return image


def _open_any_size(file: str | Path | BinaryIO, formats: tuple[str, ...] | None) -> ImageFile.ImageFile:
    with without_pillow_limit():
        return Image.open(file, formats=formats)


class _PillowLimit:
    """Stores Pillow's global limit while threads are in :func:`without_pillow_limit`."""

    lock = threading.Lock()
    threads = 0
    value: int | None = None


@contextmanager
def without_pillow_limit() -> Iterator[None]:
    """Context manager that disables Pillow's limit of pixels, which Pillow checks on opening and decoding a file."""
    with _PillowLimit.lock:
        if _PillowLimit.threads == 0:
            _PillowLimit.value, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        _PillowLimit.threads += 1
    try:
        yield
    finally:
        with _PillowLimit.lock:
            _PillowLimit.threads -= 1
            if _PillowLimit.threads == 0:
                Image.MAX_IMAGE_PIXELS = _PillowLimit.value


def _enable_heif(head: bytes) -> bool:
    """Enables HEIC in Pillow and returns True, or returns False for first bytes of other files.

    Raises:
        UnidentifiedImageError: If the file is HEIC or AVIF, and the decoder is not installed.
    """
    brand = head[8:12]
    if head[4:8] != b"ftyp":
        return False
    if brand in AVIF_BRANDS:
        raise UnidentifiedImageError(
            "AVIF needs Pillow 11.3 or newer: pip install 'pillow>=11.3', or convert the image to JPEG"
        )
    if brand not in HEIF_BRANDS:
        return False
    try:
        import_module("pillow_heif").register_heif_opener()
    except ImportError as error:
        raise UnidentifiedImageError(
            "HEIC needs pillow-heif: pip install 'sam2fast[images]', or convert the image to JPEG"
        ) from error
    return True


def write_jpeg(image: Image.Image, path: Path, quality: int) -> None:
    """Writes a JPEG file. Raises OSError if the file cannot be written completely.

    The image is encoded in memory first. On a full disk, Pillow would write a truncated file without an error.
    """
    content = BytesIO()
    image.save(content, "JPEG", quality=quality)
    with annotate_oserror(path):
        path.write_bytes(content.getvalue())
