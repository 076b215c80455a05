"""Stores an object's prompts and results by frame, and computes the order of frames in a propagation pass.

Imports only the standard library, because exported trackers contain this file.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

Result = TypeVar("Result")
Record = TypeVar("Record", bound="ObjectResults[Any]")


@dataclass
class ObjectResults(Generic[Result]):
    """Stores prompts and results of one object, by frame."""

    points: dict[int, Any] = field(default_factory=dict)  # coordinates (1, P, 2) and labels (1, P)
    masks: dict[int, Any] = field(default_factory=dict)  # (1, 1, S, S)
    # Results with memories, on conditioning frames and on other frames. A frame is in at most one dict.
    conditioning: dict[int, Result] = field(default_factory=dict)
    tracked: dict[int, Result] = field(default_factory=dict)
    # Results of prompts since the last propagation. The next propagation moves these results to the two dicts above.
    new_conditioning: dict[int, Result] = field(default_factory=dict)
    new_tracked: dict[int, Result] = field(default_factory=dict)
    # Direction of the last pass over each frame: True if backward. A frame that no pass tracked has no entry.
    reverse: dict[int, bool] = field(default_factory=dict)

    def is_initial(self, frame: int) -> bool:
        """Returns True if a prompt on the frame is initial, False if it is a correction that attends to memories."""
        return frame not in self.reverse or not self.conditioning

    def results(self, conditioning: bool) -> dict[int, Result]:
        """Returns the stored results of conditioning frames if ``conditioning``, else of other frames."""
        return self.conditioning if conditioning else self.tracked

    def new_results(self, conditioning: bool) -> dict[int, Result]:
        """Returns results of new prompts, on conditioning frames if ``conditioning``, else on other frames."""
        return self.new_conditioning if conditioning else self.new_tracked

    def result_on(self, frame: int, conditioning: bool) -> Result | None:
        """Returns the latest result on a frame: from :meth:`new_results`, else any stored result, else None."""
        for results in (self.new_results(conditioning), self.conditioning, self.tracked):
            if frame in results:
                return results[frame]
        return None

    def kept_on(self, frame: int) -> Result:
        """Returns the stored result of a frame. Raises ``KeyError`` if there is no result."""
        return self.conditioning[frame] if frame in self.conditioning else self.tracked[frame]

    def result_before(self, frame: int, reverse: bool) -> Result | None:
        """Returns the previous frame's result if the frame was prompted or tracked in the same direction, or None."""
        before = frame + 1 if reverse else frame - 1
        if before in self.conditioning:
            return self.conditioning[before]
        return self.tracked.get(before) if self.reverse.get(before) is reverse else None

    def _histories(self) -> list[dict[int, Result]]:
        """Returns the tracked results, a dict for each hypothesis."""
        return [self.tracked]

    def set_prompt(self, frame: int, points: Any, mask: Any) -> None:
        """Replaces the prompts on a frame by points or a mask. One of ``points`` and ``mask`` is None."""
        for prompt, prompts, others in ((points, self.points, self.masks), (mask, self.masks, self.points)):
            if prompt is not None:
                prompts[frame] = prompt
                others.pop(frame, None)

    def remove_prompts(self, frame: int) -> None:
        """Removes the prompts on a frame. The result of a conditioning frame becomes a tracked result."""
        for prompts in (self.points, self.masks, self.new_conditioning, self.new_tracked):
            prompts.pop(frame, None)
        if frame in self.conditioning:
            self.tracked[frame] = self.conditioning.pop(frame)
            self.reverse.pop(frame, None)

    def forget_around(self, frame: int, distance: int) -> None:
        """Drops tracked results up to ``distance`` frames from ``frame``, except the result of ``frame`` itself."""
        for results in self._histories():
            for near in [t for t in results if t != frame and abs(t - frame) <= distance]:
                del results[near]

    def commit(self, encoded: Mapping[int, Result], clearing_distance: int | None) -> None:
        """Moves the results of new prompts to the stored results.

        Args:
            encoded: Results with memories, by the ``id()`` of the new result without a memory.
            clearing_distance: Maximum distance in frames from a new result at which tracked results are dropped. If
                None, no result is dropped.
        """
        if clearing_distance is not None:
            for frame in [*self.new_tracked, *self.new_conditioning]:
                self.forget_around(frame, clearing_distance)
        for conditioning in (False, True):
            for frame, result in self.new_results(conditioning).items():
                results = self.results(conditioning)
                if not conditioning:
                    results.pop(frame, None)  # inserts the newest result last, since max_history removes the first
                results[frame] = encoded[id(result)]
        self.new_tracked.clear()
        self.new_conditioning.clear()
        # Drops tracked results on conditioning frames, even results of newer corrections, as in the official package.
        for frame in self.conditioning:
            self.tracked.pop(frame, None)


def latest_results(objects: Mapping[Any, ObjectResults[Result]], frame: int, conditioning: bool) -> dict[Any, Result]:
    """Returns :meth:`ObjectResults.result_on` of all objects by id. Omits objects without a result on the frame."""
    results = {obj_id: o.result_on(frame, conditioning) for obj_id, o in objects.items()}
    return {obj_id: result for obj_id, result in results.items() if result is not None}


def remaining_results(objects: Mapping[Any, ObjectResults[Result]], frame: int) -> dict[Any, Result]:
    """Returns the latest results on ``frame`` after a prompt on ``frame`` was removed."""
    return latest_results(objects, frame, any(frame in o.new_conditioning for o in objects.values()))


def requested(objects: Mapping[Any, Record], obj_ids: Collection[Any] | None = None) -> dict[Any, Record]:
    """Returns the objects with ids ``obj_ids`` in the order of ``objects``. If None, returns all objects.

    Raises:
        RuntimeError: If an id is unknown.
    """
    for obj_id in obj_ids or ():
        if obj_id not in objects:
            raise RuntimeError(f"there is no object {obj_id!r} to track; the ids are {list(objects)}")
    return {obj_id: o for obj_id, o in objects.items() if obj_ids is None or obj_id in obj_ids}


def still_in(current: Mapping[Any, Record], objects: Mapping[Any, Record]) -> dict[Any, Record]:
    """Returns the ``objects`` that ``current`` still contains under the same id."""
    return {obj_id: o for obj_id, o in objects.items() if current.get(obj_id) is o}


def check_prompted(objects: Mapping[Any, ObjectResults[Any]]) -> None:
    """Checks that every object can be tracked.

    Raises:
        RuntimeError: If there is no object, or an object has no conditioning frame.
    """
    if not objects:
        raise RuntimeError("no object to track: give points, a box or a mask first")
    for obj_id, record in objects.items():
        if not record.conditioning and not record.new_conditioning:
            raise no_prompt_error(obj_id)


def no_prompt_error(obj_id: Any) -> RuntimeError:
    """Returns the error for an object that cannot be tracked, because it has no prompt."""
    return RuntimeError(f"object {obj_id!r} has no points, box or mask to track it from; give one, or remove it")


def frames_of_pass(
    objects: Iterable[ObjectResults[Any]], num_frames: int, start: int | None, count: int | None, reverse: bool
) -> range:
    """Returns the frames of one pass over a video of ``num_frames`` frames, in order.

    Args:
        start: First frame. If None, the pass starts at the earliest conditioning frame of the objects.
        count: Maximum number of frames after ``start``. If None, the pass ends with the video.
        reverse: If True, the pass goes backward in time. A backward pass from frame 0 is empty, as in the official
            package.
    """
    if start is None:
        start = min(t for o in objects for t in o.conditioning)
    if count is None:
        count = num_frames
    if not reverse:
        return range(start, min(start + count, num_frames - 1) + 1)
    return range(start, max(start - count, 0) - 1, -1) if 0 < start < num_frames else range(0)
