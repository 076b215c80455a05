"""Masks for what simulates prompts."""

import numpy as np
import scipy.ndimage
import torch


def random_blobs(count: int, seed: int, size: int = 24) -> torch.Tensor:
    """Bool ``(count, 1, size, size)``; the first is empty, the second full."""
    rng = np.random.default_rng(seed)
    noise = scipy.ndimage.gaussian_filter(rng.standard_normal((count, size, size)), (0, 2, 2))
    masks = torch.from_numpy(noise > 0.03)[:, None]
    masks[0], masks[1] = False, True
    return masks
