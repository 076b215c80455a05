"""Streams, and states that outlive their process: the predictor's methods for both."""

import copy
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch

from sam2fast.modeling.sam2_base import SAM2Base
from sam2fast.tracking import saved_state
from sam2fast.tracking.state import VideoState
from sam2fast.tracking.stream import VideoStream
from sam2fast.utils.thread_guard import exclusive_session, shared
from sam2fast.video_io import open_frames

if TYPE_CHECKING:
    from sam2fast.sam2_video_predictor import SAM2VideoPredictor

    _Base = SAM2Base
else:
    _Base = object


class Sessions(_Base):
    """Mixin of the video predictor; the original has nothing of this."""

    @shared
    def open_stream(self, *, num_frames: int | None = None, max_cond_frames: int | None = None) -> VideoStream:
        """Opens a stream: a video whose frames are handed in one by one, and need not end.

        ::

            with predictor.open_stream() as stream:
                for frame in camera:
                    result = stream.step(frame)
                    if clicked:
                        result = stream.add_new_points_or_box(obj_id, points, labels)

        Args:
            num_frames: length of the video, if it is known. It counts below ``max_obj_ptrs_in_encoder`` (16) only: a
                model that is shown fewer frames spaces its object pointers differently.
            max_cond_frames: how many conditioning frames of each object are kept and attended to: the nearest. None for
                as many as the model's ``max_cond_frames_in_attn`` says, which is all of them unless configured.

        Raises:
            ValueError: ``num_frames`` below 1, or ``max_cond_frames`` below 2.
        """
        return VideoStream(cast("SAM2VideoPredictor", self), num_frames, max_cond_frames)

    @exclusive_session
    def save_state(self, inference_state: VideoState, file: str | Path) -> None:
        """Writes everything that is known of a video's objects to one safetensors file, frames apart.

        The file appears whole or not at all. Per object and frame that is remembered it takes what the state takes: a
        memory, a low-resolution mask and a pointer.

        Raises:
            StateError: an id is neither text nor an integer.
            OSError: the file cannot be written.
        """
        saved_state.save(saved_state.packed(inference_state), file)

    @shared
    @torch.inference_mode()
    def load_state(self, file: str | Path, video_path: Any, *, async_loading_frames: bool = False) -> VideoState:
        """A state that :meth:`save_state` wrote, as it was, on this predictor's device.

        Args:
            file: what was written.
            video_path: the same video, as ``init_state`` takes it.
            async_loading_frames: see there.

        Raises:
            StateError: the file is no saved state, or one of another model or another video.
            FileNotFoundError, VideoError, TypeError: the file is not there, or the video cannot be used.
        """
        packed = saved_state.read(file)
        if saved_state.STREAM_FRAME in packed.facts:
            raise saved_state.StateError(f"{file} holds a stream; go on with it by restore_stream()")
        frames = open_frames(video_path, self.image_size, device=self.device, prefetch=async_loading_frames)
        try:
            features = cast("SAM2VideoPredictor", self)._feature_cache(frames)
            return saved_state.unpacked(packed, self, frames, features)
        except BaseException:
            frames.close()
            raise

    @exclusive_session
    @torch.inference_mode()
    def move_state(self, inference_state: VideoState) -> VideoState:
        """A copy of another predictor's state for this one, which has the same weights and may be on another device.

        Also of one's own, to try something and come back. Both go on by themselves; the video stays opened once, so
        that closing its frames closes it for both.

        Raises:
            StateError: the predictors' weights differ, or an id is neither text nor an integer.
        """
        packed = saved_state.packed(inference_state)
        frames = copy.copy(inference_state.frames)
        frames.device = self.device
        features = cast("SAM2VideoPredictor", self)._feature_cache(frames)
        return saved_state.unpacked(packed, self, frames, features)

    @shared
    @torch.inference_mode()
    def restore_stream(self, file: str | Path) -> VideoStream:
        """A stream that ``VideoStream.save`` wrote, with the same current frame, on this predictor's device.

        Raises:
            StateError: the file is no saved stream, or one of another model.
            FileNotFoundError: there is no such file.
        """
        return VideoStream.restored(cast("SAM2VideoPredictor", self), saved_state.read(file))
