"""The same clips every time, to validate on or to overfit."""

import numpy as np

from sam2fast.training.data.clip import Clip, ClipDataset, name_of


class FixedClips:
    """The first ``count`` clips of another data set, each drawn from ``seed`` and its index alone.

    Args:
        dataset: where they come from.
        keep: makes each once and keeps it, as bytes in memory.

    Raises:
        ValueError: the data set has fewer clips.
    """

    def __init__(self, dataset: ClipDataset, count: int, seed: int = 0, keep: bool = False) -> None:
        if not 0 < count <= len(dataset):
            raise ValueError(f"{count} clips of a data set that has {len(dataset)}")
        self.dataset, self.count, self.seed, self.keep = dataset, count, seed, keep
        self._kept: dict[int, Clip] = {}

    @property
    def name(self) -> str:
        """The data set's ``name``, or its class's."""
        return name_of(self.dataset)

    def __len__(self) -> int:
        return self.count

    def sample(self, index: int, rng: np.random.Generator) -> Clip:
        """Clip ``index``; the generator is not used."""
        if index in self._kept:
            return self._kept[index]
        clip = self.dataset.sample(index, np.random.default_rng([self.seed, index]))
        if self.keep:
            self._kept[index] = clip
        return clip
