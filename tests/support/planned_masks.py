"""Prompts of the mask decoder, and its input for a model."""

from typing import Any

import torch
from parity import random_map
from torch import Tensor

from sam2fast.engine.static import masks


def prompts(points: int, B: int, masks_of: int = 0, side: int = 32) -> tuple[Any, Any]:
    """``B`` prompts of some points with all kinds of labels, and mask prompts."""
    coords, labels = 128 * random_map(B, points, 2, seed=3).sigmoid(), torch.arange(B * points).view(B, points) % 5 - 1
    prompt = (coords, labels.int()) if points else None
    return prompt, 5 * random_map(masks_of, 1, side, side, seed=4) if masks_of else None


B, MANY = 6, masks.GROUP + 3
CASES = {
    "one point": prompts(1, 1),
    "20 points": prompts(20, 1),
    "many prompts": prompts(1, B),
    "several prompts of 20 points": prompts(20, 3),
    "several groups": prompts(1, MANY),
    "a mask alone": prompts(0, 0, 1),
    "masks alone": prompts(0, 0, 3),
    "masks alone, several groups": prompts(0, 0, MANY),
    "a mask for each": prompts(2, B, B),
    "one mask for all": prompts(2, 3, 1),
    "nothing": (None, None),
}


def levels_of(model: Any, images: int) -> tuple[Tensor, list[Tensor]]:
    """An embedding, and the high-resolution features."""
    C, side, dtype = model.hidden_dim, model.sam_image_embedding_size, model.no_mem_embed.dtype
    high_res = [random_map(images, C // 8 * k, 4 // k * side, 4 // k * side, seed=k).to(dtype) for k in (1, 2)]
    return random_map(images, C, side, side, seed=2).to(dtype), high_res if model.use_high_res_features_in_sam else []
