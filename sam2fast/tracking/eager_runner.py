"""What the model computes on one frame, and the runner that computes it operation by operation."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from sam2fast.engine import engine_for
from sam2fast.kernels.mask_ops import fill_holes_in_mask_scores
from sam2fast.kernels.memory_attention import AttendedMemory, Fp8
from sam2fast.modeling.memory_selection import MemoryRules
from sam2fast.modeling.sam2_base import ObjectPrediction, SAM2Base
from sam2fast.tracking.features import EncodedFrames, FrameFeatures, features_by_frame
from sam2fast.tracking.memory_bank import AttendedPages, MemoryBank, StepTables, as_pages
from sam2fast.tracking.outputs import PackedResults
from sam2fast.tracking.page_pool import Page
from sam2fast.tracking.strategies.base import Decided, Strategy
from sam2fast.tracking.strategies.decision import Decision
from sam2fast.video_io import Frames

CERTAIN = 1e4  # a logit whose sigmoid is 1 in every dtype


class StepInput(NamedTuple):
    """What one frame of N objects without a prompt is computed from."""

    bank: MemoryBank
    features: FrameFeatures
    attended: Sequence[AttendedPages]  # of each object; empty where the model keeps no memories
    rules: MemoryRules
    num_frames: int  # length of the video
    fill_hole_area: float  # see fill_holes
    strategy: Strategy
    video_size: tuple[int, int]


class StepOutput(NamedTuple):
    """Results of N objects on one frame, on the device."""

    results: PackedResults  # masks with their holes filled
    pointers: Sequence[Page]
    memories: Sequence[Page] | None  # None where the model keeps none, and before a prompt is committed
    states: Sequence[Page | None]  # what the strategy knows after the frame, if it keeps anything


class StepRunner(Protocol):
    """Runs the model on frames: eagerly, or by CUDA graphs."""

    def encode(self, model: SAM2Base, frames: Frames, indices: Sequence[int], ahead: bool) -> EncodedFrames:
        """Features of some frames of a video, as one batch.

        Args:
            ahead: nothing waits for them yet; they may be computed on another stream.
        """
        ...

    def step(self, model: SAM2Base, given: StepInput) -> StepOutput:
        """Tracks all objects of a frame as one batch, and writes their memories and pointers to the bank."""
        ...


class EagerRunner:
    """Runs each operation when it is called."""

    def encode(self, model: SAM2Base, frames: Frames, indices: Sequence[int], ahead: bool) -> EncodedFrames:
        """See :meth:`StepRunner.encode`."""
        images = torch.stack([frames[t] for t in indices]).to(model.device)
        return EncodedFrames(features_by_frame(engine_for(model).encode(images), len(indices)), None)

    def step(self, model: SAM2Base, given: StepInput) -> StepOutput:
        """See :meth:`StepRunner.step`."""
        bank, features, count = given.bank, given.features, len(given.attended)
        memory = None
        if model.num_maskmem:
            memory = gather_memory(model, bank, given.attended, given.rules, given.num_frames)
        decision = None
        if given.strategy.decides:
            states = bank.read_states(
                [o.state for o in given.attended], count if memory is None else len(memory.pointers)
            )
            decision = Decision(given.strategy, states, model.image_size, given.video_size)
        prediction = predict(model, features, memory, initial=False, rows=count, fp8=bank.fp8, decision=decision)
        decided = None if decision is None else decision.outcome()
        _, iou, pointer, score, _ = prediction.first(count)
        masks = fill_holes(prediction.mask[:count], given.fill_hole_area)
        pointers, pages = bank.write_pointers(pointer), None
        if model.num_maskmem:
            # The memory is encoded from the mask before its holes are filled.
            as_prompt = None if decided is None else decided.as_prompt
            memories = encode_masks(model, features, prediction.mask, prediction.score, False, as_prompt)
            pages = bank.write_memories(memories[:count])
        packed, kept = written(bank, decided, count, masks, iou, score)
        return StepOutput(packed, pointers, pages, kept)


def written(
    bank: MemoryBank, decided: Decided | None, count: int, masks: Tensor, iou: Tensor, score: Tensor
) -> tuple[PackedResults, Sequence[Page | None]]:
    """Results of the first objects with what a strategy recorded, and the pages of its states."""
    if decided is None:
        return PackedResults.of(iou, score, masks), [None] * count
    assert decided.state is not None and decided.record is not None
    return PackedResults.of(iou, score, masks, decided.record[:count]), bank.write_states(decided.state[:count])


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
    """The model's prediction for the objects that attend to ``memory``, or for ``rows`` objects without memory.

    Args:
        memory: None for an initial prompt, or if the model keeps no memories.
        initial: it is an initial prompt, for the choice between one mask and three.
        points: one object's ``point_coords (1, P, 2)`` in the model's input pixels and ``point_labels (1, P)``.
        mask: one object's mask ``(1, 1, S, S)``.
        previous: ``(1, 1, h, w)`` logits of an earlier result on the frame, which the decoder sees with the points.
        rows: how many objects, if they have no memory.
        fp8: see :func:`sam2fast.kernels.memory_attention.memory_attention`.
        decision: a strategy's, for as many objects as there will be rows.
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
    if points is not None:
        conditioned = conditioned[:1]  # a prompt belongs to one object, also where the number of rows is a bucket
    mask = mask if previous is None else previous
    return engine.track(conditioned, features.high_res, points, mask, multimask, presence, decision)


def without_memory(model: SAM2Base, features: FrameFeatures) -> Tensor:
    """The frame's map ``(1, C, H, W)`` where there is no memory.

    Raises:
        ValueError: the model's configuration does not say what replaces the missing memory.
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
    """Memories ``(B, C_mem, H, W)`` of low-resolution masks ``(B, 1, h, w)`` with scores ``(B, 1)``.

    ``as_prompt (B, 1)`` bool says whose masks a strategy wants to be binary, as those from prompts are.
    ``non_overlap_masks_for_mem_enc`` has no effect, as in the original's predictor, which encodes objects one by one.
    """
    if as_prompt is not None:
        size = (model.image_size, model.image_size)
        large = F.interpolate(masks, size=size, mode="bilinear", align_corners=False)
        # The encoder takes their sigmoid, which is 0 or 1 exactly.
        masks = torch.where(as_prompt[..., None, None], torch.where(large > 0, CERTAIN, -CERTAIN), large)
    return engine_for(model).encode_memory(features.embedding, masks, scores, from_prompt)


def fill_holes(masks: Tensor, fill_hole_area: float) -> Tensor:
    """Low-resolution logits ``(B, 1, h, w)`` as they are stored and returned; an area of 0 changes nothing."""
    return fill_holes_in_mask_scores(masks, fill_hole_area) if fill_hole_area > 0 else masks


def gather_memory(
    model: SAM2Base, bank: MemoryBank, objects: Sequence[AttendedPages], rules: MemoryRules, num_frames: int
) -> AttendedMemory:
    """What these objects attend to, in their order, in tables whose sizes are buckets.

    On CUDA the number of rows is a bucket too if a part is compiled, and the rows beyond the objects attend to nothing.
    Elsewhere no shape is compiled for, and idle rows would only cost time.
    """
    assert bank.memories is not None
    shape = bank.shape_of(objects, rules, in_buckets=model.device.type == "cuda" and _is_compiled(model))
    bank.reserve(shape)
    integers = StepTables.integers(shape, bank.attended_rows(objects), pinned=bank.memories.data.is_cuda)
    on_device = integers.to(bank.memories.data.device, non_blocking=True)
    tables = StepTables.views(on_device, shape)
    has_span, has_factors = any(o.span for o in objects), any(o.factors is not None for o in objects)
    pools = bank.memories.data, bank.pointers.data
    return attended_by_tables(model, *pools, tables, num_frames, has_span, has_factors)


def _is_compiled(model: SAM2Base) -> bool:
    """Whether a part that computes all objects together is compiled, for each number of them.

    By :func:`sam2fast.deploy.compilation.compile_model`; by ``part.forward = torch.compile(part.forward)``, as
    the original's compiled predictor does it; by ``part.compile()``; or by ``torch.compile(part)``, whose module has
    such a forward.
    """
    parts = (model.memory_attention, model.sam_mask_decoder, model.memory_encoder)
    names = ("forward", "_compiled_call_impl")
    return any(vars(part).get(name) is not None for part in parts for name in names)


def attended_by_tables(
    model: SAM2Base,
    pages: Tensor,
    pointers: Tensor,
    tables: StepTables,
    num_frames: int,
    has_span: bool,
    has_factors: bool,
) -> AttendedMemory:
    """The memory that tables on the device select from the pools; nothing is read back.

    Args:
        pages: ``(rows, n, C_mem)`` of the pool of memories.
        pointers: ``(rows, C)`` of the pool of pointers.
        num_frames: length of the video.
        has_span: objects may have their own, of the tables.
        has_factors: likewise.
    """
    split = pointers.shape[-1] // model.mem_dim
    memory = attended_memory(
        model,
        pages,
        tables.page_table,
        tables.page_time,
        pointers.index_select(0, tables.pointer_table.clamp(min=0).flatten()).unflatten(0, tables.pointer_table.shape),
        tables.distance,
        tables.pointer_table[:, :, None].expand(-1, -1, split) >= 0,
        num_frames,
        tables.span if has_span else None,
    )
    if not has_factors:
        return memory
    factors = [tables.page_factor, tables.pointer_factor.repeat_interleave(split, dim=1)]
    return memory._replace(key_factors=torch.cat(factors, dim=1))


def attended_memory(
    model: SAM2Base,
    pages: Tensor,
    page_table: Tensor,
    page_time: Tensor,
    pointers: Tensor,
    distance: Tensor,
    valid: Tensor,
    num_frames: int,
    span: Tensor | None = None,
) -> AttendedMemory:
    """Memories and pointers with the model's encodings of space and time.

    Args:
        pages, page_table, page_time: see :class:`AttendedMemory`.
        pointers: ``(B, P, C)``.
        distance: ``(B, P)`` frames from the current one to each pointer's.
        valid: ``(B, P, C / C_mem)`` bool, of each token of a pointer.
        num_frames: length of the video.
        span: ``(B,)`` what distances are divided by; 0 for the model's, which is also used for None.
    """
    (H, W), m = model.memory_size, model.mem_dim
    B, P, C = pointers.shape
    position = model.encode_memory_positions(pages[:1, 0, :, None, None].expand(1, m, H, W))
    if span is not None:
        longest = max(1, min(num_frames, model.max_obj_ptrs_in_encoder) - 1)
        distance = distance / torch.where(span > 0, span, longest)[:, None] * longest
    encoding = engine_for(model).encode_distances(distance, valid[..., 0], num_frames)
    # A pointer is wider than a memory token. It becomes several tokens with the same encoding.
    split = C // m
    return AttendedMemory(
        pages=pages,
        page_table=page_table,
        page_time=page_time,
        position_encoding=as_pages(position)[0],
        time_encoding=model.maskmem_tpos_enc[:, 0, 0],
        pointers=pointers.reshape(B, P * split, m),
        # Converted after it is repeated: one copy instead of two.
        pointer_encoding=encoding[:, :, None].expand(B, P, split, m).to(pointers.dtype).reshape(B, P * split, m),
        pointer_valid=valid.flatten(1),
    )
