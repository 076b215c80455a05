"""A video whose frames arrive one by one: from a camera, a socket, a file of any length."""

import sys
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sam2fast.modeling.sam2_base import NO_OBJ_SCORE
from sam2fast.prompt_inputs import integer, plain_id
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
from sam2fast.tracking.session import UnchangedOnError, VideoSession
from sam2fast.tracking.strategies import Strategy
from sam2fast.tracking.tracker import Tracker
from sam2fast.utils.thread_guard import CallGuard, ConcurrentUseError, exclusive
from sam2fast.video_io.frames import CurrentFrame, FrameLike

# The length of a stream of unknown length; it only has to be at least the number of pointers that are attended to.
UNKNOWN_LENGTH = sys.maxsize


class StreamResult(NamedTuple):
    """All objects of a stream on its current frame."""

    frame: int
    obj_ids: list[Any]
    masks: Tensor  # (N, 1, H, W) fp32 logits on the model's device, at the frame's size, or what was asked for
    scores: TrackScores


class Detected(NamedTuple):
    """What boxes of a detector showed."""

    ids: list[Any]  # the object of each box, in their order; None for a box that starts none
    result: StreamResult


class VideoStream:
    """Tracks objects through frames that are passed in one after the other; see ``SAM2VideoPredictor.open_stream``.

    Prompts are for the current frame, the last one passed in. The results are those of ``init_state`` and
    ``propagate_in_video`` on the whole video, if each pass ends at the next prompted frame t, and the one after it
    begins at t + 1: the same bits on the CPU. A call that fails has changed nothing. Only one thread may use it at a
    time: another one gets :class:`~sam2fast.utils.thread_guard.ConcurrentUseError`.

    Memory use does not grow with the frames: a stream keeps the memories that the next frame may attend to, and for
    each object its conditioning frames, a memory and a low-resolution mask each.

    Args:
        tracker: computes the objects.
        num_frames: length of the video.
        max_cond_frames: how many conditioning frames of an object are attended to, the nearest.
        strategy: decides about masks and memories; by default the tracker's.
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
        """Index of the current frame, from 0; None before the first. Still known when the stream is closed."""
        return self._frames.current

    @property
    def obj_ids(self) -> list[Any]:
        """Ids of the objects, in the order in which they were first prompted."""
        return list(self._opened().objects)

    @property
    def labels(self) -> dict[Any, str | int | None]:
        """The labels of the objects that :meth:`add_detections` started, by id."""
        return {obj_id: seen.label for obj_id, seen in self._detected.seen.items()}

    @property
    def video_size(self) -> tuple[int, int]:
        """(height, width) of the frames; zeros before the first."""
        return self._frames.height, self._frames.width

    @exclusive
    @torch.inference_mode()
    def step(self, frame: FrameLike, output: Output = "logits") -> StreamResult:
        """Goes to the next frame and tracks all objects to it; without objects the frame is not encoded.

        Args:
            frame: as ``SAM2ImagePredictor.set_image`` takes it, or one of :func:`~sam2fast.video_io.read_frames` or of
                ``SAM2VideoPredictor.encode_frame``. All frames have the same size.
            output: the form of the masks; see ``SAM2VideoPredictor.propagate_in_video``.

        Raises:
            ValueError: an unknown ``output``, or a frame that another model has encoded.
            VideoError, TypeError, FileNotFoundError: the frame cannot be used.
            TypeError: a method of the predictor is overridden that streams do not call.
            RuntimeError: an object has no prompt left to track it from; or the stream was closed.
            IndexError: ``num_frames`` were given already.
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
            results, scores = {}, TrackScores.of([], torch.zeros(self._low_res_shape(0), device=state.device))
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
        """Clicks or a box on an object, which may be new; arguments as ``SAM2VideoPredictor.add_new_points_or_box``.

        Raises:
            ValueError: see there.
            RuntimeError: there is no frame yet, or the stream was closed.
        """
        state, frame = self._prompted()
        with UnchangedOnError(state, state.objects.values()):
            prompt, obj_id = (points, labels, clear_old_points, normalize_coords, box), plain_id(obj_id)
            call = self._tracker.call
            masks = call("add_new_points_or_box", add_points_or_box, state, frame, obj_id, *prompt)[2]
            return self._of_prompt(state, frame, obj_id, masks)

    @exclusive
    @torch.inference_mode()
    def add_new_mask(self, obj_id: Any, mask: Any) -> StreamResult:
        """A mask ``(H, W)`` of an object, which may be new, as ``SAM2VideoPredictor.add_new_mask`` takes it.

        Raises: as :meth:`add_new_points_or_box`.
        """
        (state, frame), obj_id = self._prompted(), plain_id(obj_id)
        with UnchangedOnError(state, state.objects.values()):
            masks = self._tracker.call("add_new_mask", add_mask, state, frame, obj_id, mask)[2]
            return self._of_prompt(state, frame, obj_id, masks)

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
        """All boxes of a detector on the current frame: objects that are tracked keep their ids, others are new.

        Boxes are matched with the boxes of the masks, so that the IoUs have the largest sum. Each box that is left
        prompts a new object, whose id is the next integer. Objects that boxes started are removed when they have had no
        box for ``max_unseen`` frames; those that you prompted are matched, but stay.

        Args:
            boxes: ``(N, 4)`` XYXY in pixels, also none; what is outside the frame is cut off.
            labels: N texts or integers; a box matches only objects with its label, or without any. See :attr:`labels`.
            scores: N numbers; boxes below ``start_score`` are matched, but start no object.
            min_iou: smallest IoU of a match.

        Raises:
            ValueError: a setting, the boxes, or their labels or scores are invalid.
            ImportError: scipy is not installed.
            RuntimeError: there is no frame yet, or the stream was closed.
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
            result = self._with_scores(frame, left, results, masks_of(self._tracker, state, left, results))
        for obj_id in gone:
            self._tracker.call("remove_object", remove_object, state, obj_id, False, need_output=False)
        self._detected = known
        return Detected(ids, result)

    @exclusive
    @torch.inference_mode()
    def clear_prompts(self, obj_id: Any) -> None:
        """Removes an object's prompts on the current frame; an unknown id has none."""
        state, frame = self._prompted()
        self._tracker.call(
            "clear_all_prompts_in_frame", clear_prompts, state, frame, plain_id(obj_id), need_output=False
        )

    @exclusive
    @torch.inference_mode()
    def remove_object(self, obj_id: Any, strict: bool = False) -> list[Any]:
        """Removes an object and frees its memory. Returns the remaining ids.

        Raises:
            RuntimeError: an unknown id with ``strict``; or the stream was closed.
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

    def _of_prompt(self, state: VideoSession, frame: int, obj_id: Any, masks: Tensor) -> StreamResult:
        """The masks after a prompt, and the scores of the same results."""
        conditioning = self._tracker.makes_conditioning(state.objects[obj_id], frame)
        results = {i: o.result_on(frame, conditioning) for i, o in state.objects.items()}
        return self._with_scores(frame, list(results), results, masks)

    def _with_scores(
        self, frame: int, ids: list[Any], results: Mapping[Any, FrameResult | None], masks: Tensor
    ) -> StreamResult:
        found = [results.get(obj_id) for obj_id in ids]
        absent = torch.full(self._low_res_shape(1), NO_OBJ_SCORE, device="cpu")
        low_res = torch.cat([absent[:0], *(absent if r is None else r.mask for r in found)])
        return StreamResult(frame, ids, masks, TrackScores.of(found, low_res.to(masks.device)))

    def _low_res_shape(self, count: int) -> tuple[int, int, int, int]:
        side = self._tracker.model.sam_image_embedding_size * 4
        return count, 1, side, side

    @exclusive
    def save(self, file: str | Path) -> None:
        """Writes the whole state and the current frame to one safetensors file, atomically.

        ``SAM2VideoPredictor.restore_stream`` continues from there with the same bits.

        Raises:
            StateError: an id is neither text nor an integer.
            RuntimeError: there is no frame yet, or the stream was closed.
            OSError: the file cannot be written.
        """
        state, frame = self._prompted()
        packed = saved_state.packed(state)
        packed.facts.update({saved_state.STREAM_FRAME: frame, DETECTIONS: self._detected.facts()})
        packed.tensors["square"] = self._frames.pixels(frame).contiguous()
        saved_state.save(packed, file)

    @classmethod
    def restored(cls, tracker: Tracker, packed: saved_state.PackedState) -> "VideoStream":
        """The stream that :meth:`save` wrote.

        Raises:
            StateError: it holds no stream, or one of another model.
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
        """Frees everything; may be called twice."""
        self._state = None
        self._frames.close()

    def __enter__(self) -> "VideoStream":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            self.close()
        except ConcurrentUseError:
            if error is None:
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
