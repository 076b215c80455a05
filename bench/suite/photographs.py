"""What is looked at: discs that circle over a texture."""

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

DISCS = 4


def image(height: int, width: int, time: int = 0) -> NDArray[np.uint8]:
    """A uint8 RGB image ``(H, W, 3)`` with smooth areas, edges and noise."""
    side = min(height, width)
    y, x = np.mgrid[0:height, 0:width] / side
    image = np.stack([np.sin(9 * x + 4 * y), np.cos(7 * y * x + 1), np.sin(5 * (x - y))], axis=-1) * 60 + 120
    for number in range(DISCS):
        cx, cy = centre(height, width, number, time)
        inside = (x - cx / side) ** 2 + (y - cy / side) ** 2 < 0.08**2
        image[inside] = [(number * 97) % 256, (number * 53 + 120) % 256, 250 - (number * 61) % 256]
    noise = np.random.default_rng(time).normal(0, 6, image.shape)
    return (image + noise).clip(0, 255).astype(np.uint8)


def centre(height: int, width: int, number: int, time: int = 0) -> tuple[float, float]:
    """Where (x, y) a disc is; beyond the number of discs, somewhere between."""
    angle = time / 10 + 2 * np.pi * number / DISCS + 0.3 * (number // DISCS)
    return width * (0.5 + 0.25 * np.cos(angle)), height * (0.5 + 0.25 * np.sin(angle))


def boxes(height: int, width: int, count: int) -> NDArray[np.float32]:
    """``(count, 4)`` XYXY in pixels, spread over the image."""
    rng = np.random.default_rng(0)
    corners = rng.uniform(0, 0.6, (count, 2))
    sizes = rng.uniform(0.1, 0.4, (count, 2))
    return (np.concatenate([corners, corners + sizes], axis=1) * [width, height, width, height]).astype(np.float32)


class Repeated(Sequence):  # type: ignore[type-arg]
    """A few frames over and over, as a video of any length."""

    def __init__(self, frames: Sequence, length: int) -> None:  # type: ignore[type-arg]
        self._frames, self._length = frames, length

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index):  # type: ignore[no-untyped-def]
        if not 0 <= index < self._length:
            raise IndexError(index)
        return self._frames[index % len(self._frames)]


def as_jpeg(image: NDArray[np.uint8]) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=95)
    return file.getvalue()


def video(side: int, count: int) -> list[NDArray[np.uint8]]:
    """Frames of a video, as a reader sees them in its files."""
    files = (io.BytesIO(as_jpeg(image(side, side, t))) for t in range(count))
    return [np.asarray(Image.open(file).convert("RGB")) for file in files]


def write_video(folder: Path, side: int, count: int) -> None:
    """The files of the frames."""
    for t in range(count):
        (folder / f"{t:05d}.jpg").write_bytes(as_jpeg(image(side, side, t)))
