"""Predictor methods that the official package does not have: CUDA graphs, streams and saved states."""

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Generic, TypeVar, cast

import numpy as np
import torch
from torch import nn

from sam2fast.modeling.memory_selection import MemoryRules
from sam2fast.prompt_inputs import plain_ids
from sam2fast.tracking import saved_state
from sam2fast.tracking.features import EncodedFrame
from sam2fast.tracking.object_results import requested
from sam2fast.tracking.outputs import Output, check_output
from sam2fast.tracking.propagation import frames_at_once, merge_passes, warm_up
from sam2fast.tracking.session import TrackedObject, VideoSession
from sam2fast.tracking.settings import TrackingModel
from sam2fast.tracking.step_runner import runner_for
from sam2fast.tracking.strategies import StrategyLike, strategy_of
from sam2fast.tracking.stream import VideoStream
from sam2fast.tracking.tracker import Tracker
from sam2fast.utils.numbers import integer
from sam2fast.utils.thread_guard import exclusive_session, shared
from sam2fast.video_io import open_frames
from sam2fast.video_io.frames import CurrentFrame, FrameLike
from sam2fast.video_io.sources import resized, to_rgb_image
from sam2fast.video_io.video_types import FramePixels, StreamFrame
from sam2fast.video_io.volumes import Axis

State = TypeVar("State", bound=VideoSession)


class PredictorMethods(TrackingModel, Generic[State]):
    """SAM 2 with the methods of sessions that the official package does not have."""

    propagate_in_video: Callable[..., Iterator[tuple[Any, ...]]]
    propagate_in_video_preflight: Callable[..., None]

    @property
    def _tracker(self) -> Tracker:
        """Tracker of this model. Each use creates a new tracker, since a stored tracker would be a reference cycle."""
        return Tracker(self)

    def _checked_history(self, max_history: Any) -> int | None:
        """Returns ``max_history`` of ``init_state`` as an int, or None.

        Raises:
            ValueError: If ``max_history`` is less than the maximum distance of a frame that is attended to.
            TypeError: If ``max_history`` is not an integer.
        """
        reach = MemoryRules.of(self).reach
        limit = None if max_history is None else integer(max_history, "max_history")
        if limit is not None and limit < reach:
            raise ValueError(f"max_history is {limit}; expected at least {reach}, the frames that the model looks back")
        return limit

    @torch.inference_mode()
    def warmup(
        self,
        num_objects: int = 1,
        size: tuple[int, int] | None = None,
        *,
        output: Output = "logits",
        encode_ahead: int | None = None,
    ) -> None:
        """Compiles kernels in up to eight processes, and records steps for 1 to ``num_objects`` objects.

        The recorded steps are for objects with one prompted frame. Call this method in the same autocast context and
        with the same backend as for later videos. On CUDA, recording fails if another thread calls
        ``torch.cuda.synchronize()`` meanwhile. See docs/tracking.md.

        Args:
            num_objects: Maximum number of objects.
            size: Size (height, width) of the videos in pixels. By default, the model's input size.
            output, encode_ahead: See ``propagate_in_video``.

        Raises:
            ValueError, TypeError: If ``num_objects``, ``size`` or ``encode_ahead`` is not a positive integer, or
                ``output`` is unknown.
            RuntimeError: If the predictor is in training mode.
        """
        check_output(output)
        height, width = size or (self.image_size, self.image_size)
        if min(num_objects, height, width) < 1:
            raise ValueError(f"num_objects is {num_objects} and size {height, width}; expected 1 or more of each")
        warm_up(self._tracker, num_objects, (height, width), output, frames_at_once(encode_ahead, self.device))

    def release_recordings(self) -> None:
        """Frees the recordings of the model and its sessions. Later steps are recorded again if needed."""
        runner_for(self).release()

    def check_recordings(self) -> None:
        """Drops recordings if weights moved or settings of the model changed.

        This check runs before each pass over a video, and before a stream's first step after a prompt. Changes made
        after the check take effect at the next check.
        """
        runner_for(self).check()

    def propagate_both(
        self, inference_state: VideoSession, *, obj_ids: Iterable[Any] | None = None, **options: Any
    ) -> Iterator[tuple[Any, ...]]:
        """Tracks objects through the whole video or volume in both directions, and yields each frame once.

        The forward pass begins at the earliest prompt. The backward pass begins at frame t, the latest frame on which
        an object is first prompted. An object's masks come from the forward pass from its first prompted frame on, and
        from the backward pass before. The frames from t to the end are yielded first, then the frames before t in
        descending order. If both passes track a frame, its masks stay in memory until the frame is yielded.

        Args:
            obj_ids: Ids of the objects to track. None: all objects. See ``propagate_in_video``.
            **options: Arguments ``return_scores``, ``progress``, ``encode_ahead``, ``output`` and ``lag`` of
                ``propagate_in_video``.

        Yields:
            Results as in ``propagate_in_video``.

        Raises:
            RuntimeError: If the session is the official dict. Call ``propagate_in_video`` with and without ``reverse``
                instead. For other errors see ``propagate_in_video``.
        """
        selected = {} if obj_ids is None else {"obj_ids": plain_ids(obj_ids)}
        self.propagate_in_video_preflight(inference_state, **selected)
        objects: Mapping[Any, TrackedObject] = requested(getattr(inference_state, "objects", {}), **selected)
        if not objects:
            raise RuntimeError(
                "this session is the official dict, which propagate_both does not support: call propagate_in_video, "
                "and again with reverse=True"
            )
        begins = {obj_id: min(tracked.conditioning) for obj_id, tracked in objects.items()}
        options |= selected
        forward = self.propagate_in_video(inference_state, min(begins.values()), **options)
        backward = self.propagate_in_video(inference_state, max(begins.values()), reverse=True, **options)
        yield from merge_passes(begins, forward, backward)

    @shared
    def open_stream(
        self,
        *,
        num_frames: int | None = None,
        max_cond_frames: int | None = None,
        strategy: StrategyLike | None = None,
    ) -> VideoStream:
        """Opens a stream, to track objects in a video of any length by passing in frames one by one.

        ::

            with predictor.open_stream() as stream:
                for frame in camera:
                    result = stream.step(frame)
                    if clicked:
                        result = stream.add_new_points_or_box(obj_id, points, labels)

        Args:
            num_frames: Length of the video, if known. A length below ``max_obj_ptrs_in_encoder`` (16) changes the
                normalization of object pointers' distances. A larger length has no effect.
            max_cond_frames: Maximum number of conditioning frames per object to keep and attend to, nearest first. If
                None, uses the model's ``max_cond_frames_in_attn``, by default without a limit.
            strategy: See :func:`~sam2fast.build_sam.build_sam2_video_predictor`. If None, uses the predictor's
                strategy.

        Raises:
            ValueError: If ``num_frames`` is below 1, ``max_cond_frames`` is below 2, or the strategy is unknown.
            TypeError: If an argument has the wrong type, or a predictor method is overridden that streams do not call.
        """
        requested = None if strategy is None else strategy_of(strategy)
        return VideoStream(self._tracker, num_frames, max_cond_frames, requested)

    @shared
    @torch.inference_mode()
    def encode_frame(self, frame: FrameLike) -> EncodedFrame:
        """Encodes a frame once for any number of streams of this predictor.

        ::

            encoded = predictor.encode_frame(image)
            results = [stream.step(encoded) for stream in streams]  # one object each, opened when the object appears

        ``stream.step(encoded)`` returns the same results as ``stream.step(frame)``. The features take 17 MB at
        1024x1024 in fp32.

        Raises:
            VideoError, TypeError, FileNotFoundError: If the frame is invalid; see ``VideoStream.step``.
            TypeError: If a predictor method is overridden that streams do not call.
        """
        tracker = self._tracker
        tracker.check_stream()
        if not isinstance(frame, StreamFrame):
            image = to_rgb_image(frame, 0)
            pixels = FramePixels(partial(np.asarray, image), lambda: resized(image, self.image_size))
            frame = StreamFrame(0, None, image.height, image.width, pixels)
        current = CurrentFrame(1, self.image_size, self.device)
        current.set_frame(0, current.prepared(frame))
        state = tracker.new_state(current, features_kept=1)
        tracker.encode(state, [0])
        return state.features.as_encoded(frame, self)

    @shared
    @torch.inference_mode()
    def restore_stream(self, file: str | Path) -> VideoStream:
        """Restores a stream that ``VideoStream.save`` wrote, with its current frame, on this predictor's device.

        Raises:
            StateError: If the file is not a saved stream, or was saved with another model.
            FileNotFoundError: If the file does not exist.
        """
        return VideoStream.restored(self._tracker, saved_state.read(file))

    @exclusive_session
    def save_state(self, inference_state: VideoSession, file: str | Path) -> None:
        """Saves a session without its frames to one safetensors file, atomically.

        The file stores a memory, a low-resolution mask and a pointer per object and frame, like the session.

        Raises:
            StateError: If an id is neither a string nor an integer, or the session is the official dict.
            TypeError: If ``inference_state`` is not a session.
            OSError: If the file cannot be written.
        """
        saved_state.save(saved_state.packed(inference_state), file)

    @shared
    @torch.inference_mode()
    def load_state(
        self,
        file: str | Path,
        video_path: Any,
        *,
        async_loading_frames: bool = False,
        window: tuple[float, float] | None = None,
        axis: Axis | None = None,
    ) -> State:
        """Restores a session that :meth:`save_state` wrote, on this predictor's device.

        Args:
            file: File that :meth:`save_state` wrote.
            video_path: Video of the saved session; see ``init_state``. A user's replacement of ``load_video_frames`` is
                not called.
            async_loading_frames, window, axis: See ``init_state``.

        Raises:
            StateError: If the file is not a saved state, or was saved with another model or another video.
            FileNotFoundError: If the file does not exist.
            VideoError, TypeError: If the video cannot be opened.
        """
        packed = saved_state.read(file)
        if saved_state.STREAM_FRAME in packed.facts:
            raise saved_state.StateError(f"{file} is a saved stream; open it with restore_stream()")
        frames = open_frames(
            video_path,
            self.image_size,
            device=self.device,
            prefetch=async_loading_frames,
            window=window,
            axis=axis,
        )
        try:
            return cast(State, saved_state.unpacked(packed, self._tracker, frames))
        except BaseException:
            frames.close()
            raise

    @exclusive_session
    @torch.inference_mode()
    def move_state(self, inference_state: VideoSession) -> State:
        """Copies a session of a predictor with the same weights, possibly on another device, to this predictor.

        A session of this predictor can also be copied, for example as a backup. The two sessions share only the opened
        video. Closing the frames of one session closes the video for both sessions.

        Raises:
            StateError: If the predictors' weights differ, an id is neither a string nor an integer, or the session is
                the official dict.
        """
        packed = saved_state.packed(inference_state)
        frames = copy.copy(inference_state.frames)
        frames.device = self.device
        moved = saved_state.unpacked(packed, self._tracker, frames, strategy=inference_state.strategy)
        return cast(State, moved)

    def _apply(self, *args: Any, **kwargs: Any) -> nn.Module:
        self.release_recordings()
        return super()._apply(*args, **kwargs)

    def load_state_dict(self, state_dict: Mapping[str, Any], *args: Any, **kwargs: Any) -> Any:
        self.release_recordings()
        return super().load_state_dict(state_dict, *args, **kwargs)
