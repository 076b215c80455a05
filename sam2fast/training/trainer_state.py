"""State of a training run: saving to checkpoints and restoring from checkpoints."""

import logging
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sam2fast.checkpoints import CheckpointError
from sam2fast.training import checkpointing
from sam2fast.training.adapters import merged_weights, write_adapters
from sam2fast.training.data.loader import ClipLoader
from sam2fast.training.distributed.ranks import Ranks
from sam2fast.training.distributed.strategies import SingleProcess
from sam2fast.training.ema import ExponentialMovingAverage
from sam2fast.training.model import SAM2Train
from sam2fast.training.optimizer import Optimizer
from sam2fast.training.settings import CheckpointConf, OptimConf
from sam2fast.utils.reproducibility import seed_everything

_log = logging.getLogger(__name__)


class TrainerState:
    """Base class of the trainer that saves and restores its state. All processes of a run save and restore together."""

    model: SAM2Train
    data: dict[str, ClipLoader]
    loss: nn.ModuleDict
    conf: OptimConf
    checkpoint: CheckpointConf
    auxiliary: nn.Module | None
    ranks: Ranks
    parallel: SingleProcess
    optimizer: Optimizer
    scaler: torch.amp.GradScaler
    ema: ExponentialMovingAverage | None
    mode: str
    seed_value: int
    epoch: int  # number of completed epochs
    steps: int  # number of updates of the run so far
    steps_in_epoch: int  # number of updates of the current epoch so far
    max_epochs: int
    best: dict[str, float]  # measures of the best validation so far

    @property
    def is_complete(self) -> bool:
        """True if all epochs of the run are completed."""
        return self.epoch >= self.max_epochs

    @property
    def steps_per_epoch(self) -> int:
        """Number of updates in the current epoch."""
        return self.data["train"].num_batches(self.epoch) // self.conf.accumulate

    def save(self, is_kept: bool = False) -> None:
        """Writes the checkpoint and the weights for predictors.

        If ``is_kept`` is True and ``save_freq`` or ``save_list`` selects the epoch, keeps a copy of the checkpoint.
        """
        folder = Path(self.checkpoint.save_dir)
        # All processes take part in gathering sharded tensors. Only the first process writes files.
        content = self._content()
        if not self.ranks.is_main:
            return
        adapters, learnt = self.model.adapters, _with_average(content["model"], content["ema"])
        if self.ema is not None or adapters is not None:
            merged = {"model": merged_weights(learnt, adapters)}
            checkpointing.save(merged, folder / ("averaged.pt" if adapters is None else "merged.pt"))
        if adapters is not None:
            names = {name for name, parameter in self.model.named_parameters() if parameter.requires_grad}
            write_adapters(learnt, names, adapters, folder / "adapters")
        conf = self.checkpoint
        if is_kept and ((conf.save_freq and self.epoch % conf.save_freq == 0) or self.epoch in conf.save_list):
            checkpointing.save(content, folder / f"checkpoint_{self.epoch}.pt")
        # The current checkpoint is written last. If the run is killed earlier, the resumed run writes all files again.
        checkpointing.save_current(content, folder)

    def save_weights(self, name: str) -> None:
        """Writes the model's weights for predictors to the file ``name`` in the folder of checkpoints."""
        gather = self.parallel.gather
        weights, ema = gather(self.model.state_dict()), None if self.ema is None else gather(self.ema.state_dict())
        if self.ranks.is_main:
            merged = {"model": merged_weights(_with_average(weights, ema), self.model.adapters)}
            checkpointing.save(merged, Path(self.checkpoint.save_dir) / name)

    def restore(self, content: dict[str, Any]) -> None:
        """Restores the state of a run from the content of a checkpoint.

        Raises:
            CheckpointError: If the checkpoint belongs to a different configuration. In the case of an error, no state
                is restored.
        """
        self._check(content)
        current = type(self.optimizer.optimizer).__qualname__
        if content.get("optimizer_class", current) != current:  # old checkpoints do not name the optimizer's class
            raise self._mismatch(f"optim.optimizer: {content['optimizer_class']}, now {current}")
        shard = self.parallel.shard
        try:
            # The optimizer raises ValueError before any state is loaded if the checkpoint has other parameter groups.
            self.optimizer.load_state_dict(
                self.parallel.shard_optimizer_state(content["optimizer"], self.optimizer.param_groups)
            )
        except ValueError as error:
            raise self._mismatch(f"optim: {error}") from error
        self.model.load_state_dict(shard(content["model"], self.model.state_dict()))
        self.loss.load_state_dict(content["loss"])
        if self.ema is not None:
            self.ema.load_state_dict({"average": shard(content["ema"]["average"], self.ema.average)})
        if self.auxiliary is not None:
            self.auxiliary.load_state_dict(content["auxiliary"])
        if self.scaler.is_enabled():
            self.scaler.load_state_dict(content["scaler"])
        self.epoch, self.steps, self.steps_in_epoch = (content[k] for k in ("epoch", "steps", "steps_in_epoch"))
        self.best = content["best"]
        if self.mode != "val" and not self.is_complete:
            now, before = self.steps_per_epoch, content.get("steps_per_epoch", self.steps_per_epoch)
            if now != before:  # converts to the same completed fraction of the epoch
                self.steps_in_epoch = self.steps_in_epoch * now // before
                if self.ranks.is_main:
                    text = "an epoch has %d updates now, and had %d: resuming from the same share of it, update %d"
                    _log.warning(text, now, before, self.steps_in_epoch)
        restore_random_states(content, self.ranks, self.seed_value)

    def _content(self) -> dict[str, Any]:
        """Returns the content of a checkpoint. In processes other than the first, sharded tensors are None."""
        gather = self.parallel.gather
        own, *others = self.ranks.gather(random_state(self.ranks.device))
        return {
            "model": gather(self.model.state_dict()),
            "optimizer": gather(self.optimizer.state_dict()),
            "optimizer_class": type(self.optimizer.optimizer).__qualname__,
            "scaler": self.scaler.state_dict(),
            "ema": None if self.ema is None else gather(self.ema.state_dict()),
            "auxiliary": None if self.auxiliary is None else self.auxiliary.state_dict(),
            "loss": self.loss.state_dict(),
            "epoch": self.epoch,
            "steps": self.steps,
            "steps_in_epoch": self.steps_in_epoch,
            "best": self.best,
            "random_state": own,
            **({"random_states_of_others": others} if others else {}),
            "world_size": self.ranks.world_size,
            "steps_per_epoch": self.steps_per_epoch,
        }

    def _check(self, content: dict[str, Any]) -> None:
        """Raises ``CheckpointError`` if any part of a checkpoint does not fit the trainer. Changes nothing."""
        head = None if self.auxiliary is None else self.auxiliary.state_dict()
        parts: dict[str, tuple[Any, Any]] = {
            "model": (content["model"], self.model.state_dict()),
            "loss": (content["loss"], self.loss.state_dict()),
            "ema": ((content["ema"] or {}).get("average"), None if self.ema is None else self.ema.average),
            "auxiliary": (content["auxiliary"], head),
        }
        for name, (saved, current) in parts.items():
            if (saved is None) != (current is None):
                raise self._mismatch(f"{name} is set in only one of them")
            shapes = [{key: value.shape for key, value in (part or {}).items()} for part in (saved, current)]
            different = [key for key in shapes[0].keys() | shapes[1].keys() if shapes[0].get(key) != shapes[1].get(key)]
            if different:
                raise self._mismatch(f"{name}: {len(different)} tensors, such as {min(different)}")
        if list(content["model"]) != list(self.model.state_dict()):  # optimizer states have the order of the parameters
            raise self._mismatch("the order of parameters")
        if bool(content["scaler"]) != self.scaler.is_enabled():
            raise self._mismatch("optim.amp")

    def _mismatch(self, what: str) -> CheckpointError:
        return CheckpointError(
            f"the checkpoint in {self.checkpoint.save_dir} belongs to another configuration ({what}); "
            "use another folder, or the configuration with which it was written"
        )


def _with_average(weights: Mapping[str, Tensor], ema: Mapping[str, Any] | None) -> dict[str, Tensor]:
    """Returns a copy of ``weights`` in which the averages of ``ema``, if given, replace the trained weights."""
    average = {} if ema is None else ema["average"]
    return {**weights, **{name: value.to(weights[name].dtype) for name, value in average.items()}}


def random_state(device: torch.device) -> dict[str, Any]:
    """Returns the states of all global random generators that a run on ``device`` uses, as tensors and plain values."""
    algorithm, keys, position, has_gauss, gauss = np.random.get_state()
    version, numbers, next_gauss = random.getstate()
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if device.type == "cuda" else [],
        "mps": torch.mps.get_rng_state() if device.type == "mps" else None,
        "numpy": [str(algorithm), torch.from_numpy(np.asarray(keys).astype(np.int64)), position, has_gauss, gauss],
        "python": [version, list(numbers), next_gauss],
    }


def restore_random_states(content: dict[str, Any], ranks: Ranks, seed: int) -> None:
    """Restores this process's random state from a checkpoint.

    If the checkpoint has no state for this process, gives the process a new seed.
    """
    states = [content["random_state"], *content.get("random_states_of_others", ())]
    if ranks.rank >= len(states):
        seed_everything(seed + ranks.rank)
        return
    state, device = states[ranks.rank], ranks.device
    torch.set_rng_state(state["torch"])
    if device.type == "cuda" and len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(state["cuda"])
    elif device.type == "mps" and state["mps"] is not None:
        torch.mps.set_rng_state(state["mps"])
    elif device.type != "cpu":
        _log.warning("the checkpoint has no random state for %s: dropout will differ", device)
    algorithm, keys, position, has_gauss, gauss = state["numpy"]
    np.random.set_state((algorithm, keys.numpy().astype(np.uint32), position, has_gauss, gauss))
    version, numbers, next_gauss = state["python"]
    random.setstate((version, tuple(numbers), next_gauss))
