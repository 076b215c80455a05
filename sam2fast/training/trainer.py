"""The training loop."""

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from sam2fast.checkpoints import find_weights, load_checkpoint
from sam2fast.training import checkpointing
from sam2fast.training.adapters import without_adapters
from sam2fast.training.checkpointing import lock_folder
from sam2fast.training.data.batch import ClipBatch
from sam2fast.training.data.clip import DataError
from sam2fast.training.data.loader import ClipLoader, reporting_lost_workers
from sam2fast.training.data.transforms import check_normalisation
from sam2fast.training.distributed.ranks import join
from sam2fast.training.distributed.strategies import is_sharded, wrap
from sam2fast.training.ema import ExponentialMovingAverage
from sam2fast.training.model import SAM2Train
from sam2fast.training.nan_guard import NonFiniteError, find_nonfinite_gradient, find_nonfinite_loss
from sam2fast.training.objective import Objective
from sam2fast.training.optimizer import GradientClipper, Optimizer, construct_optimizer
from sam2fast.training.reporting import Reporter
from sam2fast.training.settings import CheckpointConf, DistributedConf, EmaConf, LoggingConf, OptimConf
from sam2fast.training.trainer_state import TrainerState
from sam2fast.training.validation import validate
from sam2fast.utils.reproducibility import seed_everything

_log = logging.getLogger(__name__)

MODES = ("train", "train_only", "val")


class Trainer(TrainerState):
    """Trains a model on batches of clips.

    The result of a run depends only on the configuration. A killed run that is restarted with the same folder resumes
    from the last checkpoint. Where torch is deterministic, as on the CPU, an interrupted run and an uninterrupted run
    have bitwise equal weights. In distributed training, every process constructs a trainer.

    Args:
        model: model to train, on any device.
        data: mapping with the loader ``train``, which yields this process's samples, and optionally the loader ``val``,
            which yields all validation samples.
        loss: mapping from batch keys to losses; batches with other keys use the loss ``all``.
        optim, checkpoint, logging, ema, distributed: settings, see :mod:`sam2fast.training.settings`.
        max_epochs: number of epochs of the training. Schedules run over all epochs.
        mode: ``train`` (training with validation), ``train_only`` (training) or ``val`` (one validation).
        accelerator: device type, ``cuda``, ``cpu``, ``mps`` or ``auto``.
        seed_value: seed of the global random generators.
        val_epoch_freq: number of epochs between validations; the last epoch is always validated.
        auxiliary: module of an additional task that is trained with the model, see
            :class:`~sam2fast.training.objective.Objective`. Parameters of an auxiliary module do not belong to the
            model.

    Source: ``training.trainer.Trainer``.

    Raises:
        ValueError: If settings are invalid or contradict each other.
        RuntimeError: If the accelerator is not available.
        LostRankError: If another process did not join.
    """

    def __init__(
        self,
        *,
        model: SAM2Train,
        data: Mapping[str, ClipLoader],
        loss: Mapping[str, nn.Module],
        optim: OptimConf,
        checkpoint: CheckpointConf,
        logging: LoggingConf,
        max_epochs: int,
        mode: str = "train",
        accelerator: str = "auto",
        seed_value: int = 123,
        val_epoch_freq: int = 1,
        ema: EmaConf | None = None,
        auxiliary: nn.Module | None = None,
        distributed: DistributedConf | None = None,
    ) -> None:
        if mode not in MODES:
            raise ValueError(f"mode must be one of {', '.join(MODES)}, got {mode!r}")
        if mode != "val" and "train" not in data:
            raise ValueError("trainer.data has no 'train'")
        if mode == "val" and "val" not in data:
            raise ValueError("mode 'val' needs trainer.data.val")
        if max_epochs < 1 or val_epoch_freq < 1:
            raise ValueError(f"max_epochs and val_epoch_freq must be positive, got {max_epochs} and {val_epoch_freq}")
        distributed = distributed or DistributedConf()
        self.ranks = join(distributed, accelerator)
        self.device = self.ranks.device
        optim.amp.check_device(self.device)
        for source in (source for loader in data.values() for source in loader.sources):
            check_normalisation(source.dataset, model.pixel_mean, model.pixel_std)
        self.model = model.to(self.device)
        self.data, self.loss = dict(data), nn.ModuleDict(loss).to(self.device)
        self.conf, self.checkpoint, self.logging = optim, checkpoint, logging
        self.max_epochs, self.mode, self.seed_value, self.val_epoch_freq = max_epochs, mode, seed_value, val_epoch_freq
        self.auxiliary = auxiliary
        for name, loader in self.data.items():
            wanted = (self.ranks.rank, self.ranks.world_size) if name == "train" else (0, 1)
            if loader.share != wanted:
                raise ValueError(
                    f"trainer.data.{name} has rank and world_size {loader.share}, but this process needs {wanted}; "
                    "build_trainer sets them if a configuration omits them"
                )
        companions = {} if auxiliary is None else {"auxiliary": auxiliary.to(self.device)}
        objective = Objective(model, self.loss, auxiliary)
        self._is_sharded = self.ranks.is_group and distributed.strategy == "fsdp"
        if self._is_sharded:
            if optim.amp.enabled and optim.amp.dtype == torch.float16:
                raise ValueError("strategy fsdp has no gradient scaler for float16: use amp_dtype=bfloat16")
            self._initialize()  # loads initial weights before parameters are sharded
        with self.ranks.reporting_lost_ranks():
            self.parallel = wrap(objective, self.ranks, distributed)
        self.optimizer: Optimizer = construct_optimizer(
            model, optim.optimizer, optim.options, optim.param_group_modifiers, companions
        )
        self.scaler = torch.amp.GradScaler(
            self.device.type, enabled=optim.amp.enabled and optim.amp.dtype == torch.float16
        )
        self.ema = None if ema is None else ExponentialMovingAverage(model, ema.decay, ema.warmup)
        self.clipper = optim.gradient_clip or GradientClipper(None)
        for source in data["train"].sources if "train" in data else ():
            objective.loss_of(source.key)
        self.epoch = self.steps = self.steps_in_epoch = 0
        self.best: dict[str, float] = {}

    def run(
        self, stop: Callable[[], bool] = lambda: False, started: Callable[[], None] = lambda: None
    ) -> dict[str, float]:
        """Trains until all epochs are completed, and returns the measures of the last validation, if any.

        Args:
            stop: function called after every update and before validations. If ``stop`` returns True, the run saves a
                checkpoint and returns.
            started: function called once after the folder's checkpoint, if any, is restored.

        Raises:
            NonFiniteError: If a loss or gradient is not finite. Weights of the failed update are not saved.
            CheckpointError: If the folder's checkpoints are unreadable, belong to another configuration or are in use.
            DataError: If a data set is unusable or too many clips are bad.
            ValueError: If an epoch has fewer batches than an update, or a loss depends on no trainable parameter.
            ImportError: If a setting needs a package of the extra ``train`` that is not installed.
            LostRankError: If another process of the run has exited.
            LostWorkerError: If a worker process of a loader has exited or has no shared memory for a batch.
        """
        is_main = self.ranks.is_main
        lock = lock_folder(Path(self.checkpoint.save_dir)) if is_main else nullcontext()
        with self.ranks.reporting_lost_ranks(), reporting_lost_workers(), lock:
            self._start()
            started()
            resumed_at = None if self.mode == "val" else self.steps
            # If the run resumes within an epoch, the epoch's validation is repeated, even if a killed run has reported
            # it.
            folder, is_validated = Path(self.logging.log_dir), not self.steps_in_epoch
            reporter = Reporter(folder, resumed_at, self.logging.tensorboard, is_validated) if is_main else None
            return self._validate(reporter) if self.mode == "val" else self._train(reporter, stop)

    def _train(self, reporter: Reporter | None, stop_requested: Callable[[], bool]) -> dict[str, float]:
        def stop() -> bool:  # True in all processes if any process must stop
            return self.ranks.any(stop_requested())

        measures: dict[str, float] = {}
        begun = self.steps
        while not self.is_complete:
            if not self._train_epoch(reporter, stop):
                self.save()
                return measures
            last = self.epoch + 1 == self.max_epochs
            if self.mode == "train" and "val" in self.data and (last or (self.epoch + 1) % self.val_epoch_freq == 0):
                self.save()  # saves before validation, because validation may exceed the job's time limit
                if self.steps > begun and stop():
                    return measures
                measures = self._validate(reporter)
            self.epoch, self.steps_in_epoch = self.epoch + 1, 0
            self.save(is_kept=True)
            if stop():
                return measures
        return measures

    @property
    def where(self) -> float:
        """The completed fraction of the training, in [0, 1]."""
        return (self.epoch + self.steps_in_epoch / self.steps_per_epoch) / self.max_epochs

    def _start(self) -> None:
        """Resumes from the folder's checkpoint. Without a checkpoint, starts from initial or current weights."""
        if self.mode != "val" and not self.steps_per_epoch:
            raise ValueError(
                f"an epoch has {len(self.data['train'])} batches, fewer than the {self.conf.accumulate} of an update"
            )
        content = checkpointing.load_on_all_ranks(Path(self.checkpoint.save_dir), self.ranks)
        if content is not None:
            self.restore(content)
            _log.info("resuming from epoch %d, update %d", self.epoch, self.steps)
            return
        # Seeds the global generators, which model code may use; each process gets a different seed.
        seed_everything(self.seed_value + self.ranks.rank)
        if not self._is_sharded:
            self._initialize()
            if self.ema is not None and self.checkpoint.initialize_from is not None:
                self.ema = ExponentialMovingAverage(self.model, self.ema.decay, self.ema.warmup)

    def _initialize(self) -> None:
        """Loads initial weights into the model in place. The file with initial weights has no adapters."""
        if self.checkpoint.initialize_from is not None:
            with without_adapters(self.model):
                path, keep = self.checkpoint.initialize_from, self.checkpoint.missing_weights == "draw"
                load_checkpoint(self.model, path, self.device, False, assign=False, keep_missing=keep)

    def check_initial_weights(self) -> None:
        """Checks that the file of initial weights exists, unless :meth:`run` would resume from the folder's checkpoint.

        Raises the same errors as :func:`sam2fast.checkpoints.find_weights`.
        """
        path = self.checkpoint.initialize_from
        if path is not None and not checkpointing.checkpoints_in(Path(self.checkpoint.save_dir)):
            find_weights(path)

    def _train_epoch(self, reporter: Reporter | None, stop: Callable[[], bool]) -> bool:
        """Trains the rest of the current epoch. Returns False if ``stop`` ended the training within the epoch."""
        self.model.train()
        batches = self.data["train"].epoch(self.epoch, self.steps_in_epoch * self.conf.accumulate)
        bar = tqdm(
            total=self.steps_per_epoch,
            initial=self.steps_in_epoch,
            desc=f"epoch {self.epoch + 1}/{self.max_epochs}",
            disable=None if self.logging.progress and self.ranks.is_main else True,
        )
        with bar:
            while self.steps_in_epoch < self.steps_per_epoch:
                values = self._update(islice(batches, self.conf.accumulate))
                bar.update()
                bar.set_postfix(loss=f"{values['loss']:.3f}", refresh=False)
                is_last = self.steps_in_epoch == self.steps_per_epoch
                of_run = is_last and self.epoch + 1 == self.max_epochs
                if reporter is not None and (of_run or self.steps % self.logging.log_freq == 0):
                    reporter.report(self.steps, "train", values)
                if is_last:
                    break
                if stop():
                    return False
                every = self.checkpoint.save_every_steps
                if every and self.steps % every == 0:
                    self.save()
        return True

    def _update(self, batches: Iterator[ClipBatch]) -> dict[str, float]:
        self.optimizer.zero_grad()
        where = self.where
        for loss in self.loss.modules():
            if hasattr(loss, "where"):
                setattr(loss, "where", where)  # noqa: B010 (to mypy, a module's attributes are tensors)
        sums: dict[str, float] = {}
        names: list[str] = []
        for number, batch in enumerate(batches):
            with self.parallel.accumulating(is_last=number + 1 == self.conf.accumulate):
                with self._autocast():
                    losses = self.parallel(batch.to(self.device))
                self._add(sums, losses, batch)
                names += batch.names
                self.scaler.scale(losses["loss"] / self.conf.accumulate).backward()
        self.scaler.unscale_(self.optimizer.optimizer)
        total: Any = self.clipper([p for group in self.optimizer.param_groups for p in group["params"]])
        norm = float(total.full_tensor() if is_sharded(total) else total)
        if not self.scaler.is_enabled():
            self._raise_if_nonfinite(find_nonfinite_gradient(norm, self.model, names, self.ranks))
        self.optimizer.step_schedulers(where, self.steps)
        self.scaler.step(self.optimizer.optimizer)
        self.scaler.update()
        if self.ema is not None:
            self.ema.update(self.steps)
        self.steps += 1
        self.steps_in_epoch += 1
        rate = max(group["lr"] for group in self.optimizer.param_groups)
        return {**sums, "gradient_norm": norm, "lr": rate, "where": where}

    def _autocast(self) -> torch.autocast:
        amp = self.conf.amp
        return torch.autocast(self.device.type, amp.dtype, enabled=amp.enabled)

    def _add(self, sums: dict[str, float], losses: dict[str, Tensor], batch: ClipBatch) -> None:
        """Adds the mean losses of a batch to ``sums``. Raises ``NonFiniteError`` if the total loss is not finite."""
        local = torch.stack([x.detach() for x in losses.values()]).tolist()
        values = dict(zip(losses, self.ranks.mean(local), strict=True))
        self._raise_if_nonfinite(
            find_nonfinite_loss(dict(zip(losses, local, strict=True)), values["loss"], batch.names, self.ranks)
        )
        for name, value in values.items():
            sums[name] = sums.get(name, 0.0) + value / self.conf.accumulate

    def _raise_if_nonfinite(self, problem: str | None) -> None:
        if problem is not None:
            folder = Path(self.checkpoint.save_dir)
            saved = "are from earlier updates" if checkpointing.checkpoints_in(folder) else "are none yet"
            raise NonFiniteError(f"update {self.steps}: {problem}; checkpoints in {folder} {saved}")

    def _validate(self, reporter: Reporter | None) -> dict[str, float]:
        self.model.eval()
        averaged = nullcontext() if self.ema is None else self.ema.applied(self.model)
        with averaged, torch.no_grad(), self.parallel.evaluating(), self._autocast():
            try:
                measures = validate(self.model, self.data["val"], self.device, self.ranks)
            except DataError as error:
                advice = "leave it out of trainer.data.val, by excluded_videos_list_txt"
                raise DataError(f"validation: {error}; {advice}") from error
        if reporter is not None:
            reporter.report(self.steps, "val", measures)
        _log.info("update %d: %s", self.steps, ", ".join(f"{k} {v:.2f}" for k, v in measures.items()))
        if self.mode != "val" and measures["J&F"] > self.best.get("J&F", -1.0):
            self.best = measures
            self.save_weights("best.pt")
        return measures
