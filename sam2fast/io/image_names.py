"""Names images in files of results."""

import os
from collections.abc import Sequence
from pathlib import Path


def relative_names(images: Sequence[Path | str]) -> list[str]:
    """Returns the paths of images relative to their common parent folder, with ``/`` as separator.

    Args:
        images: Paths of files. Strings, such as addresses, are returned unchanged.
    """
    folders = [os.path.dirname(os.path.abspath(image)) for image in images if isinstance(image, Path)]
    parent = os.path.commonpath(folders) if folders else ""
    return [
        image if isinstance(image, str) else Path(os.path.relpath(os.path.abspath(image), parent)).as_posix()
        for image in images
    ]
