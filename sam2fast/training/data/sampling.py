"""Samplers that choose the frames and objects of a clip from a video."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from sam2fast.datasets.dataset_files import DatasetError

MAX_TRIES = 1000

# Function from a frame's position in the video to the ids of objects that are visible in the frame.
VisibleObjects = Callable[[int], Sequence[int]]


@dataclass(frozen=True)
class SampledFramesAndObjects:
    """Frames and objects that a sampler has chosen for a clip."""

    frames: tuple[int, ...]  # positions of the frames in the video, in the clip's order
    object_ids: tuple[int, ...]


class Sampler(Protocol):
    """Interface for choosing frames and objects of a clip. All random numbers come from the argument ``rng``."""

    def sample(
        self, num_frames: int, visible_objects: VisibleObjects, rng: np.random.Generator
    ) -> SampledFramesAndObjects:
        """Chooses the clip's frames and objects from a video of ``num_frames`` frames.

        Raises:
            DatasetError: If the video is too short, or no object is visible in the first frame of the clip.
        """
        ...


class RandomUniformSampler:
    """Samples consecutive frames with a random start, and random objects that are visible in the first frame.

    Follows the official ``training.dataset.vos_sampler.RandomUniformSampler``.

    Args:
        num_frames: number of frames of a clip.
        max_num_objects: maximum number of objects of a clip.
        reverse_time_prob: probability that the frames of a clip are in reverse order.
    """

    def __init__(self, num_frames: int, max_num_objects: int, reverse_time_prob: float = 0.0) -> None:
        if num_frames < 1 or max_num_objects < 1:
            raise ValueError(
                f"num_frames and max_num_objects must be at least 1, got {num_frames} and {max_num_objects}"
            )
        self.num_frames, self.max_num_objects, self.reverse_time_prob = num_frames, max_num_objects, reverse_time_prob

    def sample(
        self, num_frames: int, visible_objects: VisibleObjects, rng: np.random.Generator
    ) -> SampledFramesAndObjects:
        if num_frames < self.num_frames:
            raise DatasetError(f"a clip takes {self.num_frames} annotated frames, but there are only {num_frames}")
        for _ in range(MAX_TRIES):
            start = int(rng.integers(num_frames - self.num_frames + 1))
            frames = tuple(range(start, start + self.num_frames))
            if rng.random() < self.reverse_time_prob:
                frames = frames[::-1]
            visible = visible_objects(frames[0])
            if len(visible) > 0:
                count = min(len(visible), self.max_num_objects)
                indices = rng.choice(len(visible), count, replace=False)
                return SampledFramesAndObjects(frames, tuple(int(visible[i]) for i in indices))
        raise DatasetError(f"no object is visible in the first frame of any of {MAX_TRIES} clips tried")


class EvalSampler:
    """Sampler that chooses all frames of a video and all objects that are visible in the first frame.

    Follows the official ``training.dataset.vos_sampler.EvalSampler``.
    """

    def sample(
        self, num_frames: int, visible_objects: VisibleObjects, rng: np.random.Generator
    ) -> SampledFramesAndObjects:
        if num_frames < 1:
            raise DatasetError("there are no frames")
        visible = visible_objects(0)
        if len(visible) == 0:
            raise DatasetError("no object is visible in the first frame")
        return SampledFramesAndObjects(tuple(range(num_frames)), tuple(map(int, visible)))
