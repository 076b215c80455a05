"""What prompts change in a session: they are applied, removed, and committed before tracking."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from sam2fast.kernels.mask_ops import upsample_masks
from sam2fast.modeling.sam2_base import NO_OBJ_SCORE
from sam2fast.tracking.frame_result import FrameResult
from sam2fast.tracking.prompts import click_prompt, mask_prompt
from sam2fast.tracking.session import TrackedObject, VideoSession
from sam2fast.tracking.tracker import Tracker
from sam2fast.tracking.unchanged_on_error import UnchangedOnError

# Identifies a new result: the object's id(), whether it is a conditioning one, and the frame.
ResultKey = tuple[int, bool, int]


def add_points_or_box(
    tracker: Tracker,
    state: VideoSession,
    frame: int,
    obj_id: Any,
    points: Any,
    labels: Any,
    clear_old_points: bool,
    normalize_coords: bool,
    box: Any,
) -> tuple[int, list[Any], Tensor]:
    """Applies points or a box; see ``SAM2VideoPredictor.add_new_points_or_box``."""
    tracked = state.objects.get(obj_id) or TrackedObject()
    size = state.video_size if normalize_coords else (1, 1)
    clicks = click_prompt(points, labels, box, clear_old_points, size, tracker.model.image_size, tracker.model.device)
    if not clear_old_points and frame in tracked.points:
        clicks = {name: torch.cat([tracked.points[frame][name], new], dim=1) for name, new in clicks.items()}
    return apply_prompt(tracker, state, frame, obj_id, tracked, points=clicks)


def add_mask(
    tracker: Tracker, state: VideoSession, frame: int, obj_id: Any, mask: Any
) -> tuple[int, list[Any], Tensor]:
    """Applies a mask; see ``SAM2VideoPredictor.add_new_mask``."""
    tracked = state.objects.get(obj_id) or TrackedObject()
    given = mask_prompt(mask, tracker.model.image_size, tracker.model.device)
    return apply_prompt(tracker, state, frame, obj_id, tracked, mask=given)


def apply_prompt(
    tracker: Tracker,
    state: VideoSession,
    frame: int,
    obj_id: Any,
    tracked: TrackedObject,
    *,
    points: dict[str, Tensor] | None = None,
    mask: Tensor | None = None,
) -> tuple[int, list[Any], Tensor]:
    """Predicts an object from a prompt, and stores the prompt and the result. If it fails, nothing has changed.

    Args:
        tracked: the object without this prompt; the state need not have it yet.
        points: all points on the frame, as :func:`~sam2fast.tracking.prompts.click_prompt` returns them.
        mask: ``(1, 1, S, S)``, without points.

    Returns:
        The frame, the ids of all objects, and their mask logits ``(objects, 1, H, W)`` on it.
    """
    conditioning = is_conditioning(tracker, tracked, frame)
    previous = tracked.result_on(frame, conditioning) if mask is None else None
    previous_mask = None if previous is None else previous.mask
    result = tracker.predict_prompted(state, tracked, frame, points, mask, previous_mask)
    kept_mask = None if mask is None else mask.to("cpu", copy=True)
    results = {**latest_results(state.objects, frame, conditioning), obj_id: result}
    masks = masks_of(tracker, state, list({**state.objects, obj_id: tracked}), results)

    # Nothing below can fail, but Ctrl-C may come.
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


def is_conditioning(tracker: Tracker, tracked: TrackedObject, frame: int) -> bool:
    """Whether a prompt on the frame makes it a conditioning frame of the object, as the object is before the prompt."""
    return tracked.is_initial(frame) or tracker.options.add_all_frames_to_correct_as_cond


def clear_prompts(
    tracker: Tracker, state: VideoSession, frame: int, obj_id: Any, need_output: bool
) -> tuple[int, list[Any], Tensor] | None:
    """Removes an object's prompts on a frame; an unknown id has none. Returns what :func:`apply_prompt` does, or None
    without ``need_output``."""
    objects = dict(state.objects)
    if obj_id in objects:
        objects[obj_id] = objects[obj_id].copy()
        objects[obj_id].remove_prompts(frame)
    masks = _remaining_masks(tracker, state, objects, frame) if need_output else None
    if obj_id in objects:
        with UnchangedOnError(state, [state.objects[obj_id]]):
            state.objects[obj_id].remove_prompts(frame)
    return None if masks is None else (frame, state.obj_ids, masks)


def remove_object(
    tracker: Tracker, state: VideoSession, obj_id: Any, strict: bool, need_output: bool
) -> list[tuple[int, Tensor]]:
    """Removes an object; see ``SAM2VideoPredictor.remove_object``.

    Returns:
        With ``need_output`` the other objects' masks ``(objects, 1, H, W)`` on the frames of its prompts.

    Raises:
        RuntimeError: an unknown id with ``strict``.
    """
    if obj_id not in state.objects:
        if strict:
            raise RuntimeError(f"there is no object {obj_id!r} to remove; the ids are {state.obj_ids}")
        return []
    if len(state.objects) == 1:
        state.clear()
        return []
    tracked = state.objects[obj_id]
    frames = sorted(tracked.points.keys() | tracked.masks.keys()) if need_output else []
    others = {i: o for i, o in state.objects.items() if o is not tracked}
    updated = [(t, _remaining_masks(tracker, state, others, t)) for t in frames]
    state.remove(obj_id)
    return updated


def _remaining_masks(tracker: Tracker, state: VideoSession, objects: Mapping[Any, TrackedObject], frame: int) -> Tensor:
    """Mask logits ``(N, 1, H, W)`` of these objects on a frame where a prompt was removed."""
    conditioning = any(frame in o.new_conditioning for o in objects.values())
    return masks_of(tracker, state, list(objects), latest_results(objects, frame, conditioning))


def latest_results(objects: Mapping[Any, TrackedObject], frame: int, conditioning: bool) -> dict[Any, FrameResult]:
    """The latest result of each object that has one on the frame; see :meth:`TrackedObject.result_on`."""
    found = {obj_id: o.result_on(frame, conditioning) for obj_id, o in objects.items()}
    return {obj_id: result for obj_id, result in found.items() if result is not None}


def masks_of(tracker: Tracker, state: VideoSession, ids: Sequence[Any], results: Mapping[Any, FrameResult]) -> Tensor:
    """Mask logits ``(N, 1, H, W)`` at the video's size, of objects in the order of ``ids``; -1024 without a result."""
    masks = torch.full((len(ids), 1, *state.video_size), NO_OBJ_SCORE, device=state.device)
    present = [i for i, obj_id in enumerate(ids) if obj_id in results]
    if present:
        low_res = torch.cat([results[ids[i]].mask for i in present]).to(state.device)
        masks[present] = upsample_masks(low_res, state.video_size)
    return tracker.format_masks(state, masks, "logits")


def commit_prompts(tracker: Tracker, state: VideoSession) -> None:
    """Encodes the memories of new prompts' results, and moves these to the results that later frames attend to.

    Raises:
        RuntimeError: there is no object, or one has no conditioning frame; nothing has changed then.
    """
    if not state.objects:
        raise RuntimeError("no object to track: give points, a box or a mask first")
    for obj_id, tracked in state.objects.items():
        if not tracked.conditioning and not tracked.new_conditioning:
            raise no_prompt_error(obj_id)
    encoded = _with_memories(tracker, state)

    with UnchangedOnError(state, state.objects.values()):
        for tracked in state.objects.values():
            _commit(tracker, tracked, encoded)


def no_prompt_error(obj_id: Any) -> RuntimeError:
    """The error for an object without a prompt to track it from."""
    return RuntimeError(f"object {obj_id!r} has no points, box or mask to track it from; give one, or remove it")


def _with_memories(tracker: Tracker, state: VideoSession) -> dict[ResultKey, FrameResult]:
    """Results of new prompts with memories; the objects of one frame are one batch."""
    by_frame: dict[int, list[tuple[ResultKey, FrameResult]]] = {}
    for tracked in state.objects.values():
        for conditioning in (False, True):
            for frame, result in tracked.new_results(conditioning).items():
                by_frame.setdefault(frame, []).append(((id(tracked), conditioning, frame), result))
    encoded: dict[ResultKey, FrameResult] = {}
    for frame, entries in by_frame.items():
        keys, results = zip(*entries, strict=True)
        encoded.update(zip(keys, tracker.encode_memories(state, frame, results), strict=True))
    return encoded


def _commit(tracker: Tracker, tracked: TrackedObject, encoded: Mapping[ResultKey, FrameResult]) -> None:
    """Moves the object's new results to the kept ones."""
    if tracker.options.clear_non_cond_mem_around_input:
        for frame in [*tracked.new_tracked, *tracked.new_conditioning]:
            tracked.forget_around(frame, tracker.clearing_distance)
    if tracked.new_tracked or tracked.new_conditioning:
        tracked.others.clear()
    for conditioning in (False, True):
        for frame in tracked.new_results(conditioning):
            results = tracked.results(conditioning)
            if not conditioning:
                results.pop(frame, None)  # so that it becomes the newest: max_history removes the oldest
            results[frame] = encoded[id(tracked), conditioning, frame]
    tracked.new_tracked.clear()
    tracked.new_conditioning.clear()
    # Also a correction of a conditioning frame, unless it was stored as one: the original's rule.
    for frame in tracked.conditioning:
        tracked.tracked.pop(frame, None)
