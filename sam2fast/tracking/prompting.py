"""Checks, applies and removes prompts of a session, and commits them before tracking."""

import math
import warnings
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from sam2fast.kernels.mask_ops import upsample_masks
from sam2fast.modeling.sam2_base import NO_OBJ_SCORE
from sam2fast.prompt_inputs import CPU, PromptWarning, check_boxes, check_numbers, check_points
from sam2fast.tracking.object_results import check_prompted, latest_results, remaining_results, requested
from sam2fast.tracking.outputs import FrameResult
from sam2fast.tracking.session import TrackedObject, UnchangedOnError, VideoSession
from sam2fast.tracking.shared_prompts import exempt_pairs
from sam2fast.tracking.tracker import Tracker
from sam2fast.utils.async_copies import copy_to_device

EXPECTED = "expected an array (H, W) of bool or numbers"
# Maximum value of a mask. The model multiplies masks by 20 to get logits, and the logits must not overflow.
LARGEST_VALUE = 1e6


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
    """Applies points or a box. See ``SAM2VideoPredictor.add_new_points_or_box``."""
    tracked = state.objects.get(obj_id) or TrackedObject()
    size = state.video_size if normalize_coords else (1, 1)
    model, warning = tracker.model, tracker.steps.prompt_warning
    clicks = click_prompt(points, labels, box, clear_old_points, size, model.image_size, model.device, warning)
    if not clear_old_points and frame in tracked.points:
        clicks = {name: torch.cat([tracked.points[frame][name], new], dim=1) for name, new in clicks.items()}
    return apply_prompt(tracker, state, frame, obj_id, tracked, points=clicks)


def add_mask(
    tracker: Tracker, state: VideoSession, frame: int, obj_id: Any, mask: Any
) -> tuple[int, list[Any], Tensor]:
    """Applies a mask. See ``SAM2VideoPredictor.add_new_mask``."""
    tracked = state.objects.get(obj_id) or TrackedObject()
    prompt = mask_prompt(mask, tracker.model.image_size, tracker.model.device)
    return apply_prompt(tracker, state, frame, obj_id, tracked, mask=prompt)


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
    """Predicts an object from a prompt, and stores prompt and result. An error leaves the session unchanged.

    Args:
        tracked: Object before this prompt, possibly a new object.
        points: All points of the object on the frame, as returned by :func:`click_prompt`.
        mask: Mask ``(1, 1, S, S)``. Exclusive with ``points``.

    Returns:
        The frame, the ids of all objects, and the objects' mask logits ``(objects, 1, H, W)`` on the frame.
    """
    conditioning = tracker.makes_conditioning(tracked, frame)
    previous = tracked.result_on(frame, conditioning) if mask is None else None
    previous_mask = None if previous is None else previous.mask
    result = tracker.predict_prompted(state, tracked, frame, points, mask, previous_mask)
    stored_mask = None if mask is None else mask.to("cpu", copy=True)
    results = {**latest_results(state.objects, frame, conditioning), obj_id: result}
    masks = masks_of(tracker, state, list({**state.objects, obj_id: tracked}), results)

    # Only Ctrl-C can interrupt the following lines.
    with UnchangedOnError(state, [tracked]):
        tracked.set_prompt(frame, points, stored_mask)
        tracked.new_results(conditioning)[frame] = result
        if obj_id not in state.objects:
            state.add(obj_id, tracked)
    return frame, state.obj_ids, masks


def clear_prompts(
    tracker: Tracker, state: VideoSession, frame: int, obj_id: Any, need_output: bool
) -> tuple[int, list[Any], Tensor] | None:
    """Removes an object's prompts on a frame. If ``need_output``, returns the same tuple as :func:`apply_prompt`."""
    objects = dict(state.objects)
    if obj_id in objects:
        objects[obj_id] = objects[obj_id].copy()
        objects[obj_id].remove_prompts(frame)
    masks = masks_of(tracker, state, list(objects), remaining_results(objects, frame)) if need_output else None
    if obj_id in objects:
        with UnchangedOnError(state, [state.objects[obj_id]]):
            state.objects[obj_id].remove_prompts(frame)
    return None if masks is None else (frame, state.obj_ids, masks)


def remove_object(
    tracker: Tracker, state: VideoSession, obj_id: Any, strict: bool, need_output: bool
) -> list[tuple[int, Tensor]]:
    """Removes an object. See ``SAM2VideoPredictor.remove_object``.

    Returns:
        Pairs of a frame and mask logits ``(objects, 1, H, W)`` of the other objects, for each frame with prompts of the
        removed object. Empty if ``need_output`` is False.

    Raises:
        RuntimeError: If the id is unknown and ``strict`` is True.
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
    updated = [(t, masks_of(tracker, state, list(others), remaining_results(others, t))) for t in frames]
    state.remove(obj_id)
    return updated


def masks_of(tracker: Tracker, state: VideoSession, ids: Sequence[Any], results: Mapping[Any, FrameResult]) -> Tensor:
    """Returns mask logits ``(N, 1, H, W)`` at the video's size; -1024 for objects without a result."""
    masks = torch.full((len(ids), 1, *state.video_size), NO_OBJ_SCORE, device=state.device)
    present = [i for i, obj_id in enumerate(ids) if obj_id in results]
    if present:
        low_res = torch.cat([results[ids[i]].mask for i in present]).to(state.device)
        masks[present] = upsample_masks(low_res, state.video_size)
    return tracker.format_masks(state, masks, "logits")


def commit_prompts(tracker: Tracker, state: VideoSession, obj_ids: Collection[Any] | None = None) -> None:
    """Encodes memories for the results of new prompts, and stores the results for later frames to attend to.

    Args:
        obj_ids: Ids of the objects with these prompts. None: all objects.

    Raises:
        RuntimeError: If an id is unknown, there is no object, or an object has no conditioning frame. The session is
            unchanged.
    """
    objects = requested(state.objects, obj_ids)
    check_prompted(objects)
    if not any(tracked.new_tracked or tracked.new_conditioning for tracked in objects.values()):
        return
    encoded = _with_memories(tracker, state, objects.values())
    exempt = exempt_pairs(state) if state.strategy.sees_others else state.exempt
    distance = tracker.clearing_distance if tracker.model.clear_non_cond_mem_around_input else None
    with UnchangedOnError(state, objects.values()):
        state.exempt = exempt
        for tracked in objects.values():
            tracked.commit(encoded, distance)


def _with_memories(tracker: Tracker, state: VideoSession, objects: Iterable[TrackedObject]) -> dict[int, FrameResult]:
    """Encodes memories of new results, one batch per frame. Maps each ``id(result)`` to a result with a memory."""
    by_frame: dict[int, list[FrameResult]] = {}
    for tracked in objects:
        for new in (tracked.new_tracked, tracked.new_conditioning):
            for frame, result in new.items():
                by_frame.setdefault(frame, []).append(result)
    encoded: dict[int, FrameResult] = {}
    for frame, results in by_frame.items():
        encoded.update(zip(map(id, results), tracker.encode_memories(state, frame, results), strict=True))
    return encoded


def click_prompt(
    points: Any,
    labels: Any,
    box: Any,
    clear_old_points: bool,
    size: tuple[int, int],
    image_size: int,
    device: torch.device,
    warning: PromptWarning | None = None,
) -> dict[str, Tensor]:
    """Returns ``point_coords (1, P, 2)`` in the model's input pixels, box corners first, and ``point_labels (1, P)``.

    Args:
        points, labels, box, clear_old_points: Arguments of ``add_new_points_or_box``.
        size: Size (height, width) of the coordinate system of ``points`` and ``box``.
        image_size: Side of the model's input.
        device: Device of the tensors.
        warning: Object that warns of points outside the frame.

    Raises:
        ValueError: If there are no points and no box, or an argument has an invalid shape or value.
    """
    if points is None and labels is None and box is None:
        raise ValueError("at least one of points or box must be given")
    # Computes on the CPU, since the checks read values, and reading them from a GPU would synchronize.
    coords, types = torch.zeros(1, 0, 2, device=CPU), torch.zeros(1, 0, dtype=torch.int32, device=CPU)
    if not (_is_empty(points) and _is_empty(labels)):
        coords, types = check_points(points, labels)
        if warning is not None:
            warning.check_points(coords, types, size)
    if box is not None:
        if not clear_old_points:
            raise ValueError("a box cannot join earlier points, it comes before them; use clear_old_points=True")
        corners = check_numbers(box, "box")
        if corners.numel() != 4:
            raise ValueError(f"box has shape {tuple(corners.shape)}; expected (4), the box of one object")
        corners = check_boxes(corners.reshape(1, 4)).reshape(1, 2, 2)
        types = torch.cat([types.new_tensor([[2, 3]]), types], dim=1)
        coords = torch.cat([corners, coords], dim=1)
    if len(coords) != 1 or not types.numel():
        raise ValueError(f"got {len(coords)} prompts with {types.shape[1]} points each; expected one with at least 1")
    height, width = size
    coords = coords / coords.new_tensor([width, height]) * image_size
    return {"point_coords": copy_to_device(coords, device), "point_labels": copy_to_device(types, device)}


def _is_empty(points_or_labels: Any) -> bool:
    return points_or_labels is None or not check_numbers(points_or_labels, "points").numel()


def mask_prompt(mask: Any, image_size: int, device: torch.device) -> Tensor:
    """Converts a mask ``(H, W)`` of any size to ``(1, 1, S, S)`` fp32. Arrays become binary masks.

    Raises:
        ValueError: If ``mask`` is not an array, has an invalid shape, or contains NaN, infinite or very large values.
    """
    mask = _as_numbers(mask)
    if mask.ndim != 2 or not mask.numel():
        raise ValueError(f"the mask has shape {tuple(mask.shape)}; expected (H, W)")
    if mask.dtype != torch.bool:
        largest = float(mask.float().abs().amax())  # NaN if the mask contains NaN
        if not math.isfinite(largest):
            raise ValueError("the mask holds NaN or infinite values")
        if largest > LARGEST_VALUE:
            raise ValueError(f"the mask holds {largest:g}, which is too large; expected 0 and 1")
    mask = copy_to_device(mask[None, None], device).float()
    size = (image_size, image_size)
    if mask.shape[-2:] == size:
        return mask
    return (F.interpolate(mask, size, mode="bilinear", align_corners=False, antialias=True) >= 0.5).float()


def _as_numbers(mask: Any) -> Tensor:
    """Returns a tensor unchanged. Converts an array of any strides and byte order to a bool tensor."""
    if isinstance(mask, Tensor):
        if mask.is_complex() or mask.is_meta or mask.layout != torch.strided:
            raise ValueError(f"the mask is a tensor of {mask.dtype}, {mask.layout}, on {mask.device}; {EXPECTED}")
        return mask
    try:
        array = np.asarray(mask)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"the mask cannot be read: {error}; {EXPECTED}") from error
    if array.dtype.kind not in "biuf":
        raise ValueError(f"the mask is {type(mask).__name__} of {array.dtype}; {EXPECTED}")
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise ValueError("the mask holds NaN or infinite values")
    if array.dtype.kind in "if" and ((array < 0) | (array % 1 != 0)).any():
        warnings.warn(
            "the mask has negative or fractional values; every nonzero pixel counts as the object, as in the official "
            "package; pass mask > 0 for logits, or mask > 0.5 for probabilities",
            stacklevel=2,
        )
    return torch.from_numpy(array.astype(bool, order="C"))
