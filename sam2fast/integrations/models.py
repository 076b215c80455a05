"""Loads the predictors of a server for images and videos, and predicts masks of single objects."""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from sam2fast.build_sam import build_sam2, build_sam2_video_predictor
from sam2fast.sam2_image_predictor import SAM2ImagePredictor
from sam2fast.sam2_video_predictor import SAM2VideoPredictor
from sam2fast.utils.embedded import EMBEDDED


def best_mask(
    predictor: SAM2ImagePredictor, points: Any, labels: Any, box: Any, **options: Any
) -> tuple[np.ndarray, float]:
    """Returns the mask ``(H, W)`` of one object and the score: for a single click, the best of three masks."""
    is_ambiguous = len(points or ()) == 1 and box is None
    masks, scores, _ = predictor.predict(points or None, labels or None, box, multimask_output=is_ambiguous, **options)
    return masks[scores.argmax()], float(scores.max())


def load_predictors(
    config: str, checkpoint: Path, device: str, dtype: str, image_size: int | None = None
) -> tuple[SAM2VideoPredictor, SAM2ImagePredictor]:
    """Loads the predictors that ``sam2fast track`` and ``sam2fast segment`` use.

    The two predictors have the same model. Only mini has another input size for images. For arguments and errors see
    :func:`~sam2fast.build_sam.build_sam2_video_predictor`. ``dtype`` is a name, such as ``float32``.
    """
    torch_dtype = getattr(torch, dtype)
    videos = build_sam2_video_predictor(config, checkpoint, device, dtype=torch_dtype, image_size=image_size)
    sizes = {model.config: model.photograph_size for model in EMBEDDED.values()}
    if image_size is not None or sizes.get(config) is None:
        return videos, SAM2ImagePredictor(videos)
    return videos, SAM2ImagePredictor(build_sam2(config, checkpoint, device, dtype=torch_dtype))
