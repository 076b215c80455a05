"""Pictures as JPEG files."""

from io import BytesIO
from pathlib import Path

from PIL import Image

from sam2fast.whole_files import errors_named


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
