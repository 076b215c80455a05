"""Tracks several objects to one frame, in a function that CUDA graphs can capture."""

from collections.abc import Sequence
from functools import partial
from itertools import zip_longest
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor

from sam2fast.engine import engine_for
from sam2fast.kernels.mask_ops import fill_holes_in_mask_scores
from sam2fast.kernels.memory_attention import AttendedMemory, Fp8
from sam2fast.modeling.memory_selection import MemoryRules
from sam2fast.modeling.sam2_base import ObjectPrediction, SAM2Base
from sam2fast.tracking.attending import attended_by_tables
from sam2fast.tracking.features import FrameFeatures
from sam2fast.tracking.memory_bank import AttendedPages, MemoryBank, StepShape, StepTables, as_pages, select_states
from sam2fast.tracking.outputs import FrameCopies, FrameResult, PackedResults, TrackScores, wait_for
from sam2fast.tracking.page_pool import Page
from sam2fast.tracking.session import VideoSession
from sam2fast.tracking.strategies.base import Strategy
from sam2fast.tracking.strategies.decision import Decision

# Results of N objects on one frame, and the same masks and scores on the device.
Results: TypeAlias = tuple[list[FrameResult], TrackScores]

CERTAIN = 1e4  # logit with a sigmoid of exactly 1 in every dtype


class StepSettings(NamedTuple):
    """Stores non-tensor inputs of a step. One CUDA graph is captured per combination of inputs."""

    num_frames: int  # length of the video, clamped to ``max_obj_ptrs_in_encoder``
    fill_hole_area: float  # see :func:`fill_holes`
    fp8: Fp8  # see :func:`sam2fast.kernels.memory_attention.memory_attention`
    strategy: Strategy | None  # None if the strategy runs nothing on the device
    video_size: tuple[int, int]  # (height, width); zeros unless the strategy is ``at_video_size``

    @classmethod
    def of(cls, model: SAM2Base, state: VideoSession, fill_hole_area: float) -> "StepSettings":
        """Returns the settings of a session's steps. Settings that have no effect get fixed values."""
        strategy = state.strategy
        takes_part = strategy.decides or strategy.has_span or strategy.has_factors
        size = state.video_size if strategy.at_video_size else (0, 0)
        longest = min(state.num_frames, model.max_obj_ptrs_in_encoder)
        return cls(longest, fill_hole_area, state.bank.fp8, strategy if takes_part else None, size)


class StepInput(NamedTuple):
    """Stores the inputs of a step that tracks N objects to a frame without prompts."""

    bank: MemoryBank
    features: FrameFeatures
    selected_pages: Sequence[AttendedPages]  # one entry per object; empty entries if the model keeps no memories
    rules: MemoryRules
    settings: StepSettings
    pairs: Sequence[Sequence[int]] = ()  # see :func:`~sam2fast.tracking.shared_prompts.pairs_of`, or empty


class Pools(NamedTuple):
    """Stores the tensors of a memory bank."""

    pages: Tensor | None  # (rows, tokens per memory, C_mem); None if the model keeps no memories
    pointers: Tensor  # (rows, C) fp32
    states: Tensor | None  # (rows, state_size) fp64; None if the strategy keeps no states

    @classmethod
    def of(cls, bank: MemoryBank) -> "Pools":
        """Returns the bank's current tensors."""
        memories, pointers, states = (None if pool is None else pool.data for pool in bank.pools)
        assert pointers is not None
        return cls(memories, pointers, states)


class StepBuffers(NamedTuple):
    """Stores the results and inputs of a step, except the pools."""

    features: FrameFeatures
    tables: StepTables
    results: PackedResults  # results of C objects, after hole filling

    @classmethod
    def make(
        cls, model: SAM2Base, features: FrameFeatures, integers: Tensor, shape: StepShape, settings: StepSettings
    ) -> "StepBuffers":
        """Returns the buffers of a step. Only the buffer of results is newly allocated."""
        side = 4 * model.sam_image_embedding_size
        record_size = 0 if settings.strategy is None else settings.strategy.record_size
        results = PackedResults.empty(shape.objects, record_size, (side, side), integers.device)
        return cls(features, StepTables.views(integers, shape), results)


class NarrowPagesError(Exception):
    """Raised if the dtype of the pages is too narrow to store new memories of ``dtype`` without rounding."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__(f"memories are {dtype}")
        self.dtype = dtype


def compute_step(model: SAM2Base, pools: Pools, buffers: StepBuffers, settings: StepSettings) -> None:
    """Tracks the objects in the tables and computes padding rows, without synchronizing with the device.

    Writes results to the buffers, and memories, pointers and states to the pools.

    Raises:
        NarrowPagesError: If the pages would round new memories; raised before results are written.
    """
    tables, features, strategy, results = buffers.tables, buffers.features, settings.strategy, buffers.results
    memory = decision = decided = record = as_prompt = None
    if pools.pages is not None:
        spans, factors = (False, False) if strategy is None else (strategy.has_span, strategy.has_factors)
        memory = attended_by_tables(model, pools.pages, pools.pointers, tables, settings.num_frames, spans, factors)
    if strategy is not None and strategy.decides:
        none = results.numbers.new_zeros(results.rows, 0, dtype=torch.float64)
        states = none if pools.states is None else select_states(pools.states, tables.read_states)
        decision = Decision(strategy, states, model.image_size, settings.video_size, pairs=tables.pairs)
    prediction = predict(model, features, memory, initial=False, rows=results.rows, fp8=settings.fp8, decision=decision)
    if decision is not None:
        prediction, decided = decision.outcome(prediction)
        record, as_prompt = decided.record, decided.as_prompt
    if pools.pages is not None:
        # The memory is encoded from the mask before hole filling.
        memories = encode_masks(model, features, prediction.mask, prediction.score, False, as_prompt)
        if torch.promote_types(memories.dtype, pools.pages.dtype) != pools.pages.dtype:
            raise NarrowPagesError(memories.dtype)
        pages = as_pages(memories).to(pools.pages.dtype)
        pools.pages.index_copy_(0, tables.written_pages, pages)
    pools.pointers.index_copy_(0, tables.written_pointers, prediction.pointer.to(pools.pointers.dtype))
    results.write(prediction.iou, prediction.score, fill_holes(prediction.mask, settings.fill_hole_area), record)
    if decided is not None and pools.states is not None:
        assert decided.state is not None
        pools.states.index_copy_(0, tables.written_states, decided.state)


def prepare_tables(inputs: StepInput, shape: StepShape) -> tuple[Tensor, list[Page], list[Page], list[Page]]:
    """Returns a step's tables on the CPU, and the pages for its new memories, pointers and states.

    Padding rows also get pages. Deleting a page frees its row.
    """
    bank = inputs.bank
    bank.reserve(shape)
    attended = bank.attended_rows(inputs.selected_pages)
    memories, pointers, states, written = bank.allocate(shape.objects)
    pinned = bank.layout.device.type == "cuda"
    rows = {**attended, **written, "pairs": inputs.pairs}
    return StepTables.integers(shape, rows, pinned), memories, pointers, states


def is_compiled(model: SAM2Base) -> bool:
    """Returns True if a part that computes all objects as one batch is compiled on CUDA.

    Users compile by :func:`sam2fast.deploy.compilation.compile_model`, ``part.compile()``, ``part =
    torch.compile(part)``, or ``part.forward = torch.compile(part.forward)``, as the official compiled predictor does.
    """
    if model.device.type != "cuda":
        return False
    parts = (model.memory_attention, model.sam_mask_decoder, model.memory_encoder)
    names = ("forward", "_compiled_call_impl")
    return any(vars(part).get(name) is not None for part in parts for name in names)


def build_results(
    bank: MemoryBank,
    packed: PackedResults,
    count: int,
    memories: Sequence[Page],
    pointers: Sequence[Page],
    states: Sequence[Page | None],
) -> Results:
    """Returns results of the first ``count`` objects, and the same masks and scores on the device.

    The results are copied to the CPU asynchronously.

    Args:
        memories: Pages of memories, empty for a model without memories and for results of prompts.
        states: Pages of the strategy's states, empty if the strategy keeps no states.
    """
    copies = FrameCopies(packed)
    pages = zip_longest(memories[:count], pointers[:count], states[:count])
    results = [
        FrameResult.arriving(copies, i, pointer, memory, state) for i, (memory, pointer, state) in enumerate(pages)
    ]
    if packed.numbers.is_cuda:
        bank.pending.add(partial(wait_for, results))
    else:
        wait_for(results)
    numbers, rows, masks = packed.numbers, packed.rows, packed.numbers[packed.start :].view(packed.shape)
    return results, TrackScores(numbers[:count], numbers[rows : rows + count], masks)


def predict(
    model: SAM2Base,
    features: FrameFeatures,
    memory: AttendedMemory | None,
    initial: bool,
    points: dict[str, Tensor] | None = None,
    mask: Tensor | None = None,
    previous: Tensor | None = None,
    rows: int = 1,
    fp8: Fp8 = False,
    decision: Decision | None = None,
) -> ObjectPrediction:
    """Returns the model's prediction for the objects that attend to ``memory``, or for ``rows`` objects without memory.

    Args:
        memory: Memory of the objects. None for an initial prompt, or if the model keeps no memories.
        initial: True for an initial prompt. ``initial`` and ``points`` decide on one or three masks.
        points: One object's ``point_coords (1, P, 2)`` in the model's input pixels and ``point_labels (1, P)``.
        mask: One object's mask ``(1, 1, S, S)``.
        previous: Logits ``(1, 1, h, w)`` of an earlier result on the frame, as decoder input with the points.
        rows: Number of objects if ``memory`` is None.
        fp8: See :func:`sam2fast.kernels.memory_attention.memory_attention`.
        decision: Call of the strategy with the decoder's candidates. None if the strategy does not change predictions.
    """
    engine = engine_for(model)
    presence = 0.0 if decision is None else decision.presence
    if mask is not None and model.use_mask_input_as_output_without_sam:
        return engine.use_mask(features.embedding, features.high_res, mask, presence)
    if memory is not None:
        conditioned = engine.attend(features.embedding, memory, fp8)
    else:
        conditioned = without_memory(model, features).expand(rows, -1, -1, -1)
    multimask = model._use_multimask(initial, points)
    mask = mask if previous is None else previous
    return engine.track(conditioned, features.high_res, points, mask, multimask, presence, decision)


def without_memory(model: SAM2Base, features: FrameFeatures) -> Tensor:
    """Returns the frame's embedding ``(1, C, H, W)`` for objects without memory.

    Raises:
        ValueError: If the model has memories, but ``directly_add_no_mem_embed`` is off.
    """
    if not model.num_maskmem:
        return features.embedding
    if not model.directly_add_no_mem_embed:
        raise ValueError(
            "tracking needs directly_add_no_mem_embed=true in the configuration, as in all published models"
        )
    return features.embedding + model.no_mem_embed.reshape(1, -1, 1, 1)


def encode_masks(
    model: SAM2Base,
    features: FrameFeatures,
    masks: Tensor,
    scores: Tensor,
    from_prompt: bool,
    as_prompt: Tensor | None = None,
) -> Tensor:
    """Encodes low-resolution masks ``(B, 1, h, w)`` with scores ``(B, 1)`` as memories ``(B, C_mem, H, W)``.

    Masks with True in ``as_prompt (B, 1)`` are made binary, like masks of prompts. The option
    ``non_overlap_masks_for_mem_enc`` has no effect, since the official predictor encodes objects one by one.
    """
    if as_prompt is not None:
        large = model.masks_for_memory(masks)
        # The memory encoder's sigmoid of these logits is exactly 0 or 1.
        masks = torch.where(as_prompt[..., None, None], torch.where(large > 0, CERTAIN, -CERTAIN), large)
    return engine_for(model).encode_memory(features.embedding, masks, scores, from_prompt)


def fill_holes(masks: Tensor, fill_hole_area: float) -> Tensor:
    """Fills holes in low-resolution logits ``(B, 1, h, w)``. If ``fill_hole_area`` is 0, returns the input."""
    return fill_holes_in_mask_scores(masks, fill_hole_area) if fill_hole_area > 0 else masks
