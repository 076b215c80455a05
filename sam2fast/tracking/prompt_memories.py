"""Between prompting and tracking: results of new prompts get their memories, which later frames attend to."""

from typing import TYPE_CHECKING, Any

from sam2fast.tracking import steps
from sam2fast.tracking.state import FrameResult, TrackedObject, UnchangedOnError, VideoState

if TYPE_CHECKING:
    from sam2fast.sam2_video_predictor import SAM2VideoPredictor

# Which new result it is: the object's id(), whether it is a conditioning one, and the frame.
ResultKey = tuple[int, bool, int]


def remember_prompts(predictor: "SAM2VideoPredictor", state: VideoState) -> None:
    """Gives results of new prompts their memories, and puts them among the results to track from.

    Raises:
        RuntimeError: there is no object, or one has no conditioning frame; nothing has changed then.
    """
    if not state.objects:
        raise RuntimeError("no object to track: give points, a box or a mask first")
    check_prompted(state)
    remembered = _with_memories(predictor, state)

    with UnchangedOnError(state, state.objects.values()):
        for tracked in state.objects.values():
            _finalise(predictor, tracked, remembered)


def check_prompted(state: VideoState) -> None:
    """
    Raises:
        RuntimeError: an object has no prompt to track it from.
    """
    for obj_id, tracked in state.objects.items():
        if not tracked.conditioning and not tracked.new_conditioning:
            raise no_prompt_error(obj_id)


def no_prompt_error(obj_id: Any) -> RuntimeError:
    """What is raised for an object that cannot be tracked from anything."""
    return RuntimeError(f"object {obj_id!r} has no points, box or mask to track it from; give one, or remove it")


def _with_memories(predictor: "SAM2VideoPredictor", state: VideoState) -> dict[ResultKey, FrameResult]:
    """Results of new prompts with memories; the objects of one frame are one batch."""
    by_frame: dict[int, list[tuple[ResultKey, FrameResult]]] = {}
    for tracked in state.objects.values():
        for conditioning in (False, True):
            for frame, result in tracked.new_results(conditioning).items():
                by_frame.setdefault(frame, []).append(((id(tracked), conditioning, frame), result))
    remembered: dict[ResultKey, FrameResult] = {}
    for frame, entries in by_frame.items():
        keys, results = zip(*entries, strict=True)
        remembered.update(zip(keys, steps.remember(predictor, state, frame, results), strict=True))
    return remembered


def _finalise(
    predictor: "SAM2VideoPredictor", tracked: TrackedObject, remembered: dict[ResultKey, FrameResult]
) -> None:
    """The object's new results become kept ones."""
    if predictor.clear_non_cond_mem_around_input:
        for frame in [*tracked.new_tracked, *tracked.new_conditioning]:
            tracked.forget_around(frame, predictor._clearing_distance)
    for conditioning in (False, True):
        for frame in tracked.new_results(conditioning):
            results = tracked.results(conditioning)
            if not conditioning:
                results.pop(frame, None)  # so that it becomes the newest: max_history forgets the oldest
            results[frame] = remembered[id(tracked), conditioning, frame]
    tracked.new_tracked.clear()
    tracked.new_conditioning.clear()
    # Also a correction of a conditioning frame, unless it was stored as one: the original's rule.
    for frame in tracked.conditioning:
        tracked.tracked.pop(frame, None)
