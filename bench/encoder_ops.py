"""What surrounds attention in the image encoder: cases of the registry, and the kernels against their torch twins."""

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from backend_calls import both_ways
from inputs import random
from parity_rows import Rows, allowed_error, integer, nan_last
from registry import Calls, Case
from torch import Tensor

from sam2fast.kernels._dispatch import backend, launches
from sam2fast.kernels.layer_norm import add_layer_norm
from sam2fast.kernels.linear_gelu import linear_gelu
from sam2fast.kernels.preprocess import resize_and_normalise
from sam2fast.transforms import SAM2Transforms
from sam2fast.utils.testing import relative_error

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
    """The first and the third stage of tiny and large, and pictures of three sizes."""
    for side, C in ((256, 96), (64, 384), (256, 144), (64, 576)):
        for dtype in (torch.float32, torch.bfloat16):
            yield layer_norm_case(side * side, C, dtype)
            yield linear_gelu_case(side * side, C, 4 * C, dtype)
    for batch, height, width in ((1, 1080, 1920), (1, 1024, 1024), (8, 480, 854)):
        yield preprocess_case(batch, height, width)


class Plan(NamedTuple):
    """What is tried: so many draws of each op and dtype, with sizes up to these."""

    dtypes: Sequence[torch.dtype] = (torch.float32, torch.bfloat16, torch.float16)
    draws: int = 40
    rows: int = 20_000
    channels: int = 1200
    outer: int = 2000
    side: int = 1500  # of pictures


# For a short visit to a GPU.
SHORT = Plan(dtypes=(torch.float32, torch.bfloat16), draws=10)
# For memory checkers and interpreters, which take a hundred times as long.
QUICK = Plan(draws=4, rows=100, channels=150, outer=100, side=40)


def encoder_parity(device: torch.device, save: Callable[[Rows], None], plan: Plan | None = None) -> bool:
    """A row per op and dtype, saved as they come; false if a result is wrong or differs between two runs."""
    plan, seed, rows = plan or Plan(), int(time.time()), []
    for op, draw, dtypes in (
        ("layer_norm", _layer_norm, plan.dtypes),
        ("linear_gelu", _linear_gelu, plan.dtypes),
        ("preprocess", _preprocess, (torch.float32,)),
    ):
        for dtype in dtypes:
            generator = torch.Generator().manual_seed(seed)
            with torch.no_grad():
                rows.append({"op": op, **_row(op, draw, dtype, plan, generator, device), "seed": seed})
            save(rows)
            print(rows[-1], flush=True)
    return not any(row["wrong"] for row in rows)


def _row(
    op: str,
    draw: Callable[..., tuple[Tensor, Callable[[], Tensor]]],
    dtype: torch.dtype,
    plan: Plan,
    generator: torch.Generator,
    device: torch.device,
) -> dict[str, Any]:
    """In fp32 a result may be so far from float64's; in what has fewer bits, twice as far as the twin's worst."""
    errors, twins, unequal = [], [], 0
    for _ in range(plan.draws):
        exact, call = draw(plan, dtype, generator, device)
        with backend("torch"):
            twins.append(relative_error(exact, call().double()))
        before = launches[op]
        with backend("triton"):
            runs = [call() for _ in range(2)]
        if launches[op] != before + 2:
            raise RuntimeError(f"the kernel of {op} was not launched")
        unequal += not torch.equal(*runs)
        errors.append(relative_error(exact, runs[0].double()))
    name = str(dtype).removeprefix("torch.")
    allowed = allowed_error(name, max(twins, key=nan_last))
    wrong = sum(not error <= allowed for error in errors) + unequal
    return {"dtype": name, "inputs": plan.draws, "wrong": wrong,
            "largest error": max(errors, key=nan_last), "of the twin": max(twins, key=nan_last)}  # fmt: skip


def _layer_norm(
    plan: Plan, dtype: torch.dtype, generator: torch.Generator, device: torch.device
) -> tuple[Tensor, Callable[[], Tensor]]:
    rows, C = integer(1, plan.rows, generator), integer(2, plan.channels, generator)
    stream = (dtype, torch.float32)[integer(0, 1, generator)]
    seed = integer(0, 2**31, generator)
    x = random(rows, C, device=device, dtype=stream, seed=seed)
    delta = random(rows, C, device=device, dtype=dtype, seed=seed + 1)
    weight, bias = (random(C, device=device, seed=seed + i) for i in (2, 3))
    exact = F.layer_norm((x + delta).double(), (C,), weight.double(), bias.double(), EPS)
    return exact, lambda: add_layer_norm(x, delta, weight, bias, EPS, dtype)[1]


def _linear_gelu(
    plan: Plan, dtype: torch.dtype, generator: torch.Generator, device: torch.device
) -> tuple[Tensor, Callable[[], Tensor]]:
    rows, K, N = (integer(1, most, generator) for most in (plan.rows, plan.channels, plan.outer))
    seed = integer(0, 2**31, generator)
    x, bias = (
        random(rows, K, device=device, dtype=dtype, seed=seed),
        random(N, device=device, dtype=dtype, seed=seed + 1),
    )
    weight = random(N, K, device=device, dtype=dtype, seed=seed + 2) * K**-0.5
    return F.gelu(F.linear(x.double(), weight.double(), bias.double())), lambda: linear_gelu(x, weight, bias)


def _preprocess(
    plan: Plan, dtype: torch.dtype, generator: torch.Generator, device: torch.device
) -> tuple[Tensor, Callable[[], Tensor]]:
    height, width, *size = (integer(2, plan.side, generator) for _ in range(4))
    pixels = torch.randint(0, 256, (integer(1, 3, generator), height, width, 3), generator=generator).to(
        device, torch.uint8
    )
    image = pixels.permute(0, 3, 1, 2).double()
    image = F.interpolate(image, tuple(size), mode="bilinear", align_corners=False, antialias=True)
    mean, std = (torch.tensor(values, device=device, dtype=torch.double)[:, None, None] for values in (MEAN, STD))
    return (image / 255 - mean) / std, lambda: resize_and_normalise(pixels, (size[0], size[1]), MEAN, STD, 255.0)
