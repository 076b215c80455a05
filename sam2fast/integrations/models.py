"""Loads the predictors of a server for images and videos."""

from pathlib import Path

import torch

from sam2fast.build_sam import build_sam2, build_sam2_video_predictor
from sam2fast.sam2_image_predictor import SAM2ImagePredictor
from sam2fast.sam2_video_predictor import SAM2VideoPredictor
from sam2fast.utils.embedded import EMBEDDED


def load_predictors(
    config: str, checkpoint: Path, device: str, dtype: str, image_size: int | None = None
) -> tuple[SAM2VideoPredictor, SAM2ImagePredictor]:
    """Loads the predictors that ``sam2fast track`` and ``sam2fast segment`` use.

    Both have the same model, except that mini has another input size for images. Arguments and errors: see
    :func:`~sam2fast.build_sam.build_sam2_video_predictor`. ``dtype`` is a name, such as ``float32``.
    """
    kind = getattr(torch, dtype)
    videos = build_sam2_video_predictor(config, checkpoint, device, dtype=kind, image_size=image_size)
    sizes = {model.config: model.photograph_size for model in EMBEDDED.values()}
    if image_size is not None or sizes.get(config) is None:
        return videos, SAM2ImagePredictor(videos)
    return videos, SAM2ImagePredictor(build_sam2(config, checkpoint, device, dtype=kind))
