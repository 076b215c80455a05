"""Implements the functions of ``sam2.utils.misc``. sam2fast itself reads videos with :mod:`sam2fast.video_io`."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, overload

import torch
from torch import Tensor

from sam2fast.io.images import open_image
from sam2fast.kernels.connected_components import connected_components
from sam2fast.kernels.mask_ops import fill_holes_in_mask_scores
from sam2fast.kernels.mask_ops import masks_to_boxes as mask_to_box
from sam2fast.kernels.preprocess import MEAN, STD
from sam2fast.video_io import Frames, NoFramesError, open_frames
from sam2fast.video_io.opening import VideoLike
from sam2fast.video_io.sources import ImageFiles, frame_files, resized

__all__ = [
    "AsyncVideoFrameLoader",
    "concat_points",
    "fill_holes_in_mask_scores",
    "get_connected_components",
    "get_sdpa_settings",
    "load_video_frames",
    "load_video_frames_from_jpg_images",
    "load_video_frames_from_video_file",
    "mask_to_box",
]

# Values per RGB channel: three numbers, or a tensor (3, 1, 1).
Colour = Sequence[float] | Tensor
Device = torch.device | str


def get_connected_components(mask: Tensor) -> tuple[Tensor, Tensor]:
    """Calls :func:`~sam2fast.kernels.connected_components.connected_components` with a mask of any dtype."""
    return connected_components(mask if mask.dtype == torch.bool else mask.to(torch.uint8))


def get_sdpa_settings() -> tuple[bool, bool, bool]:
    """Returns the official flags: old GPU, flash attention, math kernel. sam2fast ignores these flags."""
    if not torch.cuda.is_available():
        return True, False, True
    major = torch.cuda.get_device_properties(0).major
    return major < 7, major >= 8, major < 8


def concat_points(
    old_point_inputs: Mapping[str, Tensor] | None, new_points: Tensor, new_labels: Tensor
) -> dict[str, Tensor]:
    """Appends points ``(B, P, 2)`` and labels ``(B, P)`` to the old points and labels, if any."""
    new = {"point_coords": new_points, "point_labels": new_labels}
    if old_point_inputs is None:
        return new
    return {name: torch.cat([old_point_inputs[name], added], dim=1) for name, added in new.items()}


class AsyncVideoFrameLoader(Sequence[Tensor]):
    """Decodes image files as frames ``(3, S, S)`` fp32 on access, and prefetches a few frames.

    Access to a frame that cannot be read raises ``VideoError``, while other frames stay readable.

    Source: ``sam2.utils.misc.AsyncVideoFrameLoader``. Unlike this class, the official class decodes and keeps all
        frames, and computes in fp64.

    Args:
        img_paths: Image files, in the order of their frames.
        image_size: Side S of the frames.
        offload_video_to_cpu: If True, the frames are on the CPU instead of ``compute_device``.
        img_mean, img_std: Mean and standard deviation of pixels in [0, 1].
        compute_device: Device of the frames.

    Attributes:
        video_height, video_width: Size of the files in pixels.

    Raises:
        NoFramesError: If there are no paths.
        VideoError: If none of the files is an image.
    """

    def __init__(
        self,
        img_paths: Sequence[str | Path],
        image_size: int,
        offload_video_to_cpu: bool,
        img_mean: Colour,
        img_std: Colour,
        compute_device: Device,
    ) -> None:
        paths = [Path(path) for path in img_paths]
        if not paths:
            raise NoFramesError("no images found: the list of paths is empty")
        self._frames = Frames(ImageFiles(paths, image_size), image_size, prefetch=True)
        self._normalise = _Normalise(img_mean, img_std, "cpu" if offload_video_to_cpu else compute_device)
        self.video_height, self.video_width = self._frames.height, self._frames.width

    def __len__(self) -> int:
        return len(self._frames)

    @overload
    def __getitem__(self, index: int) -> Tensor: ...
    @overload
    def __getitem__(self, index: slice) -> list[Tensor]: ...
    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[i] for i in range(len(self))[index]]
        return self._normalise(self._frames.pixels(index))


def load_video_frames(
    video_path: VideoLike,
    image_size: int,
    offload_video_to_cpu: bool,
    img_mean: Colour = MEAN,
    img_std: Colour = STD,
    async_loading_frames: bool = False,
    compute_device: Device | None = None,
) -> tuple[Tensor | AsyncVideoFrameLoader, int, int]:
    """Loads all frames of a video, resized to S x S and normalized.

    A minute of video at 30 frames per second takes 21 GiB at S = 1024. :func:`sam2fast.video_io.open_frames` returns
    the same frames one by one.

    Source: ``sam2.utils.misc.load_video_frames``.

    Args:
        video_path: Video of any type that :func:`~sam2fast.video_io.open_frames` takes.
        image_size: Side S of the frames.
        offload_video_to_cpu: If True, the frames are on the CPU instead of ``compute_device``.
        img_mean, img_std: Mean and standard deviation of pixels in [0, 1].
        async_loading_frames: If True and the video is a folder, returns an :class:`AsyncVideoFrameLoader`.
        compute_device: Device of the frames. By default, CUDA if available, else the CPU.

    Returns:
        Frames ``(N, 3, S, S)`` fp32 or the loader, and the height and width of the video.

    Raises:
        FileNotFoundError, VideoError, NoFramesError, TypeError, ImportError: If ``open_frames`` raises one of these.
    """
    compute_device = compute_device or ("cuda" if torch.cuda.is_available() else "cpu")
    device = "cpu" if offload_video_to_cpu else compute_device
    if async_loading_frames and isinstance(video_path, str | Path) and os.path.isdir(video_path):
        paths = frame_files(Path(video_path))
        loader = AsyncVideoFrameLoader(paths, image_size, False, img_mean, img_std, device)
        return loader, loader.video_height, loader.video_width
    frames = open_frames(video_path, image_size)
    normalise = _Normalise(img_mean, img_std, device)
    try:
        images = torch.empty(frames.shape, device=device)
        for i, image in enumerate(images):
            image.copy_(normalise(frames.pixels(i)))
    finally:
        frames.close()
    return images, frames.height, frames.width


_load_video_frames = load_video_frames  # reference to the original function, if a program reassigns the name


def load_video_frames_from_jpg_images(
    video_path: str | Path,
    image_size: int,
    offload_video_to_cpu: bool,
    img_mean: Colour = MEAN,
    img_std: Colour = STD,
    async_loading_frames: bool = False,
    compute_device: Device | None = None,
) -> tuple[Tensor | AsyncVideoFrameLoader, int, int]:
    """Calls :func:`load_video_frames` with a folder. Raises ``NotADirectoryError`` for other paths."""
    if not os.path.isdir(video_path):
        raise NotADirectoryError(f"expected a folder of images, got {video_path!r}")
    return load_video_frames(
        video_path, image_size, offload_video_to_cpu, img_mean, img_std, async_loading_frames, compute_device
    )


def load_video_frames_from_video_file(
    video_path: str | Path | bytes,
    image_size: int,
    offload_video_to_cpu: bool,
    img_mean: Colour = MEAN,
    img_std: Colour = STD,
    compute_device: Device | None = None,
) -> tuple[Tensor | AsyncVideoFrameLoader, int, int]:
    """Calls :func:`load_video_frames` with a video file or its bytes, and raises the exceptions of that function."""
    return load_video_frames(
        video_path, image_size, offload_video_to_cpu, img_mean, img_std, compute_device=compute_device
    )


def _load_img_as_tensor(img_path: str | Path, image_size: int) -> tuple[Tensor, int, int]:
    """Reads an image file as ``(3, S, S)`` fp64 in [0, 1], with the file's height and width. For other projects."""
    with open_image(img_path) as image:
        pixels = resized(image.convert("RGB"), image_size)
        return pixels.permute(2, 0, 1).double() / 255, image.height, image.width


class _Normalise:
    """Converts pixels ``(S, S, 3)`` uint8 to a normalized image ``(3, S, S)`` fp32 on a device."""

    def __init__(self, mean: Colour, std: Colour, device: Device) -> None:
        self._mean, self._std = (torch.as_tensor(x, dtype=torch.float32).view(3, 1, 1).to(device) for x in (mean, std))

    def __call__(self, pixels: Tensor) -> Tensor:
        image = pixels.to(self._mean.device).permute(2, 0, 1).contiguous().float()
        # The divisor is a tensor on the device, since CUDA multiplies by the reciprocal of a CPU scalar.
        return image.div_(image.new_tensor(255.0)).sub_(self._mean).div_(self._std)
