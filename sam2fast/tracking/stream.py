"""A video whose frames come one by one: a camera, a socket, a file of any length."""

import operator
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from sam2fast.modeling.sam2_base import NO_OBJ_SCORE
from sam2fast.tracking import saved_state
from sam2fast.tracking.features import FeatureCache
from sam2fast.tracking.live_frames import FrameLike, LiveFrames
from sam2fast.tracking.memory_bank import MemoryBank
from sam2fast.tracking.outputs import Output, check_output, returned_masks
from sam2fast.tracking.scores import TrackScores
from sam2fast.tracking.state import VideoState

if TYPE_CHECKING:
    from sam2fast.sam2_video_predictor import SAM2VideoPredictor


# The length where it is not known, which only has to be no less than the number of pointers that are attended to.
ENDLESS = sys.maxsize


class StreamResult(NamedTuple):
    """All objects of a stream on its current frame."""

    frame: int
    obj_ids: list[Any]
    masks: Tensor  # (N, 1, H, W) fp32 logits on the model's device, at the frame's size, or what was asked for
    scores: TrackScores


class VideoStream:
    """Tracks objects through frames that are handed in one after the other; see ``SAM2VideoPredictor.open_stream``.

    Prompts are for the current frame, the one handed in last. Answers are those of ``init_state`` and
    ``propagate_in_video`` on the whole video, if each pass ends at the next prompted frame t, and the one after it
    begins at t + 1: the same bits on the CPU. A call that fails has changed nothing. Not safe from several threads.

    What is kept does not grow with the frames: the memories that the next frame may attend to, and of each object the
    conditioning frames, a memory and a low-resolution mask each.

    Args:
        predictor: whose model is used.
        num_frames: length of the video.
        max_cond_frames: how many conditioning frames of an object are attended to, the nearest.
    """

    def __init__(
        self, predictor: "SAM2VideoPredictor", num_frames: int | None = None, max_cond_frames: int | None = None
    ) -> None:
        if num_frames is not None and not 1 <= operator.index(num_frames) <= ENDLESS:
            raise ValueError(f"num_frames is {num_frames}; expected 1 or more, or None if it is not known")
        if max_cond_frames is not None and operator.index(max_cond_frames) < 2:
            raise ValueError(f"max_cond_frames is {max_cond_frames}; expected 2 or more, or None for all")
        self._predictor = predictor
        frames = LiveFrames(ENDLESS if num_frames is None else num_frames, predictor.image_size, predictor.device)
        features, bank = (
            FeatureCache(predictor, frames, size=1, encoder=predictor._encode_frames),
            MemoryBank(predictor),
        )
        self._frames = frames
        self._state: VideoState | None = VideoState(frames, features, bank, max_cond_frames=max_cond_frames)

    # ---- what it is at ----

    @property
    def frame(self) -> int | None:
        """Index of the current frame, from 0; None before the first. Still known when the stream is closed."""
        return self._frames.current

    @property
    def obj_ids(self) -> list[Any]:
        """Ids of the objects, in the order in which they were first prompted."""
        return list(self._opened().objects)

    @property
    def video_size(self) -> tuple[int, int]:
        """(height, width) of the frames; zeros before the first."""
        return self._frames.height, self._frames.width

    # ---- frames ----

    @torch.inference_mode()
    def step(self, frame: FrameLike, output: Output = "logits") -> StreamResult:
        """Goes to the next frame and finds all objects on it; without objects the frame is not even encoded.

        Args:
            frame: as ``SAM2ImagePredictor.set_image`` takes it, or one of :func:`~sam2fast.video_io.read_frames`. All
                frames have the same size.
            output: the form of the masks; see ``SAM2VideoPredictor.propagate_in_video``.

        Raises:
            ValueError: an unknown ``output``.
            VideoError, TypeError, FileNotFoundError: the frame cannot be used.
            RuntimeError: an object has no prompt left to track it from; or the stream was closed.
            IndexError: ``num_frames`` were given already.
        """
        state = self._opened()
        index = 0 if self.frame is None else self.frame + 1
        if index >= state.num_frames:
            raise IndexError(f"the stream was opened for {state.num_frames} frames, and has had them all")
        check_output(output)
        prepared = self._frames.prepared(frame)
        if any(tracked.new_conditioning or tracked.new_tracked for tracked in state.objects.values()):
            self._predictor.check_recordings()  # not on every frame: it takes a millisecond
        with _all_or_nothing(state):
            if state.objects:
                # While the frame of the last prompts is still there: their memories are made from it.
                self._predictor.propagate_in_video_preflight(state)
            try:
                with self._frames.showing(index, prepared):
                    return self._track(state, index, output)
            except BaseException:
                state.features.clear()  # another frame may come under the same index
                raise

    def _track(self, state: VideoState, index: int, output: Output) -> StreamResult:
        objects, rules = state.objects, state.rules
        if not objects:
            low_res = torch.zeros(self._low_res_shape(0), device=state.device)
            masks = returned_masks(self._predictor, state, low_res, output)
            return StreamResult(index, [], masks, TrackScores.of([], low_res))
        results, scores = self._predictor._track_frame(state, objects, index, reverse=False)
        masks = returned_masks(self._predictor, state, scores.low_res_logits, output)
        self._predictor._store(state, objects, index, False, results)
        for tracked in objects.values():
            tracked.forget_unreachable(index, rules)
        return StreamResult(index, list(objects), masks, scores)

    # ---- prompts on the current frame ----

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
        with _all_or_nothing(state):
            masks = self._predictor.add_new_points_or_box(
                state, frame, obj_id, points, labels, clear_old_points, normalize_coords, box
            )[2]
            return self._with_scores(state, frame, obj_id, masks)

    def add_new_mask(self, obj_id: Any, mask: Any) -> StreamResult:
        """A mask ``(H, W)`` of an object, which may be new, as ``SAM2VideoPredictor.add_new_mask`` takes it.

        Raises: as :meth:`add_new_points_or_box`.
        """
        state, frame = self._prompted()
        with _all_or_nothing(state):
            return self._with_scores(state, frame, obj_id, self._predictor.add_new_mask(state, frame, obj_id, mask)[2])

    def clear_prompts(self, obj_id: Any) -> None:
        """Takes back what was said about an object on the current frame; an unknown id has nothing to take back."""
        state, frame = self._prompted()
        self._predictor.clear_all_prompts_in_frame(state, frame, obj_id, need_output=False)

    def remove_object(self, obj_id: Any, strict: bool = False) -> list[Any]:
        """Forgets an object, and frees its memory; gives the ids that remain.

        Raises:
            RuntimeError: an unknown id with ``strict``; or the stream was closed.
        """
        state = self._opened()
        self._predictor.remove_object(state, obj_id, strict, need_output=False)
        return list(state.objects)

    def _prompted(self) -> tuple[VideoState, int]:
        state = self._opened()
        if self.frame is None:
            raise RuntimeError("the stream has no frame yet: call step(frame) first, then prompt what is on it")
        return state, self.frame

    @torch.inference_mode()
    def _with_scores(self, state: VideoState, frame: int, obj_id: Any, masks: Tensor) -> StreamResult:
        """The masks that a prompt was answered with, and the scores of the same results."""
        conditioning = self._predictor._conditions(state.objects[obj_id], frame)
        results = [o.result_on(frame, conditioning) for o in state.objects.values()]
        absent = torch.full(self._low_res_shape(1), NO_OBJ_SCORE)
        low_res = torch.cat([absent if r is None else r.mask for r in results]).to(state.device)
        return StreamResult(frame, list(state.objects), masks, TrackScores.of(results, low_res))

    def _low_res_shape(self, count: int) -> tuple[int, int, int, int]:
        side = self._predictor.sam_image_embedding_size * 4
        return count, 1, side, side

    # ---- files ----

    def save(self, file: str | Path) -> None:
        """Writes everything that is known, and the current frame, to one safetensors file, whole or not at all.

        ``SAM2VideoPredictor.restore_stream`` goes on from there with the same bits.

        Raises:
            StateError: an id is neither text nor an integer.
            RuntimeError: there is no frame yet, or the stream was closed.
            OSError: the file cannot be written.
        """
        state, frame = self._prompted()
        packed = saved_state.packed(state)
        packed.facts[saved_state.STREAM_FRAME] = frame
        packed.tensors["square"] = self._frames.pixels(frame).contiguous()
        saved_state.save(packed, file)

    @classmethod
    def restored(cls, predictor: "SAM2VideoPredictor", packed: saved_state.PackedState) -> "VideoStream":
        """The stream that :meth:`save` wrote.

        Raises:
            StateError: it is no stream's, or one of another model.
        """
        if saved_state.STREAM_FRAME not in packed.facts:
            raise saved_state.StateError("the file holds the state of a whole video; open it with load_state()")
        video = packed.facts["video"]
        stream = cls(predictor, video["frames"], packed.facts["max_cond_frames"])
        prepared = packed.tensors["square"], video["height"], video["width"]
        with stream._frames.showing(packed.facts[saved_state.STREAM_FRAME], prepared):
            stream._state = saved_state.unpacked(packed, predictor, stream._frames, stream._opened().features)
        return stream

    # ---- the end ----

    def close(self) -> None:
        """Frees everything; may be called twice."""
        self._state = None
        self._frames.close()

    def __enter__(self) -> "VideoStream":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        if self._state is None:
            return "VideoStream(closed)"
        height, width = self.video_size
        return f"VideoStream(frame {self.frame}, {width}x{height}, objects {self.obj_ids})"

    def _opened(self) -> VideoState:
        if self._state is None:
            raise RuntimeError("the stream was closed; open another with open_stream()")
        return self._state


@contextmanager
def _all_or_nothing(state: VideoState) -> Iterator[None]:
    """After an exception the objects are what they were."""
    before = {obj_id: tracked.copy() for obj_id, tracked in state.objects.items()}
    try:
        yield
    except BaseException:
        state.objects, state.obj_ids = before, list(before)
        raise
