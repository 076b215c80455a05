"""Tracks objects through frames that arrive one by one, for example from a camera or a socket."""

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sam2fast.modeling.sam2_base import NO_OBJ_SCORE
from sam2fast.prompt_inputs import plain_id
from sam2fast.tracking import saved_state
from sam2fast.tracking.attending import history_of
from sam2fast.tracking.detections import (
    DETECTIONS,
    DetectedObjects,
    Detections,
    add_detections,
    check_rules,
    newest_results,
)
from sam2fast.tracking.features import EncodedFrame
from sam2fast.tracking.object_results import latest_results
from sam2fast.tracking.outputs import FrameResult, Output, TrackScores, check_output
from sam2fast.tracking.prompting import (
    add_mask,
    add_points_or_box,
    clear_prompts,
    commit_prompts,
    masks_of,
    remove_object,
)
from sam2fast.tracking.session import UnchangedOnError, VideoSession
from sam2fast.tracking.strategies import Strategy
from sam2fast.tracking.tracker import Tracker
from sam2fast.utils.numbers import integer
from sam2fast.utils.thread_guard import CallGuard, ConcurrentUseError, exclusive
from sam2fast.video_io.frames import CurrentFrame, FrameLike

# Length for streams of unknown length. Any length from the maximum number of object pointers on gives equal results.
UNKNOWN_LENGTH = sys.maxsize


class StreamResult(NamedTuple):
    """Stores the results of all objects of a stream on its current frame."""

    frame: int
    obj_ids: list[Any]
    masks: Tensor  # (N, 1, H, W) fp32 logits on the model's device, at the frame's size, or the requested format
    scores: TrackScores


class Detected(NamedTuple):
    """Stores the ids of the objects that a detector's boxes show, and the results of all objects."""

    ids: list[Any]  # object id of each box; None for a box without an object
    result: StreamResult


class VideoStream:
    """Tracks objects through frames that are passed in one by one. See ``SAM2VideoPredictor.open_stream``.

    Prompts refer to the current frame, the last frame passed in. If each pass of ``propagate_in_video`` over the whole
    video ends at the next prompted frame t, and the next pass begins at t + 1, its results equal the stream's results.
    On the CPU the results are equal bit by bit. A call that fails changes nothing. Only one thread may use a stream at
    a time. Calls from other threads raise :class:`~sam2fast.utils.thread_guard.ConcurrentUseError`.

    Memory use does not grow with the number of frames. A stream keeps only memories that later frames may attend to.
    Each conditioning frame of an object takes a memory and a low-resolution mask.

    Args:
        tracker: Tracker of the predictor.
        num_frames: Length of the video. None if the length is unknown.
        max_cond_frames: Maximum number of conditioning frames per object to attend to, nearest first. If None, only the
            model's limit holds.
        strategy: Rule that selects masks and memories. By default, the tracker's strategy.
    """

    def __init__(
        self,
        tracker: Tracker,
        num_frames: int | None = None,
        max_cond_frames: int | None = None,
        strategy: Strategy | None = None,
    ) -> None:
        num_frames = None if num_frames is None else integer(num_frames, "num_frames")
        if num_frames is not None and not 1 <= num_frames <= UNKNOWN_LENGTH:
            raise ValueError(f"num_frames is {num_frames}; expected 1 or more, or None if it is not known")
        max_cond_frames = None if max_cond_frames is None else integer(max_cond_frames, "max_cond_frames")
        if max_cond_frames is not None and max_cond_frames < 2:
            raise ValueError(f"max_cond_frames is {max_cond_frames}; expected 2 or more, or None for all")
        self.guard = CallGuard()
        self._tracker = tracker
        length = UNKNOWN_LENGTH if num_frames is None else num_frames
        self._frames = CurrentFrame(length, tracker.model.image_size, tracker.model.device)
        tracker.check_stream()
        self._state: VideoSession | None = tracker.new_state(
            self._frames, features_kept=1, max_cond_frames=max_cond_frames, strategy=strategy
        )
        self._detected = DetectedObjects()

    @property
    def frame(self) -> int | None:
        """Index of the current frame, from 0, or None before the first frame. The index remains after :meth:`close`."""
        return self._frames.current

    @property
    def obj_ids(self) -> list[Any]:
        """Ids of the objects, in the order of their first prompts."""
        return list(self._opened().objects)

    @property
    def labels(self) -> dict[Any, str | int | None]:
        """Labels of the objects that :meth:`add_detections` added, by id."""
        return {obj_id: seen.label for obj_id, seen in self._detected.seen.items()}

    @property
    def video_size(self) -> tuple[int, int]:
        """Size (height, width) of the frames, or zeros before the first frame."""
        return self._frames.height, self._frames.width

    @exclusive
    @torch.inference_mode()
    def step(self, frame: FrameLike, output: Output = "logits") -> StreamResult:
        """Tracks all objects to the next frame. If there are no objects, does not encode the frame.

        Args:
            frame: Image as for ``SAM2ImagePredictor.set_image``, or a frame of
                :func:`~sam2fast.video_io.read_frames` or ``SAM2VideoPredictor.encode_frame``. All frames of a stream
                have the same size.
            output: Format of the masks. See ``SAM2VideoPredictor.propagate_in_video``.

        Raises:
            ValueError: If ``output`` is unknown, or another model encoded the frame.
            VideoError, TypeError, FileNotFoundError: If the frame is invalid.
            TypeError: If a predictor method is overridden that streams do not call.
            RuntimeError: If all prompts of an object were removed, or the stream is closed.
            IndexError: If ``num_frames`` frames were already passed in.
        """
        state = self._opened()
        self._tracker.check_stream()
        current = self._frames.current
        index = 0 if current is None else current + 1
        if index >= state.num_frames:
            raise IndexError(f"the stream was opened for {state.num_frames} frames, and all were passed in")
        check_output(output)
        prepared = self._frames.prepared(frame)
        if isinstance(frame, EncodedFrame) and frame._model is not self._tracker.model:
            raise ValueError("the frame was encoded by another model; encode it with the predictor of this stream")
        if any(tracked.new_conditioning or tracked.new_tracked for tracked in state.objects.values()):
            # Checks only after prompts, since a check takes a millisecond.
            self._tracker.call("check_recordings", lambda tracker: tracker.steps.check())
        before = self._frames.current_frame
        with UnchangedOnError(state, state.objects.values()):
            if state.objects:
                # Commits prompts before replacing the current frame, since their memories are encoded from this frame.
                self._tracker.call("propagate_in_video_preflight", commit_prompts, state)
            try:
                self._frames.set_frame(index, prepared)
                if isinstance(frame, EncodedFrame):
                    state.features.keep_encoded(index, frame)
                return self._track(state, index, output)
            except BaseException:
                self._frames.set_frame(*before)
                state.features.clear()  # the index may be used for another frame
                raise
            finally:
                if self._state is None:  # another thread closed the stream meanwhile
                    self._frames.close()

    def _track(self, state: VideoSession, index: int, output: Output) -> StreamResult:
        tracker, objects = self._tracker, state.objects
        if objects:
            with tracker.steps.one_step(state.features):
                results, scores = tracker.track_frame(state, objects, index, reverse=False)
        else:
            results, scores = {}, TrackScores.of([], torch.zeros(0, 1, *state.bank.layout.mask, device=state.device))
        masks = tracker.format_masks(state, scores.low_res_logits, output)
        tracker.store_results(state, objects, index, False, results)
        rules = tracker.rules(state)
        for tracked in objects.values():
            hypotheses = tracked.hypotheses(state.strategy.hypotheses)
            kept = {t for one in hypotheses for t in state.strategy.keep(history_of(state, one, index, False, rules))}
            tracked.forget_unreachable(index, rules, kept)
        return StreamResult(index, list(objects), masks, scores.to_keep())

    @exclusive
    @torch.inference_mode()
    def add_new_points_or_box(
        self,
        obj_id: Any,
        points: Any = None,
        labels: Any = None,
        clear_old_points: bool = True,
        normalize_coords: bool = True,
        box: Any = None,
    ) -> StreamResult:
        """Prompts a new or existing object with points or a box on the current frame.

        Takes the same arguments as ``SAM2VideoPredictor.add_new_points_or_box``.

        Raises:
            ValueError: If the prompt is invalid.
            RuntimeError: If there is no frame yet, or the stream is closed.
        """
        prompt = points, labels, clear_old_points, normalize_coords, box
        return self._prompt("add_new_points_or_box", add_points_or_box, obj_id, *prompt)

    @exclusive
    @torch.inference_mode()
    def add_new_mask(self, obj_id: Any, mask: Any) -> StreamResult:
        """Prompts a new or existing object with a mask ``(H, W)``. See ``SAM2VideoPredictor.add_new_mask``.

        Raises the same errors as :meth:`add_new_points_or_box`.
        """
        return self._prompt("add_new_mask", add_mask, obj_id, mask)

    @exclusive
    @torch.inference_mode()
    def add_detections(
        self,
        boxes: Any,
        labels: Any = None,
        scores: Any = None,
        *,
        min_iou: float = 0.3,
        max_unseen: int = 30,
        start_score: float = 0.5,
    ) -> Detected:
        """Matches all boxes of a detector on the current frame with the objects, and adds new objects.

        Boxes are matched with the bounding boxes of the masks, so that the sum of the IoUs is largest. Each box without
        a match prompts a new object with the next integer as its id. An object that was added by a box is removed after
        ``max_unseen`` frames without a match. Objects that you prompted are matched, but never removed.

        Args:
            boxes: Boxes ``(N, 4)`` XYXY in pixels, clipped to the frame. The number N may be 0.
            labels: Labels of the boxes, N strings or integers. A box and an object with different labels do not match.
                See :attr:`labels`.
            scores: N scores. Boxes with a score below ``start_score`` are matched, but add no objects.
            min_iou: Smallest IoU of a match.
            max_unseen: Number of frames without a match after which an object is removed.
            start_score: Smallest score of a box that adds an object.

        Raises:
            ValueError: If a setting, the boxes, or their labels or scores are invalid.
            ImportError: If scipy is not installed.
            RuntimeError: If there is no frame yet, or the stream is closed.
        """
        state, frame = self._prompted()
        check_rules(min_iou, max_unseen, start_score)
        detections = Detections.of(boxes, labels, scores, state.video_size)
        with UnchangedOnError(state, state.objects.values()):
            ids, detected, lost = add_detections(
                self._tracker, state, frame, self._detected, detections, min_iou, max_unseen, start_score
            )
            remaining = [obj_id for obj_id in state.objects if obj_id not in lost]
            results = newest_results(self._tracker, state, frame)
            result = _with_scores(state, frame, remaining, results, masks_of(self._tracker, state, remaining, results))
        for obj_id in lost:
            self._tracker.call("remove_object", remove_object, state, obj_id, False, need_output=False)
        self._detected = detected
        return Detected(ids, result)

    @exclusive
    @torch.inference_mode()
    def clear_prompts(self, obj_id: Any) -> None:
        """Removes an object's prompts on the current frame. Has no effect if the id is unknown."""
        args = *self._prompted(), plain_id(obj_id)
        self._tracker.call("clear_all_prompts_in_frame", clear_prompts, *args, need_output=False)

    @exclusive
    @torch.inference_mode()
    def remove_object(self, obj_id: Any, strict: bool = False) -> list[Any]:
        """Removes an object and frees its memory. Returns the remaining ids.

        Raises:
            RuntimeError: If the id is unknown and ``strict`` is True, or if the stream is closed.
        """
        state = self._opened()
        self._tracker.call("remove_object", remove_object, state, plain_id(obj_id), strict, need_output=False)
        self._detected = self._detected.without([plain_id(obj_id)])
        return list(state.objects)

    def _prompted(self) -> tuple[VideoSession, int]:
        state = self._opened()
        if self.frame is None:
            raise RuntimeError("the stream has no frame yet: call step(frame) first, then prompt objects on it")
        return state, self.frame

    def _prompt(self, name: str, function: Callable[..., tuple[Any, ...]], obj_id: Any, *prompt: Any) -> StreamResult:
        """Applies a prompt by the user's method ``name`` or by ``function``, and returns the results of all objects."""
        (state, frame), obj_id = self._prompted(), plain_id(obj_id)
        with UnchangedOnError(state, state.objects.values()):
            masks = self._tracker.call(name, function, state, frame, obj_id, *prompt)[2]
            conditioning = self._tracker.makes_conditioning(state.objects[obj_id], frame)
            results = latest_results(state.objects, frame, conditioning)
            return _with_scores(state, frame, list(state.objects), results, masks)

    @exclusive
    def save(self, file: str | Path) -> None:
        """Saves the state and the current frame to one safetensors file, atomically.

        A stream that ``SAM2VideoPredictor.restore_stream`` restores has the same later results, bit by bit.

        Raises:
            StateError: If an id is neither a string nor an integer.
            RuntimeError: If there is no frame yet, or the stream is closed.
            OSError: If the file cannot be written.
        """
        state, frame = self._prompted()
        packed = saved_state.packed(state)
        packed.facts.update({saved_state.STREAM_FRAME: frame, DETECTIONS: self._detected.facts()})
        packed.tensors["square"] = self._frames.pixels(frame).contiguous()
        saved_state.save(packed, file)

    @classmethod
    def restored(cls, tracker: Tracker, packed: saved_state.PackedState) -> "VideoStream":
        """Returns the stream of a file that :meth:`save` wrote.

        Raises:
            StateError: If the file is not a saved stream, or was saved with another model.
        """
        if saved_state.STREAM_FRAME not in packed.facts:
            raise saved_state.StateError("the file is the saved state of a whole video; open it with load_state()")
        frame = packed.facts[saved_state.STREAM_FRAME]
        try:
            saved_state.check_stream(packed.facts, packed.tensors, frame, tracker.model.image_size)
        except ValueError as error:
            raise saved_state.StateError(f"the file is not a stream that sam2fast saved: {error}") from error
        video = packed.facts["video"]
        stream = cls(tracker, video["frames"], packed.facts["max_cond_frames"])
        prepared = packed.tensors["square"], video["height"], video["width"]
        stream._frames.set_frame(frame, prepared)
        stream._state = state = saved_state.unpacked(packed, tracker, stream._frames, features_kept=1)
        if DETECTIONS in packed.facts:
            stream._detected = DetectedObjects.of_facts(packed.facts[DETECTIONS], state.objects)
        return stream

    @exclusive
    def close(self) -> None:
        """Closes the stream and frees all memory. Has no effect on a closed stream."""
        self._state = None
        self._frames.close()

    def __enter__(self) -> "VideoStream":
        return self

    def __exit__(self, exc_type: type[BaseException] | None, *error: object) -> None:
        try:
            self.close()
        except ConcurrentUseError:
            if exc_type is None:
                raise
            # The error of the ``with`` block propagates instead. Memory is freed after the other thread's call.
            self._state = None

    def __repr__(self) -> str:
        if self._state is None:
            return "VideoStream(closed)"
        height, width = self.video_size
        return f"VideoStream(frame {self.frame}, {width}x{height}, objects {self.obj_ids})"

    def _opened(self) -> VideoSession:
        if self._state is None:
            raise RuntimeError("the stream was closed; open another with open_stream()")
        return self._state


def _with_scores(
    state: VideoSession, frame: int, ids: list[Any], results: Mapping[Any, FrameResult], masks: Tensor
) -> StreamResult:
    present = [results.get(obj_id) for obj_id in ids]
    absent = torch.full((1, 1, *state.bank.layout.mask), NO_OBJ_SCORE, device="cpu")
    low_res = torch.cat([absent[:0], *(absent if r is None else r.mask for r in present)])
    return StreamResult(frame, ids, masks, TrackScores.of(present, low_res.to(masks.device)))
