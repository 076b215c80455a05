"""The frames of a video in the order in which they are tracked, from where another run stopped or the beginning."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from torch import Tensor

from sam2fast.cli.errors import one_line
from sam2fast.cli.track_prompts import TrackPrompt, check_against_video
from sam2fast.cli.track_video import VideoSource
from sam2fast.sam2_video_predictor import SAM2VideoPredictor
from sam2fast.tracking.outputs import Output
from sam2fast.tracking.scores import TrackScores
from sam2fast.tracking.selection import MemoryRules
from sam2fast.tracking.state import VideoState
from sam2fast.tracking.stream import StreamResult, VideoStream
from sam2fast.video_io import StreamFrame, read_frames

Masks = Mapping[TrackPrompt, np.ndarray]  # (H, W) bool, of the prompts that have one
# What opening a video may raise because of the video.
UNUSABLE = (OSError, ValueError, TypeError, ImportError)


class TrackedFrame(NamedTuple):
    """All objects on one frame."""

    frame: int
    time: float | None  # seconds since the video's first frame
    ids: Sequence[Any]
    masks: Tensor  # (N, 1, h, w) low-resolution logits, or (N, 1, H, W)
    scores: TrackScores
    rgb: np.ndarray | None = None  # (H, W, 3) uint8, where the frame cannot be read again


class Passes(Protocol):
    """Frames being tracked."""

    size: tuple[int, int]  # (H, W) of the video
    video_frames: int | None  # of the video, if that is known
    total: int | None  # to be tracked, those of earlier runs included; None if that is not known
    problem: str | None  # what was wrong, known after the last frame

    def __iter__(self) -> Iterator[TrackedFrame]:
        """The frames after those that earlier runs have done.

        Raises:
            VideoError: a frame cannot be read.
        """
        ...

    def save(self, file: Path) -> None:
        """Writes the state after the frame that was yielded last."""
        ...

    def close(self) -> None:
        """Lets go of the video."""
        ...


class Plan(NamedTuple):
    """Which frames are tracked, and in which order."""

    prompts: Sequence[TrackPrompt]
    start: int
    end: int | None
    reverse: bool

    @property
    def first(self) -> int:
        """The first prompted frame."""
        return self.prompts[0].frame

    def forward(self, frames: int) -> range:
        """The pass that begins with the first prompted frame, in a video of so many frames."""
        return range(self.first, frames if self.end is None else min(self.end + 1, frames))

    def backward(self) -> range:
        """The frames before it in descending order, if they are wanted."""
        return range(self.first - 1, self.start - 1, -1) if self.reverse else range(0)


class VideoPasses:
    """Tracks a video that can be read again: forwards, then, if that is planned, backwards.

    Args:
        done: how many frames earlier runs have done.
        saved: the state after them, if there are any.
        backward: file for the state that the pass backwards begins with.

    Raises:
        UserError: the video or a saved state cannot be used, or a prompt is not within the video.
    """

    def __init__(
        self,
        predictor: SAM2VideoPredictor,
        source: VideoSource,
        plan: Plan,
        masks: Masks,
        done: int,
        saved: Path | None,
        backward: Path,
    ) -> None:
        self._predictor, self._source, self._done, self._backward_file = predictor, source, done, backward
        reach = MemoryRules.of(predictor).reach
        # Backwards, the frames behind the first one count as well, until as many have been tracked before it.
        history = 2 * reach if plan.backward() else reach
        if saved is None:
            with one_line(*UNUSABLE):
                self._state = predictor.init_state(source.text, async_loading_frames=True, max_history=history)
        else:
            self._state = self._load(saved)
        frames = self._state.frames
        self.size = frames.height, frames.width
        self.video_frames: int | None = len(frames)
        check_against_video(plan.prompts, masks, *self.size, len(frames), plan.start, plan.end)
        self._forward, self._backward = plan.forward(len(frames)), plan.backward()
        self._turn = min(reach, len(self._forward) - 1)  # frames that the pass backwards may look at
        self.total: int | None = len(self._forward) + len(self._backward)
        self.problem: str | None = frames.truncated if plan.end is None or plan.end >= len(frames) else None
        if saved is None:
            for prompt in plan.prompts:
                _add(predictor, self._state, prompt, masks)

    def __iter__(self) -> Iterator[TrackedFrame]:
        left = self._forward[self._done :]
        if left:
            for count, item in enumerate(self._propagate(left, reverse=False), self._done):
                if self._backward and count == self._turn:
                    with one_line(OSError):
                        self._predictor.save_state(self._state, self._backward_file)
                yield item
        left = self._backward[max(self._done - len(self._forward), 0) :]
        if left:
            if self._done <= len(self._forward):
                self._state.frames.close()
                self._state = self._load(self._backward_file)
            # It begins on the frame before: at 0 there would be no pass at all, and the first frame is part of it.
            yield from islice(self._propagate(range(left[0] + 1, left[-1] - 1, -1), reverse=True), 1, None)

    def save(self, file: Path) -> None:
        self._predictor.save_state(self._state, file)

    def close(self) -> None:
        self._state.frames.close()

    def _propagate(self, frames: range, reverse: bool) -> Iterator[TrackedFrame]:
        state = self._state
        found = self._predictor.propagate_in_video(
            state,
            frames[0],
            len(frames) - 1,
            reverse,
            return_scores=True,
            progress=False,
            output=_output(self._predictor),
        )
        # Not to its end, where a truncated video raises: what is missing is told when all else is done.
        for frame, ids, masks, scores in islice(found, len(frames)):
            yield TrackedFrame(frame, state.frames.time(frame), ids, masks, scores)

    def _load(self, file: Path) -> VideoState:
        with one_line(*UNUSABLE):
            return self._predictor.load_state(file, self._source.text, async_loading_frames=True)


def _output(predictor: SAM2VideoPredictor) -> Output:
    """The form of masks from which records are made: the smallest, unless overlaps are settled at the video's size."""
    return "logits" if predictor.non_overlap_masks else "low_res"


def _add(predictor: SAM2VideoPredictor, state: VideoState, prompt: TrackPrompt, masks: Masks) -> None:
    if prompt in masks:
        predictor.add_new_mask(state, prompt.frame, prompt.object, masks[prompt])
    else:
        predictor.add_new_points_or_box(state, prompt.frame, prompt.object, **prompt.as_arguments())


class StreamPasses:
    """Tracks a video while it is read, once and in order; prompts are given when their frame comes.

    Of a video that cannot be read again, also the frames before the first prompt are yielded, without objects.

    Args:
        most_frames: stop after so many frames.
        others: as for :class:`VideoPasses`.

    Raises:
        UserError: as :class:`VideoPasses`.
    """

    def __init__(
        self,
        predictor: SAM2VideoPredictor,
        source: VideoSource,
        plan: Plan,
        masks: Masks,
        most_frames: int | None,
        done: int,
        saved: Path | None,
    ) -> None:
        self._predictor = predictor
        self._plan, self._masks, self._keep_pictures = plan, masks, source.is_live
        self._next = plan.first + done if done else plan.start
        ends = [plan.end, None if most_frames is None else plan.start + most_frames - 1]
        self._end = min((end for end in ends if end is not None), default=None)
        self.problem: str | None = None
        with ExitStack() as opened, one_line(*UNUSABLE):
            self.reader = opened.enter_context(read_frames(source.to_open, predictor.image_size))
            self.size = self.reader.height, self.reader.width
            self.video_frames = count = self.reader.count
            check_against_video(plan.prompts, masks, *self.size, count, plan.start, self._end)
            if saved is None:
                # Known or not, the length of a longer video makes no difference.
                is_short = count is not None and count < MemoryRules.of(predictor).max_pointers
                stream = predictor.open_stream(num_frames=count if is_short else None)
            else:
                stream = predictor.restore_stream(saved)
            self._stream: VideoStream = opened.enter_context(stream)
            self._opened = opened.pop_all()
        ends = [self._end, None if count is None else count - 1]
        last = min((end for end in ends if end is not None), default=None)
        self.total: int | None = None if last is None else last - plan.first + 1

    def __iter__(self) -> Iterator[TrackedFrame]:
        read = 0
        for frame in self.reader:
            read = frame.index + 1
            if frame.index >= self._next:
                result = self._tracked(frame)
                if self._keep_pictures or frame.index >= self._plan.first:
                    rgb = frame.rgb if self._keep_pictures else None
                    yield TrackedFrame(frame.index, frame.time, result.obj_ids, result.masks, result.scores, rgb)
            if frame.index == self._end:
                break
        late = next((prompt for prompt in self._plan.prompts if prompt.frame >= read), None)
        if late is not None:
            self.problem = f"{late} is beyond the end of the video, which has {read} frames"

    def save(self, file: Path) -> None:
        self._stream.save(file)

    def close(self) -> None:
        self._opened.close()

    def _tracked(self, frame: StreamFrame) -> StreamResult:
        result = self._stream.step(frame, _output(self._predictor))
        for prompt in self._plan.prompts:
            if prompt.frame != frame.index:
                continue
            if prompt in self._masks:
                result = self._stream.add_new_mask(prompt.object, self._masks[prompt])
            else:
                result = self._stream.add_new_points_or_box(prompt.object, **prompt.as_arguments())
        return result
