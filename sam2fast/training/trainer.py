"""The training loop."""

import logging
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from sam2fast.build_sam import available_device
from sam2fast.checkpoints import CheckpointError, load_checkpoint
from sam2fast.reproducibility import seed_everything
from sam2fast.training import snapshots
from sam2fast.training.auxiliary import dense_features, object_ids
from sam2fast.training.data.batch import ClipBatch
from sam2fast.training.data.loader import ClipLoader
from sam2fast.training.ema import ExponentialMovingAverage
from sam2fast.training.losses import CORE_LOSS_KEY
from sam2fast.training.model import SAM2Train
from sam2fast.training.optimizer import GradientClipper, Optimizer, construct_optimizer
from sam2fast.training.reporting import Reporter
from sam2fast.training.settings import AuxiliaryConf, CheckpointConf, EmaConf, LoggingConf, OptimConf
from sam2fast.training.validation import validate

_log = logging.getLogger(__name__)

MODES = ("train", "train_only", "val")


class NonFiniteError(FloatingPointError):
    """A loss or gradient that is no number; names what it is of."""


class Trainer:
    """Trains a model on batches of clips.

    A run is a function of its configuration: killed at any moment and started again with the same folder, it goes on
    from its last checkpoint to bitwise the same weights (on the CPU, and wherever torch itself is deterministic).

    Args:
        model: on any device.
        data: ``train`` and, for validation, ``val``.
        loss: a loss for each key that batches have; one called ``all`` serves those without one of their own.
        optim, checkpoint, logging, ema, auxiliary: see :mod:`sam2fast.training.settings`.
        max_epochs: what the schedules' share of the training refers to.
        mode: ``train``, ``train_only`` without validation, or ``val`` for one validation and nothing else.
        accelerator: ``cuda``, ``cpu``, ``mps``, or ``auto``.
        seed_value: of the global generators.
        val_epoch_freq: epochs between validations; there is one at the end too.

    Source: ``training.trainer.Trainer``.

    Raises:
        ValueError: settings that make no sense.
        RuntimeError: the accelerator is not available.
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
        auxiliary: AuxiliaryConf | None = None,
    ) -> None:
        if mode not in MODES:
            raise ValueError(f"mode must be one of {', '.join(MODES)}, got {mode!r}")
        if mode != "val" and "train" not in data:
            raise ValueError("trainer.data has no 'train'")
        if mode == "val" and "val" not in data:
            raise ValueError("mode 'val' needs trainer.data.val")
        if max_epochs < 1 or val_epoch_freq < 1:
            raise ValueError(f"max_epochs and val_epoch_freq must be positive, got {max_epochs} and {val_epoch_freq}")
        self.device = available_device(accelerator)
        self.model = model.to(self.device)
        self.data, self.loss = dict(data), nn.ModuleDict(loss).to(self.device)
        self.conf, self.checkpoint, self.logging = optim, checkpoint, logging
        self.max_epochs, self.mode, self.seed_value, self.val_epoch_freq = max_epochs, mode, seed_value, val_epoch_freq
        self.auxiliary = auxiliary
        companions = {} if auxiliary is None else {"auxiliary": auxiliary.head.to(self.device)}
        self.optimizer: Optimizer = construct_optimizer(
            model, optim.optimizer, optim.options, optim.param_group_modifiers, companions
        )
        self.scaler = torch.amp.GradScaler(
            self.device.type, enabled=optim.amp.enabled and optim.amp.dtype == torch.float16
        )
        self.ema = None if ema is None else ExponentialMovingAverage(model, ema.decay, ema.warmup)
        self.clipper = optim.gradient_clip or GradientClipper(None)
        for source in data["train"].sources if "train" in data else ():
            self._loss_of(source.key)
        self.epoch = self.steps = self.steps_in_epoch = 0  # of updates done
        self.best: dict[str, float] = {}

    # ---- the run ----

    def run(
        self, stop: Callable[[], bool] = lambda: False, started: Callable[[], None] = lambda: None
    ) -> dict[str, float]:
        """Trains to the end and returns the last validation's measures, if there were any.

        Args:
            stop: asked after every update and before a validation; once true, the run saves a checkpoint and returns.
            started: called once when the folder's checkpoint, if there is one, was found to fit.

        Raises:
            NonFiniteError: a loss or gradient is no number; checkpoints are from before.
            CheckpointError: the folder's checkpoints cannot be read, belong to another configuration, or are in use.
            DataError: the data cannot be used.
        """
        with snapshots.locked(Path(self.checkpoint.save_dir)):
            self._start()
            started()
            resumed_at = None if self.mode == "val" else self.steps
            reporter = Reporter(Path(self.logging.log_dir), resumed_at, self.logging.tensorboard)
            try:
                return self._validate(reporter) if self.mode == "val" else self._train(reporter, stop)
            finally:
                reporter.close()

    def _train(self, reporter: Reporter, stop: Callable[[], bool]) -> dict[str, float]:
        measures: dict[str, float] = {}
        begun = self.steps
        while self.epoch < self.max_epochs:
            if not self._train_epoch(reporter, stop):
                self._save()
                return measures
            last = self.epoch + 1 == self.max_epochs
            if self.mode == "train" and "val" in self.data and (last or (self.epoch + 1) % self.val_epoch_freq == 0):
                self._save()  # validation may take longer than there is time
                if self.steps > begun and stop():
                    return measures
                measures = self._validate(reporter)
            self.epoch, self.steps_in_epoch = self.epoch + 1, 0
            self._save(kept=True)
            if stop():
                return measures
        return measures

    @property
    def steps_per_epoch(self) -> int:
        return len(self.data["train"]) // self.conf.accumulate

    @property
    def where(self) -> float:
        """The share of the training that is done."""
        return (self.epoch + self.steps_in_epoch / self.steps_per_epoch) / self.max_epochs

    def _start(self) -> None:
        """Goes on from the folder's checkpoint, or starts from given weights or the model as it is."""
        if self.mode != "val" and not self.steps_per_epoch:
            raise ValueError(
                f"an epoch has {len(self.data['train'])} batches, fewer than the {self.conf.accumulate} of an update"
            )
        content = snapshots.load_current(Path(self.checkpoint.save_dir))
        if content is not None:
            self._load(content)
            _log.info("going on from epoch %d, update %d", self.epoch, self.steps)
            return
        seed_everything(self.seed_value)  # for model code of users' own that draws from a global generator
        if self.checkpoint.initialize_from is not None:
            # Into the parameters that the optimiser holds.
            load_checkpoint(self.model, self.checkpoint.initialize_from, self.device, False, assign=False)
            if self.ema is not None:
                self.ema = ExponentialMovingAverage(self.model, self.ema.decay, self.ema.warmup)

    def _train_epoch(self, reporter: Reporter, stop: Callable[[], bool]) -> bool:
        """The rest of the current epoch; whether it was finished."""
        self.model.train()
        batches = self.data["train"].epoch(self.epoch, self.steps_in_epoch * self.conf.accumulate)
        bar = tqdm(
            total=self.steps_per_epoch,
            initial=self.steps_in_epoch,
            desc=f"epoch {self.epoch + 1}/{self.max_epochs}",
            disable=None if self.logging.progress else True,
        )
        with bar:
            while self.steps_in_epoch < self.steps_per_epoch:
                values = self._update(islice(batches, self.conf.accumulate))
                bar.update()
                bar.set_postfix(loss=f"{values['loss']:.3f}", refresh=False)
                if self.steps % self.logging.log_freq == 0:
                    reporter.report(self.steps, "train", values)
                if self.steps_in_epoch == self.steps_per_epoch:
                    break
                if stop():
                    return False
                every = self.checkpoint.save_every_steps
                if every and self.steps % every == 0:
                    self._save()
        return True

    # ---- one update ----

    def _update(self, batches: Iterator[ClipBatch]) -> dict[str, float]:
        self.optimizer.zero_grad()
        where = self.where
        for loss in self.loss.values():
            if hasattr(loss, "where"):
                setattr(loss, "where", where)  # noqa: B010 (a module's attributes are tensors to mypy)
        sums: dict[str, float] = {}
        names: list[str] = []
        for number, batch in enumerate(batches):
            losses = self._losses(batch.to(self.device), number)
            self._add(sums, losses, batch)
            names += batch.names
            self.scaler.scale(losses["loss"] / self.conf.accumulate).backward()
        self.scaler.unscale_(self.optimizer.optimizer)
        norm = self.clipper(self._parameters())
        if not self.scaler.is_enabled() and not math.isfinite(norm):
            raise NonFiniteError(
                f"update {self.steps}: the gradient of {self._non_finite_parameter()} is not finite for clips "
                f"{', '.join(names)}; checkpoints in {self.checkpoint.save_dir} are from before"
            )
        self.optimizer.step_schedulers(where, self.steps)
        self.scaler.step(self.optimizer.optimizer)
        self.scaler.update()
        if self.ema is not None:
            self.ema.update(self.steps)
        self.steps += 1
        self.steps_in_epoch += 1
        rate = max(group["lr"] for group in self.optimizer.param_groups)
        return {**sums, "gradient_norm": float(norm), "lr": rate, "where": where}

    def _losses(self, batch: ClipBatch, number: int) -> dict[str, Tensor]:
        amp = self.conf.amp
        with torch.autocast(self.device.type, amp.dtype, enabled=amp.enabled):
            prediction = self.model(batch)
            losses = dict(self._loss_of(batch.key)(prediction.frames, batch.masks))
            losses["loss"] = losses.pop(CORE_LOSS_KEY)
            if self.auxiliary is not None:
                generator = torch.Generator().manual_seed(batch.seeds[0])
                extra = self.auxiliary.head(dense_features(prediction), object_ids(batch), generator)
                weights = {"loss_affinity": self.auxiliary.affinity, "loss_boundary": self.auxiliary.boundary}
                losses["loss"] = losses["loss"] + sum(weights[name] * value for name, value in extra.items())
                losses.update(extra)
        return losses

    def _loss_of(self, key: str) -> nn.Module:
        if key not in self.loss and "all" not in self.loss:
            raise ValueError(f"trainer.loss has no {key!r} and no 'all'; it has {', '.join(self.loss)}")
        return self.loss[key if key in self.loss else "all"]

    def _parameters(self) -> list[nn.Parameter]:
        return [p for group in self.optimizer.param_groups for p in group["params"]]

    def _add(self, sums: dict[str, float], losses: dict[str, Tensor], batch: ClipBatch) -> None:
        """Adds the batch's share of an update to ``sums``, if every term is finite."""
        values = dict(zip(losses, torch.stack([x.detach() for x in losses.values()]).tolist(), strict=True))
        if not math.isfinite(values["loss"]):
            wrong = [name for name, value in values.items() if not math.isfinite(value)]
            raise NonFiniteError(
                f"update {self.steps}: {', '.join(wrong)} is not finite for clips {', '.join(batch.names)}; "
                f"checkpoints in {self.checkpoint.save_dir} are from before"
            )
        for name, value in values.items():
            sums[name] = sums.get(name, 0.0) + value / self.conf.accumulate

    def _non_finite_parameter(self) -> str:
        names = [n for n, p in self.model.named_parameters() if p.grad is not None and not p.grad.isfinite().all()]
        return (names[0] + (f" and {len(names) - 1} more" if len(names) > 1 else "")) if names else "the auxiliary task"

    # ---- validation ----

    def _validate(self, reporter: Reporter) -> dict[str, float]:
        self.model.eval()
        averaged = nullcontext() if self.ema is None else self.ema.applied(self.model)
        amp = self.conf.amp
        with averaged, torch.no_grad(), torch.autocast(self.device.type, amp.dtype, enabled=amp.enabled):
            measures = validate(self.model, self.data["val"], self.device)
        reporter.report(self.steps, "val", measures)
        _log.info("update %d: %s", self.steps, ", ".join(f"{k} {v:.2f}" for k, v in measures.items()))
        if self.mode != "val" and measures["J&F"] > self.best.get("J&F", -1.0):
            self.best = measures
            snapshots.save(self._weights(), Path(self.checkpoint.save_dir) / "best.pt")
        return measures

    # ---- checkpoints ----

    def _weights(self) -> dict[str, Any]:
        """What predictors load: the averaged weights if there are any."""
        weights = {name: value.detach().clone() for name, value in self.model.state_dict().items()}
        if self.ema is not None:
            weights.update({name: value.to(weights[name].dtype) for name, value in self.ema.average.items()})
        return {"model": weights}

    def _save(self, kept: bool = False) -> None:
        folder = Path(self.checkpoint.save_dir)
        content: dict[str, Any] = {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "ema": None if self.ema is None else self.ema.state_dict(),
            "auxiliary": None if self.auxiliary is None else self.auxiliary.head.state_dict(),
            "loss": self.loss.state_dict(),
            "epoch": self.epoch,
            "steps": self.steps,
            "steps_in_epoch": self.steps_in_epoch,
            "best": self.best,
            "random_state": snapshots.random_state(self.device),
        }
        if self.ema is not None:
            snapshots.save(self._weights(), folder / "averaged.pt")
        freq = self.checkpoint.save_freq
        if kept and ((freq and self.epoch % freq == 0) or self.epoch in self.checkpoint.save_list):
            snapshots.save(content, folder / f"checkpoint_{self.epoch}.pt")
        # Last: a run that is killed before this writes the others again.
        snapshots.save_current(content, folder)

    def _load(self, content: dict[str, Any]) -> None:
        self._check(content)
        try:
            self.optimizer.load_state_dict(content["optimizer"])  # compares its groups before it changes anything
        except ValueError as error:
            raise CheckpointError(self._misfit(f"optim: {error}")) from error
        self.model.load_state_dict(content["model"])
        self.loss.load_state_dict(content["loss"])
        if self.ema is not None:
            self.ema.load_state_dict(content["ema"])
        if self.auxiliary is not None:
            self.auxiliary.head.load_state_dict(content["auxiliary"])
        if self.scaler.is_enabled():
            self.scaler.load_state_dict(content["scaler"])
        self.epoch, self.steps, self.steps_in_epoch = (content[k] for k in ("epoch", "steps", "steps_in_epoch"))
        self.best = content["best"]
        snapshots.restore_random_state(content["random_state"], self.device)

    def _check(self, content: dict[str, Any]) -> None:
        """Raises an error unless everything in the checkpoint fits, before anything is taken from it."""
        parts: dict[str, tuple[Any, Any]] = {
            "model": (content["model"], self.model.state_dict()),
            "loss": (content["loss"], self.loss.state_dict()),
            "ema": ((content["ema"] or {}).get("average"), None if self.ema is None else self.ema.average),
            "auxiliary": (content["auxiliary"], None if self.auxiliary is None else self.auxiliary.head.state_dict()),
        }
        for name, (found, wanted) in parts.items():
            if (found is None) != (wanted is None):
                raise CheckpointError(self._misfit(f"{name} is set in one of them only"))
            shapes = [{key: value.shape for key, value in (part or {}).items()} for part in (found, wanted)]
            different = [key for key in shapes[0].keys() | shapes[1].keys() if shapes[0].get(key) != shapes[1].get(key)]
            if different:
                raise CheckpointError(self._misfit(f"{name}: {len(different)} tensors, such as {min(different)}"))
        if bool(content["scaler"]) != self.scaler.is_enabled():
            raise CheckpointError(self._misfit("optim.amp"))

    def _misfit(self, what: str) -> str:
        return (
            f"the checkpoint in {self.checkpoint.save_dir} belongs to another configuration ({what}); "
            "use another folder, or the configuration it was written with"
        )
