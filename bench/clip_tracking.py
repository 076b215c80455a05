"""Drawn clips tracked from what is known of their first frame."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from sam2fast.training.data.clip import Clip
from sam2fast.training.prompts import sample_error_center

Masks = NDArray[np.bool_]


def centre(mask: Masks) -> tuple[float, float]:
    """The click a user would make: the point of the mask that is farthest from its outline."""
    click = sample_error_center(torch.from_numpy(mask)[None, None], None)
    x, y = click["point_coords"][0, 0].tolist()
    return x, y


def tracked(predictor: Any, state: Any, clip: Clip, prompt: str = "mask") -> Masks:
    """Masks ``(T, O, H, W)`` of the clip's objects from their true ``mask``, or a ``click``, on the first frame."""
    predictor.reset_state(state)
    for o, truth in enumerate(clip.masks[0]):
        if prompt == "mask":
            predictor.add_new_mask(state, 0, o, truth)
        else:
            predictor.add_new_points_or_box(state, 0, o, points=[centre(truth)], labels=[1])
    found = np.zeros_like(clip.masks)
    for frame, _, logits in predictor.propagate_in_video(state, progress=False):
        found[frame] = (logits[:, 0] > 0).cpu().numpy()
    return found
