"""What surrounds attention in the image encoder: cases of the registry."""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from backend_calls import both_ways
from inputs import random
from registry import Calls, Case
from torch import Tensor

from sam2fast.kernels.layer_norm import add_layer_norm
from sam2fast.kernels.linear_gelu import linear_gelu
from sam2fast.kernels.preprocess import resize_and_normalise
from sam2fast.transforms import SAM2Transforms

EPS = 1e-6
MEAN, STD = SAM2Transforms.mean, SAM2Transforms.std


def layer_norm_case(rows: int, C: int, dtype: torch.dtype) -> Case:
    """The stream of a session in this dtype, which is fp32 up to the first pooling, with what is added in ``dtype``."""

    def prepare(device: torch.device) -> Calls:
        x, delta = random(rows, C, device=device), random(rows, C, device=device, dtype=dtype, seed=1)
        weight, bias = random(C, device=device, seed=2), random(C, device=device, seed=3)

        def separately() -> list[Tensor]:
            total = x + delta
            return [total, F.layer_norm(total.float(), (C,), weight, bias, EPS).to(dtype)]

        return {"torch": separately} | both_ways(lambda: add_layer_norm(x, delta, weight, bias, EPS, dtype), device)

    size = torch.finfo(dtype).bits // 8
    name = str(dtype).removeprefix("torch.")
    return Case("layer_norm", f"{rows}x{C}", name, prepare, 0, rows * C * (8 + 2 * size),
                tolerance=1e-5 if dtype == torch.float32 else 0.02)  # fmt: skip


def linear_gelu_case(rows: int, K: int, N: int, dtype: torch.dtype) -> Case:
    def prepare(device: torch.device) -> Calls:
        x, weight = random(rows, K, device=device, dtype=dtype), random(N, K, device=device, dtype=dtype, seed=1)
        weight, bias = weight * K**-0.5, random(N, device=device, dtype=dtype, seed=2)
        ordinary = {"torch": lambda: F.gelu(F.linear(x, weight, bias))}
        return ordinary | both_ways(lambda: linear_gelu(x, weight, bias), device)

    size = torch.finfo(dtype).bits // 8
    name = str(dtype).removeprefix("torch.")
    return Case("linear_gelu", f"{rows}x{K} to {N}", name, prepare, 2 * rows * K * N,
                size * (rows * K + N * K + N + rows * N),
                tolerance=1e-4 if dtype == torch.float32 else 0.05)  # fmt: skip


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

    nbytes = batch * 3 * (height * width + 4 * side**2)
    return Case("preprocess", f"{batch}x{height}x{width}", "uint8", prepare, 0, nbytes, tolerance=1e-5)


def encoder_cases() -> Iterator[Case]:
    """The first and the third stage of tiny and large, and images of three sizes."""
    for side, C in ((256, 96), (64, 384), (256, 144), (64, 576)):
        for dtype in (torch.float32, torch.bfloat16):
            yield layer_norm_case(side * side, C, dtype)
            yield linear_gelu_case(side * side, C, 4 * C, dtype)
    for batch, height, width in ((1, 1080, 1920), (1, 1024, 1024), (8, 480, 854)):
        yield preprocess_case(batch, height, width)
