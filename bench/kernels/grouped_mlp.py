"""MLPs of three layers, one for each token."""

import sys
from collections.abc import Iterable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # bench/, where a script's imports are

import torch
from backend_calls import both_ways
from inputs import meta, random, small
from parity_rows import Draw, Plan, integer, name_of, simple_check
from registry import TIMED, Call, Calls, Case, Record, Sample, Work, search
from torch import Tensor

from sam2fast.kernels._dispatch import FLOATS
from sam2fast.kernels.grouped_mlp import grouped_mlp, grouped_mlp_reference

OBJECTS = (1, 32)  # of a video, and a full group of prompts


class Widths(NamedTuple):
    """Of the MLPs of so many tokens."""

    groups: int
    K: int
    L: int
    M: int
    N: int


USES = {
    "heads": Widths(6, 256, 256, 256, 32),  # of a score, of IoUs and of four masks
    "object pointers": Widths(1, 256, 256, 256, 256),
}


def work(objects: int, widths: Widths, size: int) -> Work:
    """Returns the work, with weights of ``size`` bytes a number and fp32 results."""
    groups, *each = widths
    products = sum(k * n for k, n in pairwise(each))
    moved = groups * (size * (products + sum(each[1:]) + objects * each[0]) + 4 * objects * each[-1])
    return Work(moved, products=2 * objects * groups * products)


def arguments(objects: int, widths: Widths, dtype: torch.dtype, device: torch.device, seed: int = 0) -> list[Tensor]:
    groups, *each = widths
    found = [random(objects, groups, each[0], device=device, seed=seed)]
    for k, n in pairwise(each):
        seed += 2
        found.append((random(groups, n, k, device=device, seed=seed) * k**-0.5).to(dtype))
        found.append(random(groups, n, device=device, dtype=dtype, seed=seed + 1))
    return found


def grouped_mlp_case(name: str, objects: int, dtype: torch.dtype) -> Case:
    widths = USES[name]

    def prepare(device: torch.device) -> Calls:
        given = arguments(objects, widths, dtype, device)
        ordinary = {"torch": lambda: grouped_mlp_reference(*given)}
        return ordinary | both_ways(lambda: grouped_mlp(*given), device)

    done, tolerance = work(objects, widths, dtype.itemsize), 1e-4 if dtype == torch.float32 else 0.05
    return Case("grouped_mlp", f"{objects}: {name}", name_of(dtype), prepare, done, tolerance)


def draw(most: tuple[int, ...], dtype: torch.dtype, generator: torch.Generator, on: torch.device) -> Draw:
    objects, *widths = (integer(1, each, generator) for each in most)
    given = arguments(objects, Widths(*widths), dtype, on, integer(0, 2**31, generator))
    exact = grouped_mlp_reference(*(x.double() for x in given))
    shape = f"{objects}x{' to '.join(map(str, widths[1:]))}, {widths[0]} times"
    return Draw(lambda _: grouped_mlp(*given), shape, exact, grouped_mlp_reference(*given))


def launched() -> Iterator[Call]:
    """The heads in fp32, as in every model, and the pointers in each dtype."""

    def call(widths: Widths, dtype: torch.dtype) -> Call:
        given = [meta(*x.shape, dtype=x.dtype) for x in arguments(4, widths, dtype, torch.device("cpu"))]
        return Call("grouped_mlp", tuple(given), name_of(dtype))

    yield call(USES["heads"], torch.float32)
    for dtype in FLOATS:
        yield call(USES["object pointers"], dtype)


def shown() -> Iterable[tuple[str, str, Work]]:
    for objects in OBJECTS:
        of = f"of {objects} object{'s' * (objects > 1)}"
        yield f"heads {of}, fp32", "fp32", work(objects, USES["heads"], 4)
        yield f"pointers {of}, bf16", "bf16", work(objects, USES["object pointers"], 2)


LARGEST = (60, 8, 512, 512, 512, 300)
RECORD = Record(
    cases=[grouped_mlp_case(name, objects, dtype) for name in USES for objects in OBJECTS for dtype in TIMED],
    small=[grouped_mlp_case("object pointers", 1, dtype) for dtype in TIMED],
    searches=[
        search(
            "grouped_mlp",
            "BLOCK num_warps num_stages",
            ((block, warps, 1) for block in (16, 32, 64) for warps in (4, 8, 16)),
        )
    ],
    work=shown,
    samples={
        "grouped_mlp": Sample(
            grouped_mlp,
            lambda: tuple(map(small, ((2, 3, 8), (3, 20, 8), (3, 20), (3, 9, 20), (3, 9), (3, 5, 9), (3, 5)))),
            "grouped_mlp",
            has_gradient=True,
        )
    },
    launched=launched,
    parity={
        "grouped_mlp": simple_check(
            draw,
            *(Plan(40, LARGEST), Plan(10, LARGEST)),
            *(Plan(4, (20, 2, 40, 50, 60, 40)), Plan(2, (20, 2, 40, 50, 60, 40))),
            launchers=["grouped_mlp_triton.grouped_mlp_triton"],
        )
    },
)

if __name__ == "__main__":
    from one_op import main

    main(RECORD)
