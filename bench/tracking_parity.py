"""Recorded tracking steps against the plain path on a device, and what they cost in allocations and waiting.

On CUDA the steps are graphs; elsewhere they are run again, which shows that this check itself works.
"""

import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from sam2fast.utils.testing import mask_iou, relative_error

SUPPORT = Path(__file__).parents[1] / "tests" / "support"

Rows = list[dict[str, Any]]
# fp32 masks may differ so much; bfloat16 ones twice as much from fp32 as the plain path's do.
ALLOWED, SLACK = 1e-4, 2.0


class Plan(NamedTuple):
    """What is tried."""

    image_size: int = 1024
    dtypes: tuple[torch.dtype, ...] = (torch.float32, torch.bfloat16)
    objects: tuple[int, ...] = (1, 3, 9)
    frames: int = 12


# For a short visit to a GPU, and for memory checkers and interpreters.
SHORT = Plan(objects=(1, 3), frames=6)
QUICK = Plan(image_size=256, objects=(1, 3), frames=5)


def tracking_parity(device: torch.device, save: Callable[[Rows], None], plan: Plan | None = None) -> bool:
    """A row per dtype and number of objects, saved as they come.

    False if a mask is wrong, or a step waits for the device or is not recorded.
    """
    plan, rows, right = plan or Plan(), [], True
    exact = {n: masks_of(predictor(plan, torch.float32, device, fast=False), plan, n) for n in plan.objects}
    for dtype in plan.dtypes:
        plain, fast = (predictor(plan, dtype, device, fast) for fast in (False, True))
        for objects in plan.objects:
            start = time.perf_counter()
            fast.warmup(objects)
            warmup = time.perf_counter() - start
            mine, theirs = (masks_of(p, plan, objects) for p in (fast, plain))
            errors = [relative_error(a, b) for a, b in zip(exact[objects], mine, strict=True)]
            own = [relative_error(a, b) for a, b in zip(exact[objects], theirs, strict=True)]
            limits = [ALLOWED if dtype == torch.float32 else SLACK * error for error in own]
            # In bfloat16 only the first tracked frame starts from the same state in both.
            compared = slice(None) if dtype == torch.float32 else slice(1, 2)
            wrong = sum(not e <= limit for e, limit in zip(errors[compared], limits[compared], strict=True))
            rows.append(
                {
                    "op": "tracking step",
                    "dtype": str(dtype).removeprefix("torch."),
                    "objects": objects,
                    "largest error": max(errors[compared]),
                    "of the plain path's": max(own[compared]),
                    "smallest IoU with the plain path": min(map(mask_iou, mine, theirs)),
                    "wrong": wrong,
                    "warm-up s": warmup,
                    **replays(fast, plan, objects, device),
                }
            )
            row = rows[-1]
            right = right and not (wrong or row["recorded after warm-up"] or row["waits for the device"])
            right = right and row["recorded"] > 0 and not row["gave up"]
            save(rows)
            print(rows[-1], flush=True)
    return right


def predictor(plan: Plan, dtype: torch.dtype, device: torch.device, fast: bool) -> Any:
    """A tiny model with tame weights.

    Raises:
        ModuleNotFoundError: configurations cannot be read without omegaconf.
    """
    from sam2fast.build_sam import build_sam2_video_predictor, cast_weights

    if str(SUPPORT) not in sys.path:
        sys.path.insert(0, str(SUPPORT))
    import tame_weights

    built = build_sam2_video_predictor(
        "configs/sam2.1/sam2.1_hiera_t.yaml",
        None,
        device="cpu",
        hydra_overrides_extra=[f"++model.image_size={plan.image_size}"],
    )
    tame_weights.fill(built, 0)
    built = cast_weights(built, None if dtype == torch.float32 else dtype).to(device)
    built.fast = fast
    return built


def pictures(plan: Plan, count: int) -> list[np.ndarray]:
    """Noise with a moving bright disc, of the model's own size so that nothing is resized."""
    side = plan.image_size
    generator, (y, x) = np.random.default_rng(0), np.mgrid[:side, :side] / side
    frames = []
    for t in range(count):
        frame = generator.integers(60, 120, (side, side, 3))
        frame[(x - 0.3 - 0.02 * t) ** 2 + (y - 0.5) ** 2 < 0.02] += 120
        frames.append(frame.astype(np.uint8))
    return frames


def session(model: Any, plan: Plan, objects: int, frames: int) -> Any:
    state, side = model.init_state(pictures(plan, frames)), plan.image_size
    for i in range(objects):
        model.add_new_points_or_box(state, 0, i, [[side * (0.2 + 0.07 * i), side * 0.5]], [1])
    return state


def masks_of(model: Any, plan: Plan, objects: int) -> list[Tensor]:
    """Logits of every frame, on the CPU."""
    state = session(model, plan, objects, plan.frames)
    answers = model.propagate_in_video(state, output="low_res", progress=False)
    return [masks.float().cpu() for _, _, masks in answers]


def replays(model: Any, plan: Plan, objects: int, device: torch.device) -> dict[str, Any]:
    """What steady frames cost besides time, on a predictor that is warm."""
    state = session(model, plan, objects, plan.frames + 8)
    answers = model.propagate_in_video(state, output="low_res", progress=False)
    for _ in range(4):
        next(answers)
    workspace = model._fast_path.workspace_of(state.bank)
    recorded, allocations, reserved = len(workspace.recorded), [], []
    with no_waiting(device) as waits:
        for _ in range(plan.frames):
            before = _allocations(device)
            next(answers)
            allocations.append(_allocations(device) - before)
            reserved.append(torch.cuda.memory_reserved(device) if device.type == "cuda" else 0)
    return {
        "recorded": recorded,
        "gave up": model._fast_path.failed,
        "recorded after warm-up": len(workspace.recorded) - recorded,
        "waits for the device": len(waits),
        "where": sorted(set(waits))[:5],
        "allocations a frame": sorted(set(allocations)),
        "reserved grew by MiB": (reserved[-1] - reserved[0]) / 2**20,
    }


def _allocations(device: torch.device) -> int:
    return torch.cuda.memory_stats(device)["allocation.all.allocated"] if device.type == "cuda" else 0


@contextmanager
def no_waiting(device: torch.device) -> Iterator[list[str]]:
    """Collects what torch says of calls that wait for a CUDA device."""
    waits: list[str] = []
    if device.type != "cuda":
        yield waits
        return
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            yield waits
            waits += [f"{w.filename}:{w.lineno}" for w in caught if "synchroniz" in str(w.message)]
    finally:
        torch.cuda.set_sync_debug_mode("default")
