"""Clips are the samples of all training data sets."""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from sam2fast.utils.errors import FixableError


@dataclass(frozen=True)
class Clip:
    """Consecutive frames of one video, or a single image, with ground-truth masks of O objects."""

    frames: NDArray[np.uint8]  # (T, H, W, 3) RGB
    masks: NDArray[np.bool_]  # (T, O, H, W); the mask is empty where an object is not visible
    name: str = ""  # name of the video, for messages
    object_ids: tuple[int, ...] = ()  # ids that the O objects have in the data set
    frame_indices: tuple[int, ...] = ()  # positions of the T frames within the video


class ClipDataset(Protocol):
    """Data set of clips. Clips are reproducible, because all random numbers come from the argument ``rng``."""

    def __len__(self) -> int: ...

    def sample(self, index: int, rng: np.random.Generator) -> Clip:
        """Returns a clip of video or image number ``index``."""
        ...


@runtime_checkable
class EpochDataset(ClipDataset, Protocol):
    """Data set that chooses which clips are used in each epoch."""

    def epoch_indices(self, epoch: int) -> NDArray[np.int64]:
        """Returns the indices ``(N,)`` of an epoch's clips in ascending order. An index may occur several times."""
        ...


def name_of(dataset: ClipDataset) -> str:
    """Returns a data set's attribute ``name``, or the name of the data set's class, for messages."""
    return str(getattr(dataset, "name", "") or type(dataset).__name__)


class DataError(FixableError, RuntimeError):
    """Raised if training data are unusable and training must stop.

    If a bad clip may be skipped, :class:`~sam2fast.datasets.DatasetError` is raised instead.
    """
