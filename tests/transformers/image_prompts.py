"""The answers of our image predictor and of transformers' models to the same prompts."""

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from sam2fast.sam2_image_predictor import SAM2ImagePredictor


class ImagePair(NamedTuple):
    """Both models with the image encoded."""

    ours: SAM2ImagePredictor
    theirs: Any
    their_features: list[Tensor]


def difference(expected: Any, actual: Any) -> float:
    """Largest deviation, relative to the expected values."""
    a, b = np.asarray(expected, dtype=np.float64), np.asarray(actual, dtype=np.float64)
    assert a.shape == b.shape
    return float(np.abs(a - b).max() / (np.abs(a).mean() + a.std()))


def our_answer(predictor: SAM2ImagePredictor, prompt: dict[str, Any], multimask: bool) -> list[np.ndarray]:
    """Mask logits ``(B, M, S/4, S/4)``, IoUs ``(B, M)`` and object scores ``(B, 1)`` of B prompts."""
    decoded: list[tuple[Tensor, ...]] = []
    # The predictor clips the logits and does not return the object score; the decoder returns both.
    hook = predictor.model.sam_mask_decoder.register_forward_hook(lambda module, args, result: decoded.append(result))
    try:
        predictor.predict(**prompt, multimask_output=multimask)
    finally:
        hook.remove()
    masks, ious, _, scores = decoded[0]
    return [masks.numpy(), ious.numpy(), scores.numpy()]


@torch.no_grad()
def their_answer(pair: ImagePair, prompt: dict[str, Any], multimask: bool) -> list[np.ndarray]:
    """The counterpart of :func:`our_answer` with transformers."""
    inputs: dict[str, Tensor] = {}
    if "point_coords" in prompt:
        labels = torch.tensor(prompt["point_labels"], dtype=torch.int32)
        count, points = (1, len(labels)) if labels.ndim == 1 else labels.shape
        inputs["input_points"] = torch.tensor(prompt["point_coords"], dtype=torch.float32).view(1, count, points, 2)
        inputs["input_labels"] = labels.view(1, count, points)
    if "box" in prompt:
        inputs["input_boxes"] = torch.tensor(prompt["box"], dtype=torch.float32).view(1, -1, 4)
    if "mask_input" in prompt:
        inputs["input_masks"] = torch.from_numpy(prompt["mask_input"])[None]
        if prompt.get("point_labels") == [-1]:
            del inputs["input_points"], inputs["input_labels"]  # they add the padding point themselves
    out = pair.theirs(image_embeddings=pair.their_features, multimask_output=multimask, **inputs)
    return [x[0].numpy() for x in (out.pred_masks, out.iou_scores, out.object_score_logits)]
