"""The one way to pictures in files, and a way into them that notices a full disk."""

import struct
import zlib
from io import BytesIO
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from sam2fast.io.atomic import errors_named

# Endings, in lower case, of what is taken for a picture where a folder is searched for them.
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".bmp")
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


def write_jpeg(picture: Image.Image, path: Path, quality: int) -> None:
    """Writes a JPEG file.

    Given a file, Pillow takes what the system calls a success for one: where a disk becomes full, it leaves the
    beginning of a picture, and says nothing.

    Raises:
        OSError: it cannot be written, or not to its end.
    """
    content = BytesIO()
    picture.save(content, "JPEG", quality=quality)
    with errors_named(path):
        path.write_bytes(content.getvalue())
