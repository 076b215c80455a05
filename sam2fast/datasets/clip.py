"""Frames of a video with ground-truth masks."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Clip:
    """Consecutive frames of one video, or a single image, with ground-truth masks of O objects."""

    frames: NDArray[np.uint8]  # (T, H, W, 3) RGB
    masks: NDArray[np.bool_]  # (T, O, H, W); the mask is empty where an object is not visible
    name: str = ""  # name of the video, for messages
    object_ids: tuple[int, ...] = ()  # ids that the O objects have in the data set
    frame_indices: tuple[int, ...] = ()  # positions of the T frames within the video
