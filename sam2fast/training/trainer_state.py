"""What a checkpoint of a training run holds: taken from its trainer, and given back to another."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from sam2fast.checkpoints import CheckpointError
from sam2fast.training import snapshots
from sam2fast.training.adapter_files import write_adapters
from sam2fast.training.adapters import merged_weights
from sam2fast.training.random_states import random_states, restore_random_states

if TYPE_CHECKING:
    from sam2fast.training.trainer import Trainer

_log = logging.getLogger(__name__)


def save(trainer: "Trainer", is_kept: bool = False) -> None:
    """Writes the folder's checkpoint, and what predictors and others load; all processes of a run take part.

    Args:
        is_kept: an epoch is over, whose checkpoint is kept if the configuration says so.
    """
    folder = Path(trainer.checkpoint.save_dir)
    # Parts of tensors are put together by all processes, and written by one.
    content = _content(trainer)
    if not trainer.ranks.is_main:
        return
    adapters, learnt = trainer.model.adapters, _learnt(content["model"], content["ema"])
    if trainer.ema is not None or adapters is not None:
        merged = {"model": merged_weights(learnt, adapters)}
        snapshots.save(merged, folder / ("averaged.pt" if adapters is None else "merged.pt"))
    if adapters is not None:
        names = {name for name, parameter in trainer.model.named_parameters() if parameter.requires_grad}
        write_adapters(learnt, names, adapters, folder / "adapters.safetensors")
    conf = trainer.checkpoint
    if is_kept and ((conf.save_freq and trainer.epoch % conf.save_freq == 0) or trainer.epoch in conf.save_list):
        snapshots.save(content, folder / f"checkpoint_{trainer.epoch}.pt")
    # Last: a run that is killed before this writes the others again.
    snapshots.save_current(content, folder)


def save_weights(trainer: "Trainer", name: str) -> None:
    """Writes what predictors load into a file of the folder; all processes of a run take part."""
    whole = trainer.parallel.whole
    own, ema = whole(trainer.model.state_dict()), None if trainer.ema is None else whole(trainer.ema.state_dict())
    if trainer.ranks.is_main:
        merged = {"model": merged_weights(_learnt(own, ema), trainer.model.adapters)}
        snapshots.save(merged, Path(trainer.checkpoint.save_dir) / name)


def restore(trainer: "Trainer", content: dict[str, Any]) -> None:
    """Goes on from a checkpoint.

    Raises:
        CheckpointError: it belongs to another configuration; nothing is changed then.
    """
    _check(trainer, content)
    placed = trainer.parallel.placed
    try:
        # It compares its groups before it changes anything.
        trainer.optimizer.load_state_dict(
            trainer.parallel.placed_state(content["optimizer"], trainer.optimizer.param_groups)
        )
    except ValueError as error:
        raise _misfit(trainer, f"optim: {error}") from error
    trainer.model.load_state_dict(placed(content["model"], trainer.model.state_dict()))
    trainer.loss.load_state_dict(content["loss"])
    if trainer.ema is not None:
        trainer.ema.load_state_dict({"average": placed(content["ema"]["average"], trainer.ema.average)})
    if trainer.auxiliary is not None:
        trainer.auxiliary.head.load_state_dict(content["auxiliary"])
    if trainer.scaler.is_enabled():
        trainer.scaler.load_state_dict(content["scaler"])
    trainer.epoch, trainer.steps, trainer.steps_in_epoch = (content[k] for k in ("epoch", "steps", "steps_in_epoch"))
    trainer.best = content["best"]
    if trainer.mode != "val":
        _adapt_to_epoch_of(trainer, content.get("steps_per_epoch", trainer.steps_per_epoch))
    restore_random_states(content, trainer.ranks, trainer.seed_value)


def _content(trainer: "Trainer") -> dict[str, Any]:
    """The whole checkpoint in the first process of a run; what others get is not to be written."""
    whole = trainer.parallel.whole
    return {
        "model": whole(trainer.model.state_dict()),
        "optimizer": whole(trainer.optimizer.state_dict()),
        "scaler": trainer.scaler.state_dict(),
        "ema": None if trainer.ema is None else whole(trainer.ema.state_dict()),
        "auxiliary": None if trainer.auxiliary is None else trainer.auxiliary.head.state_dict(),
        "loss": trainer.loss.state_dict(),
        "epoch": trainer.epoch,
        "steps": trainer.steps,
        "steps_in_epoch": trainer.steps_in_epoch,
        "best": trainer.best,
        **random_states(trainer.ranks),
        "world_size": trainer.ranks.world_size,
        "steps_per_epoch": trainer.steps_per_epoch,
    }


def _learnt(own: Mapping[str, Tensor], ema: Mapping[str, Any] | None) -> dict[str, Tensor]:
    """A model's state, with averaged weights if there are any; all of them whole."""
    average = {} if ema is None else ema["average"]
    return {**own, **{name: value.to(own[name].dtype) for name, value in average.items()}}


def _adapt_to_epoch_of(trainer: "Trainer", before: int) -> None:
    """Keeps the share of the epoch that is done, where it had another number of updates ``before``."""
    now = trainer.steps_per_epoch
    if before == now:
        return
    trainer.steps_in_epoch = trainer.steps_in_epoch * now // before
    if trainer.ranks.is_main:
        _log.warning(
            "an epoch has %d updates now, and had %d: going on from the same share of it, update %d",
            now,
            before,
            trainer.steps_in_epoch,
        )


def _check(trainer: "Trainer", content: dict[str, Any]) -> None:
    """Raises an error unless everything in the checkpoint fits, before anything is taken from it."""
    head = None if trainer.auxiliary is None else trainer.auxiliary.head.state_dict()
    parts: dict[str, tuple[Any, Any]] = {
        "model": (content["model"], trainer.model.state_dict()),
        "loss": (content["loss"], trainer.loss.state_dict()),
        "ema": ((content["ema"] or {}).get("average"), None if trainer.ema is None else trainer.ema.average),
        "auxiliary": (content["auxiliary"], head),
    }
    for name, (found, wanted) in parts.items():
        if (found is None) != (wanted is None):
            raise _misfit(trainer, f"{name} is set in one of them only")
        shapes = [{key: value.shape for key, value in (part or {}).items()} for part in (found, wanted)]
        different = [key for key in shapes[0].keys() | shapes[1].keys() if shapes[0].get(key) != shapes[1].get(key)]
        if different:
            raise _misfit(trainer, f"{name}: {len(different)} tensors, such as {min(different)}")
    if bool(content["scaler"]) != trainer.scaler.is_enabled():
        raise _misfit(trainer, "optim.amp")


def _misfit(trainer: "Trainer", what: str) -> CheckpointError:
    return CheckpointError(
        f"the checkpoint in {trainer.checkpoint.save_dir} belongs to another configuration ({what}); "
        "use another folder, or the configuration it was written with"
    )
