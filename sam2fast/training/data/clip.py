"""Data sets of clips, which are the samples of all training data."""

from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from sam2fast.datasets.clip import Clip
from sam2fast.utils.errors import FixableError


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
