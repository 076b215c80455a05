"""Loads frames with a user's replacement of ``load_video_frames``."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from sam2fast.compat import misc
from sam2fast.compat.misc import _load_video_frames as load_video_frames
from sam2fast.kernels.preprocess import MEAN, STD
from sam2fast.modeling.sam2_base import SAM2Base
from sam2fast.video_io import Frames

__all__ = ["LoadedFrames", "load_frames", "load_video_frames", "replaced_loader"]

Loader = Callable[..., tuple[Tensor | Sequence[Tensor], int, int]]


def replaced_loader(current: Loader) -> Loader | None:
    """Returns ``current`` or ``compat.misc.load_video_frames`` if a user replaced one of these functions, else None."""
    return next((f for f in (current, misc.load_video_frames) if f is not load_video_frames), None)


def load_frames(load: Loader, video_path: Any, model: SAM2Base, offload: bool, asynchronous: bool) -> Frames:
    """Loads frames with a user's function, called as in the official package. Passes non-default mean and std."""
    mean, std = model.pixel_mean, model.pixel_std
    images, height, width = load(
        video_path=video_path,
        image_size=model.image_size,
        offload_video_to_cpu=offload,
        async_loading_frames=asynchronous,
        compute_device=model.device,
        **({} if (mean, std) == (MEAN, STD) else {"img_mean": mean, "img_std": std}),
    )
    return LoadedFrames(images, height, width, model.image_size, model.device)


class LoadedFrames(Frames):
    """Stores resized and normalized images ``(N, 3, S, S)``, as a tensor or a sequence of tensors.

    CUDA graphs and the approximation ``still_frames`` round images to 8 bits per channel.
    """

    def __init__(
        self, images: Tensor | Sequence[Tensor], height: int, width: int, image_size: int, device: torch.device
    ) -> None:
        # Does not call super().__init__(), since there is no source to read from.
        self.height, self.width, self.device = height, width, device
        self._images, self._length, self._image_size = images, len(images), image_size

    def _model_input(self, index: int) -> Tensor:
        return self._images[self._rank(index)].to(self.device).float()

    def pixels(self, index: int) -> Tensor:
        """Returns a frame as ``(S, S, 3)`` uint8 RGB on the CPU."""
        mean, std = (torch.tensor(x, device=self.device).view(3, 1, 1) for x in (self.mean, self.std))
        image = (self[index] * std + mean).mul(255).round().clamp(0, 255)
        return image.byte().permute(1, 2, 0).contiguous().cpu()

    def time(self, index: int) -> None:
        """Returns None, since frames have no known times."""

    def close(self) -> None:
        self._images, self._length = (), 0

    def __reduce__(self) -> tuple[object, ...]:
        arguments = self._images, self.height, self.width, self._image_size, self.device
        return LoadedFrames, arguments, {"mean": self.mean, "std": self.std}
