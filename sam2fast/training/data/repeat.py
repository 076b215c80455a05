"""How often each video comes in an epoch, and several data sets as one."""

from bisect import bisect_right
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from sam2fast.training.data.clip import Clip, ClipDataset, name_of


def distinct_factors(dataset: ClipDataset) -> NDArray[np.float32]:
    """How often each of a data set's videos should come, one number for each: its ``repeat_factors``, else ones."""
    factors = getattr(dataset, "repeat_factors", None)
    return np.ones(len(dataset), dtype=np.float32) if factors is None else np.asarray(factors, dtype=np.float32)


def sample_once(dataset: ClipDataset, index: int, rng: np.random.Generator) -> Clip:
    """A clip of a data set's ``index``-th video; videos are counted once each."""
    clip: Clip = getattr(dataset, "sample_once", dataset.sample)(index, rng)
    return clip


class RepeatFactorWrapper:
    """A data set whose videos come so often as their factors say.

    A factor's whole part says how often a video comes in every epoch, its fraction how likely it comes once more in
    one. Which do depends on ``seed`` and the epoch alone, and is the official
    ``training.dataset.utils.RepeatFactorWrapper``'s choice, to the index.

    Args:
        factors: one for all videos, one for each, or those of single ones by name; the others have the data set's own
            ``repeat_factors``, which are the ``multiplier`` of a ``VOSDataset``.

    Raises:
        ValueError: not a number for each video, no such video, or numbers that are negative, not finite or all 0.
    """

    def __init__(
        self,
        dataset: ClipDataset,
        seed: int = 0,
        factors: float | Sequence[float] | Mapping[str, float] | None = None,
    ) -> None:
        own = distinct_factors(dataset)
        if isinstance(factors, Mapping):
            given = _replaced(own, factors, getattr(dataset, "video_names", ()))
        else:
            given = own if factors is None else np.asarray(factors, dtype=np.float32)
        if given.ndim > 1 or given.ndim == 1 and len(given) != len(own):
            raise ValueError(f"factors must be one number, or one for each of {len(own)} videos, got {given.shape}")
        if not np.isfinite(given).all() or (given < 0).any() or not given.any():
            raise ValueError(f"factors must be finite, at least 0 and not all 0, got {given}")
        self.repeat_factors = np.broadcast_to(given, own.shape).copy()
        self.dataset, self.seed = dataset, seed

    @property
    def name(self) -> str:
        """The data set's ``name``, or its class's."""
        return name_of(self.dataset)

    def __len__(self) -> int:
        """Number of videos, each counted once; an epoch has ``len(epoch_indices(epoch))`` samples."""
        return len(self.repeat_factors)

    def epoch_indices(self, epoch: int) -> NDArray[np.int64]:
        """See :class:`~sam2fast.training.data.clip.EpochDataset`."""
        whole = np.trunc(self.repeat_factors)
        draws = torch.rand(len(whole), generator=torch.Generator().manual_seed(self.seed + epoch)).numpy()
        counts = whole.astype(np.int64) + (draws < self.repeat_factors - whole)
        return np.repeat(np.arange(len(whole)), counts)

    def sample(self, index: int, rng: np.random.Generator) -> Clip:
        """A clip of the ``index``-th video."""
        return sample_once(self.dataset, index, rng)


def _replaced(own: NDArray[np.float32], factors: Mapping[str, float], names: Sequence[str]) -> NDArray[np.float32]:
    strange = sorted(set(factors) - set(names))
    if strange:
        raise ValueError(f"factors names {', '.join(strange[:5])}, which the data set does not have or does not name")
    return np.asarray([factors.get(name, o) for name, o in zip(names, own, strict=True)], dtype=np.float32)


class ConcatDataset:
    """The videos of several data sets, one set after the other, each counted once.

    As in the official ``training.dataset.utils.ConcatDataset``, how often they should come is left to
    :class:`RepeatFactorWrapper`.

    Raises:
        ValueError: there is no data set.
    """

    def __init__(self, datasets: Sequence[ClipDataset]) -> None:
        if not datasets:
            raise ValueError("a ConcatDataset needs at least one data set, got none")
        self.datasets = list(datasets)
        factors = [distinct_factors(dataset) for dataset in self.datasets]
        self.repeat_factors = np.concatenate(factors)
        self._ends = np.cumsum([len(f) for f in factors]).tolist()

    @property
    def name(self) -> str:
        """The names of the data sets."""
        return ", ".join(map(name_of, self.datasets))

    def __len__(self) -> int:
        return len(self.repeat_factors)

    def sample(self, index: int, rng: np.random.Generator) -> Clip:
        """A clip of the ``index``-th video.

        Raises:
            IndexError: there is no such video.
        """
        if not 0 <= index < len(self):
            raise IndexError(f"index must be in [0, {len(self)}), got {index}")
        number = bisect_right(self._ends, index)
        return sample_once(self.datasets[number], index - (self._ends[number - 1] if number else 0), rng)


class Subset:
    """Some of a data set's videos, each as often as it is named. Follows ``training.dataset.utils.Subset``.

    Raises:
        ValueError: there is no index, or one that is no video's.
    """

    def __init__(self, dataset: ClipDataset, indices: Sequence[int]) -> None:
        factors = distinct_factors(dataset)
        self.indices = [int(i) for i in indices]
        if not self.indices or not all(0 <= i < len(factors) for i in self.indices):
            raise ValueError(f"indices must be at least one, each in [0, {len(factors)}), got {str(self.indices)[:60]}")
        self.dataset, self.repeat_factors = dataset, factors[self.indices]

    @property
    def name(self) -> str:
        """The data set's ``name``, or its class's."""
        return name_of(self.dataset)

    def __len__(self) -> int:
        return len(self.indices)

    def sample(self, index: int, rng: np.random.Generator) -> Clip:
        """A clip of the video ``indices[index]``."""
        return sample_once(self.dataset, self.indices[index], rng)
