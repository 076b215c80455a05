"""What a training will keep in memory, told before it runs."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from sam2fast.training.data.clip import ClipDataset
from sam2fast.training.objective import Objective
from sam2fast.training.saved_tensors import BatchShape, bytes_saved

if TYPE_CHECKING:
    from sam2fast.training.trainer import Trainer

MIB = 2**20
# Numbers of the parameter that an optimiser is tried on; those with states of 8 bits leave small ones alone.
PROBE = 2**16


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes of one process that trains alone; what operators need while they run comes on top."""

    weights: int
    gradients: int
    optimizer: int | None  # its state; None if it works on a GPU alone
    average: int  # of the weights, if there is one
    saved: dict[BatchShape, int]  # for the backward pass, by shape of batches; empty if it cannot be counted

    @property
    def total(self) -> int | None:
        """With the dearest batch; None if a part is not known."""
        if self.optimizer is None or not self.saved:
            return None
        return self.weights + self.gradients + self.optimizer + self.average + max(self.saved.values())

    def lines(self, side: int) -> list[str]:
        """For people; ``side`` of the images."""
        parts: dict[str, int | None] = {
            "weights": self.weights,
            "gradients": self.gradients,
            "optimiser's state": self.optimizer,
        }
        if self.average:
            parts["average of weights"] = self.average
        parts |= {f"for backward, {shape}": size for shape, size in self.saved.items()}
        if not self.saved:
            parts["for backward"] = None
        rows = {**parts, "total": self.total}
        width = max(map(len, rows))
        return [
            f"memory of one process in MiB, counted, with images of {side} x {side} and the dearest prompts;",
            "what operators need while they run comes on top, and what CUDA itself takes",
            *(f"  {name:{width}}  {'not known' if n is None else f'{n / MIB:9,.0f}'}" for name, n in rows.items()),
        ]


def described(trainer: "Trainer") -> list[str]:
    """The estimate as lines of text; none for a validation, and for one process of several, which may share.

    Raises:
        ValueError: nothing that learns has a part in the loss of some batches.
    """
    if trainer.mode == "val" or trainer.ranks.is_group:
        return []
    return estimate_memory(trainer).lines(trainer.model.image_size)


def estimate_memory(trainer: "Trainer") -> MemoryEstimate:
    """What a trainer will keep in memory, its auxiliary task left out; nothing of it is changed.

    Raises:
        ValueError: nothing that learns has a part in the loss of some batches.
    """
    parameters = [p for group in trainer.optimizer.param_groups for p in group["params"]]
    learning = [p for p in parameters if p.requires_grad]
    return MemoryEstimate(
        weights=_bytes(parameters),
        gradients=_bytes(learning),
        optimizer=optimizer_bytes(trainer.conf.optimizer, sum(p.numel() for p in learning)),
        average=0 if trainer.ema is None else _bytes(trainer.ema.average.values()),
        saved=_saved(trainer),
    )


def _saved(trainer: "Trainer") -> dict[BatchShape, int]:
    from torch._subclasses import fake_tensor

    needs_numbers = (
        fake_tensor.DataDependentOutputException,
        fake_tensor.DynamicOutputShapeException,
        fake_tensor.UnsupportedFakeTensorException,
    )
    objective = Objective(trainer.model, trainer.loss)
    shapes = {largest_batch(s.dataset, s.batch_size, s.key) for s in trainer.data["train"].sources}
    try:
        return {
            shape: bytes_saved(trainer.model, objective.loss_of(shape.key), shape, trainer.conf.amp)
            for shape in sorted(shapes)
        }
    except needs_numbers:  # a loss of somebody's own that looks at values
        return {}


def optimizer_bytes(make: Callable[[list[dict[str, Any]]], torch.optim.Optimizer], count: int) -> int | None:
    """The state of an optimiser for so many numbers, by what it has for a few; None if it needs a GPU."""
    probe = nn.Parameter(torch.zeros(PROBE))
    probe.grad = torch.zeros_like(probe)
    optimizer = make([{"params": [probe]}])
    try:
        optimizer.step()
    except Exception:  # whatever a library says where its device is missing
        return None
    # Beside what it has for each number, it may count steps.
    state = (x for x in optimizer.state[probe].values() if isinstance(x, Tensor) and x.numel() > 1)
    return count * _bytes(state) // PROBE


def largest_batch(dataset: ClipDataset, num_clips: int, key: str = "all") -> BatchShape:
    """The shape of the largest batches of a data set: as its samplers allow, or else as its first clip has it."""
    limits = [(s.num_frames, s.max_num_objects) for s in _samplers(dataset)]
    if not limits:
        frames, objects = dataset.sample(0, np.random.default_rng(0)).masks.shape[:2]
        limits = [(frames, objects)]
    return BatchShape(max(frames for frames, _ in limits), max(objects for _, objects in limits), num_clips, key)


def _samplers(dataset: Any) -> Iterator[Any]:
    """What chooses frames and objects, in a data set and those that it is made of."""
    sampler = getattr(dataset, "sampler", None)
    if hasattr(sampler, "num_frames") and hasattr(sampler, "max_num_objects"):
        yield sampler
    for inner in [getattr(dataset, "dataset", None), *getattr(dataset, "datasets", ())]:
        if inner is not None:
            yield from _samplers(inner)


def _bytes(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.nbytes for tensor in tensors)
