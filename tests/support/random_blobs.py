"""Masks for tests of simulated prompts."""

import numpy as np
import scipy.ndimage
import torch


def random_blobs(count: int, seed: int) -> torch.Tensor:
    """Returns bool ``(count, 1, 24, 24)``; the first is empty, the second full."""
    rng = np.random.default_rng(seed)
    noise = scipy.ndimage.gaussian_filter(rng.standard_normal((count, 24, 24)), (0, 2, 2))
    masks = torch.from_numpy(noise > 0.03)[:, None]
    masks[0], masks[1] = False, True
    return masks
