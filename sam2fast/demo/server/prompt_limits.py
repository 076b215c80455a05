"""Checks of prompts before the model sees them: their values, and the memory that they need."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from sam2fast.compat.video_state import VideoState
from sam2fast.demo.server.demo_errors import BadInputError, TooManyError
from sam2fast.demo.server.settings import MEBIBYTE
from sam2fast.modeling.memory_selection import MemoryRules
from sam2fast.sam2_video_predictor import SAM2VideoPredictor

BACKGROUND, FOREGROUND, BOX_FIRST, BOX_LAST = 0, 1, 2, 3
MAX_POINTS = 256  # of one object on one frame
MAX_OBJECTS = 32
MARGIN = 0.1  # how far outside of the image a point may lie, as a share of its side
FLOAT_BYTES = 4


def check_points(points: Sequence[Sequence[float]], labels: Sequence[int], before: int = 0) -> None:
    """Checks the points of a prompt.

    Args:
        points: pairs (x, y) in [0, 1], shares of the image's width and height.
        labels: one for each point: 1 on the object, 0 not on it. The first two may be 2 and 3: the upper left and
            the lower right corner of a box.
        before: number of points that these are added to.

    Raises:
        BadInputError: a point or label is invalid; names it and says why.
    """
    if len(points) != len(labels):
        raise BadInputError(f"there are {len(points)} points and {len(labels)} labels; expected one label per point")
    if len(points) + before > MAX_POINTS:
        raise BadInputError(f"{len(points) + before} points are too many; an object may have {MAX_POINTS} on a frame")
    for point in points:
        if len(point) != 2:
            raise BadInputError(f"a point has {len(point)} numbers; expected [x, y]")
        if not all(math.isfinite(value) and -MARGIN <= value <= 1 + MARGIN for value in point):
            raise BadInputError(
                f"the point [{point[0]:g}, {point[1]:g}] is not in the image; expected shares of its width and "
                "height, from 0 to 1"
            )
    for label in labels:
        if label not in (BACKGROUND, FOREGROUND, BOX_FIRST, BOX_LAST):
            raise BadInputError(f"there is no label {label}; expected 1, 0, or 2 and 3 for a box's corners")
    corners = [i for i, label in enumerate(labels) if label in (BOX_FIRST, BOX_LAST)]
    if not corners:
        return
    if corners != [0, 1] or list(labels[:2]) != [BOX_FIRST, BOX_LAST]:
        raise BadInputError("a box is one pair of labels, 2 and 3, before all other points")
    if before:
        raise BadInputError("a box cannot be added to earlier points; send all points again with clearOldPoints")
    (x0, y0), (x1, y1) = points[0], points[1]
    if x1 <= x0 or y1 <= y0:
        raise BadInputError("the corners of the box are swapped; expected the upper left one first")


@dataclass(frozen=True)
class MemoryBudget:
    """The number of results of an object on a frame that one session may keep.

    Tracking reads ``reach`` earlier frames, or all frames if the strategy ``keeps_all``. Fewer cannot be kept.
    """

    results: int
    reach: int
    keeps_all: bool = False

    @classmethod
    def of(cls, predictor: SAM2VideoPredictor, megabytes: int) -> "MemoryBudget":
        """The results that fit: each has a memory, a low-resolution mask and a pointer, in fp32 at most."""
        side = predictor.sam_image_embedding_size
        values = predictor.mem_dim * side**2 + (4 * side) ** 2 + predictor.hidden_dim
        return cls(
            megabytes * MEBIBYTE // (FLOAT_BYTES * values),
            MemoryRules.of(predictor).reach,
            predictor.strategy.looks_further,
        )

    def objects(self, num_frames: int) -> int:
        """The largest number of objects in a session on a video of so many frames."""
        needed = max(self.reach, num_frames) if self.keeps_all else self.reach
        return max(1, min(MAX_OBJECTS, self.results // (2 * needed)))

    def check_room(self, state: VideoState, frame: int, object_id: int) -> None:
        """Checks that an object may be prompted on a frame. Raises TooManyError."""
        most = replace(self, keeps_all=state.strategy.looks_further).objects(state.num_frames)
        if object_id not in state.objects and len(state.objects) >= most:
            raise TooManyError(f"this session may have {most} objects; remove one first")
        prompted = _prompted(state) | {(object_id, frame)}
        if len(prompted) > self.results // 2:
            raise TooManyError(
                f"a session may have {self.results // 2} prompted frames of its objects; remove some points first"
            )

    def share(self, state: VideoState) -> None:
        """Divides the remaining room among the objects: each keeps its newest tracked frames."""
        room = (self.results - len(_prompted(state))) // max(1, len(state.objects))
        state.max_history = max(self.reach, min(room, state.num_frames))


def _prompted(state: VideoState) -> set[tuple[int, int]]:
    """Pairs of object and frame whose results are never dropped."""
    return {
        (object_id, frame)
        for object_id, tracked in state.objects.items()
        for frames in (tracked.points, tracked.conditioning)
        for frame in frames
    }
