"""Implements the passes of ``sam2fast track``: forwards and backwards, or one pass while the video is read."""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from sam2fast.cli.left_out import LeftOut
from sam2fast.cli.prompts import Prompts, check_against_video
from sam2fast.cli.track_folder import RunFolder
from sam2fast.cli.track_request import TrackRequest
from sam2fast.cli.user_errors import as_user_error, print_note
from sam2fast.compat.video_state import VideoState
from sam2fast.modeling.memory_selection import MemoryRules
from sam2fast.sam2_video_predictor import SAM2VideoPredictor
from sam2fast.tracking.outputs import Output, TrackScores
from sam2fast.tracking.propagation import merge_passes
from sam2fast.tracking.stream import StreamResult, VideoStream
from sam2fast.video_io import StreamFrame, read_frames
from sam2fast.video_io.sources import SteppedVideo

# Errors of unusable videos and saved states.
UNUSABLE = (OSError, ValueError, TypeError, ImportError)
Masks = Mapping[Prompts, np.ndarray]  # mask (H, W) bool of each prompt with a mask


class TrackedFrame(NamedTuple):
    """All objects on one frame."""

    frame: int
    time: float | None  # seconds since the video's first frame
    ids: list[Any]
    masks: Tensor  # logits (N, 1, h, w) in low resolution, or (N, 1, H, W) in full
    scores: TrackScores
    rgb: np.ndarray | None = None  # pixels (H, W, 3) uint8, only of cameras and URLs


class VideoPropagation:
    """Tracks a video file, folder or volume: forwards, and with ``--reverse`` afterwards backwards.

    Iteration yields the frames that earlier runs have not tracked. If a frame cannot be read, raises VideoError.

    Args:
        folder: The progress and the saved states of earlier runs.

    Attributes:
        size: (H, W) of the video.
        video_frames: The number of frames in the video, None if unknown.
        total: The number of frames to track, including frames of earlier runs; None if unknown.
        problem: Error of the video, or None. After the last frame, the value is final.
        resumes: True if a stopped run can be continued. If masks are decided at the end of a pass, or two passes are
            merged, False.
    """

    def __init__(self, predictor: SAM2VideoPredictor, request: TrackRequest, masks: Masks, folder: RunFolder) -> None:
        self._predictor, self._video, self._done = predictor, request.source.to_open, folder.done
        self._step, self._offset = request.step, request.offset
        if request.step > 1:
            self._video = SteppedVideo(self._video, request.step, request.offset)
        self._backward_file = folder.backward
        reach, first = MemoryRules.of(predictor).reach, self._index(request.first)
        self._begins = {prompt.object: prompt.frame for prompt in reversed(request.prompts)}
        # As by propagate_both, each object of a volume is tracked from its first prompt in both directions.
        self._merges = request.source.is_volume and request.reverse and len(set(self._begins.values())) > 1
        self.resumes = predictor.strategy.hypotheses == 1 and not self._merges
        start = -((request.offset - request.start) // request.step)
        self._backward = range(first - 1, start - 1, -1) if request.reverse else range(0)
        if folder.state is None:
            # The backward pass attends to frames after the first one, until this pass has tracked enough frames.
            bounded = 2 * reach if self._backward else reach
            history = None if self._merges or predictor.strategy.looks_further else bounded
            with as_user_error(*UNUSABLE):
                self._state = predictor.init_state(self._video, async_loading_frames=True, max_history=history)
        else:
            self._state = self._load(folder.state)
        frames = self._state.frames
        self.size = frames.height, frames.width
        self.video_frames = len(frames) if request.step == 1 else request.source.probe()[2]
        count = self._frame(len(frames) - 1) + 1
        check_against_video(request.prompts, masks, *self.size, count, request.start, request.end)
        _note_end(request, self.video_frames)
        end = len(frames) if request.end is None else self._index(request.end) + 1
        self._forward = range(first, min(end, len(frames)))
        # Last frame of the forward pass to which the backward pass attends.
        turn = len(self._forward) if predictor.strategy.looks_further else reach
        self._turn = min(turn, len(self._forward) - 1)
        self.total = len(self._forward) + len(self._backward)
        self.problem = frames.truncated if request.end is None or request.end >= count else None
        for prompt in request.prompts if folder.state is None else ():
            index = self._index(prompt.frame)
            if prompt in masks:
                predictor.add_new_mask(self._state, index, prompt.object, masks[prompt])
            else:
                predictor.add_new_points_or_box(self._state, index, prompt.object, **prompt.as_arguments())

    def __iter__(self) -> Iterator[TrackedFrame]:
        if self._merges:
            last = max(self._begins.values())
            backward = self._propagate(range(last, self._forward[0] - len(self._backward) - 1, -1), reverse=True)
            yield from map(self._tracked, merge_passes(self._begins, self._propagate(self._forward), backward))
            return
        left = self._forward[self._done :]
        if left:
            for count, item in enumerate(map(self._tracked, self._propagate(left)), self._done):
                if self._backward and count == self._turn:
                    self._predictor.save_state(self._state, self._backward_file)
                yield item
        left = self._backward[max(self._done - len(self._forward), 0) :]
        if left:
            if self._done <= len(self._forward):
                self._state.frames.close()
                self._state = self._load(self._backward_file)
            # A backward pass that starts at frame 0 is empty. So starts one frame later, and skips the first result.
            again = self._propagate(range(left[0] + 1, left[-1] - 1, -1), reverse=True)
            yield from map(self._tracked, islice(again, 1, None))

    def save(self, file: Path) -> None:
        """Writes the state after the frame that was yielded last."""
        self._predictor.save_state(self._state, file)

    @property
    def choices(self) -> Mapping[str, Any]:
        """The page, bands and scale that were chosen for frames in image files."""
        return self._state.frames.choices

    def close(self) -> None:
        """Closes the video."""
        self._state.frames.close()

    def _propagate(self, frames: range, reverse: bool = False) -> Iterator[tuple[Any, ...]]:
        form = _masks_form(self._predictor)
        items = self._predictor.propagate_in_video(
            self._state, frames[0], len(frames) - 1, reverse, return_scores=True, progress=False, output=form
        )
        # Stops before a truncated video raises an error, since `problem` is reported after all other work.
        return islice(items, len(frames))

    def _tracked(self, answer: tuple[Any, ...]) -> TrackedFrame:
        return TrackedFrame(self._frame(answer[0]), self._state.frames.time(answer[0]), *answer[1:])

    def _frame(self, index: int) -> int:
        """Returns the number of a tracked frame in the video."""
        return self._offset + index * self._step

    def _index(self, frame: int) -> int:
        """Returns the index of a frame, or of the last tracked frame before it."""
        return (frame - self._offset) // self._step

    def _load(self, file: Path) -> VideoState:
        with as_user_error(*UNUSABLE):
            return self._predictor.load_state(file, self._video, async_loading_frames=True)


class StreamPropagation:
    """Tracks a video in one pass while reading the frames in order. A prompt is added when its frame is read.

    For cameras and URLs, yields the frames before the first prompt without objects. For other attributes see
    :class:`VideoPropagation`.

    Attributes:
        left_out: Counts of a detector's boxes that had no effect in this run and in earlier runs. Boxes beyond the
            video's end are added after the last frame.
    """

    resumes = True

    def __init__(self, predictor: SAM2VideoPredictor, request: TrackRequest, masks: Masks, folder: RunFolder) -> None:
        self._predictor, self._request, self._masks = predictor, request, masks
        self._first, self._is_live = request.first, request.source.is_live
        self._next = self._first + folder.done * request.step if folder.done else request.start
        self.problem: str | None = None
        self.left_out = LeftOut()
        for entry in folder["left_out"] or () if folder.state is not None else ():
            self.left_out.add(**entry)
        with ExitStack() as opened, as_user_error(*UNUSABLE):
            self.reader = reader = opened.enter_context(read_frames(request.source.to_open, predictor.image_size))
            self.size, self.video_frames = (reader.height, reader.width), reader.count
            count = reader.count
            check_against_video(request.prompts, masks, *self.size, count, request.start, request.last)
            if folder.state is None:
                # The number of frames only matters if it is smaller than the model's history.
                length = None if count is None else -(-count // request.step)
                is_short = length is not None and length < MemoryRules.of(predictor).max_pointers
                stream = predictor.open_stream(num_frames=length if is_short else None)
            else:
                stream = predictor.restore_stream(folder.state)
            self._stream: VideoStream = opened.enter_context(stream)
            self._opened = opened.pop_all()
        stops = [stop for stop in (count, None if request.last is None else request.last + 1) if stop is not None]
        self.total = len(range(self._first, min(stops), request.step)) if stops else None

    def __iter__(self) -> Iterator[TrackedFrame]:
        read, count = 0, self.reader.count
        for frame in self.reader:
            read = frame.index + 1
            if frame.index >= self._next and self._request.is_tracked(frame.index):
                result = self._tracked(frame)
                if self._is_live or frame.index >= self._first:
                    rgb = frame.rgb if self._is_live else None
                    # Ids of detected objects begin with the class.
                    labels = {obj_id: label for obj_id, label in self._stream.labels.items() if label is not None}
                    ids = [f"{labels[obj_id]}_{obj_id}" if obj_id in labels else obj_id for obj_id in result.obj_ids]
                    yield TrackedFrame(frame.index, frame.time, ids, *result[2:], rgb)
            if frame.index == self._request.last:
                break
        else:
            count = read
            _note_end(self._request, count)
        if self._request.detections is not None and count is not None:
            self._request.detections.count_beyond(count, self.left_out)
        late = next((prompt for prompt in self._request.prompts if prompt.frame >= read), None)
        if late is not None:
            self.problem = f"{late} is beyond the end of the video, which has {read} frames"

    def save(self, file: Path) -> None:
        """Writes the state after the frame that was yielded last."""
        self._stream.save(file)

    @property
    def choices(self) -> Mapping[str, Any]:
        """See :attr:`VideoPropagation.choices`."""
        return self.reader.choices

    def close(self) -> None:
        """Closes the video and the stream."""
        self._opened.close()

    def _tracked(self, frame: StreamFrame) -> StreamResult:
        result = self._stream.step(frame, _masks_form(self._predictor))
        for prompt in self._request.prompts:
            if prompt.frame == frame.index and prompt in self._masks:
                result = self._stream.add_new_mask(prompt.object, self._masks[prompt])
            elif prompt.frame == frame.index:
                result = self._stream.add_new_points_or_box(prompt.object, **prompt.as_arguments())
        detections = self._request.detections
        if detections is not None and (frame.index - self._first) // self._request.step % detections.every == 0:
            ids, result = self._stream.add_detections(
                *detections.on(frame.index, *self.size),
                max_unseen=detections.max_unseen,
                start_score=detections.start_score,
            )
            detections.count_unused(frame.index, ids, self.left_out)
        return result


def _note_end(request: TrackRequest, frames: int | None) -> None:
    if frames is not None and request.end is not None and request.end >= frames:
        print_note(f"--end {request.end} is beyond the last frame, {frames - 1}")


def _masks_form(predictor: SAM2VideoPredictor) -> Output:
    """Returns the smallest mask size for a record: full size only if the predictor removes overlaps."""
    return "logits" if predictor.non_overlap_masks else "low_res"
