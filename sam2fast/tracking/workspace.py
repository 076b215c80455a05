"""Steps of tracking on tensors at fixed addresses, and their recordings, for one session at a time."""

from collections.abc import Callable, Hashable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from sam2fast.modeling.memory_selection import MemoryRules
from sam2fast.modeling.sam2_base import SAM2Base
from sam2fast.tracking.cuda_graphs import Recorder, numerics
from sam2fast.tracking.features import FrameFeatures
from sam2fast.tracking.memory_bank import MemoryBank, StepShape, StepTables
from sam2fast.tracking.step import NarrowPagesError, Pools, StepBuffers, StepInput, StepSettings, compute_step

# Room for this many objects with two conditioning frames each is made at once: growth moves the pools, and the steps
# recorded on them have to be recorded again. At 1024x1024 that is 72 MiB in bfloat16.
OBJECTS_AT_ONCE, CONDITIONING_AT_ONCE = 16, 2


class StepKey(NamedTuple):
    """What a step is recorded for."""

    shape: StepShape
    settings: StepSettings
    kind: Hashable  # of the features and of the computation

    @classmethod
    def of(cls, model: SAM2Base, given: StepInput, in_buckets: bool) -> "StepKey":
        """What a step is recorded for, with exactly as many rows as objects or a bucket of them."""
        shape = given.bank.shape_of(given.attended, given.rules, in_buckets)
        return cls(shape, given.settings, (numerics(model.device), _signature(given.features)))


class Workspace:
    """The pools of a memory bank, and buffers and recorded steps for each shape.

    It outlives the session: the next session takes it over with its recordings.

    Args:
        recorder: records the steps.
    """

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder
        self._stream: torch.cuda.Stream | None = None  # of the last step; what is new since then was made on it
        self._pools: Pools | None = None
        self._features: dict[Hashable, FrameFeatures] = {}
        self._buffers: dict[Hashable, StepBuffers] = {}
        self._steps: dict[StepKey, tuple[StepBuffers, Callable[[], None]]] = {}
        self.recorded: list[StepKey] = []  # the key of every recording ever made, to count them

    def suits(self, pages: Tensor) -> bool:
        """Whether a session with such pages can take this over."""
        if self._pools is None:
            return False
        own = self._pools.pages
        assert own is not None
        return own.dtype == pages.dtype and own.shape[1:] == pages.shape[1:]

    def clear(self) -> None:
        """Frees everything; a session that uses it records its steps again."""
        self._pools = None
        for made in (self._features, self._buffers, self._steps):
            made.clear()

    def use_on(self, stream: torch.cuda.Stream) -> None:
        """Call it before a step on this stream. Whoever frees the tensors, and whenever, their memory is not used again
        before the step has ended: torch knows only the stream that they were made on."""
        if stream != self._stream:
            self._stream = stream
            for x in tree_leaves([*self._buffers.values(), self._pools]):
                if isinstance(x, Tensor):
                    x.record_stream(stream)

    def move_in(self, bank: MemoryBank, rules: MemoryRules) -> None:
        """Gives the bank these pools if they are large enough; otherwise the bank grows its own."""
        assert bank.memories is not None
        if self._pools is not None:
            for pool, data in zip(bank.pools, self._pools, strict=True):
                if pool is None or data is None or data.shape[1:] != pool.data.shape[1:]:
                    continue
                if data.dtype == pool.data.dtype and len(data) >= len(pool.data):
                    pool.move_to(data)
        bank.reserve(bank.capacity(OBJECTS_AT_ONCE, CONDITIONING_AT_ONCE, rules))

    def step(self, model: SAM2Base, given: StepInput, key: StepKey, integers: Tensor) -> StepBuffers:
        """Runs a step, and records it first if there is no recording of its kind.

        Args:
            integers: of the tables, on the CPU; pinned if the device is CUDA.

        Returns:
            The buffers with the results, which the next step overwrites.
        """
        bank, features = given.bank, given.features
        assert bank.memories is not None
        while True:
            pools = self._pools_of(bank)
            buffers, replay = self._steps.get(key) or (self._buffers_of(model, key, features), None)
            buffers.integers.copy_(integers, non_blocking=True)
            torch._foreach_copy_(_tensors(buffers.features), _tensors(features))
            try:
                if replay is None:
                    replay = self._recorder.record(_function(model, pools, buffers, key.settings))
                    self._steps[key] = buffers, replay
                    self.recorded.append(key)
                replay()
                return buffers
            except NarrowPagesError as error:
                bank.memories.widen(error.dtype)

    def _pools_of(self, bank: MemoryBank) -> Pools:
        """The bank's present pools; what was recorded on others is dropped."""
        pools = Pools.of(bank)
        if bank.states is None and self._pools is not None:  # steps without a strategy do not read them
            pools = pools._replace(states=self._pools.states)
        if self._pools is None or any(new is not old for new, old in zip(pools, self._pools, strict=True)):
            self._pools = pools
            self._steps.clear()
        return self._pools

    def _buffers_of(self, model: SAM2Base, key: StepKey, features: FrameFeatures) -> StepBuffers:
        if key.kind not in self._features:
            embedding, high_res = features
            made = FrameFeatures(torch.empty_like(embedding), [torch.empty_like(x) for x in high_res])
            self._features[key.kind] = made
        strategy = key.settings.strategy
        of_key = key.kind, key.shape, 0 if strategy is None else strategy.record_size
        if of_key not in self._buffers:
            integers = torch.zeros(StepTables.size(key.shape), dtype=torch.int32, device=model.device)
            kept = self._features[key.kind]
            self._buffers[of_key] = StepBuffers.make(model, kept, integers, key.shape, key.settings)
        return self._buffers[of_key]


def _function(model: SAM2Base, pools: Pools, buffers: StepBuffers, settings: StepSettings) -> Callable[[], None]:
    kind = model.device.type
    enabled, dtype = torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind)

    def run() -> None:
        # Without autocast's cache: its casts of weights would be in this step's memory, and others would read them.
        with torch.autocast(kind, dtype, enabled=enabled, cache_enabled=False):
            compute_step(model, pools, buffers, settings)

    return run


def _tensors(features: FrameFeatures) -> list[Tensor]:
    return [features.embedding, *features.high_res]


def _signature(features: FrameFeatures) -> Hashable:
    return tuple((x.dtype, x.shape, x.stride()) for x in _tensors(features))
