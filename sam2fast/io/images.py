"""Opens image files, and writes JPEG files."""

import struct
import warnings
import zlib
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

from PIL import Image, ImageFile, UnidentifiedImageError

from sam2fast.io.atomic import annotate_oserror

# Lower-case suffixes of the image files that are searched for in a folder.
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".bmp")
VIDEO_SUFFIXES = (".mp4", ".m4v", ".mov", ".mkv", ".avi", ".webm")  # those of video files
TWELVE_BITS = 4095  # the greatest value of 12 bits
MAX_NAMED = 5  # files, in a note on those that are skipped
# Formats that are not read: Ghostscript renders EPS, and Windows renders WMF; IPTC wraps an image of any format; for
# PSD, Pillow before 12.1.1 writes outside its memory (CVE-2026-25990).
REFUSED = frozenset(("EPS", "WMF", "IPTC", "PSD"))
# What PIL's decoders raise for files that are damaged, too large or no images. MemoryError comes from a damaged header
# that claims a huge size; images that are really too large are refused before.
IMAGE_READ_ERRORS = (
    *(UnidentifiedImageError, OSError, SyntaxError, ValueError, RuntimeError, Image.DecompressionBombError),
    *(LookupError, TypeError, AttributeError, ArithmeticError, AssertionError, EOFError, MemoryError),
    *(struct.error, zlib.error),
)


def skipped_note(names: Sequence[str]) -> str:
    """A note on the files of a folder that are skipped, with the first names."""
    named = ", ".join(names[:MAX_NAMED]) + (", ..." if len(names) > MAX_NAMED else "")
    return f"skipped {len(names)} file{'s' if len(names) > 1 else ''} of other kinds: {named}"


def open_image(file: str | Path | BinaryIO, formats: tuple[str, ...] | None = None) -> Image.Image:
    """``PIL.Image.open`` without the formats of :data:`REFUSED`; closed by the caller.

    Args:
        formats: the only ones to try.

    Raises:
        UnidentifiedImageError: the format is refused or unknown.
        OSError, SyntaxError, ValueError, PIL.Image.DecompressionBombError: as ``PIL.Image.open``.
    """
    try:
        image = Image.open(file, formats=formats)
    except UnidentifiedImageError as error:
        if isinstance(file, str | Path):
            raise
        raise UnidentifiedImageError("cannot identify the image") from error  # Pillow's message has an address
    if image.format in REFUSED:
        found = image.format
        image.close()
        raise UnidentifiedImageError(f"{found} files are not read; convert the image to PNG")
    return image


def warn_if_colours_are_lost(image: Image.Image) -> None:
    """Warns if a file has colours of 16 bits with values of 12 bits or fewer: Pillow keeps the upper 8 bits only.

    Args:
        image: not loaded yet.
    """
    tiles = image.tile if isinstance(image, ImageFile.ImageFile) and not image.mode.startswith("I;16") else ()
    if not any(";16" in str(tile) for tile in tiles):
        return
    counts, brighter = image.convert("RGB").histogram(), (TWELVE_BITS >> 8) + 1
    if not any(any(counts[channel + brighter : channel + 256]) for channel in (0, 256, 512)):
        warnings.warn(
            "the image is almost black: its colours have 16 bits, where white is 65535, and values up to "
            f"{TWELVE_BITS} only; convert it to 8 bits",
            stacklevel=2,
        )


def write_jpeg(image: Image.Image, path: Path, quality: int) -> None:
    """Writes a JPEG file.

    Pillow does not check short writes: on a full disk it would leave a truncated file without an error. So the image is
    encoded in memory first.

    Raises:
        OSError: the file cannot be written completely.
    """
    content = BytesIO()
    image.save(content, "JPEG", quality=quality)
    with annotate_oserror(path):
        path.write_bytes(content.getvalue())
