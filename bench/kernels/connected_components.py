"""Connected components, and holes and sprinkles that are filled and removed with them."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # bench/, where a script's imports are

import torch
import torch.nn.functional as F
from backend_calls import by_kernel, may_refuse
from inputs import FULL_HD, blobs, meta, small
from parity_rows import EXACT, Draw, Plan, equal_to, integer, simple_check, sizes
from registry import Call, Calls, Case, Record, Sample, Work, search

from sam2fast.kernels._dispatch import backend
from sam2fast.kernels.connected_components import connected_components, connected_components_reference
from sam2fast.kernels.mask_ops import (
    fill_holes_and_remove_sprinkles,
    fill_holes_in_mask_scores,
    fill_holes_in_mask_scores_reference,
)


def by_scipy(host: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Labels of our contract from scipy's on the host; what a user without the kernel would do."""
    import numpy as np
    import scipy.ndimage

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


def by_max_pooling(mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """A plain torch loop: every pixel takes its neighbourhood's smallest index until nothing changes."""
    N, _, H, W = mask.shape
    # fp32 holds indices up to 2**24 exactly. Negated, since pooling takes the largest.
    index = -(torch.arange(1, H * W + 1, device=mask.device, dtype=torch.float32).view(1, 1, H, W))
    label, none = None, torch.tensor(float("-inf"), device=mask.device)
    spread = torch.where(mask, index, none)
    while label is None or not torch.equal(spread, label):
        label, spread = spread, torch.where(mask, F.max_pool2d(spread, 3, stride=1, padding=1), none)
    labels = torch.where(mask, -label, 0).to(torch.int32)
    flat = labels.flatten(1).long() + torch.arange(N, device=mask.device)[:, None] * (H * W + 1)
    counts = torch.bincount(flat.flatten(), minlength=N * (H * W + 1))
    return labels, torch.where(mask, counts[flat].view_as(labels), 0).to(torch.int32)


def work(count: int, height: int, width: int) -> Work:
    return Work(9.0 * count * height * width)


def components_case(count: int, height: int, width: int, device: str = "") -> Case:
    def prepare(on: torch.device) -> Calls:
        mask = blobs(count, height, width, on) > 0
        host = mask[:, 0].cpu().numpy()
        calls: dict[str, Callable[[], Any]] = {"torch": lambda: connected_components_reference(mask)}
        calls["scipy on the host"] = may_refuse(lambda: by_scipy(host))
        if mask.numel() <= 256 * 256:  # minutes beyond
            calls["torch loop"] = lambda: by_max_pooling(mask)
        return calls | by_kernel(lambda: connected_components(mask), on)

    done = work(count, height, width)
    return Case("connected_components", f"{count}x{height}x{width}", "bool", prepare, done, device=device)


def holes_case(count: int, side: int = 256, in_video: bool = False) -> Case:
    op = "fill_holes_in_mask_scores" if in_video else "fill_holes_and_remove_sprinkles"

    def prepare(device: torch.device) -> Calls:
        logits = blobs(count, side, side, device)

        def filled() -> torch.Tensor:
            if in_video:
                return fill_holes_in_mask_scores(logits, 8.0)
            return fill_holes_and_remove_sprinkles(logits, 0.0, 8.0, 8.0)

        def by_torch() -> torch.Tensor:
            with backend("torch"):
                return filled()

        return {"torch": by_torch} | by_kernel(filled, device)

    done = Work(2 * 4 * count * side * side)
    return Case(op, f"{count}x{side}x{side}", "float32", prepare, done)


def draw(most: tuple[int, ...], _: None, generator: torch.Generator, device: torch.device) -> Draw:
    batch, height, width = sizes(most, generator)
    density = float(torch.rand((), generator=generator))
    mask = torch.rand(batch, 1, height, width, generator=generator) < density
    return Draw(lambda _: connected_components(mask.to(device)), judge=equal_to(connected_components_reference(mask)))


def draw_holes(most: tuple[int, ...], dtype: torch.dtype, generator: torch.Generator, device: torch.device) -> Draw:
    """Logits of any density of holes, with zeros and sometimes with NaN."""
    batch, height, width = sizes(most, generator)
    logits = torch.randn(batch, 1, height, width, generator=generator) + float(torch.randn((), generator=generator))
    logits.view(-1)[::7] = 0
    if integer(0, 3, generator) == 0:
        logits.view(-1)[::5] = torch.nan
    given, area = logits.to(device, dtype), float(integer(1, 60, generator))
    expected = fill_holes_in_mask_scores_reference(logits.to(dtype), area).nan_to_num(1e4)
    return Draw(lambda _: fill_holes_in_mask_scores(given, area).nan_to_num(1e4), judge=equal_to(expected))


def launched() -> Iterator[Call]:
    yield Call("connected_components", (meta(1, 1, *FULL_HD, dtype=torch.bool),), "uint8")
    yield Call("fill_holes_in_mask_scores", (meta(1, 1, 256, 256), 8.0), "uint8")


SIZES = ((1, 256, 256), (64, 256, 256), (1, *FULL_HD))
RECORD = Record(
    # The reference implementation takes minutes of a CPU for the larger ones.
    cases=[
        *(components_case(*size, device) for size, device in zip(SIZES, ("", "cuda", "cuda"), strict=True)),
        *(holes_case(count, in_video=in_video) for in_video in (False, True) for count in (1, 3, 64)),
    ],
    small=[components_case(1, 16, 24), holes_case(1, side=16), holes_case(1, side=16, in_video=True)],
    searches=[
        search(
            "connected_components",
            "BLOCK num_warps",  # others spill
            ((256, 4), (256, 8), (512, 4), (512, 8), (512, 16), (1024, 4), (1024, 16)),
        )
    ],
    work=lambda: (("×".join(map(str, size)), "bf16", work(*size)) for size in SIZES),
    samples={
        "connected_components": Sample(
            connected_components, lambda: (small((2, 1, 16, 24)) > 0,), "connected_components"
        ),
        "fill_holes_in_mask_scores": Sample(
            fill_holes_in_mask_scores,
            lambda: (small((2, 1, 16, 24)), 8.0),
            "fill_holes_in_mask_scores",
            has_gradient=True,
        ),
    },
    launched=launched,
    parity={
        "connected_components": simple_check(
            draw,
            *(Plan(310, (64, 300, 300)), Plan(31, (64, 300, 300)), Plan(4, (3, 40, 40)), Plan(3, (2, 12, 12))),
            launchers=[f"connected_components_triton.connected_components_triton:{part}" for part in (0, 1)],
            **EXACT,
        ),
        "fill_holes_in_mask_scores": simple_check(
            draw_holes,
            *(Plan(310, (64, 300, 300)), Plan(31, (64, 300, 300)), Plan(4, (3, 40, 40)), Plan(3, (2, 12, 12))),
            launchers=["connected_components_triton.fill_holes_triton"],
            ops=("fill_holes_in_mask_scores",),
            is_exact=True,
        ),
    },
    pages={
        "connected-components": ("connected_components",),
        "fill-holes": ("fill_holes_and_remove_sprinkles", "fill_holes_in_mask_scores"),
    },
)

if __name__ == "__main__":
    from one_op import main

    main(RECORD)
