"""What the official model or ours computes at 128 pixels."""

from typing import Any

import numpy as np
import torch
from parity import official_image_predictor, random_image, random_map
from torch import Tensor

from sam2fast.sam2_image_predictor import SAM2ImagePredictor

IMAGE = random_image(90, 120)


def masks_of(model: Any) -> list[Tensor]:
    """Returns all that a click yields, with the gradients that are on."""
    is_ours = type(model).__module__.startswith("sam2fast")
    predictor = SAM2ImagePredictor(model) if is_ours else official_image_predictor(model)
    predictor.set_image(IMAGE)
    clicked = predictor.predict(np.array([[60, 40]]), np.array([1]), return_logits=True)
    return [*map(torch.from_numpy, clicked)]


def attended(model: Any) -> Tensor:
    """Returns the answer of memory attention for two frames of memory and two pointers."""
    frame, position = (random_map(64, 1, model.hidden_dim, seed=seed) for seed in (0, 1))
    memory, memory_position = (random_map(2 * 64 + 8, 1, 64, seed=seed) for seed in (2, 3))
    return model.memory_attention([frame], memory, [position], memory_position, num_obj_ptr_tokens=8)
