"""What the forward pass of a training keeps for the backward pass, counted with or without computing it."""

import copy
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from sam2fast.modeling.attention import Attention
from sam2fast.training.data.batch import ClipBatch
from sam2fast.training.losses import CORE_LOSS_KEY
from sam2fast.training.model import SAM2Train
from sam2fast.training.objective import check_gradient
from sam2fast.training.settings import AmpConf
from sam2fast.training.simulation import PromptSettings, plan_prompts

if TYPE_CHECKING:
    from torch._subclasses.fake_tensor import FakeTensorMode

SEEDS_TRIED = 200


@dataclass(frozen=True, order=True)
class BatchShape:
    """What of a batch decides what is kept."""

    num_frames: int
    num_objects: int  # of each clip
    num_clips: int = 1
    key: str = "all"  # which loss it gets

    def __str__(self) -> str:
        frames, objects = (
            f"{number} {noun}{'' if number == 1 else 's'}"
            for number, noun in ((self.num_frames, "frame"), (self.num_objects, "object"))
        )
        return f"{'' if self.num_clips == 1 else f'{self.num_clips} clips of '}{frames} with {objects}"


def bytes_saved(model: SAM2Train, loss: nn.Module, shape: BatchShape, amp: AmpConf) -> int:
    """Bytes that are kept of a batch of this shape with the dearest prompts the model can draw, parameters left out.

    Nothing is computed: tensors are torch's fake ones, which have shapes and no numbers. They go the CPU's way through
    the model, with attention in one piece as on a GPU.

    Raises:
        ValueError: nothing that learns has a part in the loss.
    """
    from torch._subclasses.fake_tensor import FakeTensorMode  # takes a second to import

    video = torch.arange(shape.num_clips).repeat_interleave(shape.num_objects)  # with numbers: the model looks at them
    side = model.image_size
    without_numbers = FakeTensorMode(allow_non_fake_inputs=True)
    with without_numbers:
        frames = torch.empty(shape.num_frames, shape.num_clips, side, side, 3, dtype=torch.uint8)
        masks = torch.empty(shape.num_frames, len(video), side, side, dtype=torch.bool)
    plan_seed = dearest_plan_seed(model.train_settings, shape.num_frames)
    names = (f"of {BatchShape(shape.num_frames, shape.num_objects)}",)
    batch = ClipBatch(frames, masks, video, tuple(range(shape.num_clips)), plan_seed, names, shape.key)
    return bytes_saved_of(model, loss, batch, amp, without_numbers)


def bytes_saved_of(
    model: SAM2Train, loss: nn.Module, batch: ClipBatch, amp: AmpConf, mode: "FakeTensorMode | None" = None
) -> int:
    """The same of a given batch on the CPU, which goes through the model inside ``mode`` or else with its numbers."""
    model, loss = _as_on_a_gpu(model), copy.deepcopy(loss).to("cpu")
    if mode is not None:
        _take_numbers(model, mode)
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


def dearest_plan_seed(settings: PromptSettings, num_frames: int) -> int:
    """A seed by which as many frames are corrected as can be."""

    def corrected(seed: int) -> int:
        return len(plan_prompts(num_frames, settings, np.random.default_rng(seed)).corrected)

    return max(range(SEEDS_TRIED), key=corrected)


def _as_on_a_gpu(model: SAM2Train) -> SAM2Train:
    """A copy on the CPU that keeps of attention what a GPU keeps: inputs and result.

    For small images, and with dropout, the CPU writes attention out and keeps the scores of all pairs.
    """
    twin = copy.deepcopy(model).to("cpu").train()
    twin.encoder_cache = None  # which would keep features of frames that nobody has
    setattr(twin, "_attention", nullcontext)  # noqa: B010 (a module's attributes are tensors to mypy)
    for module in twin.modules():
        if isinstance(module, Attention):
            module.dropout_p = 0.0
    return twin


def _take_numbers(model: nn.Module, mode: "FakeTensorMode") -> None:
    """Makes parameters and buffers fake: views of real ones would each be a copy, and no parameter's memory."""
    for module in model.modules():
        each: tuple[Any, ...] = (module._parameters, module._buffers)
        for tensors in each:
            for name, tensor in tensors.items():
                if tensor is not None:
                    tensors[name] = mode.from_tensor(tensor)


class _Saved:
    """Adds up the memory of what autograd keeps, each once, without the parameters'."""

    def __init__(self, model: nn.Module) -> None:
        self._parameters = {p.untyped_storage()._cdata for p in model.parameters()}
        # The storages themselves: one that is gone would leave its address to another.
        self._storages: dict[int, torch.UntypedStorage] = {}

    def pack(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in self._parameters:
            self._storages[storage._cdata] = storage
        return tensor

    @property
    def bytes(self) -> int:
        return sum(storage.nbytes() for storage in self._storages.values())
