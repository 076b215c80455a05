"""Matches a detector's boxes with the objects of a stream, adds new objects, and finds lost objects."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from sam2fast.kernels.mask_ops import masks_to_boxes
from sam2fast.prompt_inputs import check_boxes, check_numbers, plain_id
from sam2fast.tracking.outputs import FrameResult
from sam2fast.tracking.prompting import add_points_or_box, masks_of
from sam2fast.tracking.saved_state import StateError
from sam2fast.tracking.session import VideoSession
from sam2fast.tracking.tracker import Tracker
from sam2fast.utils.errors import requires
from sam2fast.utils.numbers import at_least

Label: TypeAlias = str | int
Floats: TypeAlias = NDArray[np.float64]
DETECTIONS = "detections"  # key of :class:`DetectedObjects` in a saved stream


class LastSeen(NamedTuple):
    """Stores the label of an object that a box added, and the last frame on which a box matched the object."""

    frame: int
    label: Label | None


@dataclass(frozen=True)
class DetectedObjects:
    """Stores labels and last matches of the stream's objects that were added by boxes.

    Args:
        seen: Last matching frame and label of each object, by object id.
        next_id: Id of the next new object. Ids of removed objects are not used again.
    """

    seen: Mapping[Any, LastSeen] = field(default_factory=dict)
    next_id: int = 1

    def without(self, obj_ids: Iterable[Any]) -> "DetectedObjects":
        """Returns a copy without the objects ``obj_ids``. Ignores unknown ids."""
        removed = set(obj_ids)
        return replace(self, seen={i: seen for i, seen in self.seen.items() if i not in removed})

    def facts(self) -> dict[str, Any]:
        """Returns ids, frames and labels as JSON-serializable values."""
        return {"next_id": self.next_id, "seen": [[obj_id, *seen] for obj_id, seen in self.seen.items()]}

    @classmethod
    def of_facts(cls, facts: Any, ids: Iterable[Any]) -> "DetectedObjects":
        """Returns the objects from the result of :meth:`facts`, for a stream with the object ids ``ids``.

        Raises:
            StateError: If ``facts`` is invalid.
        """
        try:
            seen = {obj_id: LastSeen(frame, label) for obj_id, frame, label in facts["seen"]}
            entries = [facts["next_id"], *seen, *(one.frame for one in seen.values())]
            labels = all(one.label is None or isinstance(one.label, str | int) for one in seen.values())
            if labels and all(type(x) is int and x >= 0 for x in entries) and seen.keys() <= set(ids):
                return cls(seen, facts["next_id"])
        except (KeyError, TypeError, ValueError):
            pass
        raise StateError(f"the state cannot be restored: its detections are {str(facts)[:60]}")


@dataclass(frozen=True)
class Detections:
    """Stores a detector's boxes on one frame, after checks.

    Args:
        boxes: Boxes ``(N, 4)`` fp32 XYXY in pixels, on the CPU, clipped to the frame.
        labels: N labels. None for a box without a label.
        scores: N scores. Infinity for a box without a score.
    """

    boxes: Tensor
    labels: Sequence[Label | None]
    scores: Sequence[float]

    @classmethod
    def of(cls, boxes: Any, labels: Any, scores: Any, size: tuple[int, int]) -> "Detections":
        """Checks and converts the arguments of ``VideoStream.add_detections`` on a frame of ``size`` (height, width).

        Raises:
            ValueError: If boxes have an invalid shape or swapped corners, the number of labels or scores differs from
                the number of boxes, a label is neither a string nor an integer, or a score is not a number.
        """
        corners = check_boxes(boxes)
        if corners.ndim > 2:
            raise ValueError(f"boxes has shape {tuple(corners.shape)}; expected (N, 4)")
        height, width = size
        corners = corners.reshape(-1, 4).clamp(min=0).minimum(corners.new_tensor([width, height, width, height]))
        if isinstance(labels, str) or not isinstance(labels, Iterable | None):
            raise ValueError(f"labels is {labels!r}; expected text or an integer for each box")
        count = len(corners)
        names = [None] * count if labels is None else [_label(row, value) for row, value in enumerate(labels)]
        numbers = [math.inf] * count if scores is None else check_numbers(scores, "scores").flatten().tolist()
        for name, values in (("labels", names), ("scores", numbers)):
            if len(values) != count:
                raise ValueError(f"{len(values)} {name} for {count} boxes; expected one for each")
        return cls(corners, names, numbers)


def _label(row: int, value: Any) -> Label:
    plain = plain_id(value)
    if isinstance(plain, float) and plain.is_integer():  # detectors return classes in float tensors
        plain = int(plain)
    if not isinstance(plain, str | int):
        raise ValueError(f"labels[{row}] is {value!r}; expected text or an integer")
    return plain


def check_rules(min_iou: Any, max_unseen: Any, start_score: Any) -> None:
    """Checks the settings of ``VideoStream.add_detections``.

    Raises:
        TypeError: If ``max_unseen`` is not an integer.
        ValueError: If a setting is out of range.
    """
    at_least(1, max_unseen, "max_unseen")
    for name, value in (("min_iou", min_iou), ("start_score", start_score)):
        if not isinstance(value, int | float) or not math.isfinite(value):
            raise ValueError(f"{name} is {value!r}; expected a number")
    if not 0 < min_iou <= 1:
        raise ValueError(f"min_iou is {min_iou}; expected more than 0, and at most 1")


def add_detections(
    tracker: Tracker,
    state: VideoSession,
    frame: int,
    detected: DetectedObjects,
    detections: Detections,
    min_iou: float,
    max_unseen: int,
    start_score: float,
) -> tuple[list[Any], DetectedObjects, list[Any]]:
    """Matches boxes with the objects' masks on the frame. Each box without a match prompts a new object.

    Returns:
        Three values: the object id of each box (None for a box without an object), the updated ``detected``, and the
        ids of the objects to remove.

    Raises:
        ImportError: If scipy is not installed.
    """
    objects = list(state.objects)
    masks = masks_of(tracker, state, objects, newest_results(tracker, state, frame))
    around = masks_to_boxes(masks[:, 0] > 0).cpu().double().numpy()
    around[:, 2:] += 1  # boxes include their last row and column of pixels
    seen = dict(detected.seen)
    labels = [seen[i].label if i in seen else None for i in objects]
    alike = [None in (one, other) or one == other for one in detections.labels for other in labels]
    may_match = np.array(alike, dtype=bool).reshape(len(detections.labels), len(labels))
    matched = match_boxes(detections.boxes.double().numpy(), around, may_match, min_iou)
    next_id = max([detected.next_id, *(i + 1 for i in objects if isinstance(i, int))])
    ids: list[Any] = []
    for row, (box, label, score) in enumerate(zip(detections.boxes, detections.labels, detections.scores, strict=True)):
        obj_id = None
        if row in matched:
            obj_id = objects[matched[row]]
            if obj_id in seen:
                seen[obj_id] = seen[obj_id]._replace(frame=frame)
        elif score >= start_score and (box[2:] > box[:2]).all():
            obj_id, next_id = next_id, next_id + 1
            prompt = None, None, True, True, box
            tracker.call("add_new_points_or_box", add_points_or_box, state, frame, obj_id, *prompt)
            seen[obj_id] = LastSeen(frame, label)
        ids.append(obj_id)
    lost = [obj_id for obj_id, one in seen.items() if frame - one.frame >= max_unseen]
    return ids, DetectedObjects(seen, next_id).without(lost), lost


def newest_results(tracker: Tracker, state: VideoSession, frame: int) -> dict[Any, FrameResult]:
    """Returns the latest results on a frame by object id, from prompts or tracking. Omits objects without a result."""
    results = {i: o.result_on(frame, tracker.makes_conditioning(o, frame)) for i, o in state.objects.items()}
    return {obj_id: result for obj_id, result in results.items() if result is not None}


def match_boxes(boxes: Floats, others: Floats, may_match: NDArray[np.bool_], min_iou: float) -> dict[int, int]:
    """Matches two sets of boxes one to one, with the largest possible sum of IoUs.

    Args:
        boxes: Boxes ``(N, 4)`` XYXY.
        others: Boxes ``(M, 4)`` XYXY. A box with swapped corners counts as empty.
        may_match: True for pairs that may match, ``(N, M)``.
        min_iou: Minimum IoU of a matched pair, above 0.

    Returns:
        Dictionary of matched pairs: keys are row indices of ``boxes``, values are row indices of ``others``.

    Raises:
        ImportError: If scipy is not installed.
    """
    with requires("boxes are matched by scipy: pip install 'sam2fast[detections]'"):
        from scipy.optimize import linear_sum_assignment
    ious = np.where(may_match, box_ious(boxes, others), 0)
    ious[ious < min_iou] = 0
    pairs = zip(*linear_sum_assignment(ious, maximize=True), strict=True)
    return {int(row): int(other) for row, other in pairs if ious[row, other] > 0}


def box_ious(boxes: Floats, others: Floats) -> Floats:
    """Returns the IoUs ``(N, M)`` of boxes ``(N, 4)`` and ``(M, 4)`` XYXY. The IoU of an empty box is 0."""
    low = np.maximum(boxes[:, None, :2], others[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], others[None, :, 2:])
    shared = (high - low).clip(min=0).prod(axis=2)
    areas = [(b[:, 2:] - b[:, :2]).clip(min=0).prod(axis=1) for b in (boxes, others)]
    return shared / np.maximum(areas[0][:, None] + areas[1][None] - shared, np.finfo(float).tiny)
