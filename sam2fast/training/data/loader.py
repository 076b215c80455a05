"""Loads batches of clips from data sets in worker processes. Resumed runs get the same batches as other runs."""

import atexit
import logging
import pickle
import signal
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing.reduction import ForkingPickler
from typing import Any, TypeVar

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from sam2fast.datasets.clip import Clip
from sam2fast.datasets.dataset_files import DatasetError
from sam2fast.training.data.batch import ClipBatch, collate
from sam2fast.training.data.batch_schedule import BatchSample, BatchSchedule, EpochSchedule
from sam2fast.training.data.clip import ClipDataset, DataError, EpochDataset, name_of
from sam2fast.utils.errors import FixableError

_log = logging.getLogger(__name__)

MAX_TRIES = 20  # maximum number of clips tried for one sample
# Types of errors that bugs and lack of memory cause. Errors of these types are raised, and the clip is not replaced.
_NOT_THE_DATA = (MemoryError, ImportError, NameError, AttributeError, TypeError, NotImplementedError)
Item = TypeVar("Item")
# Prefixes of torch's error messages about lost workers. If a worker exits, the thread that pins the worker's batches
# fails, and the worker's shared memory disappears.
SIGNS = ("DataLoader worker", "Pin memory thread", "unable to open shared memory object")
_ADVICE = (
    "lower trainer.data.train.num_workers and trainer.data.val.num_workers (0 needs no shared memory), or "
    "enlarge /dev/shm; for docker, set --shm-size"
)
SECONDS_TO_EXIT = 10.0  # time to wait for a killed worker's exit code; the connections close earlier


@dataclass(frozen=True)
class ClipSource:
    """Data set in a mixture of data sets, with batch size and weight.

    Args:
        dataset: data set whose clips all have the same number of frames.
        batch_size: number of clips per batch on each rank.
        weight: unnormalized probability of drawing a batch from this source.
        key: key of the loss that the trainer applies to these batches.
    """

    dataset: ClipDataset
    batch_size: int
    weight: float | None = None
    key: str = "all"

    @property
    def name(self) -> str:
        """The data set's attribute ``name``, or the name of the data set's class."""
        return name_of(self.dataset)


class ClipLoader:
    """Loader that yields batches of clips from several data sets.

    Each batch comes from one source, and sources are mixed at random. Batch ``k`` of an epoch depends only on ``(seed,
    epoch, k, rank, world_size)``, not on ``num_workers`` or the batch at which the epoch is resumed. All ranks draw the
    same sources, but different clips. Follows the official ``training.dataset.sam2_datasets.TorchTrainMixedDataset``.

    A clip that cannot be loaded is replaced by another clip of the same data set, with a warning.

    Args:
        batches_per_epoch: number of batches per epoch. If None, an epoch is one pass over the clips of every source. If
            a number is given, sources are drawn only by weight, and an exhausted source is reshuffled and starts over.
        shuffle: if True, shuffles each source every epoch.
        drop_last: if True, drops the last, smaller batch of each source.
        max_bad_samples: maximum number of replaced clips per epoch on each rank. An error is raised if an epoch has
            more replaced clips than good clips.
        phases_per_epoch: number of epochs that make up one pass over every source, for more frequent checkpoints and
            validations on large data sets. If ``phases_per_epoch`` is above 1, the numbers of batches of epochs may
            differ by one.

    Attributes:
        bad_samples: number of bad clips replaced so far in all epochs.
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
        weights = [source.weight for source in self.sources if source.weight is not None]
        if weights and len(weights) != len(self.sources):
            raise ValueError("give a weight to every ClipSource, or to none")
        self._schedule = BatchSchedule(
            lengths,
            [source.batch_size for source in self.sources],
            weights or None,
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
        """Returns the number of batches of the first epoch. :meth:`num_batches` returns the number for any epoch."""
        return self.num_batches(0)

    def num_batches(self, epoch: int) -> int:
        """Returns the number of batches of an epoch. Epochs differ with ``phases_per_epoch`` or repeat factors."""
        if epoch not in self._counts:
            self._counts[epoch] = self._schedule.num_batches(epoch)
        return self._counts[epoch]

    @property
    def share(self) -> tuple[int, int]:
        """Rank and world size of this loader, as a pair."""
        return self._schedule.rank, self._schedule.world_size

    def epoch(self, epoch: int, start: int = 0, step: int = 1) -> Iterator[ClipBatch]:
        """Yields the batches of an epoch from batch ``start``. A resumed run gets the batches of an uninterrupted run.

        Args:
            step: interval between the numbers of yielded batches.

        Raises:
            ValueError: If ``start`` is negative or above the number of batches.
            DataError: During iteration, if too many clips are bad, or the clips of a batch do not fit together.
            LostWorkerError: During iteration, if a worker process exits or has no shared memory for a batch.
        """
        if not 0 <= start <= self.num_batches(epoch):
            raise ValueError(f"start must be in [0, {self.num_batches(epoch)}], the batches of an epoch; got {start}")
        return self._iterate(_BatchMaker(self.sources, self._schedule.epoch(epoch)), start, step)

    def _iterate(self, maker: "_BatchMaker", start: int, step: int) -> Iterator[ClipBatch]:
        loader: DataLoader[_Made] = DataLoader(
            maker,
            batch_size=None,  # the items of the data set ``maker`` are batches
            sampler=range(start, len(maker.epoch), step),
            num_workers=self._num_workers,  # torch gives each worker one thread
            collate_fn=_Pickled if self._num_workers else None,
            worker_init_fn=_ignore_sigterm,
            pin_memory=self._pin_memory,
            # Without this generator, torch would draw workers' seeds from the global generator that the model uses.
            generator=torch.Generator().manual_seed(0),
        )
        reports: list[str] = []
        good, left = 0, len(range(start, len(maker.epoch), step))
        for made in receive_batches(loader) if self._num_workers else loader:
            for report in made.reports:
                _log.warning("%s", report)
            reports += made.reports
            self.bad_samples += len(made.reports)
            if made.error is not None:
                raise made.error
            assert made.batch is not None
            good, left = good + made.batch.num_videos, left - 1
            limit, bad = self._max_bad_samples if left else min(self._max_bad_samples, good), len(reports)
            if bad > limit:
                most = f"max_bad_samples={limit}" if limit == self._max_bad_samples else f"the {limit} good ones"
                raise DataError(
                    f"{bad} bad samples in epoch {maker.epoch.epoch}, more than {most}; the last one: {reports[-1]}"
                )
            yield made.batch


@dataclass
class _Made:
    """Result of a worker process: a batch or an error, and reports of replaced clips."""

    batch: ClipBatch | None = None
    reports: list[str] = field(default_factory=list)
    # Error that the main process raises. If a worker raised the error, torch's message would be a traceback.
    error: FixableError | None = None

    def pin_memory(self) -> "_Made":
        if self.batch is not None:
            self.batch = self.batch.pin_memory()
        return self


def _ignore_sigterm(worker: int) -> None:
    """Ignores SIGTERM in a worker. The main process first saves a checkpoint and then ends its workers."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


class _Pickled:
    """Pickles a batch in the worker's main thread. The thread of torch's queue would silently drop unpicklable batches.

    Unpickling yields the batch, or an error if shared memory was full.
    """

    def __init__(self, made: object) -> None:
        try:
            self._content = bytes(ForkingPickler.dumps(made))
        except (OSError, RuntimeError) as error:
            message = f"a process that makes batches has no room for one in shared memory ({error}); {_ADVICE}"
            self._content = pickle.dumps(_Made(error=LostWorkerError(message)))

    def __reduce__(self) -> tuple[Any, ...]:
        return pickle.loads, (self._content,)


class _BatchMaker(Dataset[_Made]):
    """Data set of batches by number. Every worker process has a copy of this object."""

    def __init__(self, sources: Sequence[ClipSource], epoch: EpochSchedule) -> None:
        self.sources, self.epoch = sources, epoch

    def __getitem__(self, number: int) -> _Made:
        plan = self.epoch[number]
        source = self.sources[plan.source]
        made = _Made()
        try:
            entropy = [self.epoch.schedule.seed, self.epoch.epoch, plan.source]
            clips = [
                self._make_clip(source, sample, [*entropy, sample.position], made.reports) for sample in plan.samples
            ]
            seeds = [_prompt_seed([*entropy, sample.position]) for sample in plan.samples]
            # All ranks use the same seed of prompt plans, so that all ranks have the same amount of computation.
            plan_seed = _prompt_seed([self.epoch.schedule.seed, self.epoch.epoch, number], stream=1)
            try:
                made.batch = collate(clips, seeds, source.key, plan_seed)
            except ValueError as error:
                named = [clip.name for clip in clips]
                raise DataError(f"data set {source.name}, clips {named}: {error}") from error
        except DataError as error:
            made.error = error
        return made

    @staticmethod
    def _make_clip(source: ClipSource, sample: BatchSample, entropy: list[int], reports: list[str]) -> Clip:
        """Returns the clip of a sample. If the clip is bad, draws another clip with the sample's random generator."""
        rng = np.random.default_rng(entropy)
        index = sample.index
        for _ in range(MAX_TRIES):
            try:
                clip = source.dataset.sample(index, rng)
                if clip.masks.shape[1] == 0:
                    raise DatasetError(f"clip {clip.name!r} has no object")
                return clip
            except (DataError, *_NOT_THE_DATA):
                raise
            # Decoding a broken file raises exceptions of any type, such as SyntaxError, struct.error or zlib.error.
            except Exception as error:
                reports.append(f"bad sample: {source.name}, clip {index}: {type(error).__name__}: {error}")
            index = int(rng.integers(len(source.dataset)))
        raise DataError(f"data set {source.name}: {MAX_TRIES} samples in a row were bad; the last one: {reports[-1]}")


def _prompt_seed(entropy: list[int], stream: int = 0) -> int:
    """Returns the seed of prompts. Prompts have a separate random stream, so that transforms do not change prompts."""
    return int(np.random.SeedSequence(entropy, spawn_key=(stream,)).generate_state(1, np.uint64)[0] >> 1)


class LostWorkerError(FixableError, RuntimeError):
    """Raised if a loader's worker process was killed, has exited or has no shared memory for a batch."""


@contextmanager
def reporting_lost_workers() -> Iterator[None]:
    """Converts torch's errors about lost workers, raised anywhere by a signal handler, to :class:`LostWorkerError`."""
    try:
        yield
    except RuntimeError as error:
        message = _worker_message(error)
        if message is None or isinstance(error, LostWorkerError):
            raise
        raise _lost_worker(message) from error


def receive_batches(made: Iterable[Item]) -> Iterator[Item]:
    """Yields the results of worker processes. Raises :class:`LostWorkerError` if a worker is killed during a batch."""
    batches: Any = iter(made)
    # Ends workers at exit, because workers ignore SIGTERM, so that multiprocessing would wait for the workers forever.
    atexit.register(batches._shutdown_workers)
    try:
        yield from batches
    # If a worker is killed, torch raises errors about the connection to the worker or about deleted files.
    except (OSError, EOFError) as error:
        reason = _exit_reason(batches) or f"{type(error).__name__} during a batch: {error}"
        raise _lost_worker(reason) from error
    finally:
        atexit.unregister(batches._shutdown_workers)
        batches._shutdown_workers()


def _exit_reason(batches: Iterator[Item]) -> str | None:
    """Returns torch's message for the first worker that has exited, or None if no worker exits in time.

    While this function waits, torch's signal handler may raise an error.
    """
    until = time.monotonic() + SECONDS_TO_EXIT
    while True:
        for worker in getattr(batches, "_workers", ()):
            if (code := worker.exitcode) is not None:
                how = f"is killed by signal: {signal.strsignal(-code)}" if code < 0 else f"exited with code {code}"
                return f"DataLoader worker (pid {worker.pid}) {how}"
        if time.monotonic() > until:
            return None
        time.sleep(0.01)


def _lost_worker(reason: str) -> LostWorkerError:
    return LostWorkerError(f"a process that makes batches was lost ({reason}); if memory ran out, {_ADVICE}")


def _worker_message(error: BaseException) -> str | None:
    """Returns the first message about a lost worker in a chain of exceptions.

    Later messages do not give the cause of the exit.
    """
    message: str | None = None
    cause: BaseException | None = error
    while cause is not None:
        if str(cause).startswith(SIGNS):
            message = " ".join(str(cause).split()).rstrip(". ")
        cause = cause.__context__
    return message
