"""Opens image files, and writes JPEG files."""

import struct
import zlib
from io import BytesIO
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from sam2fast.io.atomic import annotate_oserror

# Lower-case suffixes of the image files that are searched for in a folder.
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".bmp")
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


def open_image(file: str | Path | BytesIO) -> Image.Image:
    """``PIL.Image.open`` without the formats of :data:`REFUSED`; closed by the caller.

    Raises:
        UnidentifiedImageError: the format is refused or unknown.
        OSError, SyntaxError, ValueError, PIL.Image.DecompressionBombError: as ``PIL.Image.open``.
    """
    image = Image.open(file)
    if image.format in REFUSED:
        found = image.format
        image.close()
        raise UnidentifiedImageError(f"{found} files are not read; convert the image to PNG")
    return image


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
