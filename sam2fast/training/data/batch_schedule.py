"""Schedule of batches: the samples of each batch on every rank. A schedule depends only on the seed and the epoch."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

# Spawn keys that separate the random streams of one seed. Without spawn keys, random streams could be equal, because
# numpy pads seeds with zeros.
_CHOICES, _PERMUTATION, _PHASES = 0, 1, 2

# Function from an epoch's number to the indices of a source's samples in the epoch. Indices may occur repeatedly.
EpochIndices: TypeAlias = Callable[[int], NDArray[np.int64]]


@dataclass(frozen=True)
class BatchSample:
    """Indices of one sample of a batch."""

    index: int  # index of the sample in the data set
    position: int  # number of the sample among the source's samples of all ranks; unique in the epoch


@dataclass(frozen=True)
class BatchPlan:
    """One batch on one rank. All samples of the batch come from one source."""

    source: int
    samples: tuple[BatchSample, ...]


@dataclass(frozen=True)
class BatchSchedule:
    """Schedule that draws a source for each batch, as ``training.dataset.sam2_datasets.TorchTrainMixedDataset`` does.

    If ``batches_per_epoch`` is None, an epoch is one pass over every source, and exhausted sources are not drawn again.
    If ``batches_per_epoch`` is given, sources are drawn by weight, and exhausted sources are reshuffled and start over.
    """

    lengths: Sequence[int]  # number of samples in each source
    batch_sizes: Sequence[int]  # batch size of each source per rank
    weights: Sequence[float] | None  # unnormalized probabilities; None for numbers of batches
    batches_per_epoch: int | None
    seed: int
    shuffle: bool
    drop_last: bool
    rank: int
    world_size: int
    phases: int  # number of epochs that make up one pass over every source
    chosen: Sequence[EpochIndices | None]  # for each source, its EpochIndices; None for all samples

    def __post_init__(self) -> None:
        if self.seed < 0:
            raise ValueError(f"seed must not be negative, got {self.seed}")
        if not 0 <= self.rank < self.world_size:
            raise ValueError(f"rank must be in [0, world_size), got {self.rank} of {self.world_size}")
        if self.batches_per_epoch is not None and self.batches_per_epoch < 1:
            raise ValueError(f"batches_per_epoch must be at least 1, got {self.batches_per_epoch}")
        if self.phases < 1 or (self.phases > 1 and self.batches_per_epoch is not None):
            raise ValueError(
                f"phases must be at least 1, and 1 with batches_per_epoch, got {self.phases} and "
                f"{self.batches_per_epoch}"
            )
        for batch_size in self.batch_sizes:
            if batch_size < 1:
                raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        last = self.phases - 1  # the last phase of a pass has the fewest samples
        for number, batches in enumerate(self.available(last)):
            if batches == 0:
                raise ValueError(
                    f"source {number} has {self._count(number, last)} samples in an epoch, less than one batch of "
                    f"{self.batch_sizes[number]} on each of {self.world_size} ranks: lower the batch size or set "
                    "drop_last=False"
                )
        if self.weights is not None:
            weights = np.asarray(self.weights, dtype=np.float64)
            fit = weights.shape == (len(self.lengths),) and np.isfinite(weights).all() and (weights >= 0).all()
            if not fit or not weights.any():
                raise ValueError(
                    f"weights must be finite, at least 0 and not all 0, one per source; got {list(self.weights)}"
                )

    def num_batches(self, epoch: int) -> int:
        """Returns the number of batches of an epoch. The number varies only if ``phases`` > 1 or ``chosen`` is used."""
        if epoch < 0:
            raise ValueError(f"epoch must not be negative, got {epoch}")
        if self.batches_per_epoch is not None:
            return self.batches_per_epoch
        available = self.available(epoch)
        return int(available[self._weights(available) > 0].sum())

    def available(self, epoch: int) -> NDArray[np.int64]:
        """Returns the number of batches of each source in an epoch."""
        batches = []
        for source, batch_size in enumerate(self.batch_sizes):
            together, count = batch_size * self.world_size, self._count(source, epoch)
            batches.append(count // together if self.drop_last else -(-count // together))
        return np.asarray(batches, dtype=np.int64)

    def samples(self, source: int, epoch: int) -> NDArray[np.int64]:
        """Returns the indices of a source's samples in an epoch, before shuffling."""
        pass_number, phase = divmod(epoch, self.phases)
        chosen = self.chosen[source]
        indices = np.arange(self.lengths[source]) if chosen is None else chosen(pass_number)
        if self.phases > 1:
            if self.shuffle:
                seed = np.random.SeedSequence([self.seed, pass_number], spawn_key=(_PHASES, source))
                indices = np.random.default_rng(seed).permutation(indices)
            indices = np.array_split(indices, self.phases)[phase]
        return indices

    def _count(self, source: int, epoch: int) -> int:
        pass_number, phase = divmod(epoch, self.phases)
        chosen = self.chosen[source]
        count = self.lengths[source] if chosen is None else len(chosen(pass_number))
        return count // self.phases + (phase < count % self.phases)

    def _weights(self, available: NDArray[np.int64]) -> NDArray[np.float64]:
        weights = np.asarray(available if self.weights is None else self.weights, dtype=np.float64)
        return np.where(available > 0, weights, 0.0)

    def epoch(self, epoch: int) -> "EpochSchedule":
        """Returns the schedule of one epoch. All ranks draw the same sources."""
        count, available = self.num_batches(epoch), self.available(epoch)
        weights = self._weights(available)
        if not weights.sum():
            raise ValueError(f"no source has a batch in epoch {epoch}: lower batch sizes or raise repeat factors")
        seed = np.random.SeedSequence([self.seed, epoch], spawn_key=(_CHOICES,))
        draws = np.random.default_rng(seed).random(count)
        if self.batches_per_epoch is None:
            sources = _choose_once_through(draws, weights, available)
        else:
            sources = np.searchsorted(_distribution(weights), draws, side="right")
        ordinals = np.empty(count, dtype=np.int64)
        for source in range(len(available)):
            chosen = sources == source
            ordinals[chosen] = np.arange(chosen.sum())
        return EpochSchedule(self, epoch, available, sources, ordinals)


@dataclass
class EpochSchedule:
    """Sequence of all batches of one epoch on one rank."""

    schedule: BatchSchedule
    epoch: int
    available: NDArray[np.int64]  # number of batches of each source in one pass over the source
    sources: NDArray[np.int64]  # index of the source of each batch
    ordinals: NDArray[np.int64]  # index of each batch among the batches of the same source
    _order: dict[int, tuple[int, NDArray[np.int64]]] = field(default_factory=dict, repr=False)

    def __len__(self) -> int:
        return len(self.sources)

    def __getitem__(self, batch: int) -> BatchPlan:
        schedule = self.schedule
        source, ordinal = int(self.sources[batch]), int(self.ordinals[batch])
        number, within = divmod(ordinal, int(self.available[source]))
        order = self._pass(source, number)
        size, ranks = schedule.batch_sizes[source], schedule.world_size
        # If drop_last is False, the ranks share the remaining samples at the end of a pass.
        size_here = min(size, -(-(len(order) - within * size * ranks) // ranks))
        first = within * size * ranks + schedule.rank * size_here
        # If the number of ranks does not divide the number of samples, repeats first samples, as in DistributedSampler.
        indices = (int(order[(first + i) % len(order)]) for i in range(size_here))
        positions = ((ordinal * ranks + schedule.rank) * size + i for i in range(size_here))
        return BatchPlan(source, tuple(BatchSample(*sample) for sample in zip(indices, positions, strict=True)))

    def _pass(self, source: int, number: int) -> NDArray[np.int64]:
        """Returns sample indices of a source in the order of pass ``number`` over the source."""
        if not self.schedule.shuffle:
            number = 0
        known = self._order.get(source)
        if known is None or known[0] != number:
            order = self.schedule.samples(source, self.epoch)
            if self.schedule.shuffle:
                seed = np.random.SeedSequence(
                    [self.schedule.seed, self.epoch], spawn_key=(_PERMUTATION, source, number)
                )
                np.random.default_rng(seed).shuffle(order)
            self._order[source] = known = (number, order)
        return known[1]


def _distribution(weights: NDArray[np.float64]) -> NDArray[np.float64]:
    cumulative = weights.cumsum()
    return cumulative / cumulative[-1]  # the last value is exactly 1, and all random draws are below 1


def _choose_once_through(
    draws: NDArray[np.float64], weights: NDArray[np.float64], available: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Returns the index of a source for each random draw. Source ``i`` is drawn at most ``available[i]`` times."""
    left = np.where(weights > 0, available, 0)
    chosen = np.empty(len(draws), dtype=np.int64)
    done = 0
    while done < len(draws):
        distribution = _distribution(np.where(left > 0, weights, 0.0))
        block = np.searchsorted(distribution, draws[done:], side="right")
        # The choices in ``block`` are valid up to the draw that exhausts a source first, including this draw.
        ends = [np.flatnonzero(block == s)[n - 1] + 1 for s, n in enumerate(left) if 0 < n <= (block == s).sum()]
        end = min(ends, default=len(block))
        chosen[done : done + end] = block[:end]
        left = left - np.bincount(block[:end], minlength=len(left))
        done += end
    return chosen
