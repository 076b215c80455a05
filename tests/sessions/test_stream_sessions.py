"""Random streams beside the same frames as a video: masks and scores are the same bits, also when restored."""

import functools
import os
import sys
import tempfile
from collections.abc import Callable, Hashable
from typing import Any

import numpy as np
import pytest
import torch
from comparable import snapshot
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from hypothesis_profiles import examples
from mini_model import mini_predictor
from session_model import assert_consistent
from session_player import HEIGHT, IDS, WIDTH, boxes, click_lists, disc, discs
from video import clip

from sam2fast.tracking.saved_state import StateError
from sam2fast.tracking.stream import StreamResult, VideoStream
from sam2fast.video_io import VideoError

LONGEST = 18
POINTERS = 4  # of the model; a stream of unknown length counts as one of so many frames or more
ids = st.sampled_from(IDS)
OTHER_SIZE = np.zeros((HEIGHT + 1, WIDTH, 3), np.uint8)

WRONG_CALLS: dict[str, tuple[Callable[[VideoStream], Any], type[Exception], str]] = {
    "frame of another size": (lambda s: s.step(OTHER_SIZE), VideoError, "but the stream is"),
    "no frame": (lambda s: s.step(None), TypeError, "expected an array"),
    "missing frame": (lambda s: s.step("nowhere.jpg"), FileNotFoundError, "nowhere.jpg"),
    "grey levels beyond 255": (lambda s: s.step(np.zeros((HEIGHT, WIDTH, 3), np.int64)), VideoError, "int64"),
    "unknown output": (lambda s: s.step(OTHER_SIZE, output="rle"), ValueError, "output is 'rle'"),
    "NaN": (lambda s: s.add_new_points_or_box("a", [[float("nan"), 1]], [1]), ValueError, "points holds NaN"),
    "nothing": (lambda s: s.add_new_points_or_box("a"), ValueError, "at least one of points or box"),
    "box that joins": (
        lambda s: s.add_new_points_or_box("a", box=[1, 1, 2, 2], clear_old_points=False), ValueError, "cannot join",
    ),
    "mask of three dimensions": (lambda s: s.add_new_mask("a", np.ones((1, 2, 2))), ValueError, "expected (H, W)"),
    "id that cannot be hashed": (lambda s: s.add_new_mask([], np.ones((2, 2))), TypeError, "unhashable"),
    "boxes of three numbers": (lambda s: s.add_detections([[1, 2, 3]]), ValueError, "has shape"),
    "no frames without a box": (lambda s: s.add_detections([], max_unseen=0), ValueError, "max_unseen is 0"),
    "unknown object": (lambda s: s.remove_object("nobody", strict=True), RuntimeError, "no object 'nobody'"),
    "a folder": (lambda s: s.save(tempfile.gettempdir()), IsADirectoryError, "which is a folder"),
}  # fmt: skip


@functools.cache
def predictor() -> Any:
    overrides = ("++model.image_size=64", "++model.num_maskmem=3", f"++model.max_obj_ptrs_in_encoder={POINTERS}")
    return mini_predictor(overrides)


@functools.cache
def video_frames() -> list[Any]:
    return clip(LONGEST, HEIGHT, WIDTH)


class StreamSessions(RuleBasedStateMachine):
    """Every rule is one call on the stream, and the same on the state of a video that has all frames."""

    @initialize(
        num_frames=st.none() | st.integers(2, LONGEST),
        sticks=st.booleans(),
        clears=st.booleans(),
        non_overlapping=st.booleans(),
        stride=st.integers(1, 3),
        max_cond_frames=st.sampled_from((None, 2, 3)),
        fast=st.sampled_from((None, None, True)),
        prompted=st.lists(st.tuples(ids, click_lists), min_size=1, max_size=2),
    )
    def open(
        self,
        num_frames: int | None,
        sticks: bool,
        clears: bool,
        non_overlapping: bool,
        stride: int,
        max_cond_frames: int | None,
        fast: bool | None,
        prompted: list[Any],
    ) -> None:
        p = self.predictor = predictor()
        p.add_all_frames_to_correct_as_cond, p.clear_non_cond_mem_around_input = sticks, clears
        p.non_overlap_masks, p.memory_temporal_stride_for_eval, p.fast = non_overlapping, stride, fast
        self.frames = video_frames()[:num_frames]
        self.stream = p.open_stream(num_frames=num_frames, max_cond_frames=max_cond_frames)
        self.state = p.init_state(self.frames)
        self.state.max_cond_frames = max_cond_frames
        self.at = -1
        self.prompt_before_the_first_frame()
        self.step(1)
        for obj_id, clicks in prompted:
            self.points(obj_id, clicks, False)

    @precondition(lambda self: self.at + 1 < len(self.frames))
    @rule(count=st.integers(1, 4))
    def step(self, count: int) -> None:
        for t in range(self.at + 1, min(self.at + 1 + count, len(self.frames))):
            if self.state.objects and not all(o.conditioning or o.new_conditioning for o in self.objects):
                self.refused(lambda s, t=t: s.step(self.frames[t]), RuntimeError, "no points, box or mask")
                return
            result = self.stream.step(self.frames[t])
            self.at = t
            if not self.state.objects:
                assert result.masks.shape == (0, 1, HEIGHT, WIDTH) and result[:2] == (t, [])
                continue
            options = {"start_frame_idx": t, "max_frame_num_to_track": 0, "progress": False, "return_scores": True}
            ((*expected, scores),) = self.predictor.propagate_in_video(self.state, **options)
            self.compare(result, expected)
            assert all(torch.equal(a, b) for a, b in zip(result.scores, scores, strict=True))

    @property
    def objects(self) -> Any:
        return self.state.objects.values()

    @precondition(lambda self: self.at + 1 == len(self.frames))
    @rule()
    def step_behind_the_end(self) -> None:
        if self.stream._opened().num_frames == len(self.frames):
            self.refused(lambda s: s.step(self.frames[0]), IndexError, "all were passed in")

    @rule(obj_id=ids, clicks=click_lists, joins=st.booleans())
    def points(self, obj_id: Hashable, clicks: Any, joins: bool) -> None:
        given = obj_id, [click[:2] for click in clicks], [click[2] for click in clicks], not joins
        result = self.stream.add_new_points_or_box(*given)
        self.compare(result, self.predictor.add_new_points_or_box(self.state, self.at, *given))

    @rule(obj_id=ids, box=boxes)
    def box(self, obj_id: Hashable, box: Any) -> None:
        result = self.stream.add_new_points_or_box(obj_id, box=box)
        self.compare(result, self.predictor.add_new_points_or_box(self.state, self.at, obj_id, box=box))

    @rule(obj_id=ids, where=discs)
    def mask(self, obj_id: Hashable, where: Any) -> None:
        result = self.stream.add_new_mask(obj_id, disc(*where))
        self.compare(result, self.predictor.add_new_mask(self.state, self.at, obj_id, disc(*where)))

    @rule(obj_id=ids)
    def clear(self, obj_id: Hashable) -> None:
        self.stream.clear_prompts(obj_id)
        self.predictor.clear_all_prompts_in_frame(self.state, self.at, obj_id)

    @rule(obj_id=ids)
    def remove(self, obj_id: Hashable) -> None:
        remaining = self.stream.remove_object(obj_id)
        assert remaining == list(self.predictor.remove_object(self.state, obj_id)[0])

    @rule(name=st.sampled_from(sorted(WRONG_CALLS)))
    def wrong(self, name: str) -> None:
        ended = self.stream._opened().num_frames == self.at + 1
        call, error, message = WRONG_CALLS[name]
        self.refused(call, (error, IndexError) if ended else error, "" if ended else message)

    def prompt_before_the_first_frame(self) -> None:
        self.refused(lambda s: s.add_new_mask("a", np.ones((2, 2))), RuntimeError, "no frame yet")

    @rule()
    def save_and_restore(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            file = os.path.join(folder, "stream")
            self.stream.save(file)
            before = snapshot(self.stream._opened())
            with pytest.raises(StateError, match="is a saved stream"):
                self.predictor.load_state(file, self.frames)
            self.stream.close()
            self.stream = self.predictor.restore_stream(file)
        assert snapshot(self.stream._opened()) == before

    def refused(self, make: Callable[[VideoStream], Any], error: Any, message: str) -> None:
        known = self.known()
        with pytest.raises(error) as caught:
            make(self.stream)
        assert message in str(caught.value)
        assert self.known() == known

    def known(self) -> Any:
        return self.stream.frame, self.stream.video_size, self.stream.obj_ids, snapshot(self.stream._opened())

    def compare(self, result: StreamResult, expected: Any) -> None:
        frame, names, masks = expected
        assert (result.frame, result.obj_ids) == (frame, list(names))
        assert torch.equal(result.masks, masks)
        # The scores are of the same masks.
        if not self.predictor.non_overlap_masks:
            size = result.masks.shape[-2:]
            resized = torch.nn.functional.interpolate(result.scores.low_res_logits, size, mode="bilinear")
            assert torch.allclose(resized, result.masks)  # where there is nothing, sums of -1024 are rounded

    @invariant()
    def is_what_the_video_is(self) -> None:
        if not hasattr(self, "stream"):
            return
        state = self.stream._opened()
        assert self.stream.frame == self.at and self.stream.obj_ids == self.state.obj_ids
        assert_consistent(state)
        for tracked in state.objects.values():
            self.is_within_reach(tracked)

    def is_within_reach(self, tracked: Any) -> None:
        """What is kept is what the frames to come can attend to."""
        rules, kept = self.predictor._tracker.rules(self.stream._opened()), tracked.tracked
        assert all(self.at - t <= rules.reach for t in kept)
        assert len(tracked.points) + len(tracked.masks) <= 2 and len(tracked.reverse) <= 1 + len(kept)

    def teardown(self) -> None:
        if hasattr(self, "stream") and sys.exc_info()[0] is None:
            self.stream.close()
            assert repr(self.stream) == "VideoStream(closed)"
            with pytest.raises(RuntimeError, match="was closed"):
                self.stream.step(self.frames[0])


TestStreamSessions = StreamSessions.TestCase
TestStreamSessions.settings = examples(8, stateful_step_count=16)
