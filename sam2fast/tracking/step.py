"""Computes one frame of several objects, as a function that CUDA graphs can record."""

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

# Of N objects on one frame; and the same masks and scores on the device.
Results: TypeAlias = tuple[list[FrameResult], TrackScores]

CERTAIN = 1e4  # a logit whose sigmoid is 1 in every dtype


class StepSettings(NamedTuple):
    """Stores non-tensor inputs of a step. One graph is captured per combination."""

    num_frames: int  # length of the video; only lengths below ``max_obj_ptrs_in_encoder`` make a difference
    fill_hole_area: float  # see :func:`fill_holes`
    fp8: Fp8  # see :func:`sam2fast.kernels.memory_attention.memory_attention`
    strategy: Strategy | None  # that takes part in the step
    video_size: tuple[int, int]  # if the strategy depends on it

    @classmethod
    def of(cls, model: SAM2Base, state: VideoSession, fill_hole_area: float) -> "StepSettings":
        """Returns the settings of a session's steps. Values that make no difference are equal in all sessions."""
        strategy = state.strategy
        takes_part = strategy.decides or strategy.has_span or strategy.has_factors
        size = state.video_size if strategy.at_video_size else (0, 0)
        longest = min(state.num_frames, model.max_obj_ptrs_in_encoder)
        return cls(longest, fill_hole_area, state.bank.fp8, strategy if takes_part else None, size)


class StepInput(NamedTuple):
    """Stores the inputs of one frame of N objects without a prompt."""

    bank: MemoryBank
    features: FrameFeatures
    attended: Sequence[AttendedPages]  # of each object; empty where the model keeps no memories
    rules: MemoryRules
    settings: StepSettings
    pairs: Sequence[Sequence[int]] = ()  # of the objects, if the strategy compares them


class Pools(NamedTuple):
    """Stores the tensors of a memory bank."""

    pages: Tensor | None  # (rows, H * W, C_mem), or a quarter of the positions; None if the model keeps no memories
    pointers: Tensor  # (rows, C) fp32
    states: Tensor | None  # (rows, state_size) fp64, if a strategy keeps any

    @classmethod
    def of(cls, bank: MemoryBank) -> "Pools":
        """Returns the present tensors of a bank."""
        memories, pointers, states = (None if pool is None else pool.data for pool in bank.pools)
        assert pointers is not None
        return cls(memories, pointers, states)


class StepBuffers(NamedTuple):
    """Stores the inputs of steps of one shape besides the pools, and their results."""

    features: FrameFeatures
    tables: StepTables
    results: PackedResults  # of C objects, holes filled

    @classmethod
    def make(
        cls, model: SAM2Base, features: FrameFeatures, integers: Tensor, shape: StepShape, settings: StepSettings
    ) -> "StepBuffers":
        """Returns buffers of steps of this shape. Only the results are new."""
        side = 4 * model.sam_image_embedding_size
        record_size = 0 if settings.strategy is None else settings.strategy.record_size
        results = PackedResults.empty(shape.objects, record_size, (side, side), integers.device)
        return cls(features, StepTables.views(integers, shape), results)


class NarrowPagesError(Exception):
    """Raised if the dtype of the pages would round new memories, which have ``dtype``."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__(f"memories are {dtype}")
        self.dtype = dtype


def compute_step(model: SAM2Base, pools: Pools, buffers: StepBuffers, settings: StepSettings) -> None:
    """Tracks the objects of the tables, without reading anything back. Rows beyond the objects are computed, too.

    Writes results to the buffers, and memories, pointers and states to the pools.

    Raises:
        NarrowPagesError: If new memories would be rounded. Nothing has been written then.
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
        # The memory is encoded from the mask before its holes are filled.
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


def prepare_tables(given: StepInput, shape: StepShape) -> tuple[Tensor, list[Page], list[Page], list[Page]]:
    """Returns the integers of a step's tables on the CPU, and the pages of memories, pointers and states it will write.

    Rows beyond the objects are written, too. They are free again when their pages are dropped.
    """
    bank = given.bank
    bank.reserve(shape)
    attended = bank.attended_rows(given.attended)
    memories, pointers, states, written = bank.allocate(shape.objects)
    pinned = bank.layout.device.type == "cuda"
    rows = {**attended, **written, "pairs": given.pairs}
    return StepTables.integers(shape, rows, pinned), memories, pointers, states


def call_step(model: SAM2Base, given: StepInput) -> Results:
    """Computes a step eagerly, with exactly as many rows as objects, or with rows of a bucket if a part is compiled."""
    bank, count = given.bank, len(given.attended)
    shape = bank.shape_of(given.attended, given.rules, in_buckets=_is_compiled(model))
    integers, *pages = prepare_tables(given, shape)
    integers = integers.to(bank.layout.device, non_blocking=True)
    buffers = StepBuffers.make(model, given.features, integers, shape, given.settings)
    try:
        compute_step(model, Pools.of(bank), buffers, given.settings)
    except NarrowPagesError as error:
        assert bank.memories is not None
        bank.memories.widen(error.dtype)
        compute_step(model, Pools.of(bank), buffers, given.settings)
    packed = buffers.results if shape.objects == count else buffers.results.first(count)
    return build_results(bank, packed, count, *pages)


def _is_compiled(model: SAM2Base) -> bool:
    """Returns True if a part that computes all objects together is compiled on CUDA, for each number of objects.

    Users call :func:`sam2fast.deploy.compilation.compile_model`, ``part.compile()``, ``torch.compile(part)``, which
    returns a module, or set ``part.forward = torch.compile(part.forward)``, like the original's compiled predictor.
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

    The results are copied to the CPU in the background.

    Args:
        memories: Pages of memories. Empty for a model without memories, and before a prompt is committed.
        states: Pages of the strategy's states. Empty if it keeps none.
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
        initial: True for an initial prompt, for the choice between one mask and three.
        points: One object's ``point_coords (1, P, 2)`` in the model's input pixels and ``point_labels (1, P)``.
        mask: One object's mask ``(1, 1, S, S)``.
        previous: Logits ``(1, 1, h, w)`` of an earlier result on the frame, as decoder input with the points.
        rows: Number of objects, if they have no memory.
        fp8: See :func:`sam2fast.kernels.memory_attention.memory_attention`.
        decision: The strategy's decision, if it takes part.
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
    """Returns the frame's map ``(1, C, H, W)`` for objects without memory.

    Raises:
        ValueError: If the model's configuration does not say what replaces a missing memory.
    """
    if not model.num_maskmem:
        return features.embedding
    if not model.directly_add_no_mem_embed:
        raise ValueError(
            "video needs directly_add_no_mem_embed=true in the configuration, as all published models have"
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
    """Encodes memories ``(B, C_mem, H, W)`` of low-resolution masks ``(B, 1, h, w)`` with scores ``(B, 1)``.

    Masks with True in ``as_prompt (B, 1)`` are made binary, like masks of prompts. As in the original's predictor,
    which encodes objects one by one, ``non_overlap_masks_for_mem_enc`` has no effect.
    """
    if as_prompt is not None:
        large = model.masks_for_memory(masks)
        # The encoder takes their sigmoid, which is 0 or 1 exactly.
        masks = torch.where(as_prompt[..., None, None], torch.where(large > 0, CERTAIN, -CERTAIN), large)
    return engine_for(model).encode_memory(features.embedding, masks, scores, from_prompt)


def fill_holes(masks: Tensor, fill_hole_area: float) -> Tensor:
    """Fills holes in low-resolution logits ``(B, 1, h, w)``, before they are stored. An area of 0 changes nothing."""
    return fill_holes_in_mask_scores(masks, fill_hole_area) if fill_hole_area > 0 else masks
