"""Tracks objects in a video with frames that arrive one by one: from a camera, a socket, a file of any length."""

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
from sam2fast.tracking.outputs import FrameResult, Output, TrackScores, check_output
from sam2fast.tracking.prompting import (
    add_mask,
    add_points_or_box,
    clear_prompts,
    commit_prompts,
    masks_of,
    remove_object,
)
from sam2fast.tracking.records import latest_results
from sam2fast.tracking.session import UnchangedOnError, VideoSession
from sam2fast.tracking.strategies import Strategy
from sam2fast.tracking.tracker import Tracker
from sam2fast.utils.numbers import integer
from sam2fast.utils.thread_guard import CallGuard, ConcurrentUseError, exclusive
from sam2fast.video_io.frames import CurrentFrame, FrameLike

# The length of a stream of unknown length; it only has to be at least the number of pointers that are attended to.
UNKNOWN_LENGTH = sys.maxsize


class StreamResult(NamedTuple):
    """Stores the results of all objects of a stream on its current frame."""

    frame: int
    obj_ids: list[Any]
    masks: Tensor  # (N, 1, H, W) fp32 logits on the model's device, at the frame's size, or the requested format
    scores: TrackScores


class Detected(NamedTuple):
    """Stores the objects that boxes of a detector show."""

    ids: list[Any]  # id of each box's object, in order; None for a box that starts no object
    result: StreamResult


class VideoStream:
    """Tracks objects through frames that are passed in one by one; see ``SAM2VideoPredictor.open_stream``.

    Prompts are for the current frame, the last one passed in. The results equal those of ``init_state`` and
    ``propagate_in_video`` on the whole video, if each pass ends at the next prompted frame t, and the next pass begins
    at t + 1: the same bits on the CPU. A call that fails changes nothing. Only one thread may use a stream at a time.
    Others get :class:`~sam2fast.utils.thread_guard.ConcurrentUseError`.

    Memory use does not grow with the frames. A stream keeps the memories that the next frame may attend to. Each
    conditioning frame of an object takes a memory and a low-resolution mask.

    Args:
        tracker: Computes the objects.
        num_frames: Length of the video.
        max_cond_frames: Maximum number of conditioning frames per object to attend to, the nearest.
        strategy: Selects masks and memories. By default the tracker's strategy.
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
        """Index of the current frame, from 0. None before the first. It stays after the stream is closed."""
        return self._frames.current

    @property
    def obj_ids(self) -> list[Any]:
        """Ids of the objects, in the order of their first prompts."""
        return list(self._opened().objects)

    @property
    def labels(self) -> dict[Any, str | int | None]:
        """Labels of the objects that :meth:`add_detections` started, by id."""
        return {obj_id: seen.label for obj_id, seen in self._detected.seen.items()}

    @property
    def video_size(self) -> tuple[int, int]:
        """Size (height, width) of the frames. Zeros before the first."""
        return self._frames.height, self._frames.width

    @exclusive
    @torch.inference_mode()
    def step(self, frame: FrameLike, output: Output = "logits") -> StreamResult:
        """Tracks all objects to the next frame. Without objects, the frame is not encoded.

        Args:
            frame: Image of a type that ``SAM2ImagePredictor.set_image`` takes, or a frame of
                :func:`~sam2fast.video_io.read_frames` or ``SAM2VideoPredictor.encode_frame``. All have the same size.
            output: Format of the masks, see ``SAM2VideoPredictor.propagate_in_video``.

        Raises:
            ValueError: If ``output`` is unknown, or another model encoded the frame.
            VideoError, TypeError, FileNotFoundError: If the frame cannot be used.
            TypeError: If a predictor method that streams do not call is overridden.
            RuntimeError: If an object has no prompt left to track it from, or the stream is closed.
            IndexError: If the stream has had all its ``num_frames``.
        """
        state = self._opened()
        self._tracker.check_stream()
        current = self._frames.current
        index = 0 if current is None else current + 1
        if index >= state.num_frames:
            raise IndexError(f"the stream was opened for {state.num_frames} frames, and has had them all")
        check_output(output)
        prepared = self._frames.prepared(frame)
        if isinstance(frame, EncodedFrame) and frame._model is not self._tracker.model:
            raise ValueError("the frame was encoded by another model; encode it with the predictor of this stream")
        if any(tracked.new_conditioning or tracked.new_tracked for tracked in state.objects.values()):
            # Not on every frame: it takes a millisecond.
            self._tracker.call("check_recordings", Tracker.check_recordings)
        before = self._frames.current_frame
        with UnchangedOnError(state, state.objects.values()):
            if state.objects:
                # While the frame of the last prompts is still there: their memories are encoded from it.
                self._tracker.call("propagate_in_video_preflight", commit_prompts, state)
            try:
                self._frames.set_frame(index, prepared)
                if isinstance(frame, EncodedFrame):
                    state.features.keep_encoded(index, frame)
                return self._track(state, index, output)
            except BaseException:
                self._frames.set_frame(*before)
                state.features.clear()  # another frame may get the same index
                raise
            finally:
                if self._state is None:  # the stream was closed meanwhile
                    self._frames.close()

    def _track(self, state: VideoSession, index: int, output: Output) -> StreamResult:
        tracker, objects = self._tracker, state.objects
        if objects:
            with tracker.one_step(state):
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
        """Adds clicks or a box for an object, which may be new.

        Takes the same arguments as ``SAM2VideoPredictor.add_new_points_or_box``.

        Raises:
            ValueError: If the prompt is invalid, as there.
            RuntimeError: If there is no frame yet, or the stream is closed.
        """
        prompt = points, labels, clear_old_points, normalize_coords, box
        return self._prompt("add_new_points_or_box", add_points_or_box, obj_id, *prompt)

    @exclusive
    @torch.inference_mode()
    def add_new_mask(self, obj_id: Any, mask: Any) -> StreamResult:
        """Adds a mask ``(H, W)`` for an object, which may be new; see ``SAM2VideoPredictor.add_new_mask``.

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
        """Adds all boxes of a detector on the current frame. Tracked objects keep their ids.

        Boxes are matched with the boxes of the masks, so that the IoUs have the largest sum. Each other box prompts a
        new object with the next integer as its id. An object that a box started is removed after ``max_unseen`` frames
        without a box. Objects that you prompted are matched, but never removed.

        Args:
            boxes: Boxes ``(N, 4)`` XYXY in pixels, clipped to the frame. N may be 0.
            labels: N texts or integers. A box matches only objects with its label or without one. See :attr:`labels`.
            scores: N numbers. Boxes below ``start_score`` are matched, but start no object.
            min_iou: Smallest IoU of a match.

        Raises:
            ValueError: If a setting, the boxes, or their labels or scores are invalid.
            ImportError: If scipy is not installed.
            RuntimeError: If there is no frame yet, or the stream is closed.
        """
        state, frame = self._prompted()
        check_rules(min_iou, max_unseen, start_score)
        found = Detections.of(boxes, labels, scores, state.video_size)
        with UnchangedOnError(state, state.objects.values()):
            ids, known, gone = add_detections(
                self._tracker, state, frame, self._detected, found, min_iou, max_unseen, start_score
            )
            left = [obj_id for obj_id in state.objects if obj_id not in gone]
            results = newest_results(self._tracker, state, frame)
            result = _with_scores(state, frame, left, results, masks_of(self._tracker, state, left, results))
        for obj_id in gone:
            self._tracker.call("remove_object", remove_object, state, obj_id, False, need_output=False)
        self._detected = known
        return Detected(ids, result)

    @exclusive
    @torch.inference_mode()
    def clear_prompts(self, obj_id: Any) -> None:
        """Removes an object's prompts on the current frame. An unknown id has none."""
        given = *self._prompted(), plain_id(obj_id)
        self._tracker.call("clear_all_prompts_in_frame", clear_prompts, *given, need_output=False)

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
            raise RuntimeError("the stream has no frame yet: call step(frame) first, then prompt what is on it")
        return state, self.frame

    def _prompt(self, name: str, function: Callable[..., tuple[Any, ...]], obj_id: Any, *prompt: Any) -> StreamResult:
        """Applies a prompt by ``function`` or the user's method ``name``. Returns masks and scores of all objects."""
        (state, frame), obj_id = self._prompted(), plain_id(obj_id)
        with UnchangedOnError(state, state.objects.values()):
            masks = self._tracker.call(name, function, state, frame, obj_id, *prompt)[2]
            conditioning = self._tracker.makes_conditioning(state.objects[obj_id], frame)
            results = latest_results(state.objects, frame, conditioning)
            return _with_scores(state, frame, list(state.objects), results, masks)

    @exclusive
    def save(self, file: str | Path) -> None:
        """Writes the whole state and the current frame to one safetensors file, atomically.

        ``SAM2VideoPredictor.restore_stream`` continues from there with the same bits.

        Raises:
            StateError: If an id is neither text nor an integer.
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
        """Returns the stream that :meth:`save` wrote.

        Raises:
            StateError: If the file holds no stream, or a stream of another model.
        """
        if saved_state.STREAM_FRAME not in packed.facts:
            raise saved_state.StateError("the file holds the state of a whole video; open it with load_state()")
        shown = packed.facts[saved_state.STREAM_FRAME]
        try:
            saved_state.check_stream(packed.facts, packed.tensors, shown, tracker.model.image_size)
        except ValueError as error:
            raise saved_state.StateError(f"the file holds no stream that sam2fast saved: {error}") from error
        video = packed.facts["video"]
        stream = cls(tracker, video["frames"], packed.facts["max_cond_frames"])
        prepared = packed.tensors["square"], video["height"], video["width"]
        stream._frames.set_frame(shown, prepared)
        stream._state = state = saved_state.unpacked(packed, tracker, stream._frames, features_kept=1)
        if DETECTIONS in packed.facts:
            stream._detected = DetectedObjects.of_facts(packed.facts[DETECTIONS], state.objects)
        return stream

    @exclusive
    def close(self) -> None:
        """Frees all memory. It may be called twice."""
        self._state = None
        self._frames.close()

    def __enter__(self) -> "VideoStream":
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        try:
            self.close()
        except ConcurrentUseError:
            if kind is None:
                raise
            # The block's own error is raised. Everything is freed after the other thread's call.
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
    found = [results.get(obj_id) for obj_id in ids]
    absent = torch.full((1, 1, *state.bank.layout.mask), NO_OBJ_SCORE, device="cpu")
    low_res = torch.cat([absent[:0], *(absent if r is None else r.mask for r in found)])
    return StreamResult(frame, ids, masks, TrackScores.of(found, low_res.to(masks.device)))
