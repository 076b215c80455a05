"""The calls of random sessions, for a video state of any of our predictors."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from hypothesis import strategies as st
from torch import Tensor

from sam2fast.compat.video_state import VideoState
from sam2fast.modeling.sam2_base import NO_OBJ_SCORE
from sam2fast.tracking.outputs import FrameResult

HEIGHT, WIDTH = 33, 44
IDS = ("a", 7, "dog", -1)

Click = tuple[int, int, int]  # x, y, label

click_lists = st.lists(
    st.tuples(st.integers(-3, WIDTH + 3), st.integers(-3, HEIGHT + 3), st.integers(0, 1)), min_size=1, max_size=3
)
boxes = st.tuples(st.integers(0, 20), st.integers(0, 15), st.integers(2, 24), st.integers(2, 18)).map(
    lambda b: [b[0], b[1], b[0] + b[2], b[1] + b[3]]
)
discs = st.tuples(st.integers(0, WIDTH), st.integers(0, HEIGHT), st.integers(1, 20))


def disc(x: int, y: int, radius: int) -> Any:
    """A mask ``(H, W)`` of one disc."""
    rows, columns = np.mgrid[0:HEIGHT, 0:WIDTH]
    return (columns - x) ** 2 + (rows - y) ** 2 < radius**2


class Answer(NamedTuple):
    """What a call said about all objects on one frame."""

    frame: int
    ids: list[Any]
    tensors: list[Tensor]  # masks, and scores if they were asked for

    @classmethod
    def of(cls, answer: tuple[Any, ...]) -> "Answer":
        frame, ids, masks, *scores = answer
        return cls(frame, list(ids), [masks.clone(), *(x.clone() for each in scores for x in each)])

    def same_bits(self, other: "Answer") -> bool:
        pairs = zip(self.tensors, other.tensors, strict=True)
        return self[:2] == other[:2] and all(torch.equal(a, b) for a, b in pairs)


class Player:
    """One state, and the passes over it that are under way."""

    def __init__(self, predictor: Any, state: VideoState) -> None:
        self.predictor, self.state = predictor, state
        self.passes: dict[int, Iterator[Any]] = {}

    def points(
        self, frame: int, obj_id: Any, clicks: list[Click] | None, box: list[int] | None, joins: bool
    ) -> list[Answer]:
        coords, labels = ([c[:2] for c in clicks], [c[2] for c in clicks]) if clicks else (None, None)
        options = {"clear_old_points": not joins, "box": box}
        return [Answer.of(self.predictor.add_new_points_or_box(self.state, frame, obj_id, coords, labels, **options))]

    def mask(self, frame: int, obj_id: Any, mask: Any) -> list[Answer]:
        return [Answer.of(self.predictor.add_new_mask(self.state, frame, obj_id, mask))]

    def clear(self, frame: int, obj_id: Any, need_output: bool) -> list[Answer]:
        answer = self.predictor.clear_all_prompts_in_frame(self.state, frame, obj_id, need_output)
        assert (answer is None) == (not need_output)
        return [] if answer is None else [Answer.of(answer)]

    def remove(self, obj_id: Any, need_output: bool) -> list[Answer]:
        ids, updated = self.predictor.remove_object(self.state, obj_id, need_output=need_output)
        assert ids == self.state.obj_ids
        return [Answer.of((frame, ids, masks)) for frame, masks in updated]

    def reset(self) -> list[Answer]:
        self.predictor.reset_state(self.state)
        return []

    def begin(self, number: int, options: dict[str, Any]) -> list[Answer]:
        """A pass up to its first frame."""
        self.passes[number] = self.predictor.propagate_in_video(self.state, progress=False, **options)
        return self.next(number)

    def next(self, number: int) -> list[Answer]:
        return [Answer.of(answer) for answer in (next(self.passes[number], None),) if answer is not None]

    def abandon(self, number: int) -> list[Answer]:
        self.passes.pop(number).close()
        return []

    def answered(self, frame: int, conditioning: bool) -> list[FrameResult | None]:
        """The results that an answer to a prompt of that kind shows, of all objects."""
        return [o.result_on(frame, conditioning) for o in self.state.objects.values()]

    def kept(self, frame: int, ids: list[Any]) -> list[FrameResult | None]:
        """The results that a pass left on a frame."""
        objects = [self.state.objects[i] for i in ids]
        return [o.conditioning.get(frame) or o.tracked.get(frame) for o in objects]


def shown(results: list[FrameResult | None], non_overlapping: bool) -> Tensor:
    """Logits ``(N, 1, H, W)`` of results as they have to be answered."""
    masks = torch.full((len(results), 1, HEIGHT, WIDTH), float(NO_OBJ_SCORE))
    for i, result in enumerate(results):
        if result is not None:
            masks[i] = F.interpolate(result.mask, (HEIGHT, WIDTH), mode="bilinear", align_corners=False)[0]
    if non_overlapping and len(masks) > 1:
        winner = masks.argmax(dim=0, keepdim=True) == torch.arange(len(masks)).view(-1, 1, 1, 1)
        masks = torch.where(winner, masks, masks.clamp(max=-10.0))
    return masks
