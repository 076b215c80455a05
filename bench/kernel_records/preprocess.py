"""Resizing and normalising of images."""

import math

import torch
import torch.nn.functional as F
from backend_calls import both_ways
from inputs import random
from published_models import FULL_HD
from registry import Calls, Case, Record, Work
from torch import Tensor
from tuning_candidates import search

from sam2fast.kernels.preprocess import resize_and_normalise
from sam2fast.transforms import SAM2Transforms

MEAN, STD = SAM2Transforms.mean, SAM2Transforms.std


def taps(length: int, wanted: int) -> int:
    """Input pixels that the loop over one axis takes."""
    return 2 * math.ceil(length / wanted) + 1


def work(batch: int, height: int, width: int, side: int = 1024) -> Work:
    """Bytes read, fp32 written; 12 FLOPs a tap: the column's weight, the product of both, three sums, their total."""
    moved = batch * 3 * (height * width + 4 * side**2)
    return Work(moved, vector=12 * batch * side**2 * taps(height, side) * taps(width, side))


def preprocess_case(batch: int, height: int, width: int, side: int = 1024) -> Case:
    def prepare(device: torch.device) -> Calls:
        pixels = (random(batch, height, width, 3, device=device).abs() * 90).clamp(max=255).to(torch.uint8)
        mean, std = (torch.tensor(values, device=device)[:, None, None] for values in (MEAN, STD))

        def separately() -> Tensor:
            image = pixels.permute(0, 3, 1, 2).float() / 255
            image = F.interpolate(image, (side, side), mode="bilinear", align_corners=False, antialias=True)
            return (image - mean) / std

        return {"torch": separately} | both_ways(
            lambda: resize_and_normalise(pixels, (side, side), MEAN, STD, 255.0), device
        )

    done = work(batch, height, width, side)
    return Case("preprocess", f"{batch}x{height}x{width}", "uint8", prepare, done, tolerance=1e-5)


SIZES = ((1, *FULL_HD), (1, 1024, 1024), (8, 480, 854))
RECORD = Record(
    cases=[preprocess_case(*size) for size in SIZES],
    small=[preprocess_case(1, 12, 16, side=16)],
    searches=[search("preprocess", "BLOCK num_warps num_stages", ((128, 2, 1), (256, 4, 1), (512, 8, 1)))],
    work=lambda: ((" × ".join(map(str, size)), "bf16", work(*size)) for size in SIZES),
)
