"""Makes clips from still images with a moving virtual camera."""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from sam2fast.datasets.clip import Clip
from sam2fast.datasets.dataset_files import DatasetError

Box = tuple[float, float, float, float]
# Maximum number of random crops tried. If no crop has an object, :class:`RandomCamera` raises ``DatasetError``.
ATTEMPTS = 20


@dataclass(frozen=True)
class RandomCamera:
    """Transform that makes a clip from a still image with a panning and zooming camera. The frames are square.

    Removes objects that are too small, too large or cut off in the first crop. The clip has at least one object.

    Args:
        size: side of the frames in pixels.
        num_frames: number of frames that the clip gets.
        max_objects: maximum number of objects of the clip. If the first crop has more objects, selects some at random.
        zoom: smallest and largest side of the first crop, as fractions of the image's side. The crop's aspect ratio is
            changed afterwards.
        most_aspect: maximum ratio between the horizontal and the vertical scale of a crop.
        motion: standard deviation of the camera's speed, in sides of the crop per frame.
        areas: smallest and largest area of an object in the first crop, as fractions of the crop.
        least_inside: minimum fraction of an object's area inside the first crop.
    """

    size: int
    num_frames: int = 1
    max_objects: int = 5
    zoom: tuple[float, float] = (0.4, 1.0)
    most_aspect: float = 1.4
    motion: float = 0.05
    areas: tuple[float, float] = (0.003, 0.75)
    least_inside: float = 0.4

    def __call__(self, clip: Clip, rng: np.random.Generator) -> Clip:
        """Converts frames ``(1, H, W, 3)`` and masks ``(1, O, H, W)`` to ``(T, S, S, 3)`` and ``(T, o, S, S)``.

        Raises:
            DatasetError: If no random crop has an object that satisfies ``areas`` and ``least_inside``.
        """
        if len(clip.frames) != 1:
            raise ValueError(f"expected a clip of one frame, got {len(clip.frames)}: RandomCamera needs a still image")
        frame, masks = clip.frames[0], clip.masks[0]
        height, width = frame.shape[:2]
        totals = masks.sum(axis=(1, 2))
        for _ in range(ATTEMPTS):
            first = self._first_box(masks, rng)
            left, top, right, bottom = (round(side) for side in first)
            shown = masks[:, top:bottom, left:right].sum(axis=(1, 2))
            share = shown / ((bottom - top) * (right - left))
            fits = (self.areas[0] <= share) & (share <= self.areas[1]) & (shown >= self.least_inside * totals)
            if fits.any():
                break
        else:
            raise DatasetError(f"{clip.name!r}: no crop has an object within the limits of RandomCamera")
        used = np.sort(rng.permutation(np.flatnonzero(fits))[: self.max_objects])
        boxes = self._path(first, (width, height), rng)
        return replace(
            clip,
            frames=np.stack([self._crop(frame, box) for box in boxes]),
            masks=np.stack([[self._crop(mask * np.uint8(255), box) > 127 for mask in masks[used]] for box in boxes]),
            object_ids=tuple(clip.object_ids[i] for i in used) if clip.object_ids else (),
            frame_indices=clip.frame_indices * self.num_frames,
        )

    def _first_box(self, masks: NDArray[np.bool_], rng: np.random.Generator) -> Box:
        """Returns a random crop around a pixel of an object. The crop is shifted to lie inside the image."""
        count, height, width = masks.shape
        share, aspect = rng.uniform(*self.zoom), np.exp(rng.uniform(-1, 1) * 0.5 * np.log(self.most_aspect))
        w, h = width * min(1.0, share * aspect), height * min(1.0, share / aspect)
        pixels = np.flatnonzero(masks[rng.integers(count)])
        y, x = divmod(int(rng.choice(pixels)), width) if len(pixels) else (height // 2, width // 2)
        return _inside(x + (rng.random() - 0.5) * w, y + (rng.random() - 0.5) * h, w, h, (width, height))

    def _path(self, first: Box, image: tuple[int, int], rng: np.random.Generator) -> list[Box]:
        """Returns one crop of the image per frame. Crops move uniformly with some shake and stay inside the image."""
        left, top, right, bottom = first
        w, h = right - left, bottom - top
        x, y = (left + right) / 2, (top + bottom) / 2
        speed, growth = rng.normal(0, self.motion, 2), np.exp(rng.normal(0, 0.5 * self.motion))
        boxes = [first]
        for _ in range(1, self.num_frames):
            shake = rng.normal(0, 0.15 * self.motion, 2)
            x, y = x + (speed[0] + shake[0]) * w, y + (speed[1] + shake[1]) * h
            scale = min(growth, image[0] / w, image[1] / h)
            w, h = max(8.0, w * scale), max(8.0, h * scale)
            boxes.append(_inside(x, y, w, h, image))
        return boxes

    def _crop(self, pixels: NDArray[np.uint8], box: Box) -> NDArray[np.uint8]:
        square = (self.size, self.size)
        return np.asarray(Image.fromarray(pixels).resize(square, Image.Resampling.BILINEAR, box=box))


def _inside(x: float, y: float, w: float, h: float, image: tuple[int, int]) -> Box:
    """Returns a box of ``w`` by ``h`` pixels around ``(x, y)``. The box is shifted to lie inside the image."""
    w, h = min(w, image[0]), min(h, image[1])
    left = min(max(0.0, x - w / 2), image[0] - w)
    top = min(max(0.0, y - h / 2), image[1] - h)
    # Applies ``min``, because rounding could place the box's edge outside the image.
    return left, top, min(left + w, image[0]), min(top + h, image[1])
