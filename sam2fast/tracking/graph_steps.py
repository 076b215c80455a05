"""Steps of tracking on tensors at fixed addresses, and their recordings, for one session at a time."""

from collections.abc import Callable, Hashable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from sam2fast.kernels.memory_attention import Fp8
from sam2fast.modeling.memory_selection import MemoryRules
from sam2fast.modeling.sam2_base import SAM2Base
from sam2fast.tracking.cuda_graphs import Recorder, numerics
from sam2fast.tracking.eager_runner import StepInput, attended_by_tables, encode_masks, fill_holes, predict
from sam2fast.tracking.features import FrameFeatures
from sam2fast.tracking.memory_bank import MemoryBank, StepShape, StepTables, as_pages, select_states
from sam2fast.tracking.outputs import PackedResults
from sam2fast.tracking.strategies.base import Strategy
from sam2fast.tracking.strategies.decision import Decision

# Room for this many objects with two conditioning frames each is made at once: growth moves the pools, and the steps
# recorded on them have to be recorded again. At 1024x1024 that is 72 MiB in bfloat16.
OBJECTS_AT_ONCE, CONDITIONING_AT_ONCE = 16, 2


class Pools(NamedTuple):
    """The tensors of a memory bank."""

    pages: Tensor  # (rows, H * W, C_mem), or a quarter of the positions
    pointers: Tensor  # (rows, C) fp32
    states: Tensor | None  # (rows, state_size) fp64, if a strategy keeps any


class StepBuffers(NamedTuple):
    """What steps of one shape read besides the pools, and their results."""

    features: FrameFeatures
    integers: Tensor  # (size,) int32, of the tables
    tables: StepTables  # views of them
    results: PackedResults  # of C objects, holes filled

    @classmethod
    def make(cls, model: SAM2Base, features: FrameFeatures, shape: StepShape, record_size: int) -> "StepBuffers":
        device, side = model.device, 4 * model.sam_image_embedding_size
        integers = torch.zeros(StepTables.size(shape), dtype=torch.int32, device=device)
        return cls(
            features,
            integers,
            StepTables.views(integers, shape),
            PackedResults.empty(shape.objects, record_size, (side, side), device),
        )


class NarrowPagesError(Exception):
    """The dtype of the pages would round the memories that are to be written.

    Attributes:
        dtype: of the memories.
    """

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__(f"memories are {dtype}")
        self.dtype = dtype


class StepSettings(NamedTuple):
    """What a step does not read from tensors: it is recorded for each combination."""

    num_frames: int  # length of the video; only lengths below ``max_obj_ptrs_in_encoder`` make a difference
    fill_hole_area: float  # see :func:`~sam2fast.kernels.mask_ops.fill_holes_in_mask_scores`; 0 for none
    fp8: Fp8  # see :func:`sam2fast.kernels.memory_attention.memory_attention`
    strategy: Strategy | None  # that takes part in the step
    video_size: tuple[int, int]  # if the strategy depends on it

    @classmethod
    def of(cls, model: SAM2Base, given: StepInput) -> "StepSettings":
        longest, strategy = min(given.num_frames, model.max_obj_ptrs_in_encoder), given.strategy
        takes_part = strategy.decides or strategy.has_span or strategy.has_factors
        size = given.video_size if strategy.at_video_size else (0, 0)
        return cls(longest, given.fill_hole_area, given.bank.fp8, strategy if takes_part else None, size)


class StepKey(NamedTuple):
    """What a step is recorded for."""

    shape: StepShape
    settings: StepSettings
    kind: Hashable  # of the features and of the computation

    @classmethod
    def of(cls, model: SAM2Base, given: StepInput) -> "StepKey":
        shape = given.bank.shape_of(given.attended, given.rules, in_buckets=True)
        return cls(shape, StepSettings.of(model, given), (numerics(model.device), _signature(given.features)))


def static_step(model: SAM2Base, pools: Pools, buffers: StepBuffers, settings: StepSettings) -> None:
    """Tracks the objects of the tables; nothing is read back. Rows beyond the objects are computed and written too.

    Raises:
        NarrowPagesError: before anything is written to the pools.
    """
    tables, features, strategy = buffers.tables, buffers.features, settings.strategy
    own = (False, False) if strategy is None else (strategy.has_span, strategy.has_factors)
    memory = attended_by_tables(model, pools.pages, pools.pointers, tables, settings.num_frames, *own)
    decision = decided = None
    if strategy is not None:
        none = buffers.results.numbers.new_zeros(buffers.results.rows, 0, dtype=torch.float64)
        states = none if pools.states is None else select_states(pools.states, tables.read_states)
        decision = Decision(strategy, states, model.image_size, settings.video_size)
    prediction = predict(model, features, memory, initial=False, fp8=settings.fp8, decision=decision)
    if decision is not None:
        decided = decision.outcome()
    # The memory is encoded from the mask before its holes are filled.
    as_prompt = None if decided is None else decided.as_prompt
    memories = encode_masks(model, features, prediction.mask, prediction.score, False, as_prompt)
    if torch.promote_types(memories.dtype, pools.pages.dtype) != pools.pages.dtype:
        raise NarrowPagesError(memories.dtype)
    pages = as_pages(memories)
    pools.pages.index_copy_(0, tables.written_pages.long(), pages.to(pools.pages.dtype))
    pools.pointers.index_copy_(0, tables.written_pointers.long(), prediction.pointer.to(pools.pointers.dtype))
    filled = fill_holes(prediction.mask, settings.fill_hole_area)
    buffers.results.write(prediction.iou, prediction.score, filled, None if decided is None else decided.record)
    if decided is not None and pools.states is not None:
        assert decided.state is not None
        pools.states.index_copy_(0, tables.written_states.long(), decided.state)


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
            for pool, data in zip((bank.memories, bank.pointers, bank.states), self._pools, strict=True):
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
        assert bank.memories is not None
        before = None if self._pools is None else self._pools.states
        states = before if bank.states is None else bank.states.data  # steps without a strategy do not read them
        pools = Pools(bank.memories.data, bank.pointers.data, states)
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
        record_size = 0 if strategy is None else strategy.record_size
        of_key = key.kind, key.shape, record_size
        if of_key not in self._buffers:
            self._buffers[of_key] = StepBuffers.make(model, self._features[key.kind], key.shape, record_size)
        return self._buffers[of_key]


def _function(model: SAM2Base, pools: Pools, buffers: StepBuffers, settings: StepSettings) -> Callable[[], None]:
    kind = model.device.type
    enabled, dtype = torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind)

    def run() -> None:
        # Without autocast's cache: its casts of weights would be in this step's memory, and others would read them.
        with torch.autocast(kind, dtype, enabled=enabled, cache_enabled=False):
            static_step(model, pools, buffers, settings)

    return run


def _tensors(features: FrameFeatures) -> list[Tensor]:
    return [features.embedding, *features.high_res]


def _signature(features: FrameFeatures) -> Hashable:
    return tuple((x.dtype, x.shape, x.stride()) for x in _tensors(features))
