"""What every data set yields."""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Clip:
    """Consecutive frames of one video (or a single picture) and the true masks of some of its objects."""

    frames: NDArray[np.uint8]  # (T, H, W, 3) RGB
    masks: NDArray[np.bool_]  # (T, O, H, W); all False where an object is not visible
    name: str = ""  # of the video, for messages
    object_ids: tuple[int, ...] = ()  # the O objects' ids in their data set
    frame_indices: tuple[int, ...] = ()  # the T frames' positions in their video


class ClipDataset(Protocol):
    """A data set: everything random about a sample comes from the generator given, so that it can be drawn again."""

    def __len__(self) -> int: ...

    def sample(self, index: int, rng: np.random.Generator) -> Clip:
        """One clip of the ``index``-th video or picture."""
        ...


@runtime_checkable
class EpochDataset(ClipDataset, Protocol):
    """A data set whose samples do not come equally often, or not the same ones in every epoch."""

    def epoch_indices(self, epoch: int) -> NDArray[np.int64]:
        """The samples of an epoch, rising, some of them several times: a pure function of the epoch."""
        ...


def name_of(dataset: ClipDataset) -> str:
    """What a data set is called in messages: its ``name``, or its class's."""
    return str(getattr(dataset, "name", "") or type(dataset).__name__)
