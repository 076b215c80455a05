"""Tracks a session's objects from frame to frame, in one pass over a video."""

import copy
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from typing import Any, TypeAlias

import numpy as np
import torch
from tqdm import tqdm

from sam2fast.engine.derived import Constants
from sam2fast.engine.graphs import CudaGraphs
from sam2fast.engine.replay import GraphCalls, GraphPool
from sam2fast.kernels._dispatch import why_no_triton
from sam2fast.kernels._warm import collecting, compile_in_processes
from sam2fast.tracking.memory_bank import BUCKETS
from sam2fast.tracking.object_results import no_prompt_error, requested, still_in
from sam2fast.tracking.outputs import Output, TrackScores
from sam2fast.tracking.prompting import add_points_or_box, commit_prompts
from sam2fast.tracking.session import TrackedObject, VideoSession
from sam2fast.tracking.step_runner import StepRunner
from sam2fast.tracking.strategies.sam2long import Pathways
from sam2fast.tracking.tracker import Tracker
from sam2fast.utils.numbers import at_least
from sam2fast.video_io import open_frames

# Progress display: True for a bar on stderr, False for no display, or a function that wraps the frame numbers.
Progress: TypeAlias = bool | Callable[[Iterable[int]], Iterable[int]]
# Length of the blank video for warm-up, long enough to encode object pointers as in any longer video.
WARMUP_FRAMES = 17
# Larger batches use the GPU better, but need more GPU memory. See docs/tracking.md, "What a frame starts".
FRAMES_AT_ONCE_ON_CUDA = 4


def frames_at_once(encode_ahead: Any, device: torch.device) -> int:
    """Returns the number of frames to encode as one batch. By default, 4 on CUDA and 1 on other devices.

    Raises:
        ValueError: If ``encode_ahead`` is below 1.
        TypeError: If ``encode_ahead`` is not an integer.
    """
    if encode_ahead is None:
        return FRAMES_AT_ONCE_ON_CUDA if device.type == "cuda" else 1
    return at_least(1, encode_ahead, "encode_ahead")


def propagate(
    tracker: Tracker,
    state: VideoSession,
    order: range,
    reverse: bool,
    return_scores: bool,
    progress: Progress,
    encode_ahead: int,
    output: Output,
    obj_ids: Collection[Any] | None = None,
) -> Iterator[tuple[Any, ...]]:
    """Runs one pass with the arguments of ``propagate_in_video``, and yields the results frame by frame.

    If the strategy has several hypotheses, all frames are tracked before the first result is yielded.

    Raises:
        RuntimeError: If an object's last prompt was removed during the pass.
        VideoError: If a frame cannot be read.
    """
    objects = requested(state.objects, obj_ids)
    pathways = Pathways() if state.strategy.hypotheses > 1 else None
    try:
        for frame in with_progress(order, progress):
            objects = still_in(state.objects, objects)
            if not objects:
                break
            for obj_id, tracked in objects.items():
                if not tracked.conditioning:
                    raise no_prompt_error(obj_id)
            remaining = order[order.index(frame) :]
            with tracker.steps.one_step(state.features):
                tracker.encode_batch(state, objects.values(), remaining, encode_ahead)
                results, track_scores = tracker.track_frame(state, objects, frame, reverse)
                tracker.encode_ahead(state, remaining[1:], encode_ahead)
            if pathways is not None:
                pathways.add(frame, {i: (result, *result.others) for i, result in results.items()})
                tracker.store_results(state, objects, frame, reverse, results)
                continue
            masks = tracker.format_masks(state, track_scores.low_res_logits, output)
            scores = (track_scores.to_keep(),) if return_scores else ()
            tracker.store_results(state, objects, frame, reverse, results)
            yield (frame, _ids(state, objects), masks, *scores)
    finally:  # runs even if the caller closes the generator
        state.features.upcoming = ()
    if pathways is None:
        return
    for frame in pathways.frames:  # after the pass, yields the best hypotheses
        objects = still_in(state.objects, objects)
        if not objects:
            return
        track_scores = TrackScores(*pathways.best(frame, objects, state.device))
        masks = tracker.format_masks(state, track_scores.low_res_logits, output)
        yield (frame, _ids(state, objects), masks, *((track_scores,) if return_scores else ()))


def merge_passes(
    begins: Mapping[Any, int], forward: Iterator[tuple[Any, ...]], backward: Iterator[tuple[Any, ...]]
) -> Iterator[tuple[Any, ...]]:
    """Merges the results of two passes, and yields each frame once. See ``SAM2VideoPredictor.propagate_both``.

    Args:
        begins: First prompted frame of each object.
        forward: Results of the forward pass, from the first frame of ``begins``.
        backward: Results of the backward pass, from the last frame of ``begins``.
    """
    last, waiting = max(begins.values()), {}
    for answer in forward:
        if answer[0] < last:
            waiting[answer[0]] = answer
        else:
            yield answer
    for answer in backward:
        frame, ids, *results = answer
        if frame == last:
            continue
        _, other_ids, *others = waiting.pop(frame, answer)
        rows = {obj_id: i for i, obj_id in enumerate(other_ids)}
        tracked_forward = [obj_id in rows and begins.get(obj_id, frame) <= frame for obj_id in ids]
        if any(tracked_forward):
            order = [rows[o] if f else len(rows) + i for i, (o, f) in enumerate(zip(ids, tracked_forward, strict=True))]
            results = [_joined(pair, order) for pair in zip(others, results, strict=True)]
        yield (frame, ids, *results)


def _joined(pair: tuple[Any, Any], order: list[int]) -> Any:
    """Concatenates the masks or scores of two passes, and selects the rows ``order``."""
    if isinstance(pair[0], TrackScores):
        return TrackScores.joined(pair, order)
    return torch.cat(pair)[torch.tensor(order, device=pair[0].device)]


class _Rehearsal(CudaGraphs):
    """Recorder that runs functions instead of recording them."""

    def record(self, function: Callable[[], None]) -> Callable[[], None]:
        return function


@torch.inference_mode()
def warm_up(tracker: Tracker, num_objects: int, size: tuple[int, int], output: Output, encode_ahead: int) -> None:
    """Compiles kernels and tracks a blank video. See ``SAM2VideoPredictor.warmup``."""
    if tracker.model.device.type == "cuda" and why_no_triton(tracker.model.device) is None:
        rehearsal = copy.copy(tracker)
        if tracker.uses_recordings:  # runs the functions eagerly, since recording requires compiled kernels
            calls = [GraphCalls(GraphPool(tracker.model.device, _Rehearsal)) for _ in range(2)]
            rehearsal.steps = StepRunner(tracker.model, lambda model, ahead=False: calls[ahead])
        # Kernels are collected without launching, so constants computed here are invalid, and are discarded afterwards.
        with collecting() as launches, Constants().in_use(), suppress(Exception):  # the second run raises errors
            _track_blank(rehearsal, num_objects, size, output, encode_ahead)
        compile_in_processes(launches)
    _track_blank(tracker, num_objects, size, output, encode_ahead)


def _track_blank(tracker: Tracker, num_objects: int, size: tuple[int, int], output: Output, encode_ahead: int) -> None:
    height, width = size
    blank = [np.zeros((height, width, 3), np.uint8)] * WARMUP_FRAMES
    prefetch = tracker.uses_recordings
    frames = open_frames(blank, tracker.model.image_size, device=tracker.model.device, prefetch=prefetch)
    state = tracker.new_state(frames)
    tracker.encode(state, [0])
    state.features.reuse(None)  # all frames are equal, so reuse would encode only the first frame
    click = [[width / 2, height / 2]], [1], True, True, None
    add_points_or_box(tracker, state, 0, 0, *click)
    commit_prompts(tracker, state)
    prompted = state.objects[0]
    # Begins with the largest number of objects, so that the pools do not grow later.
    counts = [count for count in BUCKETS if count < num_objects] if tracker.uses_recordings else []
    for count in [num_objects, *reversed(counts)]:
        objects: dict[Any, TrackedObject] = {i: prompted.copy() for i in range(count)}
        with tracker.steps.one_step(state.features):
            results, scores = tracker.track_frame(state, objects, 1, reverse=False)
        tracker.format_masks(state, scores.low_res_logits, output)
    if encode_ahead > 1:
        tracker.encode(state, range(2, 2 + min(encode_ahead, WARMUP_FRAMES - 2)))
    # Warms up a correction, which attends to memories, unlike the first click.
    tracker.store_results(state, {0: prompted}, 1, False, {0: results[0]})
    add_points_or_box(tracker, state, 1, 0, *click)


def _ids(state: VideoSession, objects: dict[Any, TrackedObject]) -> list[Any]:
    """Returns the ids of ``objects``. If these are all objects of the session, returns ``state.obj_ids``."""
    ids = list(objects)
    return state.obj_ids if state.obj_ids == ids else ids


def with_progress(order: Iterable[int], progress: Progress) -> Iterable[int]:
    """Returns an iterable of the frame numbers that displays progress."""
    if callable(progress):
        return progress(order)
    return tqdm(order, desc="propagate in video", disable=not progress)
