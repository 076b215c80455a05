"""One pass over a video: which frames in which order, every object on each of them, and what is kept of it."""

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from tqdm import tqdm

from sam2fast.tracking.outputs import Output, returned_masks
from sam2fast.tracking.prompt_memories import no_prompt_error
from sam2fast.tracking.scores import TrackScores
from sam2fast.tracking.state import FrameResult, TrackedObject, VideoState

if TYPE_CHECKING:
    from sam2fast.sam2_video_predictor import SAM2VideoPredictor

# A bar on stderr, none, or a function that wraps the numbers of the frames.
Progress: TypeAlias = bool | Callable[[Iterable[int]], Iterable[int]]


def frames_of_pass(state: VideoState, start: int | None, count: int | None, reverse: bool) -> range:
    """The frames of one pass in their order.

    Args:
        start: the first; None for the earliest conditioning frame.
        count: how many follow it at most; None for all.
        reverse: backwards in time; from frame 0 there is nothing then, as in the original.
    """
    if start is None:
        start = min(t for o in state.objects.values() for t in o.conditioning)
    if count is None:
        count = state.num_frames
    if not reverse:
        return range(start, min(start + count, state.num_frames - 1) + 1)
    if not 0 < start < state.num_frames:
        return range(0)
    return range(start, max(start - count, 0) - 1, -1)


def track_frames(
    predictor: "SAM2VideoPredictor",
    state: VideoState,
    order: range,
    reverse: bool,
    return_scores: bool,
    progress: Progress,
    encode_ahead: int,
    output: Output,
) -> Iterator[tuple[Any, ...]]:
    """The answers of ``propagate_in_video``, one for each frame; the arguments are its own.

    Raises:
        RuntimeError: an object's last prompt was taken back meanwhile.
        VideoError: a frame cannot be read.
    """
    objects = dict(state.objects)
    for frame in _with_progress(order, progress):
        objects = {obj_id: o for obj_id, o in objects.items() if state.objects.get(obj_id) is o}
        if not objects:
            return
        for obj_id, tracked in objects.items():
            if not tracked.conditioning:
                raise no_prompt_error(obj_id)
        coming = order[order.index(frame) :]
        predictor._encode_batch(state, objects.values(), coming, encode_ahead)
        results, track_scores = track_frame(predictor, state, objects, frame, reverse)
        predictor._begin_ahead(state, objects.values(), coming[1:], encode_ahead)
        masks = returned_masks(predictor, state, track_scores.low_res_logits, output)
        scores = (track_scores,) if return_scores else ()
        store_results(predictor, state, objects, frame, reverse, results)
        yield (frame, _ids(state, objects), masks, *scores)


def track_frame(
    predictor: "SAM2VideoPredictor",
    state: VideoState,
    objects: dict[Any, TrackedObject],
    frame: int,
    reverse: bool,
) -> tuple[dict[Any, FrameResult], TrackScores]:
    """Results of all objects on a frame by id, and their masks and scores on the device; nothing is stored."""
    to_track = {obj_id: o for obj_id, o in objects.items() if frame not in o.conditioning}
    prompted = {obj_id: o.conditioning[frame] for obj_id, o in objects.items() if frame in o.conditioning}
    results, parts = dict(prompted), []
    if prompted:
        low_res = torch.cat([result.mask for result in prompted.values()]).to(state.device)
        parts.append(TrackScores.of(list(prompted.values()), low_res))
    if to_track:
        track = predictor._tracker()
        new, scores = track(predictor, state, list(to_track.values()), frame, reverse, predictor.fill_hole_area)
        results.update(zip(to_track, new, strict=True))
        parts.append(scores)
    rank = {obj_id: i for i, obj_id in enumerate(results)}
    return {i: results[i] for i in objects}, TrackScores.joined(parts, [rank[i] for i in objects])


def store_results(
    predictor: "SAM2VideoPredictor",
    state: VideoState,
    objects: dict[Any, TrackedObject],
    frame: int,
    reverse: bool,
    results: dict[Any, FrameResult],
) -> None:
    """Keeps what :func:`track_frame` found, for all objects, also when Ctrl-C comes amid it."""

    def store() -> None:
        for obj_id, tracked in objects.items():
            if frame not in tracked.conditioning:
                tracked.keep_tracked(frame, results[obj_id], state.max_history)
            elif predictor.clear_non_cond_mem_around_input:
                tracked.forget_around(frame, predictor._clearing_distance)
            tracked.reverse[frame] = reverse

    try:
        store()
    except BaseException:  # Ctrl-C: the frame is kept for all objects; once more changes nothing for the first
        store()
        raise


def _ids(state: VideoState, objects: dict[Any, TrackedObject]) -> list[Any]:
    """The ids of the objects being tracked: the state's own list as long as these are all there are."""
    ids = list(objects)
    return state.obj_ids if state.obj_ids == ids else ids


def _with_progress(order: range, progress: Progress) -> Iterable[int]:
    if callable(progress):
        return progress(order)
    return tqdm(order, desc="propagate in video", disable=not progress)
