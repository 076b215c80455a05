"""Batches of clips from several data sets, made by worker processes, the same however often a run is resumed."""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from sam2fast.datasets.errors import DatasetError
from sam2fast.training.data.batch import ClipBatch, collate
from sam2fast.training.data.clip import Clip, ClipDataset, EpochDataset, name_of
from sam2fast.training.data.errors import DataError
from sam2fast.training.data.schedule import EpochSchedule, Schedule, Slot
from sam2fast.training.data.workers import received

_log = logging.getLogger(__name__)

MAX_TRIES = 20  # clips tried for one sample before giving up
# Faults of a program or a machine rather than of a file: replacing the sample would only hide them.
_NOT_THE_DATA = (MemoryError, ImportError, NameError, AttributeError, TypeError, NotImplementedError)


@dataclass(frozen=True)
class ClipSource:
    """One of the data sets that are mixed.

    Args:
        dataset: yields clips of one number of frames.
        batch_size: clips per batch and rank.
        weight: how often batches come from here, relative to the other sources' weights.
        key: which loss the trainer applies to its batches.
    """

    dataset: ClipDataset
    batch_size: int
    weight: float | None = None
    key: str = "all"

    @property
    def name(self) -> str:
        """The data set's ``name``, or its class's."""
        return name_of(self.dataset)


class ClipLoader:
    """Batches of clips, each from one source, the sources mixed at random.

    Batch ``k`` of an epoch is a pure function of ``(seed, epoch, k, rank, world_size)``, whatever ``num_workers`` is
    and wherever the epoch is resumed. Ranks draw the same sources, and different samples of them. Follows the
    official ``training.dataset.sam2_datasets.TorchTrainMixedDataset``.

    A clip that cannot be made is reported by a warning and replaced by another one of its data set.

    Args:
        batches_per_epoch: by default once through every source. Given, sources are drawn by weight alone and start
            over, newly shuffled, when they are used up.
        shuffle: whether each source is permuted anew every epoch.
        drop_last: whether the last, smaller batch of each source is left out.
        max_bad_samples: how many clips per epoch and rank may be replaced; 0 to allow none.
        phases_per_epoch: how many epochs it takes to go once through every source; a long way through many data sets is
            divided so for checkpoints and validations. Epochs may then differ by a batch.

    Attributes:
        bad_samples: how many clips were replaced so far, in all epochs of this object.

    Raises:
        ValueError: no sources, an empty data set, one without a single batch, or settings that make no sense.
    """

    def __init__(
        self,
        datasets: Sequence[ClipSource],
        batches_per_epoch: int | None = None,
        num_workers: int = 0,
        seed: int = 0,
        shuffle: bool = True,
        drop_last: bool = True,
        pin_memory: bool = False,
        rank: int = 0,
        world_size: int = 1,
        max_bad_samples: int = 100,
        phases_per_epoch: int = 1,
    ) -> None:
        if not datasets:
            raise ValueError("a ClipLoader needs at least one ClipSource, got none")
        if num_workers < 0 or max_bad_samples < 0:
            raise ValueError(
                f"num_workers and max_bad_samples must not be negative, got {num_workers} and {max_bad_samples}"
            )
        self.sources = tuple(datasets)
        lengths = [len(source.dataset) for source in self.sources]
        for source, length in zip(self.sources, lengths, strict=True):
            if length == 0:
                raise ValueError(f"data set {source.name} is empty")
        given = [source.weight for source in self.sources if source.weight is not None]
        if given and len(given) != len(self.sources):
            raise ValueError("give every ClipSource a weight, or none: what the others' is to mean is not clear")
        self._schedule = Schedule(
            lengths,
            [source.batch_size for source in self.sources],
            given or None,
            batches_per_epoch,
            seed,
            shuffle,
            drop_last,
            rank,
            world_size,
            phases_per_epoch,
            [s.dataset.epoch_indices if isinstance(s.dataset, EpochDataset) else None for s in self.sources],
        )
        self._counts: dict[int, int] = {}
        self._num_workers, self._pin_memory, self._max_bad_samples = num_workers, pin_memory, max_bad_samples
        self.bad_samples = 0

    def __len__(self) -> int:
        """Batches of the first epoch, and of all of them unless :meth:`num_batches` says otherwise."""
        return self.num_batches(0)

    def num_batches(self, epoch: int) -> int:
        """Batches of an epoch: not always as many with ``phases_per_epoch`` or repeat factors."""
        if epoch not in self._counts:
            self._counts[epoch] = self._schedule.num_batches(epoch)
        return self._counts[epoch]

    @property
    def share(self) -> tuple[int, int]:
        """``rank`` and ``world_size``."""
        return self._schedule.rank, self._schedule.world_size

    def epoch(self, epoch: int, start: int = 0, step: int = 1) -> Iterator[ClipBatch]:
        """The batches of an epoch from number ``start`` on, exactly those of an undisturbed run.

        Args:
            step: 2 gives every second one, and so on.

        Raises:
            ValueError: at once, for a negative epoch or a start outside it.
            DataError: while iterating: too many bad clips, or clips that do not fit into one batch.
        """
        if not 0 <= start <= self.num_batches(epoch):
            raise ValueError(f"start must be in [0, {self.num_batches(epoch)}], the batches of an epoch; got {start}")
        return self._iterate(_BatchMaker(self.sources, self._schedule.epoch(epoch)), start, step)

    def _iterate(self, maker: "_BatchMaker", start: int, step: int) -> Iterator[ClipBatch]:
        loader: DataLoader[_Made] = DataLoader(
            maker,
            batch_size=None,  # an item already is a batch
            sampler=range(start, len(maker.epoch), step),
            num_workers=self._num_workers,  # each sets itself to one thread
            pin_memory=self._pin_memory,
            # Without one of its own, it would draw its workers' seeds from the generator the model trains with.
            generator=torch.Generator().manual_seed(0),
        )
        bad = 0
        for made in received(loader) if self._num_workers else loader:
            for report in made.reports:
                _log.warning("%s", report)
            bad += len(made.reports)
            self.bad_samples += len(made.reports)
            if made.error:
                raise DataError(made.error)
            if bad > self._max_bad_samples:
                raise DataError(
                    f"{bad} bad samples in epoch {maker.epoch.epoch}, more than max_bad_samples="
                    f"{self._max_bad_samples}; the last one: {made.reports[-1]}"
                )
            assert made.batch is not None
            yield made.batch


@dataclass
class _Made:
    """What a worker sends: a batch or why there is none, and the clips that were replaced in it."""

    batch: ClipBatch | None = None
    reports: list[str] = field(default_factory=list)
    # As text: torch raises a worker's exception again with the worker's traceback as its message.
    error: str = ""

    def pin_memory(self) -> "_Made":
        if self.batch is not None:
            self.batch = self.batch.pin_memory()
        return self


class _BatchMaker(Dataset[_Made]):
    """Makes the batch with a given number; a copy of it lives in every worker."""

    def __init__(self, sources: Sequence[ClipSource], epoch: EpochSchedule) -> None:
        self.sources, self.epoch = sources, epoch

    def __getitem__(self, number: int) -> _Made:
        plan = self.epoch[number]
        source = self.sources[plan.source]
        made = _Made()
        try:
            entropy = [self.epoch.schedule.seed, self.epoch.epoch, plan.source]
            clips = [self._make_clip(source, slot, [*entropy, slot.position], made.reports) for slot in plan.slots]
            seeds = [_prompt_seed([*entropy, slot.position]) for slot in plan.slots]
            # The same on every rank: the lightest plan would wait for the heaviest.
            plan_seed = _prompt_seed([self.epoch.schedule.seed, self.epoch.epoch, number], stream=1)
            made.batch = _collate(clips, seeds, source, plan_seed)
        except DataError as error:
            made.error = str(error)
        return made

    @staticmethod
    def _make_clip(source: ClipSource, slot: Slot, entropy: list[int], reports: list[str]) -> Clip:
        """The slot's clip, or in its place the first good one of others drawn from the slot's generator."""
        rng = np.random.default_rng(entropy)
        index = slot.index
        for _ in range(MAX_TRIES):
            try:
                clip = source.dataset.sample(index, rng)
                if clip.masks.shape[1] == 0:
                    raise DatasetError(f"clip {clip.name!r} has no object")
                return clip
            except (DataError, *_NOT_THE_DATA):
                raise
            # Anything else may come from a broken file: decoders raise SyntaxError, struct.error, zlib.error, ...
            except Exception as error:
                reports.append(f"bad sample: {source.name}, clip {index}: {type(error).__name__}: {error}")
            index = int(rng.integers(len(source.dataset)))
        raise DataError(f"data set {source.name}: {MAX_TRIES} samples in a row were bad; the last one: {reports[-1]}")


def _prompt_seed(entropy: list[int], stream: int = 0) -> int:
    """Seed of prompts; a stream of its own, so that transforms do not change the prompts' draws."""
    return int(np.random.SeedSequence(entropy, spawn_key=(stream,)).generate_state(1, np.uint64)[0] >> 1)


def _collate(clips: Sequence[Clip], seeds: Sequence[int], source: ClipSource, plan_seed: int) -> ClipBatch:
    try:
        return collate(clips, seeds, source.key, plan_seed)
    except ValueError as error:
        raise DataError(f"data set {source.name}, clips {[clip.name for clip in clips]}: {error}") from error
