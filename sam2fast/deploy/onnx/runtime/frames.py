"""Reads images, and videos stored as folders or lists of images."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

SUFFIXES = (".jpg", ".jpeg", ".png")


def read_pixels(image: Any) -> np.ndarray:
    """Reads a path, PIL image, or uint8 array ``(H, W)`` or ``(H, W, 1, 3 or 4)`` as uint8 ``(H, W, 3)`` RGB.

    Files are rotated by their EXIF orientation.

    Raises:
        FileNotFoundError: If the file does not exist.
        ValueError: If the file cannot be read, or the array has another dtype or shape.
    """
    if isinstance(image, str | Path):
        with _opened(Path(image)) as file:
            image = _to_rgb(ImageOps.exif_transpose(file))
    if isinstance(image, Image.Image):
        return np.asarray(_to_rgb(image))
    array = np.asarray(image)
    if array.ndim == 2:
        array = array[..., None]
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] not in (1, 3, 4) or not array.size:
        raise ValueError(f"the image is {array.dtype} {array.shape}; expected uint8 (H, W, 3), a PIL image or a path")
    return np.broadcast_to(array[..., :3], (*array.shape[:2], 3))


class ImageFrames:
    """Frames of a video, read on access.

    Args:
        video: folder of JPEG or PNG files named by number, or a list of images. As in the official package, the EXIF
            orientation of files in a folder is ignored.
        image_size: side of the model's input.

    Raises:
        FileNotFoundError: If the folder does not exist or has no images.
        ValueError: If file names are not numbers, the list is empty, or the first frame cannot be read.
        TypeError: If ``video`` is neither a folder nor a list.
    """

    def __init__(self, video: str | Path | Sequence[Any], image_size: int) -> None:
        if not hasattr(video, "__len__") and not isinstance(video, Path):
            raise TypeError(f"the video is a {type(video).__name__}; expected a folder of images, or a list of images")
        self._is_folder = isinstance(video, str | Path)
        self._images: Sequence[Any] = frame_files(Path(video)) if isinstance(video, str | Path) else video
        if not len(self._images):
            raise ValueError("the list of frames is empty")
        self._side = image_size
        first = self._image(0)
        self.height, self.width = first.height, first.width

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> np.ndarray:
        """Reads a frame as uint8 ``(S, S, 3)``.

        Raises:
            ValueError: If the frame cannot be read, or differs in size from the first frame.
        """
        image = self._image(index)
        if (image.height, image.width) != (self.height, self.width):
            raise ValueError(
                f"frame {index} is {image.width}x{image.height}; expected {self.width}x{self.height}, as the first"
            )
        return np.asarray(image.resize((self._side, self._side)))

    def _image(self, index: int) -> Image.Image:
        image = self._images[index]
        try:
            if self._is_folder:
                with _opened(image) as file:
                    return _to_rgb(file)
            return Image.fromarray(np.ascontiguousarray(read_pixels(image)))
        except ValueError as error:
            raise ValueError(f"frame {index}: {error}") from error


def frame_files(folder: Path) -> list[Path]:
    """Returns a folder's images, sorted by number. Raises the errors of :class:`ImageFrames`."""
    if not folder.is_dir():
        raise FileNotFoundError(f"no folder {str(folder)!r}; expected a folder of JPEG or PNG files")
    files = [path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES and not path.name.startswith(".")]
    if not files:
        raise FileNotFoundError(f"no images in {folder}; expected files such as 00000.jpg, 00001.jpg, ...")
    try:
        return sorted(files, key=lambda path: int(path.stem))
    except ValueError as error:
        raise ValueError(
            f"files in {folder} are not named by numbers: {error}; expected 00000.jpg, 00001.jpg, ..."
        ) from None


def _to_rgb(image: Image.Image) -> Image.Image:
    """Converts an image to RGB. Raises the error of :func:`_check_depth`."""
    _check_depth(image)
    return image.convert("RGB")


def _check_depth(image: Image.Image) -> None:
    """Checks that an image has at most 8 bits per channel.

    Raises:
        ValueError: If it has more. Pillow would clip grey pixels at 255, and drop the lower 8 bits of colours, which
            makes 12-bit values nearly black.
    """
    modes = [image.mode, *(str(tile[3]) for tile in getattr(image, "tile", ()))]  # tiles state the bits in the file
    if deep := [mode for mode in modes if mode in ("I", "F") or ";16" in mode]:
        raise ValueError(f"the image has more than 8 bits (mode {deep[0]}); scale it to uint8 first")


# Image formats that may be opened. Pillow opens some other formats, such as EPS, by running external programs.
FORMATS = ("BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")


def _opened(path: Path) -> Image.Image:
    if not path.is_file():
        raise FileNotFoundError(f"no image file {str(path)!r}")
    try:
        image = Image.open(path, formats=FORMATS)
        _check_depth(image)
        image.load()
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"{path} cannot be read as an image: {error}") from error
    return image
