"""Tensors at fixed addresses for one session at a time, and the steps that were recorded on them."""

from collections.abc import Callable, Hashable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from sam2fast.kernels.memory_attention import Fp8
from sam2fast.tracking.features import FrameFeatures
from sam2fast.tracking.memory_bank import MemoryBank
from sam2fast.tracking.numerics import numerics
from sam2fast.tracking.static_step import NarrowPagesError, Pools, StepBuffers, static_step
from sam2fast.tracking.step_tables import StepShape

if TYPE_CHECKING:
    from sam2fast.modeling.sam2_base import SAM2Base
    from sam2fast.tracking.recorders import Recorder

# Room for so many objects with two conditioning frames each is made at once: growing moves the pools, and what was
# recorded on them has to be recorded again. At 1024x1024 that is 72 MiB in bfloat16.
OBJECTS_AT_ONCE, CONDITIONING_AT_ONCE = 16, 2


class Workspace:
    """The pools of a memory bank, and buffers and recorded steps for each shape.

    Outlives the session: the next one moves in, and what was recorded serves it too.

    Args:
        recorder: records the steps.
    """

    def __init__(self, recorder: "Recorder") -> None:
        self._recorder = recorder
        self._pools: Pools | None = None
        self._features: dict[Hashable, FrameFeatures] = {}
        self._buffers: dict[Hashable, StepBuffers] = {}
        self._steps: dict[Hashable, Callable[[], None]] = {}
        self.recorded: list[Hashable] = []  # every recording ever made, for those who count them

    def suits(self, pages: Tensor) -> bool:
        """Whether a session with such pages can move in."""
        if self._pools is None:
            return False
        own = self._pools.pages
        return own.dtype == pages.dtype and own.shape[1:] == pages.shape[1:]

    def clear(self) -> None:
        """Frees everything; a session that is in it records its steps anew."""
        self._pools = None
        for made in (self._features, self._buffers, self._steps):
            made.clear()

    def move_in(self, bank: MemoryBank) -> None:
        """Gives the bank these pools, where they are large enough, else takes those that the bank has grown."""
        assert bank.memories is not None
        P, conditioning = bank.model.max_obj_ptrs_in_encoder - 1, CONDITIONING_AT_ONCE
        memories = bank.recent + bank.pages_of_conditioning * conditioning
        if self._pools is not None:
            for pool, data in zip((bank.memories, bank.pointers), self._pools, strict=True):
                if data.dtype == pool.data.dtype and len(data) >= len(pool.data):
                    pool.move_to(data)
        bank.reserve(StepShape(OBJECTS_AT_ONCE, memories, P + conditioning))

    def step(
        self,
        model: "SAM2Base",
        bank: MemoryBank,
        shape: StepShape,
        integers: Tensor,
        features: FrameFeatures,
        num_frames: int,
        fill_hole_area: float,
    ) -> StepBuffers:
        """Runs a step, which is recorded if there is none of its kind yet.

        Args:
            integers: of the tables, on the CPU; pinned if the device is CUDA.
            features: of the frame.
            num_frames, fill_hole_area: see :func:`static_step`.

        Returns:
            The buffers with the results, to be overwritten by the next step.
        """
        assert bank.memories is not None
        longest = min(num_frames, model.max_obj_ptrs_in_encoder)
        kind = (numerics(model.device), _signature(features))
        buffers = self._buffers_of(model, kind, shape, features)
        buffers.integers.copy_(integers, non_blocking=True)
        for target, source in zip(_tensors(buffers.features), _tensors(features), strict=True):
            target.copy_(source)
        settings = (longest, fill_hole_area, bank.fp8)
        key = (shape, *settings, *kind)
        while True:
            try:
                self._recorded(bank, key, lambda pools: _function(model, pools, buffers, *settings))()
                return buffers
            except NarrowPagesError as error:
                bank.memories.widen(error.dtype)

    def _recorded(
        self, bank: MemoryBank, key: Hashable, function: Callable[[Pools], Callable[[], None]]
    ) -> Callable[[], None]:
        """The step of this kind on the bank's present pools."""
        assert bank.memories is not None
        pools = Pools(bank.memories.data, bank.pointers.data)
        if self._pools is None or any(new is not old for new, old in zip(pools, self._pools, strict=True)):
            self._pools = pools
            self._steps.clear()
        if key not in self._steps:
            self._steps[key] = self._recorder.record(function(pools))
            self.recorded.append(key)
        return self._steps[key]

    def _buffers_of(self, model: "SAM2Base", kind: Hashable, shape: StepShape, features: FrameFeatures) -> StepBuffers:
        if kind not in self._features:
            embedding, high_res = features
            self._features[kind] = FrameFeatures(torch.empty_like(embedding), [torch.empty_like(x) for x in high_res])
        if (kind, shape) not in self._buffers:
            self._buffers[kind, shape] = StepBuffers.make(model, self._features[kind], shape)
        return self._buffers[kind, shape]


def _function(
    model: "SAM2Base", pools: Pools, buffers: StepBuffers, num_frames: int, fill_hole_area: float, fp8: Fp8
) -> Callable[[], None]:
    kind = model.device.type
    enabled, dtype = torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind)

    def run() -> None:
        # What autocast keeps of weights would be made in this step's memory, and read by others.
        with torch.autocast(kind, dtype, enabled=enabled, cache_enabled=False):
            static_step(model, pools, buffers, num_frames, fill_hole_area, fp8)

    return run


def _tensors(features: FrameFeatures) -> list[Tensor]:
    return [features.embedding, *features.high_res]


def _signature(features: FrameFeatures) -> Hashable:
    return tuple((x.dtype, x.shape, x.stride()) for x in _tensors(features))
