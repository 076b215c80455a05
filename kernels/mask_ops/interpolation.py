"""How torch interpolates along an axis: what the ways of the CPU that leave pixels out have to know of it."""

import numpy as np
import torch
import torch.nn.functional as F

# Fewer pixels than so many per logit are simply upsampled by torch.
PIXELS_PER_LOGIT = 4


def weights_along(source: int, target: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Between which of ``source`` logits each of ``target`` pixels lies, bilinearly (``align_corners=False``).

    Returns:
        The nearer to 0 of the two, its cell, ``(target)`` int64; the weights of that logit and of the next, each
        ``(target)`` fp32. Behind the last logit the next one's weight is 0.
    """
    # The weights are torch's own, read off images of a single logit each; not a bit of them is guessed.
    images = torch.eye(source, device="cpu")[:, None, :, None]
    weights = F.interpolate(images, (target, 1), mode="bilinear", align_corners=False)[:, 0, :, 0].numpy()
    cell, pixel = (weights != 0).argmax(0), np.arange(target)
    far = weights[np.minimum(cell + 1, source - 1), pixel]
    return cell, weights[cell, pixel], np.where(cell + 1 < source, far, np.float32(0))
