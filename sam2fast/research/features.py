"""What the image encoder computes on its way."""

from collections.abc import Sequence
from typing import NamedTuple, cast

import torch
from torch import Tensor

from sam2fast.modeling.sam2_base import SAM2Base
from sam2fast.sam2_image_predictor import SAM2ImagePredictor
from sam2fast.transforms import ImageLike


class StageFeatures(NamedTuple):
    """Maps of B pictures, finest first."""

    stages: list[Tensor]  # (B, C_i, H_i, W_i) of each stage of the trunk
    levels: list[Tensor]  # (B, d_model, H_i, W_i) of each level of the feature pyramid, the coarsest included


def stage_features(
    model: SAM2Base | SAM2ImagePredictor, images: Tensor | Sequence[ImageLike] | ImageLike
) -> StageFeatures:
    """The outputs of each stage of the trunk and of each level of the neck, as they are before the decoder's heads.

    Trackers and image predictors ask for less: the coarsest level only feeds the next finer one, and the finest two go
    straight to the channels that the decoder reads. What they compute of the others is the same, bit by bit.
    Gradients flow where autograd is on.

    Args:
        model: a model, a video predictor, or an image predictor.
        images: for a model ``(B, 3, S, S)`` normalised; for an image predictor a picture or a list of pictures, as
            ``set_image`` takes them. The image that is set there stays.

    Raises:
        ValueError: tensors of another shape, or an empty list.
        ImageError, FileNotFoundError, TypeError: a picture cannot be used.

    Source: the outputs of ``sam2.modeling.backbones.hieradet.Hiera`` and
    ``sam2.modeling.backbones.image_encoder.FpnNeck``.
    """
    if isinstance(model, SAM2ImagePredictor):
        given = images if isinstance(images, list | tuple) else [images]
        pictures = cast(Sequence[ImageLike], given)
        if not pictures:
            raise ValueError("the list of images is empty")
        with torch.no_grad():
            batch = torch.stack([model._transforms(picture, model.device) for picture in pictures])
        model = model.model
    else:
        batch = _checked(model, images)
    stages = model.image_encoder.trunk(batch)
    return StageFeatures(stages, model.image_encoder.neck.features(stages))


def _checked(model: SAM2Base, images: object) -> Tensor:
    S = model.image_size
    if not isinstance(images, Tensor):
        raise TypeError(
            f"a model takes a normalised tensor (B, 3, {S}, {S}), and got {type(images).__name__}; "
            "pictures go through SAM2ImagePredictor(model)"
        )
    if images.ndim != 4 or images.shape[1:] != (3, S, S) or not images.is_floating_point():
        raise ValueError(
            f"expected normalised images (B, 3, {S}, {S}), got {images.dtype} {tuple(images.shape)}; "
            "pictures go through SAM2ImagePredictor(model)"
        )
    return images.to(model.device)
