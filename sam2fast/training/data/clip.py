"""Clips, the samples of every training data set."""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from sam2fast.utils.errors import FixableError


@dataclass(frozen=True)
class Clip:
    """Consecutive frames of one video, or a single image, with ground-truth masks of some of its objects."""

    frames: NDArray[np.uint8]  # (T, H, W, 3) RGB
    masks: NDArray[np.bool_]  # (T, O, H, W); all False where an object is not visible
    name: str = ""  # name of the video, for messages
    object_ids: tuple[int, ...] = ()  # the O objects' ids in their data set
    frame_indices: tuple[int, ...] = ()  # the T frames' positions in their video


class ClipDataset(Protocol):
    """Data set of clips. All randomness of a sample comes from the generator, so that it is reproducible."""

    def __len__(self) -> int: ...

    def sample(self, index: int, rng: np.random.Generator) -> Clip:
        """Returns one clip of the ``index``-th video or image."""
        ...


@runtime_checkable
class EpochDataset(ClipDataset, Protocol):
    """Data set that chooses the samples of each epoch."""

    def epoch_indices(self, epoch: int) -> NDArray[np.int64]:
        """Returns the indices ``(N,)`` of an epoch's samples, ascending, with repetitions; a pure function."""
        ...


def name_of(dataset: ClipDataset) -> str:
    """Returns the name of a data set for messages: its ``name``, or its class's name."""
    return str(getattr(dataset, "name", "") or type(dataset).__name__)


class DataError(FixableError, RuntimeError):
    """Raised if training data are unusable and training must stop.

    A sample that may be skipped raises :class:`~sam2fast.datasets.DatasetError` instead.
    """
