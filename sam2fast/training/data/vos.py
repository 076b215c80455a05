"""Data set of clips from annotated videos."""

import functools
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from sam2fast.datasets.clip import Clip
from sam2fast.datasets.dataset_files import DatasetError
from sam2fast.training.data.clip import DataError
from sam2fast.training.data.raw_dataset import FolderVideo, NamedVideoDataset
from sam2fast.training.data.sampling import Sampler
from sam2fast.training.data.transforms import Transform


class VOSDataset:
    """Data set that samples clips from videos and applies transforms.

    Is a :class:`~sam2fast.training.data.clip.ClipDataset`. Follows the official
    ``training.dataset.vos_dataset.VOSDataset``, except that the length counts repetitions.

    Args:
        transforms: one transform, or several transforms that are applied in order.
        training: if True, bad videos raise ``DatasetError``, so that the loader can skip bad videos. If ``training`` is
            False, bad videos raise ``DataError``.
        multiplier: number of times that each video occurs in an epoch. A fractional part of the multiplier adds random
            videos.
        always_target, target_segments_available: arguments of the official class; both must be True. Objects that are
            absent from a frame have empty masks.
    """

    def __init__(
        self,
        transforms: Transform | Sequence[Transform],
        training: bool,
        video_dataset: NamedVideoDataset,
        sampler: Sampler,
        multiplier: float = 1,
        always_target: bool = True,
        target_segments_available: bool = True,
    ) -> None:
        if len(video_dataset) == 0:
            raise ValueError(f"{video_dataset.name} has no videos")
        if not multiplier > 0:
            raise ValueError(f"multiplier must be positive, got {multiplier}")
        if not (always_target and target_segments_available):
            raise ValueError("always_target and target_segments_available must be True: all frames have all objects")
        self.transforms = [transforms] if callable(transforms) else list(transforms)
        self.training, self.video_dataset, self.sampler, self.multiplier = training, video_dataset, sampler, multiplier

    @property
    def name(self) -> str:
        """Name of the data set, for messages."""
        return self.video_dataset.name

    @property
    def video_names(self) -> Sequence[str]:
        """Names of the videos, or an empty tuple if names are not known before videos are opened."""
        return getattr(self.video_dataset, "video_names", ())

    def __len__(self) -> int:
        return max(1, round(len(self.video_dataset) * self.multiplier))

    def sample(self, index: int, rng: np.random.Generator) -> Clip:
        """Returns a clip of video ``index % len(video_dataset)``, or of a random video for a fractional repetition.

        Raises:
            DatasetError: If ``training`` is True and the video is too short, has no objects or cannot be read.
            DataError: If ``training`` is False and the video is too short, has no objects or cannot be read.
        """
        if not 0 <= index < len(self):
            raise IndexError(f"index must be in [0, {len(self)}), got {index}")
        videos = len(self.video_dataset)
        if index >= videos * int(self.multiplier):
            index = int(rng.integers(videos))
        return self.sample_once(index % videos, rng)

    @property
    def repeat_factors(self) -> NDArray[np.float32]:
        """Number of times that each of N videos occurs in an epoch, as an array ``(N,)``."""
        return np.full(len(self.video_dataset), self.multiplier, dtype=np.float32)

    def sample_once(self, index: int, rng: np.random.Generator) -> Clip:
        """Returns a clip of video number ``index``, without repetitions. Raises the same errors as :meth:`sample`."""
        try:
            clip = self._make(self.video_dataset.get_video(index), rng)
        except DatasetError as error:
            if self.training:
                raise
            raise DataError(f"{self.name}: {error}") from error
        for transform in self.transforms:
            clip = transform(clip, rng)
        return clip

    def _make(self, video: FolderVideo, rng: np.random.Generator) -> Clip:
        try:
            sampled = self.sampler.sample(len(video), functools.cache(video.visible_objects), rng)
            frames = video.read_frames(sampled.frames)
            sizes = {frame.shape[:2] for frame in frames}
            if len(sizes) != 1:
                raise DatasetError(f"its frames have several sizes: {sorted(sizes)}")
            height, width = sizes.pop()
            masks = [video.read_masks(position, sampled.object_ids, (height, width)) for position in sampled.frames]
        except DatasetError as error:
            raise DatasetError(f"video {video.name!r}: {error}") from error
        indices = tuple(video.frame_indices[position] for position in sampled.frames)
        return Clip(np.stack(frames), np.stack(masks), video.name, sampled.object_ids, indices)
