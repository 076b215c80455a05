"""What the model computes on a frame of a video; nothing here changes which objects there are or what they hold."""

from collections.abc import Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from sam2fast.kernels.mask_ops import fill_holes_in_mask_scores
from sam2fast.modeling.sam2_base import ObjectPrediction, SAM2Base
from sam2fast.tracking.features import FrameFeatures
from sam2fast.tracking.memory_bank import AttendedPages, MemoryBank
from sam2fast.tracking.page_pool import Page
from sam2fast.tracking.selection import MemoryRules, select_memories
from sam2fast.tracking.state import FrameResult, TrackedObject, VideoState

# Logits fed back as a mask prompt are within this range.
LOGIT_LIMIT = 32.0


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
    features = state.features[frame]
    high_res = features.high_res or None
    if mask is not None and model.use_mask_input_as_output_without_sam:
        _, _, iou, low_res, _, pointer, score = model._use_mask_as_output(features.embedding, high_res, mask)
        prediction = ObjectPrediction(low_res, iou, pointer, score, torch.zeros_like(iou))
    else:
        initial = tracked.is_initial(frame)
        if initial:
            conditioned = without_memory(model, features)
        else:
            conditioned = with_memory(model, state, features, [tracked], frame, tracked.reverse[frame])
        if previous is not None:
            mask = previous.to(conditioned.device).clamp(-LOGIT_LIMIT, LOGIT_LIMIT)
        multimask = model._use_multimask(initial, points)
        prediction = model.predict_objects(conditioned[:1], high_res, points, mask, multimask)
    return _results(state.bank, prediction, fill_hole_area, 1)[0][0]


def track(
    model: SAM2Base,
    state: VideoState,
    objects: Sequence[TrackedObject],
    frame: int,
    reverse: bool,
    fill_hole_area: float,
) -> tuple[list[FrameResult], Tensor]:
    """Results of objects without a prompt on the frame, all as one batch, with their new memories.

    Also their masks ``(N, 1, h, w)``, still on the device.
    """
    state.bank.begin_step()
    features = state.features[frame]
    conditioned = with_memory(model, state, features, objects, frame, reverse)
    multimask = model._use_multimask(False, None)
    prediction = model.predict_objects(conditioned, features.high_res or None, None, None, multimask)
    results, masks = _results(state.bank, prediction, fill_hole_area, len(objects))
    if not model.num_maskmem:
        return results, masks
    # The memory sees the mask before its holes are filled.
    memories = encode(model, features, prediction.mask, prediction.score, from_prompt=False)[: len(objects)]
    pages = state.bank.write_memories(memories)
    return [replace(result, memory=page) for result, page in zip(results, pages, strict=True)], masks


def remember(model: SAM2Base, state: VideoState, frame: int, results: Sequence[FrameResult]) -> list[FrameResult]:
    """Results of prompts on one frame, with memories; these see the masks after their holes are filled."""
    if not model.num_maskmem:
        return list(results)
    state.bank.begin_step()
    masks, scores = (torch.cat([getattr(r, name) for r in results]).to(state.device) for name in ("mask", "score"))
    pages = state.bank.write_memories(encode(model, state.features[frame], masks, scores, from_prompt=True))
    return [replace(result, memory=page) for result, page in zip(results, pages, strict=True)]


def without_memory(model: SAM2Base, features: FrameFeatures) -> Tensor:
    """The frame's map ``(1, C, H, W)`` for an object's first prompt.

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


def with_memory(
    model: SAM2Base,
    state: VideoState,
    features: FrameFeatures,
    objects: Sequence[TrackedObject],
    frame: int,
    reverse: bool,
) -> Tensor:
    """The frame's map ``(B, C, H, W)``, conditioned on the memory of each object.

    B is the number of rows that :meth:`MemoryBank.attended` gives.
    """
    if not model.num_maskmem:
        return features.embedding.expand(len(objects), -1, -1, -1)
    rules = MemoryRules.of(model)
    attended = []
    for tracked in objects:
        chosen = select_memories(frame, tracked.conditioning, tracked.tracked, state.num_frames, reverse, rules)
        kept = tracked.tracked | tracked.conditioning
        attended.append(
            AttendedPages(
                [(_memory(kept[t]), row) for t, row in chosen.memories],
                [(kept[t].pointer, distance) for t, distance in chosen.pointers],
            )
        )
    memory = state.bank.attended(attended, state.num_frames)
    position = model.image_encoder.neck.position_encoding(features.embedding)
    return model.memory_attention.attend(features.embedding, position, memory)


def _memory(result: FrameResult) -> Page:
    assert result.memory is not None
    return result.memory


def encode(model: SAM2Base, features: FrameFeatures, masks: Tensor, scores: Tensor, from_prompt: bool) -> Tensor:
    size = (model.image_size, model.image_size)
    high_res = F.interpolate(masks, size=size, mode="bilinear", align_corners=False)
    # Objects are encoded one by one as far as `non_overlap_masks_for_mem_enc` is concerned: like the original's
    # predictor, which hands it one object at a time.
    return model.encode_memory(features.embedding, high_res, scores, from_prompt)


def _results(
    bank: MemoryBank, prediction: ObjectPrediction, fill_hole_area: float, count: int
) -> tuple[list[FrameResult], Tensor]:
    masks = prediction.mask[:count]
    if fill_hole_area > 0:
        masks = fill_holes_in_mask_scores(masks, fill_hole_area)
    pointers = bank.write_pointers(prediction.pointer[:count])
    kept = [x[:count].float().to("cpu") for x in (masks, prediction.iou, prediction.score)]
    results = []
    for i in range(count):
        mask, iou, score = (x[i : i + 1].clone() for x in kept)
        results.append(FrameResult(mask, iou, score, pointers[i], memory=None))
    return results, masks
