"""Implements the camera predictor of forks of SAM 2, such as segment-anything-2-real-time, by a stream."""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from sam2fast.tracking.predictor_methods import PredictorMethods
from sam2fast.tracking.strategies import Attended, History, Sam2, Strategy
from sam2fast.tracking.stream import VideoStream
from sam2fast.video_io.arrays import to_rgb_image
from sam2fast.video_io.frames import FrameLike
from sam2fast.video_io.video_types import FramePixels, StreamFrame

COEFFICIENT = 2048  # fixed-point weight of 1 in OpenCV's resizing


@dataclass(frozen=True)
class CameraMemories(Strategy):
    """SAM 2's rule with the object pointers of the forks.

    Pointers come only from conditioning frames and the last ``num_maskmem`` frames. The distances of pointers are
    divided by the number of frames so far.
    """

    has_span: ClassVar[bool] = True

    def attend(self, history: History) -> Attended:
        """Selects memories and pointers for one object."""
        attended, rules = super().attend(history), history.rules
        oldest = history.frame - rules.num_maskmem
        pointers = [(t, d) for t, d in attended.pointers if t >= oldest or t in history.conditioning]
        return attended._replace(pointers=pointers, span=max(1, min(history.frame, rules.max_pointers - 1)))


class SAM2CameraPredictor(nn.Module):
    """Tracks objects through the frames of a camera, with a stream of :meth:`open_stream`.

    ``frame_idx`` must be the current frame, the last frame passed in. Unlike in the forks, objects can be added at any
    time. NumPy arrays are RGB, and are resized as in the forks. Missing attributes are looked up in ``predictor``.
    """

    def __init__(self, predictor: PredictorMethods[Any]) -> None:
        super().__init__()
        self.predictor = predictor
        self.train(predictor.training)
        self._stream: VideoStream | None = None

    @property
    def condition_state(self) -> dict[str, Any]:
        """Dict of ``obj_ids``, ``num_frames``, ``video_height`` and ``video_width``, empty before the first frame."""
        if self._stream is None:
            return {}
        (height, width), frames = self._stream.video_size, (self._stream.frame or 0) + 1
        return {"obj_ids": self._stream.obj_ids, "num_frames": frames, "video_height": height, "video_width": width}

    def open_stream(self, **kwargs: Any) -> VideoStream:
        """Opens a stream. If the predictor's strategy is SAM 2's rule, the stream uses :class:`CameraMemories`."""
        if isinstance(self.predictor.strategy, Sam2):
            kwargs.setdefault("strategy", CameraMemories())
        return self.predictor.open_stream(**kwargs)

    def load_first_frame(self, img: FrameLike) -> None:
        """Begins a new video with the frame ``img``. An invalid frame changes nothing."""
        stream = self.open_stream()
        stream.step(self._frame(img))
        self._stream = stream

    def track(self, img: FrameLike) -> tuple[list[Any], Tensor]:
        """Tracks to the next frame. Returns all object ids, and mask logits ``(objects, 1, H, W)``."""
        result = self._opened().step(self._frame(img))
        return result.obj_ids, result.masks

    add_conditioning_frame = track  # prompts refer to the last frame in any case

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
        """Prompts a new or existing object with points or a box on the current frame.

        Args:
            frame_idx: Index of the current frame.
            obj_id, points, labels, clear_old_points, normalize_coords: See
                ``SAM2VideoPredictor.add_new_points_or_box``.
            bbox: Box of four numbers, of any shape.

        Returns:
            The frame, the ids of all objects, and the objects' mask logits ``(objects, 1, H, W)`` fp32.

        Raises:
            ValueError: If ``frame_idx`` is not the current frame, or the prompt is invalid.
            RuntimeError: If there is no frame yet.
        """
        stream = self._opened(frame_idx)
        clear = clear_old_points or obj_id not in stream.obj_ids
        box = None if bbox is None else torch.as_tensor(bbox).flatten()
        result = stream.add_new_points_or_box(obj_id, points, labels, clear, normalize_coords, box)
        return result.frame, result.obj_ids, result.masks

    def add_new_points(self, frame_idx: int, obj_id: Any, points: Any, labels: Any, *args: Any, **kwargs: Any) -> Any:
        """Prompts an object with points. For other arguments, results and errors see :meth:`add_new_prompt`."""
        return self.add_new_prompt(frame_idx, obj_id, points, labels, None, *args, **kwargs)

    def add_new_mask(self, frame_idx: int, obj_id: Any, mask: Any) -> tuple[int, list[Any], Tensor]:
        """Prompts an object with a mask ``(H, W)``. For results and errors see :meth:`add_new_prompt`."""
        result = self._opened(frame_idx).add_new_mask(obj_id, mask)
        return result.frame, result.obj_ids, result.masks

    def reset_state(self) -> None:
        """Removes all objects, but keeps the current frame."""
        stream = self._opened()
        for obj_id in stream.obj_ids:
            stream.remove_object(obj_id)

    def _frame(self, img: FrameLike) -> FrameLike:
        """Converts an array to a frame that is resized as in the forks. Returns other images unchanged."""
        if not isinstance(img, np.ndarray):
            return img
        image, side = to_rgb_image(img, self.condition_state.get("num_frames", 0)), self.predictor.image_size
        rgb = np.array(image)
        pixels = FramePixels(lambda: rgb, lambda: torch.from_numpy(resize_as_opencv(rgb, side)))
        return StreamFrame(0, None, image.height, image.width, pixels)

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


def resize_as_opencv(image: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """Resizes bilinearly in fixed point, with the same bits as ``cv2.resize(image, (side, side))``."""
    height, width = image.shape[:2]
    left, fraction = _bilinear(width, side)
    fraction[(left < 0) | (left >= width - 1)] = 0
    near, far = (x[:, None] for x in _coefficients(fraction))
    left, right = left.clip(0, width - 1), (left + 1).clip(0, width - 1)
    rows = (image[:, left] * near + image[:, right] * far) >> 4
    top, fraction = _bilinear(height, side)
    near, far = (x[:, None, None] for x in _coefficients(fraction))
    top, bottom = top.clip(0, height - 1), (top + 1).clip(0, height - 1)
    summed = (rows[top] * near >> 16) + (rows[bottom] * far >> 16)
    return ((summed + 2) >> 2).astype(np.uint8)


def _bilinear(length: int, side: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Returns two arrays for ``side`` pixels: index of the first of two source pixels, and weight of the second."""
    position = ((np.arange(side) + 0.5) * (1 / (side / length)) - 0.5).astype(np.float32)
    first = np.floor(position)
    return first.astype(np.int64), position - first


def _coefficients(fraction: NDArray[np.float32]) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Returns the fixed-point weights of both source pixels, as in OpenCV. ``fraction`` weights the second pixel."""
    near, far = (np.rint(x * np.float32(COEFFICIENT)).astype(np.int32) for x in (1 - fraction, fraction))
    return near, far
