"""Data sets that wrap other data sets: repetition, concatenation, subsets and fixed clips."""

from bisect import bisect_right
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from sam2fast.datasets.clip import Clip
from sam2fast.training.data.clip import ClipDataset, name_of


def repeat_factors_of(dataset: ClipDataset) -> NDArray[np.float32]:
    """Returns the repeat factors ``(N,)`` of N videos. If the data set has no ``repeat_factors``, returns ones."""
    factors = getattr(dataset, "repeat_factors", None)
    return np.ones(len(dataset), dtype=np.float32) if factors is None else np.asarray(factors, dtype=np.float32)


def sample_once(dataset: ClipDataset, index: int, rng: np.random.Generator) -> Clip:
    """Samples a clip of video number ``index`` of a data set. ``index`` does not count repetitions of videos."""
    clip: Clip = getattr(dataset, "sample_once", dataset.sample)(index, rng)
    return clip


class _OfOneDataset:
    """Base class of data sets that wrap one data set."""

    dataset: ClipDataset

    @property
    def name(self) -> str:
        return name_of(self.dataset)


class RepeatFactorWrapper(_OfOneDataset):
    """Data set that repeats videos of another data set by repeat factors.

    The integer part of a factor is the number of times that a video occurs in every epoch. The fractional part of a
    factor is the probability of one more occurrence in an epoch. The repetitions depend only on ``seed`` and the epoch,
    and are equal to repetitions of the official ``training.dataset.utils.RepeatFactorWrapper``.

    Args:
        factors: one number for all videos, one number per video, or a mapping from video names to numbers. If
            ``factors`` is None or lacks a video, the data set's attribute ``repeat_factors`` gives the factor. All
            factors are finite and at least 0, and at least one factor is above 0.
    """

    def __init__(
        self,
        dataset: ClipDataset,
        seed: int = 0,
        factors: float | Sequence[float] | Mapping[str, float] | None = None,
    ) -> None:
        defaults = repeat_factors_of(dataset)
        if isinstance(factors, Mapping):
            names = getattr(dataset, "video_names", ())
            if unknown := sorted(set(factors) - set(names)):
                names_unknown = f"factors names {', '.join(unknown[:5])}"
                raise ValueError(f"{names_unknown}, which the data set does not have or does not name")
            values = np.asarray([factors.get(n, d) for n, d in zip(names, defaults, strict=True)], dtype=np.float32)
        else:
            values = defaults if factors is None else np.asarray(factors, dtype=np.float32)
        if values.ndim > 1 or values.ndim == 1 and len(values) != len(defaults):
            raise ValueError(f"factors must be one number, or one per video ({len(defaults)}), got {values.shape}")
        if not np.isfinite(values).all() or (values < 0).any() or not values.any():
            raise ValueError(f"factors must be finite, at least 0 and not all 0, got {values}")
        self.repeat_factors = np.broadcast_to(values, defaults.shape).copy()
        self.dataset, self.seed = dataset, seed

    def __len__(self) -> int:
        """Returns the number of videos without repetitions. The number of samples is ``len(epoch_indices(epoch))``."""
        return len(self.repeat_factors)

    def epoch_indices(self, epoch: int) -> NDArray[np.int64]:
        whole = np.trunc(self.repeat_factors)
        draws = torch.rand(len(whole), generator=torch.Generator().manual_seed(self.seed + epoch)).numpy()
        counts = whole.astype(np.int64) + (draws < self.repeat_factors - whole)
        return np.repeat(np.arange(len(whole)), counts)

    def sample(self, index: int, rng: np.random.Generator) -> Clip:
        """Samples a clip of the ``index``-th video."""
        return sample_once(self.dataset, index, rng)


class ConcatDataset:
    """Concatenates the videos of several data sets, without repetitions.

    Repeat factors take effect only in :class:`RepeatFactorWrapper`, as in the official ``training.dataset.utils``.
    """

    def __init__(self, datasets: Sequence[ClipDataset]) -> None:
        if not datasets:
            raise ValueError("a ConcatDataset needs at least one data set, got none")
        self.datasets = list(datasets)
        factors = [repeat_factors_of(dataset) for dataset in self.datasets]
        self.repeat_factors = np.concatenate(factors)
        self._ends = np.cumsum([len(f) for f in factors]).tolist()

    @property
    def name(self) -> str:
        return ", ".join(map(name_of, self.datasets))

    def __len__(self) -> int:
        return len(self.repeat_factors)

    def sample(self, index: int, rng: np.random.Generator) -> Clip:
        """Samples a clip of the ``index``-th video."""
        if not 0 <= index < len(self):
            raise IndexError(f"index must be in [0, {len(self)}), got {index}")
        number = bisect_right(self._ends, index)
        return sample_once(self.datasets[number], index - (self._ends[number - 1] if number else 0), rng)


class Subset(_OfOneDataset):
    """Data set of another data set's videos at ``indices``. Follows the official ``training.dataset.utils.Subset``."""

    def __init__(self, dataset: ClipDataset, indices: Sequence[int]) -> None:
        factors = repeat_factors_of(dataset)
        self.indices = [int(i) for i in indices]
        if not self.indices or not all(0 <= i < len(factors) for i in self.indices):
            raise ValueError(f"indices must be at least one, each in [0, {len(factors)}), got {str(self.indices)[:60]}")
        self.dataset, self.repeat_factors = dataset, factors[self.indices]

    def __len__(self) -> int:
        return len(self.indices)

    def sample(self, index: int, rng: np.random.Generator) -> Clip:
        """Samples a clip of video number ``indices[index]``."""
        return sample_once(self.dataset, self.indices[index], rng)


class FixedClips(_OfOneDataset):
    """First ``count`` clips of a data set. All epochs have the same clips, for validation or overfitting.

    Args:
        dataset: data set from which the clips are sampled.
        seed: seed of the clips. The random generator of clip ``i`` has the seed ``[seed, i]``.
        keep: if True, keeps sampled clips in memory.
    """

    def __init__(self, dataset: ClipDataset, count: int, seed: int = 0, keep: bool = False) -> None:
        if not 0 < count <= len(dataset):
            raise ValueError(f"count must be in [1, {len(dataset)}], got {count}")
        self.dataset, self.count, self.seed, self.keep = dataset, count, seed, keep
        self._kept: dict[int, Clip] = {}

    def __len__(self) -> int:
        return self.count

    def sample(self, index: int, rng: np.random.Generator) -> Clip:
        """Returns clip number ``index``. The argument ``rng`` is not used."""
        if index in self._kept:
            return self._kept[index]
        clip = self.dataset.sample(index, np.random.default_rng([self.seed, index]))
        if self.keep:
            self._kept[index] = clip
        return clip
