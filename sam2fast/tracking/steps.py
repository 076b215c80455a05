"""What the model computes on a frame of a video; nothing here changes which objects there are or what they hold."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from sam2fast.kernels.mask_ops import fill_holes_in_mask_scores
from sam2fast.kernels.memory_attention import AttendedMemory, Fp8
from sam2fast.modeling.sam2_base import ObjectPrediction, SAM2Base
from sam2fast.prompt_inputs import LOGIT_LIMIT
from sam2fast.tracking.arrivals import HostCopy
from sam2fast.tracking.features import FrameFeatures
from sam2fast.tracking.memory_bank import AttendedPages, Memory, MemoryBank
from sam2fast.tracking.own_selection import own_selection
from sam2fast.tracking.page_pool import Page
from sam2fast.tracking.scores import TrackScores
from sam2fast.tracking.selection import MemoryRules, Selection, select_memories
from sam2fast.tracking.state import FrameCopies, FrameResult, TrackedObject, VideoState
from sam2fast.utils.async_copies import uploaded


def predict_prompted(
    model: SAM2Base,
    state: VideoState,
    tracked: TrackedObject,
    frame: int,
    points: dict[str, Tensor] | None,
    mask: Tensor | None,
    previous: Tensor | None,
    fill_hole_area: float,
) -> FrameResult:
    """An object's result on a frame with a prompt, without a memory yet.

    Args:
        tracked: the object as it is without this prompt.
        points: clicks in the model's input pixels, or none.
        mask: ``(1, 1, S, S)``, or none.
        previous: ``(1, 1, h, w)`` logits of an earlier result on the frame, fed back along with the clicks.
        fill_hole_area: see :func:`fill_holes_in_mask_scores`; 0 for none.
    """
    state.bank.begin_step()
    initial = tracked.is_initial(frame)
    memory = None if initial else attended(model, state, [tracked], frame, tracked.reverse[frame])
    if previous is not None:
        previous = uploaded(previous, state.device).clamp(-LOGIT_LIMIT, LOGIT_LIMIT)
    embedded, fp8 = state.features[frame], state.bank.fp8
    prediction = predict(model, embedded, memory, initial, points, mask, previous, fp8=fp8).first(1)
    masks, pointers = filled(prediction.mask, fill_hole_area), state.bank.write_pointers(prediction.pointer)
    return kept_results(state.bank, masks, prediction.iou, prediction.score, pointers, None)[0][0]


def track(
    model: SAM2Base,
    state: VideoState,
    objects: Sequence[TrackedObject],
    frame: int,
    reverse: bool,
    fill_hole_area: float,
) -> tuple[list[FrameResult], TrackScores]:
    """Results of objects without a prompt on the frame, all as one batch, with their new memories.

    Also their masks and scores, still on the device.
    """
    state.bank.begin_step()
    features = state.features[frame]
    memory = attended(model, state, objects, frame, reverse)
    prediction = predict(model, features, memory, initial=False, rows=len(objects), fp8=state.bank.fp8)
    _, iou, pointer, score, _ = prediction.first(len(objects))
    masks = filled(prediction.mask[: len(objects)], fill_hole_area)
    pointers, pages = state.bank.write_pointers(pointer), None
    if model.num_maskmem:
        # The memory sees the mask before its holes are filled.
        memories = encode(model, features, prediction.mask, prediction.score, from_prompt=False)
        pages = state.bank.write_memories(memories[: len(objects)], from_prompt=False)
    return kept_results(state.bank, masks, iou, score, pointers, pages)


def remember(model: SAM2Base, state: VideoState, frame: int, results: Sequence[FrameResult]) -> list[FrameResult]:
    """Results of prompts on one frame, with memories; these see the masks after their holes are filled."""
    if not model.num_maskmem:
        return list(results)
    state.bank.begin_step()
    masks, scores = (torch.cat([getattr(r, name) for r in results]).to(state.device) for name in ("mask", "score"))
    memories = encode(model, state.features[frame], masks, scores, from_prompt=True)
    written = state.bank.write_memories(memories, from_prompt=True)
    return [result.with_memory(memory) for result, memory in zip(results, written, strict=True)]


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
) -> ObjectPrediction:
    """What the model says about the objects whose memory this is, or about some without any.

    Args:
        memory: none for a first prompt, or if the model keeps no memories.
        initial: it is a first prompt, for the choice between one mask and three.
        points, mask, previous: as for :func:`predict_prompted`.
        rows: how many objects, if they have no memory.
        fp8: see :func:`sam2fast.kernels.memory_attention.memory_attention`.
    """
    high_res = features.high_res or None
    if mask is not None and model.use_mask_input_as_output_without_sam:
        _, _, iou, low_res, _, pointer, score = model._use_mask_as_output(features.embedding, high_res, mask)
        return ObjectPrediction(low_res, iou, pointer, score, torch.zeros_like(iou, dtype=torch.int64))
    if memory is not None:
        position = model.image_encoder.neck.position_encoding(features.embedding)
        conditioned = model.memory_attention.attend(features.embedding, position, memory, fp8)
    else:
        conditioned = without_memory(model, features).expand(rows, -1, -1, -1)
    multimask = model._use_multimask(initial, points)
    if points is not None:
        conditioned = conditioned[:1]  # a prompt is one object's, also where rows come in buckets
    return model.predict_objects(conditioned, high_res, points, mask if previous is None else previous, multimask)


def without_memory(model: SAM2Base, features: FrameFeatures) -> Tensor:
    """The frame's map ``(1, C, H, W)`` where there is no memory.

    Raises:
        ValueError: the model's configuration leaves open what stands for the missing memory.
    """
    if not model.num_maskmem:
        return features.embedding
    if not model.directly_add_no_mem_embed:
        raise ValueError(
            "video needs directly_add_no_mem_embed=true in the configuration, as all published models have"
        )
    return features.embedding + model.no_mem_embed.reshape(1, -1, 1, 1)


def attended(
    model: SAM2Base, state: VideoState, objects: Sequence[TrackedObject], frame: int, reverse: bool
) -> AttendedMemory | None:
    """What each object attends to on the frame; none if the model keeps no memories."""
    if not model.num_maskmem:
        return None
    return state.bank.attended(attended_pages(state, objects, frame, reverse), state.num_frames)


def attended_pages(
    state: VideoState, objects: Sequence[TrackedObject], frame: int, reverse: bool
) -> list[AttendedPages]:
    """The memories and pointers that each object attends to on the frame."""
    rules, model = state.rules, state.bank.model
    select = own_selection(state, rules) or select_memories
    chosen = [select(frame, o.conditioning, o.tracked, state.num_frames, reverse, rules) for o in objects]
    if (watch := getattr(model, "selection_watch", None)) is not None:
        watch(state, objects, frame, reverse, chosen)
    return [_pages(state.bank, tracked, selection, rules) for tracked, selection in zip(objects, chosen, strict=True)]


def _pages(bank: MemoryBank, tracked: TrackedObject, chosen: Selection, rules: MemoryRules) -> AttendedPages:
    limit = rules.max_conditioning if rules.max_conditioning >= 0 else len(tracked.conditioning)
    # A selection of the user's own may be longer than any of the model's: the rest counts as conditioning frames do.
    memories: list[tuple[Page, int]] = []
    for t, row in chosen.memories:
        conditioning = t in tracked.conditioning and row == rules.num_maskmem - 1
        memories += bank.pages_to_attend(_memory(_kept(tracked, t)), row, conditioning)
    beyond = -(-(len(memories) - bank.recent) // bank.pages_of_conditioning)
    more = max(beyond, len(chosen.pointers) - (rules.max_pointers - 1))
    return AttendedPages(
        memories,
        [(_kept(tracked, t).pointer, distance) for t, distance in chosen.pointers],
        max(min(len(tracked.conditioning), limit), more),
    )


def _kept(tracked: TrackedObject, frame: int) -> FrameResult:
    return tracked.conditioning[frame] if frame in tracked.conditioning else tracked.tracked[frame]


def _memory(result: FrameResult) -> Memory:
    assert result.memory is not None
    return result.memory


def encode(model: SAM2Base, features: FrameFeatures, masks: Tensor, scores: Tensor, from_prompt: bool) -> Tensor:
    """Memories ``(B, C_mem, H, W)`` of low-resolution masks ``(B, 1, h, w)`` with scores ``(B, 1)``.

    ``non_overlap_masks_for_mem_enc`` has no effect, as in the original's predictor, which encodes objects one by one.
    """
    size = (model.image_size, model.image_size)
    high_res = F.interpolate(masks, size=size, mode="bilinear", align_corners=False)
    return model.encode_memory(features.embedding, high_res, scores, from_prompt)


def filled(masks: Tensor, fill_hole_area: float) -> Tensor:
    """Low-resolution logits ``(B, 1, h, w)`` as they are stored and returned."""
    return fill_holes_in_mask_scores(masks, fill_hole_area) if fill_hole_area > 0 else masks


def kept_results(
    bank: MemoryBank,
    masks: Tensor,
    ious: Tensor,
    scores: Tensor,
    pointers: Sequence[Page],
    memories: Sequence[Memory] | None,
) -> tuple[list[FrameResult], TrackScores]:
    """Results of N objects that go to the CPU by themselves, and the same on the device.

    Args:
        masks: ``(N, 1, h, w)``.
        ious, scores: ``(N, 1)``.
        pointers, memories: pages of each object.
    """
    copies, results = FrameCopies(HostCopy(masks), HostCopy(ious), HostCopy(scores)), []
    for i, pointer in enumerate(pointers):
        result = FrameResult.arriving(copies, i, pointer, None if memories is None else memories[i])
        if masks.is_cuda:
            bank.arrivals.add(result.arrived)
        else:
            result.arrived()
        results.append(result)
    return results, TrackScores(ious[:, 0].float(), scores[:, 0].float(), masks)
