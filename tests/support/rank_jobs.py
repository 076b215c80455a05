"""Jobs of training processes: functions that a new process can import."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import importable_torchvision  # noqa: F401 (before peft)
import torch
from double_precision import double_precision
from small_training import build

from sam2fast.training.distributed.ranks import LostRankError, join
from sam2fast.training.nan_guard import NonFiniteError
from sam2fast.training.trainer import Trainer

# Drops whole branches at random: what is trained depends on each process's generator.
RANDOM = "++trainer.model.image_encoder.trunk.drop_path_rate=0.3"
SGD = (
    "trainer.optim.optimizer._target_=torch.optim.SGD",
    "~trainer.optim.optimizer.betas",
    "+trainer.optim.optimizer.lr=0.01",
    "+trainer.optim.optimizer.momentum=0.9",
    "~trainer.optim.options",
    "~trainer.optim.gradient_clip",
)


def in_turn(*jobs: tuple[Any, ...]) -> list[Any]:
    """What functions return that are called one after the other; each job is a function and its arguments."""
    return [function(*arguments) for function, *arguments in jobs]


def trainer_of(folder: Path, *more: str) -> Trainer:
    torch.set_num_threads(1)
    return build(folder, "trainer.accelerator=cpu", *more)


def gradients(folder: Path, *more: str) -> dict[str, Any]:
    """Of every update of a run in fp64, with its final weights and measures, as arrays; none where they are divided."""
    with double_precision():
        trainer = trainer_of(folder, *SGD, *more)
        inner, step, seen = trainer.optimizer.optimizer, trainer.optimizer.optimizer.step, []

        def spy(*args: Any, **kwargs: Any) -> Any:
            seen.append(_arrays({name: p.grad for name, p in trainer.model.named_parameters()}))
            return step(*args, **kwargs)

        if not any("fsdp" in setting for setting in more):
            inner.step = spy
        measures = trainer.run()
        weights = _arrays(trainer.parallel.gather(trainer.model.state_dict()))
        states = trainer.parallel.gather(trainer.optimizer.state_dict())["state"]
        momenta = _arrays({number: state["momentum_buffer"] for number, state in states.items()})
        return {"gradients": seen, "weights": weights, "momenta": momenta, "measures": measures}


def gradients_and_measures(folder: Path, *more: str) -> dict[str, Any]:
    """The same; measured once more by a run that does nothing else."""
    first = gradients(folder, *more)
    again = gradients(folder, *more, "+trainer.mode=val", f"trainer.logging.log_dir={folder / 'again'}")
    return {**first, "again": again["measures"]}


def _arrays(tensors: dict[Any, Any]) -> dict[Any, Any]:
    return {name: None if value is None else value.double().numpy().copy() for name, value in tensors.items()}


def train(folder: Path, stop_at: int, *more: str) -> int:
    """The updates of a run that the last process alone wants to stop after so many."""
    trainer = trainer_of(folder, RANDOM, *more)
    trainer.run(lambda: trainer.ranks.rank == trainer.ranks.world_size - 1 and trainer.steps >= stop_at)
    return trainer.steps


def interrupted(folder: Path, turns: Sequence[tuple[int, str]], *more: str) -> list[int]:
    """A run that is stopped and goes on, with a strategy for each turn; its updates after each."""
    return [train(folder, stop_at, *more, f"+trainer.distributed.strategy={strategy}") for stop_at, strategy in turns]


def find_no_number(folder: Path) -> list[str]:
    """What is said where a gradient of the second process is no number, and then where its loss is none."""
    trainer = trainer_of(folder)
    return [_said(trainer, with_inf_gradient), _said(trainer, with_nan_loss)]


def _said(trainer: Trainer, spoilt: Callable[[Trainer], AbstractContextManager[Any]]) -> str:
    with spoilt(trainer) if trainer.ranks.rank == 1 else nullcontext():
        try:
            trainer.run()
        except NonFiniteError as error:
            return str(error)
    return "nothing"


@contextmanager
def with_inf_gradient(trainer: Trainer) -> Iterator[None]:
    with trainer.model.no_mem_embed.register_hook(lambda gradient: gradient * float("inf")):
        yield


@contextmanager
def with_nan_loss(trainer: Trainer) -> Iterator[None]:
    with torch.no_grad():
        trainer.model.sam_mask_decoder.iou_prediction_head.layers[2].bias.fill_(float("nan"))
    yield


def leave_first(folder: Path) -> str:
    """What the first process says where the others end before they come to the end together; the last job of all."""
    ranks = join(accelerator="cpu")
    try:
        if ranks.is_main:
            ranks.leave()
    except LostRankError as error:
        return str(error)
    return "nothing"
