"""Computes the features of each stage of the image encoder."""

from collections.abc import Sequence
from typing import NamedTuple, cast

import torch
from torch import Tensor

from sam2fast.engine.by_modules import FastProducts
from sam2fast.modeling.sam2_base import SAM2Base
from sam2fast.sam2_image_predictor import SAM2ImagePredictor
from sam2fast.transforms import ImageLike


class StageFeatures(NamedTuple):
    """Stores feature maps of B images, finest first."""

    stages: list[Tensor]  # (B, C_i, H_i, W_i) for each stage of the trunk
    levels: list[Tensor]  # (B, d_model, H_i, W_i) for each level of the feature pyramid, also the coarsest level


def stage_features(
    model: SAM2Base | SAM2ImagePredictor, images: Tensor | Sequence[ImageLike] | ImageLike
) -> StageFeatures:
    """Returns the outputs of each stage of the trunk and each level of the neck.

    Predictors do not compute all levels. Predictors use the coarsest level only for the next finer level, and project
    the two finest levels directly to the decoder's channels. Gradients flow if autograd is enabled.

    Args:
        model: Model, video predictor or image predictor.
        images: For a model or video predictor, normalised images ``(B, 3, S, S)``. For an image predictor, an image or
            a list of images, as for ``set_image``. The predictor's current image stays set.

    Raises:
        ValueError: If a tensor has another shape, or the list of images is empty.
        ImageError, FileNotFoundError, TypeError: If an image cannot be used.

    Source: outputs of ``sam2.modeling.backbones.hieradet.Hiera`` and ``sam2.modeling.backbones.image_encoder.FpnNeck``.
    """
    if isinstance(model, SAM2ImagePredictor):
        image_list = cast(Sequence[ImageLike], images if isinstance(images, list | tuple) else [images])
        if not image_list:
            raise ValueError("the list of images is empty")
        with torch.no_grad():
            batch = torch.stack([model._transforms(image, model.device) for image in image_list])
        model = model.model
    else:
        batch = _checked(model, images)
    encoder = model.image_encoder
    with FastProducts():
        stages = encoder.trunk(batch)
        levels, _ = encoder.neck(stages)
    return StageFeatures(stages, levels)


def _checked(model: SAM2Base, images: object) -> Tensor:
    S = model.image_size
    if not isinstance(images, Tensor):
        raise TypeError(
            f"expected a normalised tensor (B, 3, {S}, {S}) for a model, got {type(images).__name__}; "
            "pass SAM2ImagePredictor(model) for images"
        )
    if images.ndim != 4 or images.shape[1:] != (3, S, S) or not images.is_floating_point():
        raise ValueError(
            f"expected normalised images (B, 3, {S}, {S}), got {images.dtype} {tuple(images.shape)}; "
            "pass SAM2ImagePredictor(model) for other images"
        )
    return images.to(model.device)
