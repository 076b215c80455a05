"""A small model of SAM 3's sizes: feature maps at a stride of 14 pixels, masks of 4/14, and memories of 16/14."""

from typing import Any

import tame_weights
import torch.nn.functional as F
from mini_model import NARROW
from torch import Tensor

from sam2fast import nano
from sam2fast.build_sam import build_sam2_video_predictor
from sam2fast.modeling.hiera import Hiera

SIDE = 112


class Stride14(Hiera):
    """Hiera at strides 3.5, 7, 14 and 28: images are enlarged by 16/14 first."""

    def forward(self, x: Tensor) -> list[Tensor]:
        return super().forward(F.interpolate(x, scale_factor=16 / 14, mode="bilinear"))


def stride_14(side: int = SIDE, **kwargs: Any) -> Any:
    """A video predictor with tame weights, whose pixels are normalised as SAM 3's."""
    changes = [
        *NARROW,
        "model.image_encoder.trunk._target_=stride_14.Stride14",
        f"model.image_size={side}",
        "+model.backbone_stride=14",
        "+model.pixel_mean=[0.5,0.5,0.5]",
        "+model.pixel_std=[0.5,0.5,0.5]",
    ]
    options = {"hydra_overrides_extra": changes, "allow_targets": ["stride_14"], **kwargs}
    return tame_weights.fill(build_sam2_video_predictor(nano.CONFIG, None, device="cpu", **options), 0)
