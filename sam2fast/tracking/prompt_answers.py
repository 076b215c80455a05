"""What prompts, and taking them back, change, and the masks of all objects that they are answered with."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from sam2fast.kernels.mask_ops import upsample_masks
from sam2fast.modeling.sam2_base import NO_OBJ_SCORE
from sam2fast.tracking import steps
from sam2fast.tracking.state import FrameResult, TrackedObject, UnchangedOnError, VideoState

if TYPE_CHECKING:
    from sam2fast.sam2_video_predictor import SAM2VideoPredictor


def is_conditioning(predictor: "SAM2VideoPredictor", tracked: TrackedObject, frame: int) -> bool:
    """Whether a prompt on the frame makes it a conditioning frame of the object, as it is before the prompt."""
    return tracked.is_initial(frame) or predictor.add_all_frames_to_correct_as_cond


def answer_prompt(
    predictor: "SAM2VideoPredictor",
    state: VideoState,
    frame: int,
    obj_id: Any,
    tracked: TrackedObject,
    *,
    points: dict[str, Tensor] | None = None,
    mask: Tensor | None = None,
) -> tuple[int, list[Any], Tensor]:
    """Finds an object by a prompt, and keeps the prompt and the result. If it fails, nothing has changed.

    Args:
        tracked: the object as it is without this prompt; the state need not have it yet.
        points: all clicks on the frame, as :func:`~sam2fast.tracking.prompts.click_prompt` gives them.
        mask: ``(1, 1, S, S)``, without clicks.

    Returns:
        The frame, the ids of all objects, and their mask logits ``(objects, 1, H, W)`` on it.
    """
    conditioning = is_conditioning(predictor, tracked, frame)
    previous = tracked.result_on(frame, conditioning) if mask is None else None
    result = steps.predict_prompted(
        predictor,
        state,
        tracked,
        frame,
        points,
        mask,
        None if previous is None else previous.mask,
        predictor.fill_hole_area,
    )
    kept_mask = None if mask is None else mask.to("cpu", copy=True)
    results = {**latest_results(state.objects, frame, conditioning), obj_id: result}
    masks = masks_of(predictor, state, list({**state.objects, obj_id: tracked}), results)

    # Nothing below can fail, but be interrupted.
    with UnchangedOnError(state, [tracked]):
        if points is not None:
            tracked.points[frame] = points
            tracked.masks.pop(frame, None)
        if kept_mask is not None:
            tracked.masks[frame] = kept_mask
            tracked.points.pop(frame, None)
        tracked.new_results(conditioning)[frame] = result
        if obj_id not in state.objects:
            state.add(obj_id, tracked)
    return frame, state.obj_ids, masks


def take_back_prompts(
    predictor: "SAM2VideoPredictor", state: VideoState, frame: int, obj_id: Any, need_output: bool
) -> tuple[int, list[Any], Tensor] | None:
    """Takes back an object's prompts on a frame; an unknown id has none. Answers as :func:`answer_prompt`, if asked."""
    objects = dict(state.objects)
    if obj_id in objects:
        objects[obj_id] = objects[obj_id].copy()
        objects[obj_id].take_back(frame)
    masks = _prompted_masks(predictor, state, objects, frame) if need_output else None
    if obj_id in objects:
        with UnchangedOnError(state, [state.objects[obj_id]]):
            state.objects[obj_id].take_back(frame)
    return None if masks is None else (frame, state.obj_ids, masks)


def forget_object(
    predictor: "SAM2VideoPredictor", state: VideoState, obj_id: Any, need_output: bool
) -> list[tuple[int, Tensor]]:
    """Removes an object; gives, if asked, the others' masks ``(objects, 1, H, W)`` on the frames of its prompts."""
    if len(state.objects) == 1:
        state.clear()
        return []
    tracked = state.objects[obj_id]
    frames = sorted(tracked.points.keys() | tracked.masks.keys()) if need_output else []
    others = {i: o for i, o in state.objects.items() if o is not tracked}
    updated = [(t, _prompted_masks(predictor, state, others, t)) for t in frames]
    state.remove(obj_id)
    return updated


def _prompted_masks(
    predictor: "SAM2VideoPredictor", state: VideoState, objects: Mapping[Any, TrackedObject], frame: int
) -> Tensor:
    """Mask logits ``(N, 1, H, W)`` of these objects on a frame where a prompt has been taken back."""
    conditioning = any(frame in o.new_conditioning for o in objects.values())
    return masks_of(predictor, state, list(objects), latest_results(objects, frame, conditioning))


def latest_results(objects: Mapping[Any, TrackedObject], frame: int, conditioning: bool) -> dict[Any, FrameResult]:
    """Of the objects that have a result on the frame, the latest; see :meth:`TrackedObject.result_on`."""
    found = {obj_id: o.result_on(frame, conditioning) for obj_id, o in objects.items()}
    return {obj_id: result for obj_id, result in found.items() if result is not None}


def masks_of(
    predictor: "SAM2VideoPredictor", state: VideoState, ids: Sequence[Any], results: Mapping[Any, FrameResult]
) -> Tensor:
    """Mask logits ``(N, 1, H, W)`` at the video's size, of objects in the order of ``ids``; -1024 without a result."""
    masks = torch.full((len(ids), 1, *state.video_size), NO_OBJ_SCORE, device=state.device)
    present = [i for i, obj_id in enumerate(ids) if obj_id in results]
    if present:
        low_res = torch.cat([results[ids[i]].mask for i in present]).to(state.device)
        masks[present] = upsample_masks(low_res, state.video_size)
    return predictor._get_orig_video_res_output(state, masks)[1]
