"""The kernels around attention in the image encoder against float64, on random inputs."""

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import pytest
import torch
import torch.nn.functional as F
from inputs import random
from kernel_records.layer_norm import EPS
from kernel_records.preprocess import MEAN, STD
from parity_rows import ALL_DTYPES, FEW_DTYPES, Draw, Row, add_group, finish, integer, new_row, planned, seeded
from torch import Tensor

from sam2fast.kernels._dispatch import backend
from sam2fast.kernels.layer_norm import add_layer_norm
from sam2fast.kernels.linear_gelu import linear_gelu
from sam2fast.kernels.preprocess import resize_and_normalise


class Plan(NamedTuple):
    """What is tried: so many draws of each op and dtype, with sizes up to these."""

    dtypes: Sequence[torch.dtype] = ALL_DTYPES
    draws: int = 40
    rows: int = 20_000
    channels: int = 1200
    outer: int = 2000
    side: int = 1500  # of images


QUICK = Plan(draws=4, rows=100, channels=150, outer=100, side=40)
PLAN = planned(Plan(), Plan(dtypes=FEW_DTYPES, draws=10), QUICK, QUICK._replace(dtypes=(torch.float32,), draws=1))


@torch.no_grad()
def row_of(op: str, dtype: torch.dtype, plan: Plan, device: torch.device, seed: int | None = None) -> Row:
    row, generator = new_row(op, dtype), seeded(seed)

    def draws() -> Iterator[Draw]:
        for _ in range(plan.draws):
            exact, call = DRAWS[op](plan, dtype, generator, device)
            with backend("torch"):
                reference = call()
            yield Draw(exact, reference, lambda _, call=call: call(), str(tuple(exact.shape)))

    add_group(row, op, draws())
    return {**row, "seed": generator.initial_seed()}


def layer_norm_draw(
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


def linear_gelu_draw(
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


def preprocess_draw(
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


DRAWS = {"layer_norm": layer_norm_draw, "linear_gelu": linear_gelu_draw, "preprocess": preprocess_draw}


def of_each_op(dtypes):
    pairs = [*itertools.product(("layer_norm", "linear_gelu"), dtypes), ("preprocess", torch.float32)]
    return pytest.mark.parametrize(("op", "dtype"), pairs, ids=str)


@pytest.mark.gpu
@of_each_op(PLAN.dtypes)
def test_parity(triton_device, record_property, op, dtype):
    finish(row_of(op, dtype, PLAN, triton_device), record_property)


TINY = QUICK._replace(draws=2, rows=20, side=12)


@of_each_op(ALL_DTYPES)
def test_rows(triton_device, op, dtype):
    row = row_of(op, dtype, TINY, triton_device)
    assert (row["inputs"], row["wrong"]) == (2, 0) and row["largest error"] < 0.02


@pytest.mark.parametrize("changes", [[0.1], [float("nan")], [0, 3e-6]], ids=["wrong", "NaN", "race"])
def test_a_wrong_kernel_is_seen(triton_device, monkeypatch, changes):
    from sam2fast.kernels.preprocess import kernel

    right, more = kernel.resize_and_normalise_triton, itertools.cycle(changes)
    monkeypatch.setattr(kernel, "resize_and_normalise_triton", lambda *inputs: right(*inputs) * (1 + next(more)))
    assert row_of("preprocess", torch.float32, TINY, triton_device)["wrong"] == 2
    assert row_of("layer_norm", torch.float32, TINY, triton_device)["wrong"] == 0
