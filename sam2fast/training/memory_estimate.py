"""Estimates the memory of a training before the training starts, with a forward pass on fake tensors."""

import copy
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from sam2fast.modeling.attention import Attention
from sam2fast.training.data.batch import ClipBatch
from sam2fast.training.data.camera import RandomCamera
from sam2fast.training.data.clip import ClipDataset
from sam2fast.training.losses import CORE_LOSS_KEY
from sam2fast.training.model import SAM2Train
from sam2fast.training.objective import Objective, check_gradient
from sam2fast.training.prompt_sampling import PromptSettings, plan_prompts
from sam2fast.training.settings import AmpConf
from sam2fast.training.trainer import Trainer

if TYPE_CHECKING:
    from torch._subclasses.fake_tensor import FakeTensorMode

SEEDS_TRIED = 200
MIB = 2**20
# Number of elements of the optimizer's test parameter. The number is large, because 8-bit optimizers keep the states of
# small parameters in fp32.
PROBE = 2**16


@dataclass(frozen=True, order=True)
class BatchShape:
    """Properties of a batch that determine the memory of a forward pass."""

    num_frames: int
    num_objects: int  # number of objects per clip
    num_clips: int = 1
    key: str = "all"  # batch key that selects the loss

    def __str__(self) -> str:
        frames, objects = (
            f"{number} {noun}{'' if number == 1 else 's'}"
            for number, noun in ((self.num_frames, "frame"), (self.num_objects, "object"))
        )
        return f"{'' if self.num_clips == 1 else f'{self.num_clips} clips of '}{frames} with {objects}"


def bytes_saved(model: SAM2Train, loss: nn.Module, shape: BatchShape, amp: AmpConf) -> int:
    """Returns the bytes that autograd saves for a batch of ``shape`` with the most expensive prompt plan.

    Parameters do not count. The model runs on fake CPU tensors without values, and with fused attention as on a GPU.
    """
    from torch._subclasses.fake_tensor import FakeTensorMode  # slow to import

    # The indices ``video`` are a real tensor, because the model reads the values.
    video = torch.arange(shape.num_clips).repeat_interleave(shape.num_objects)
    side = model.image_size
    fake = FakeTensorMode(allow_non_fake_inputs=True)
    with fake:
        frames = torch.empty(shape.num_frames, shape.num_clips, side, side, 3, dtype=torch.uint8)
        masks = torch.empty(shape.num_frames, len(video), side, side, dtype=torch.bool)
    plan_seed = most_expensive_plan_seed(model.train_settings, shape.num_frames)
    names = (f"of {BatchShape(shape.num_frames, shape.num_objects)}",)
    batch = ClipBatch(frames, masks, video, tuple(range(shape.num_clips)), plan_seed, names, shape.key)
    return bytes_saved_for_batch(model, loss, batch, amp, fake)


def bytes_saved_for_batch(
    model: SAM2Train, loss: nn.Module, batch: ClipBatch, amp: AmpConf, mode: "FakeTensorMode | None" = None
) -> int:
    """Returns the bytes that autograd saves for a batch on the CPU. If ``mode`` is None, runs on real tensors."""
    model, loss = _cpu_copy_with_gpu_attention(model), copy.deepcopy(loss).to("cpu")
    if mode is not None:  # fake parameters, because views of real ones would be counted
        for module in model.modules():
            groups: tuple[Any, ...] = (module._parameters, module._buffers)
            for tensors in groups:
                tensors.update({name: mode.from_tensor(x) for name, x in tensors.items() if x is not None})
    saved = _Saved(model)
    with (
        mode or nullcontext(),
        torch.enable_grad(),
        torch.autograd.graph.saved_tensors_hooks(saved.pack, lambda tensor: tensor),
        torch.autocast("cpu", amp.dtype, enabled=amp.enabled),
    ):
        prediction = model(batch)
        value = loss(prediction.frames, batch.masks)[CORE_LOSS_KEY]
    check_gradient(value, prediction.plan, batch)
    return saved.bytes


def most_expensive_plan_seed(settings: PromptSettings, num_frames: int) -> int:
    """Returns the seed below ``SEEDS_TRIED`` whose prompt plan has the most corrected frames."""

    def corrected(seed: int) -> int:
        return len(plan_prompts(num_frames, settings, np.random.default_rng(seed)).corrected)

    return max(range(SEEDS_TRIED), key=corrected)


def _cpu_copy_with_gpu_attention(model: SAM2Train) -> SAM2Train:
    """Copies a model to the CPU. The copy's attention saves inputs and output for the backward pass, as on a GPU.

    The CPU's standard attention backend would save score matrices for small images and with dropout.
    """
    replica = copy.deepcopy(model).to("cpu").train()
    replica.encoder_cache = None  # the cache would read pixels of fake frames
    setattr(replica, "_attention", nullcontext)  # noqa: B010 (to mypy, a module's attributes are tensors)
    for module in replica.modules():
        if isinstance(module, Attention):
            module.dropout_p = 0.0
    return replica


class _Saved:
    """Sums the sizes of storages that autograd saves. Each storage counts once, and parameters do not count."""

    def __init__(self, model: nn.Module) -> None:
        self._parameters = {p.untyped_storage()._cdata for p in model.parameters()}
        # Keeps references to storages, because the address of a freed storage could be reused.
        self._storages: dict[int, torch.UntypedStorage] = {}

    def pack(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in self._parameters:
            self._storages[storage._cdata] = storage
        return tensor

    @property
    def bytes(self) -> int:
        return sum(storage.nbytes() for storage in self._storages.values())


@dataclass(frozen=True)
class MemoryEstimate:
    """Memory of a training in one process, in bytes. Temporary buffers of operators are not included."""

    weights: int
    gradients: int
    optimizer: int | None  # size of the optimizer's state; None if the optimizer needs a GPU
    average: int  # size of the moving average of weights; 0 without an average
    saved: dict[BatchShape, int]  # bytes that autograd saves, by batch shape; empty if unknown

    @property
    def total(self) -> int | None:
        """Total memory with the most expensive batch in bytes, or None if a part is unknown."""
        if self.optimizer is None or not self.saved:
            return None
        return self.weights + self.gradients + self.optimizer + self.average + max(self.saved.values())

    def lines(self, side: int) -> list[str]:
        """Formats the memory estimate as lines of text. ``side`` is the images' side in pixels."""
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
            f"estimated memory of one process in MiB, with images of {side} x {side} and the most expensive prompts,",
            "without temporary buffers of operators and CUDA's own memory",
            *(f"  {name:{width}}  {'not known' if n is None else f'{n / MIB:9,.0f}'}" for name, n in rows.items()),
        ]


def describe_memory(trainer: Trainer) -> list[str]:
    """Returns a trainer's memory estimate as lines of text. Validation and distributed training give no lines."""
    if trainer.mode == "val" or trainer.ranks.is_group:
        return []
    return estimate_memory(trainer).lines(trainer.model.image_size)


def estimate_memory(trainer: Trainer) -> MemoryEstimate:
    """Estimates the memory of a training without an auxiliary task. Does not change the trainer."""
    from torch._subclasses import fake_tensor  # slow to import

    parameters = [p for group in trainer.optimizer.param_groups for p in group["params"]]
    learning = [p for p in parameters if p.requires_grad]
    needs_values = (
        fake_tensor.DataDependentOutputException,
        fake_tensor.DynamicOutputShapeException,
        fake_tensor.UnsupportedFakeTensorException,
    )
    model, amp, objective = trainer.model, trainer.conf.amp, Objective(trainer.model, trainer.loss)
    shapes = sorted({largest_batch(s.dataset, s.batch_size, s.key) for s in trainer.data["train"].sources})
    try:
        saved = {shape: bytes_saved(model, objective.loss_of(shape.key), shape, amp) for shape in shapes}
    except needs_values:  # raised if a custom loss reads values of fake tensors
        saved = {}
    return MemoryEstimate(
        weights=_bytes(parameters),
        gradients=_bytes(learning),
        optimizer=optimizer_bytes(trainer.conf.optimizer, sum(p.numel() for p in learning)),
        average=0 if trainer.ema is None else _bytes(trainer.ema.average.values()),
        saved=saved,
    )


def optimizer_bytes(make: Callable[[list[dict[str, Any]]], torch.optim.Optimizer], count: int) -> int | None:
    """Returns the bytes of the optimizer's state for ``count`` parameters, or None if the optimizer needs a GPU.

    The size is extrapolated from the optimizer's state for one test parameter with ``PROBE`` elements.
    """
    probe = nn.Parameter(torch.zeros(PROBE))
    probe.grad = torch.zeros_like(probe)
    optimizer = make([{"params": [probe]}])
    try:
        optimizer.step()
    except Exception:  # optimizers that need a GPU raise exceptions of any type
        return None
    # Excludes scalars such as the step, because the size of scalars does not depend on the number of parameters.
    state = (x for x in optimizer.state[probe].values() if isinstance(x, Tensor) and x.numel() > 1)
    return count * _bytes(state) // PROBE


def largest_batch(dataset: ClipDataset, num_clips: int, key: str = "all") -> BatchShape:
    """Returns the shape of a data set's largest batch. If the data set has no sampler, uses the first clip's shape."""
    limits = list(_limits(dataset))
    if not limits:
        frames, objects = dataset.sample(0, np.random.default_rng(0)).masks.shape[:2]
        limits = [(frames, objects)]
    return BatchShape(max(frames for frames, _ in limits), max(objects for _, objects in limits), num_clips, key)


def _limits(dataset: Any) -> Iterator[tuple[int, int]]:
    """Yields the maximum numbers of frames and objects of a clip, for each data set inside ``dataset``."""
    sampler: Any = getattr(dataset, "sampler", None)
    if hasattr(sampler, "num_frames") and hasattr(sampler, "max_num_objects"):
        frames, objects = sampler.num_frames, sampler.max_num_objects
        for transform in getattr(dataset, "transforms", ()):
            if isinstance(transform, RandomCamera):
                frames, objects = transform.num_frames, min(objects, transform.max_objects)
        yield frames, objects
    for inner in [getattr(dataset, "dataset", None), *getattr(dataset, "datasets", ())]:
        if inner is not None:
            yield from _limits(inner)


def _bytes(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.nbytes for tensor in tensors)
