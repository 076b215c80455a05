"""What is measured: every op at SAM 2's shapes, with every way of computing it that can run here.

A case prepares its inputs on a device and gives callables by subject. The first subject is the baseline: the others'
results are compared with its before anything is timed, and a wrong one is not timed at all. In bfloat16 the baseline's
own rounding would hide that a kernel leaves out some keys; a case may therefore have its result in fp32 compared.
"""

import importlib.util
import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from attention import (
    fp8_ways,
    in_float32,
    memory_ways,
    published,
    rope_ways,
    rotated_before,
    window_ways,
)
from backend_calls import RefusedError, by_triton, runs_kernels
from inputs import blobs, full_bank, random, rope_tables

from sam2fast.kernels._cpu import linear
from sam2fast.kernels._dispatch import backend
from sam2fast.kernels._launch import ANY
from sam2fast.kernels.connected_components import connected_components, connected_components_reference
from sam2fast.kernels.mask_ops import fill_holes_and_remove_sprinkles
from sam2fast.utils.testing import relative_error

Calls = Mapping[str, Callable[[], Any]]
# In bfloat16, results may be so much farther from the fp32 one than the baseline's is, and so far at least.
SLACK, FLOOR = 2.0, 0.01
FP8_ERROR = 0.5  # that attention in fp8 may be from the exact one, on random banks; a wrong scale is further off
MOST = 0.1  # that the baseline may be from it


@dataclass(frozen=True)
class Case:
    """One op at one shape and dtype."""

    op: str
    shape: str
    dtype: str
    prepare: Callable[[torch.device], Calls]
    flops: float
    bytes: float  # every input read once, every output written once
    tolerance: float  # of relative_error against the first subject; 0 for equality; with exact, the least allowed
    exact: Callable[[torch.device], torch.Tensor] | None = None  # the result in fp32, to be compared with instead
    device: str = ""  # the only type of device it is for, where others would take minutes
    launch: str = ANY  # shape class of the launch table's row that is tuned for it

    @property
    def name(self) -> str:
        return f"{self.op} {self.shape} {self.dtype}"

    def runs_on(self, device: torch.device) -> bool:
        return self.device in ("", device.type)


class WrongResultError(AssertionError):
    """A subject whose result differs from the baseline's; it gets no time."""


class Expected(NamedTuple):
    """What the results of a case are compared with."""

    source: str
    results: list[torch.Tensor]  # on the CPU
    tolerance: float  # of relative_error; 0 for equality


def expectation(case: Case, calls: Calls, device: torch.device) -> Expected:
    """The baseline's results or, where the case has one, that in fp32, from which others may be twice as far as it.

    Raises:
        WrongResultError: the baseline's is far from it.
    """
    first, call = next(iter(calls.items()))
    results = [x.cpu() for x in _tensors(call())]
    if case.exact is None:
        return Expected(first, results, case.tolerance)
    exact = case.exact(device).cpu()
    error = relative_error(exact, results[0])
    if not error <= MOST:
        raise WrongResultError(f"{case.name}: {first} differs from itself in fp32 by {error:.2g}")
    return Expected(f"{first} in fp32", [exact], max(case.tolerance, SLACK * error))


def compare(case: Case, name: str, call: Callable[[], Any], expected: Expected) -> None:
    """Runs one subject.

    Raises:
        WrongResultError: its result differs by more than is allowed.
    """
    for right, actual in zip(expected.results, (x.cpu() for x in _tensors(call())), strict=True):
        if expected.tolerance == 0:
            if not torch.equal(right, actual):
                raise WrongResultError(f"{case.name}: {name} differs from {expected.source}")
        elif not (error := relative_error(right, actual)) <= expected.tolerance:
            found = f"{error:.2g}, allowed {expected.tolerance:.2g}"
            raise WrongResultError(f"{case.name}: {name} differs from {expected.source} ({found})")


def check(case: Case, calls: Calls, device: torch.device) -> dict[str, Callable[[], Any]]:
    """Compares every subject's result with what is expected.

    Returns:
        The subjects that can run here; one that refuses is left out, with a line that says so.

    Raises:
        WrongResultError: one differs by more than the case allows.
    """
    (first, call), *others = calls.items()
    expected, able = expectation(case, calls, device), {first: call}
    for name, call in others:
        try:
            compare(case, name, call, expected)
        except RefusedError as error:
            print(f"{case.name}: {name} is left out: {error}", flush=True)
        else:
            able[name] = call
    return able


def _tensors(result: Any) -> list[torch.Tensor]:
    return [result] if isinstance(result, torch.Tensor) else list(result)


def by_scipy(mask: torch.Tensor) -> Callable[[], Any]:
    """Labels of our contract from scipy's on the host; what a user without the kernel would do."""
    import numpy as np
    import scipy.ndimage

    host = mask[:, 0].cpu().numpy()

    def call() -> tuple[torch.Tensor, torch.Tensor]:
        labels, areas = np.zeros(host.shape, np.int32), np.zeros(host.shape, np.int32)
        for n, image in enumerate(host):
            components, count = scipy.ndimage.label(image, structure=np.ones((3, 3)))
            flat = components.ravel()
            first = np.zeros(count + 1, np.int32)
            found, position = np.unique(flat, return_index=True)
            first[found] = position + 1
            first[0] = 0
            labels[n] = first[components]
            areas[n] = np.bincount(flat, minlength=count + 1)[components] * image
        return torch.from_numpy(labels)[:, None], torch.from_numpy(areas)[:, None]

    return call


def by_max_pooling(mask: torch.Tensor) -> Callable[[], Any]:
    """A plain torch loop: every pixel takes its neighbourhood's smallest index until nothing changes."""
    N, _, H, W = mask.shape

    def call() -> tuple[torch.Tensor, torch.Tensor]:
        # fp32 holds indices up to 2**24 exactly. Negated, since pooling takes the largest.
        index = -(torch.arange(1, H * W + 1, device=mask.device, dtype=torch.float32).view(1, 1, H, W))
        label, none = torch.where(mask, index, float("-inf")), torch.tensor(float("-inf"), device=mask.device)
        while True:
            spread = torch.where(mask, F.max_pool2d(label, 3, stride=1, padding=1), none)
            if torch.equal(spread, label):
                break
            label = spread
        labels = torch.where(mask, -label, 0).to(torch.int32)
        flat = labels.flatten(1).long() + torch.arange(N, device=mask.device)[:, None] * (H * W + 1)
        counts = torch.bincount(flat.flatten(), minlength=N * (H * W + 1))
        return labels, torch.where(mask, counts[flat].view_as(labels), 0).to(torch.int32)

    return call


def components_case(count: int, height: int, width: int) -> Case:
    def prepare(device: torch.device) -> Calls:
        mask = blobs(count, height, width, device) > 0
        calls: dict[str, Callable[[], Any]] = {"torch": lambda: connected_components_reference(mask)}
        if importlib.util.find_spec("scipy"):
            calls["scipy on the host"] = by_scipy(mask)
        if mask.numel() <= 256 * 256:  # minutes beyond
            calls["torch loop"] = by_max_pooling(mask)
        if runs_kernels(device):
            calls["triton"] = by_triton(lambda: connected_components(mask))
        return calls

    pixels = count * height * width
    return Case("connected_components", f"{count}x{height}x{width}", "bool", prepare, 0, 9 * pixels, tolerance=0)


def holes_case(count: int, side: int = 256) -> Case:
    def prepare(device: torch.device) -> Calls:
        logits = blobs(count, side, side, device)

        def run(name: str) -> Callable[[], Any]:
            def call() -> torch.Tensor:
                with backend(name):
                    return fill_holes_and_remove_sprinkles(logits, 0.0, 8.0, 8.0)

            return call

        return {"torch": run("torch")} | ({"triton": run("triton")} if runs_kernels(device) else {})

    nbytes = 2 * 4 * count * side * side
    return Case("fill_holes_and_remove_sprinkles", f"{count}x{side}x{side}", "float32", prepare, 0, nbytes, tolerance=0)


def attention_case(side: int, window: int, heads: int, d: int, dtype: torch.dtype, pooled: bool = False) -> Case:
    """Attention in windows, or over the whole map, without projections; pooled queries are a quarter of the keys."""

    def prepare(device: torch.device) -> Calls:
        qkv = random(1, side, side, 3 * heads * d, device=device, dtype=dtype)
        bias = random(3 * heads * d, device=device, dtype=dtype, seed=1)
        return window_ways(qkv, bias, heads, window, pooled)

    tokens, stride = (window or side) ** 2, 2 if pooled else 1
    windows = (-(-side // (window or side))) ** 2
    size = torch.finfo(dtype).bits // 8
    return Case(
        "window_attention",
        f"{side}x{side} window {window} {heads}x{d}" + (" pooled" if pooled else ""),
        str(dtype).removeprefix("torch."),
        prepare,
        flops=4 * windows * heads * tokens**2 * d / stride**2,
        bytes=(3 + 1 / stride**2) * side * side * heads * d * size,
        # Honest results: SDPA's own in fp32 are 8.5e-6 from float64; two in bfloat16 differ by 0.026 to 0.056.
        tolerance=1e-4 if dtype == torch.float32 else 0.1,
        launch=ANY if window else "global",
    )


def memory_case(
    objects: int,
    pages: int,
    dtype: torch.dtype,
    device: str = "",
    side: int = 64,
    d: int = 256,
    m: int = 64,
    compilers: bool = False,
) -> Case:
    """Cross-attention of one layer to so many memories and sixteen pointers, of four tokens each, per object.

    The baseline is the published formulation: values projected for every token, one object after the other, SDPA.

    Args:
        compilers: compares with what ``torch.compile`` makes of it, which takes a minute to compile, and with nothing
            else.
    """
    N, L, size = side * side, 64, torch.finfo(dtype).bits // 8
    M = pages * N + L

    def prepare(device: torch.device) -> Calls:
        return memory_ways(full_bank(objects, pages, L, side, d, m, device, dtype), device, compilers)

    def exact(device: torch.device) -> torch.Tensor:
        return published(in_float32(full_bank(objects, pages, L, side, d, m, device, dtype)))()

    return Case(
        "memory_attention",
        f"{objects} objects, {N}x{M}" + (f" {d}/{m}" if (d, m) != (256, 64) else "") + ", compiled" * compilers,
        str(dtype).removeprefix("torch."),
        prepare,
        # Scores and sums over m channels, projection of the keys, projection of the result.
        flops=2 * objects * (N * M * (d + m) + M * m * d + N * m * d),
        # Pages, query, result and weights; pointers, positions and rotation are fp32.
        bytes=size * (objects * (pages * N * m + 2 * N * d) + 2 * d * m) + 4 * (2 * objects * L * m + N * (m + d)),
        tolerance=1e-4 if dtype == torch.float32 else FLOOR,
        exact=None if dtype == torch.float32 else exact,
        device=device,
        launch=f"{d}x{m}",
    )


def fp8_case(objects: int) -> Case:
    """The same with scores in fp8, beside the exact ones, for GPUs; FLOPs of all kinds in one sum."""
    exact = memory_case(objects, 7, torch.bfloat16)

    def prepare(device: torch.device) -> Calls:
        return fp8_ways(full_bank(objects, 7, 64, 64, 256, 64, device, torch.bfloat16), device)

    own = {"shape": f"{exact.shape} in fp8", "prepare": prepare, "tolerance": FP8_ERROR}
    return replace(exact, **own, exact=None, device="cuda")


def self_attention_case(objects: int, dtype: torch.dtype, side: int = 64, d: int = 256) -> Case:
    """Self-attention of one layer of the memory attention, beside SDPA on what is rotated already."""
    N, size = side * side, torch.finfo(dtype).bits // 8

    def inputs(device: torch.device) -> list[torch.Tensor]:
        return [random(objects, 1, N, d, device=device, dtype=dtype, seed=i) for i in range(3)]

    def prepare(device: torch.device) -> Calls:
        return rope_ways(*inputs(device), *rope_tables(side, d, device))

    def exact(device: torch.device) -> torch.Tensor:
        return rotated_before(*(x.float() for x in inputs(device)), *rope_tables(side, d, device))()

    return Case(
        "rope_attention",
        f"{objects} objects, {N}x{N}",
        str(dtype).removeprefix("torch."),
        prepare,
        flops=4 * objects * N * N * d,
        bytes=4 * size * objects * N * d + 4 * N * d,
        tolerance=1e-4 if dtype == torch.float32 else FLOOR,
        exact=None if dtype == torch.float32 else exact,
        launch=f"{d}x{d}",
    )


def linear_case(rows: int, inner: int, outer: int) -> Case:
    def prepare(device: torch.device) -> Calls:
        shapes = ((rows, inner), (outer, inner), (outer,))
        x, weight, bias = (random(*shape, device=device, seed=i) for i, shape in enumerate(shapes))
        return {"F.linear": lambda: F.linear(x, weight, bias), "sam2fast": lambda: linear(x, weight, bias)}

    return Case(
        "linear",
        f"{rows}x{inner} to {outer}",
        "float32",
        prepare,
        flops=2 * rows * inner * outer,
        bytes=4 * (rows * inner + inner * outer + rows * outer),
        tolerance=1e-5,
    )


def cases() -> Iterator[Case]:
    """Everything there is to measure, most important first."""
    for count, height, width in ((1, 256, 256), (64, 256, 256), (1, 1080, 1920)):
        yield components_case(count, height, width)
    for count in (1, 3, 64):
        yield holes_case(count)
    # Windows of tiny, base+ and large at 1024x1024, and tiny's stage changes.
    for side, window, heads, d in ((256, 8, 1, 96), (64, 14, 4, 96), (64, 0, 4, 96), (128, 4, 4, 56), (64, 16, 8, 72)):
        for dtype in (torch.float32, torch.bfloat16):
            yield attention_case(side, window, heads, d, dtype)
    for side, window, heads, d in ((256, 8, 2, 96), (64, 14, 8, 96)):
        for dtype in (torch.float32, torch.bfloat16):
            yield attention_case(side, window, heads, d, dtype, pooled=True)
    yield from attention_cases()
    from masks import mask_cases  # which needs Case

    yield from mask_cases()
    from mask_lists import mask_list_cases

    yield from mask_list_cases()
    from encoder_ops import encoder_cases

    yield from encoder_cases()
    for rows, inner, outer in ((2048, 96, 384), (4096, 384, 1536), (4096, 576, 2304)):
        yield linear_case(rows, inner, outer)


def attention_cases() -> Iterator[Case]:
    """Attention to banks as they fill, and of frames to themselves; the larger ones are for GPUs."""
    for objects, pages in itertools.product((1, 4, 16), (7, 3, 1)):
        anywhere = objects == 1 or (objects, pages) == (4, 7)
        yield memory_case(objects, pages, torch.bfloat16, "" if anywhere else "cuda")
        if anywhere:
            yield memory_case(objects, pages, torch.float32)
    yield memory_case(1, 7, torch.bfloat16, "cuda", compilers=True)
    for objects in (1, 4):
        yield fp8_case(objects)
    for dtype in (torch.float32, torch.bfloat16):
        for objects in (1, 4):
            yield memory_case(objects, 7, dtype, side=16, d=128)  # nano
            yield self_attention_case(objects, dtype)
