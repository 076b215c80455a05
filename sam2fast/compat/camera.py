"""The camera predictor of forks of the original, such as segment-anything-2-real-time, on a stream."""

from typing import Any

import torch
from torch import Tensor, nn

from sam2fast.tracking.session_api import SessionMethods
from sam2fast.tracking.stream import VideoStream
from sam2fast.video_io.frames import FrameLike


class SAM2CameraPredictor(nn.Module):
    """Tracks objects through the frames of a camera; masks are those of ``predictor.open_stream()``.

    Prompts are for the current frame, the last one passed in, and at any time. The forks take new objects on the first
    frame only. Arrays are RGB. Attributes of other names are the predictor's.
    """

    def __init__(self, predictor: SessionMethods[Any]) -> None:
        super().__init__()
        self.predictor = predictor
        self.train(predictor.training)
        self._stream: VideoStream | None = None

    @property
    def condition_state(self) -> dict[str, Any]:
        """``obj_ids``, ``num_frames``, ``video_height`` and ``video_width``; empty before the first frame."""
        if self._stream is None:
            return {}
        (height, width), frames = self._stream.video_size, (self._stream.frame or 0) + 1
        return {"obj_ids": self._stream.obj_ids, "num_frames": frames, "video_height": height, "video_width": width}

    def load_first_frame(self, img: FrameLike) -> None:
        """Begins a new video with this frame. If it cannot be used, nothing has changed."""
        stream = self.predictor.open_stream()
        stream.step(img)
        self._stream = stream

    def track(self, img: FrameLike) -> tuple[list[Any], Tensor]:
        """The ids of all objects, and their logits ``(objects, 1, H, W)`` on the next frame, as in a stream."""
        result = self._opened().step(img)
        return result.obj_ids, result.masks

    add_conditioning_frame = track  # prompts are then for this frame

    def add_new_prompt(
        self,
        frame_idx: int,
        obj_id: Any,
        points: Any = None,
        labels: Any = None,
        bbox: Any = None,
        clear_old_points: bool = True,
        normalize_coords: bool = True,
    ) -> tuple[int, list[Any], Tensor]:
        """Adds clicks or a box for an object, which may be new, on the current frame, ``frame_idx``.

        ``bbox`` is four numbers of any shape. Other arguments are as for ``SAM2VideoPredictor.add_new_points_or_box``.

        Returns:
            The frame, the ids of all objects, and their mask logits ``(objects, 1, H, W)``, fp32.

        Raises:
            ValueError: ``frame_idx`` is not the current frame; or the prompt cannot be used.
            RuntimeError: there is no first frame.
        """
        stream = self._opened(frame_idx)
        clear = clear_old_points or obj_id not in stream.obj_ids
        box = None if bbox is None else torch.as_tensor(bbox).flatten()
        result = stream.add_new_points_or_box(obj_id, points, labels, clear, normalize_coords, box)
        return result.frame, result.obj_ids, result.masks

    def add_new_points(self, frame_idx: int, obj_id: Any, points: Any, labels: Any, *args: Any, **kwargs: Any) -> Any:
        """Clicks alone; further arguments, results and errors are as of :meth:`add_new_prompt`."""
        return self.add_new_prompt(frame_idx, obj_id, points, labels, None, *args, **kwargs)

    def add_new_mask(self, frame_idx: int, obj_id: Any, mask: Any) -> tuple[int, list[Any], Tensor]:
        """A mask as ``SAM2VideoPredictor.add_new_mask`` takes it; results and errors as of :meth:`add_new_prompt`."""
        result = self._opened(frame_idx).add_new_mask(obj_id, mask)
        return result.frame, result.obj_ids, result.masks

    def reset_state(self) -> None:
        """Removes all objects; the current frame stays."""
        stream = self._opened()
        for obj_id in stream.obj_ids:
            stream.remove_object(obj_id)

    def _opened(self, frame: int | None = None) -> VideoStream:
        if self._stream is None:
            raise RuntimeError("there is no frame yet: call load_first_frame(img) first")
        if frame is not None and frame != self._stream.frame:
            raise ValueError(f"frame_idx is {frame}; prompts are for the current frame, {self._stream.frame}")
        return self._stream

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("predictor"), name)
