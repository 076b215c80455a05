"""Logits of masks at low resolution, of every kind, and the sizes that they are upsampled to."""

import numpy as np
import torch
import torch.nn.functional as F
from parity import random_map

# (h, w) of the logits and (H, W) of the masks
SIZES = {
    "doubled": ((12, 16), (24, 32)),
    "odd": ((29, 23), (67, 89)),
    "a photograph": ((16, 16), (75, 112)),
    "downwards": ((37, 53), (20, 31)),
    "one pixel": ((1, 1), (7, 9)),
    "to one pixel": ((9, 5), (1, 1)),
    "the same": ((12, 20), (12, 20)),
    "columns alone": ((13, 8), (13, 70)),
    "rows alone": ((3, 21), (80, 21)),
    "down and up": ((40, 3), (17, 200)),
}


def smooth(count, h, w, seed=0):
    """Logits with outlines, as the decoder's have them."""
    return F.avg_pool2d(random_map(count, h + 10, w + 10, seed=seed), 11, stride=1) * 33


def kinds(h, w, level):
    """Logits of every kind, hostile ones too, six of each."""
    noise = random_map(6, h, w) * 3
    broken = smooth(6, h, w, seed=1)
    broken.view(6, -1)[:, :: max(1, h * w // 5)] = torch.tensor([np.nan, np.inf, -np.inf, np.nan, 3e38, -3e38])[:, None]
    steps = torch.where(smooth(6, h, w, seed=2) > 0, 32.0, -32.0)
    return {
        "smooth": smooth(6, h, w),
        "noise": noise,
        "nothing": -noise.abs() - 5,
        "everything": noise.abs() + 5,
        "the level itself": torch.full((6, h, w), level),
        "around the level": torch.nextafter(torch.full((6, h, w), level), noise),
        "steps": steps,
        "whole numbers": noise.round(),
        "halves around the level": level + noise.round() / 2,
        "not finite": broken,
        "infinite": torch.where(smooth(6, h, w, seed=3) > 0, torch.inf, -torch.inf),
        "tiny": noise * 1e-40,
        "huge": noise * 1e38,
        "all scales": noise * 10.0 ** (random_map(6, h, w, seed=4) * 12),
    }


def full_size(logits, size):
    return F.interpolate(logits[:, None].float(), size, mode="bilinear", align_corners=False)[:, 0]
