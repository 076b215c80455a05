"""Which samples each batch of an epoch is made of, on every rank: a pure function of the seed and the epoch."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

# Children of one seed: numpy pads seeds with zeros, so [seed, epoch] alone would be [seed, epoch, 0, 0].
_CHOICES, _PERMUTATION = 0, 1


@dataclass(frozen=True)
class Slot:
    """One sample of a batch."""

    index: int  # in its data set
    position: int  # in its source's order of this epoch over all ranks; no other sample of the epoch has it


@dataclass(frozen=True)
class BatchPlan:
    """One batch on one rank: samples of one source."""

    source: int
    slots: tuple[Slot, ...]


@dataclass(frozen=True)
class Schedule:
    """Mixes sources batch by batch, as ``training.dataset.sam2_datasets.TorchTrainMixedDataset`` does.

    With ``batches_per_epoch`` unset, an epoch goes through every source once, and a source that is used up is not
    drawn again. Set, every batch draws its source by weight, and sources start over, newly shuffled, as needed.

    Args:
        lengths, batch_sizes: of the sources; batches are per rank.
        weights: of the sources, unnormalised; by default their numbers of batches.

    Raises:
        ValueError: a source without a single batch, or settings that make no sense.
    """

    lengths: Sequence[int]
    batch_sizes: Sequence[int]
    weights: Sequence[float] | None = None
    batches_per_epoch: int | None = None
    seed: int = 0
    shuffle: bool = True
    drop_last: bool = True
    rank: int = 0
    world_size: int = 1
    _per_pass: NDArray[np.int64] = field(init=False, repr=False)
    _weights: NDArray[np.float64] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if self.seed < 0:
            raise ValueError(f"seed must not be negative, got {self.seed}")
        if not 0 <= self.rank < self.world_size:
            raise ValueError(f"rank must be in [0, world_size), got {self.rank} of {self.world_size}")
        if self.batches_per_epoch is not None and self.batches_per_epoch < 1:
            raise ValueError(f"batches_per_epoch must be at least 1, got {self.batches_per_epoch}")
        per_pass = []
        for number, (length, batch_size) in enumerate(zip(self.lengths, self.batch_sizes, strict=True)):
            if batch_size < 1:
                raise ValueError(f"batch_size of source {number} must be at least 1, got {batch_size}")
            together = batch_size * self.world_size
            per_pass.append(length // together if self.drop_last else -(-length // together))
            if per_pass[-1] == 0:
                raise ValueError(
                    f"source {number} has {length} samples, less than one batch of {batch_size} on each of "
                    f"{self.world_size} ranks: lower the batch size or set drop_last=False"
                )
        weights = np.asarray(per_pass if self.weights is None else self.weights, dtype=np.float64)
        if (
            weights.shape != (len(per_pass),)
            or not np.isfinite(weights).all()
            or (weights < 0).any()
            or not weights.sum()
        ):
            raise ValueError(
                f"weights must be finite, at least 0 and not all 0, one per source; got {weights.tolist()}"
            )
        object.__setattr__(self, "_per_pass", np.asarray(per_pass))
        object.__setattr__(self, "_weights", weights)

    def __len__(self) -> int:
        """Batches per epoch."""
        return self.batches_per_epoch or int(self._per_pass[self._weights > 0].sum())

    def epoch(self, epoch: int) -> "EpochSchedule":
        """The batches of one epoch; the choices of sources are the same on all ranks."""
        if epoch < 0:
            raise ValueError(f"epoch must not be negative, got {epoch}")
        draws = np.random.default_rng(np.random.SeedSequence([self.seed, epoch], spawn_key=(_CHOICES,))).random(
            len(self)
        )
        if self.batches_per_epoch is None:
            sources = _choose_once_through(draws, self._weights, self._per_pass)
        else:
            sources = np.searchsorted(_distribution(self._weights), draws, side="right")
        ordinals = np.empty(len(self), dtype=np.int64)
        for source in range(len(self._per_pass)):
            chosen = sources == source
            ordinals[chosen] = np.arange(chosen.sum())
        return EpochSchedule(self, epoch, sources, ordinals)


@dataclass
class EpochSchedule:
    """The batches of one epoch on one rank."""

    schedule: Schedule
    epoch: int
    sources: NDArray[np.int64]  # of each batch
    ordinals: NDArray[np.int64]  # of each batch among its source's
    _order: dict[int, tuple[int, NDArray[np.int64]]] = field(default_factory=dict, repr=False)

    def __getitem__(self, batch: int) -> BatchPlan:
        schedule = self.schedule
        source, ordinal = int(self.sources[batch]), int(self.ordinals[batch])
        number, within = divmod(ordinal, int(schedule._per_pass[source]))
        order = self._pass(source, number)
        size, ranks = schedule.batch_sizes[source], schedule.world_size
        left = len(order) - within * size * ranks
        if left < size * ranks:  # only without drop_last: what is left is shared out evenly
            size_here = -(-left // ranks)
        else:
            size_here = size
        first = within * size * ranks + schedule.rank * size_here
        # The modulus starts over where the ranks do not divide what is left, as DistributedSampler does.
        indices = (int(order[(first + i) % len(order)]) for i in range(size_here))
        positions = ((ordinal * ranks + schedule.rank) * size + i for i in range(size_here))
        return BatchPlan(source, tuple(Slot(*slot) for slot in zip(indices, positions, strict=True)))

    def _pass(self, source: int, number: int) -> NDArray[np.int64]:
        """The order of a source's samples the ``number``-th time through."""
        if not self.schedule.shuffle:
            number = 0
        known = self._order.get(source)
        if known is None or known[0] != number:
            order = np.arange(self.schedule.lengths[source])
            if self.schedule.shuffle:
                seed = np.random.SeedSequence(
                    [self.schedule.seed, self.epoch], spawn_key=(_PERMUTATION, source, number)
                )
                np.random.default_rng(seed).shuffle(order)
            self._order[source] = known = (number, order)
        return known[1]


def _distribution(weights: NDArray[np.float64]) -> NDArray[np.float64]:
    cumulative = weights.cumsum()
    return cumulative / cumulative[-1]  # ends in exactly 1, which no draw reaches


def _choose_once_through(
    draws: NDArray[np.float64], weights: NDArray[np.float64], available: NDArray[np.int64]
) -> NDArray[np.int64]:
    """One source per draw, until each source with a weight was drawn as often as it is available."""
    left = np.where(weights > 0, available, 0)
    chosen = np.empty(len(draws), dtype=np.int64)
    done = 0
    while done < len(draws):
        distribution = _distribution(np.where(left > 0, weights, 0.0))
        block = np.searchsorted(distribution, draws[done:], side="right")
        # The block is valid up to and including the draw that uses up the first source.
        ends = [np.flatnonzero(block == s)[n - 1] + 1 for s, n in enumerate(left) if 0 < n <= (block == s).sum()]
        end = min(ends, default=len(block))
        chosen[done : done + end] = block[:end]
        left = left - np.bincount(block[:end], minlength=len(left))
        done += end
    return chosen
