"""The one way to pictures in files."""

import struct
import zlib
from io import BytesIO
from pathlib import Path

from PIL import Image, UnidentifiedImageError

# Formats that are not read, whatever a file is called: EPS is drawn by the program Ghostscript, WMF by Windows; IPTC
# wraps a picture of any format; of PSD, Pillow before 12.1.1 writes outside its memory (CVE-2026-25990).
REFUSED = frozenset(("EPS", "WMF", "IPTC", "PSD"))
# What PIL's decoders raise for files that are damaged, too large or no image: whatever their code stumbles over. Of
# MemoryError it is the header that claims more than there is, since what is too large for most is refused before.
UNREADABLE = (
    *(UnidentifiedImageError, OSError, SyntaxError, ValueError, RuntimeError, Image.DecompressionBombError),
    *(LookupError, TypeError, AttributeError, ArithmeticError, AssertionError, EOFError, MemoryError),
    *(struct.error, zlib.error),
)


def open_picture(file: str | Path | BytesIO) -> Image.Image:
    """``PIL.Image.open`` but for these formats; closed by the caller.

    Raises:
        UnidentifiedImageError: the file is of such a format, or of none.
        OSError, SyntaxError, ValueError, PIL.Image.DecompressionBombError: as ``PIL.Image.open``.
    """
    picture = Image.open(file)
    if picture.format in REFUSED:
        found = picture.format
        picture.close()
        raise UnidentifiedImageError(f"{found} files are not read; convert the picture to PNG")
    return picture
