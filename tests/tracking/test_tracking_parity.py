"""Recorded steps (CUDA graphs; elsewhere run again) and images against the plain path, and what steps wait for."""

import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import pytest
import tame_weights
import torch
from parity_rows import FEW_DTYPES, Row, allowed_error, name_of, planned
from recorded_ops import CalledAgain, NoRecorder, recorded_by
from torch import Tensor

from sam2fast import SAM2ImagePredictor, build_sam
from sam2fast.engine.replay import graph_calls_of
from sam2fast.utils.testing import mask_iou, relative_error

# Of images: how many prompts, of how many points each, with masks or without.
PROMPTS = {
    "click": (1, 1, False),
    "click and mask": (1, 1, True),
    "box": (1, 2, False),
    "64 clicks": (64, 1, False),
    "64 clicks and masks": (64, 1, True),
    "256 clicks": (256, 1, False),
}


class Plan(NamedTuple):
    """What is tried."""

    image_size: int = 1024
    dtypes: Sequence[torch.dtype] = FEW_DTYPES
    objects: Sequence[int] = (1, 3, 9)
    frames: int = 12
    prompts: Sequence[str] = tuple(PROMPTS)


QUICK = Plan(image_size=256, objects=(1, 3), frames=5)
REHEARSAL = QUICK._replace(dtypes=(torch.float32,), objects=(1,), frames=3, prompts=("click",))
PLAN = planned(Plan(), Plan(objects=(1, 3), frames=6), QUICK, REHEARSAL)


def rows_of(plan: Plan, device: torch.device) -> Iterator[Row]:
    """A row for each dtype and number of objects."""
    plain = predictor(plan, torch.float32, device, fast=False)
    exact = {n: masks_of(plain, plan, n) for n in plan.objects}
    for dtype in plan.dtypes:
        plain, fast = (predictor(plan, dtype, device, fast) for fast in (False, True))
        for objects in plan.objects:
            start = time.perf_counter()
            fast.warmup(objects)
            warmup = time.perf_counter() - start
            mine, theirs = (masks_of(p, plan, objects) for p in (fast, plain))
            errors = [relative_error(a, b) for a, b in zip(exact[objects], mine, strict=True)]
            own = [relative_error(a, b) for a, b in zip(exact[objects], theirs, strict=True)]
            limits = [allowed_error(name_of(dtype), error) for error in own]
            # In bfloat16 only the first tracked frame starts from the same state in both.
            compared = slice(None) if dtype == torch.float32 else slice(1, 2)
            yield {
                "op": "tracking step",
                "dtype": name_of(dtype),
                "objects": objects,
                "largest error": max(errors[compared]),
                "of the plain path's": max(own[compared]),
                "smallest IoU with the plain path": min(map(mask_iou, mine, theirs)),
                "wrong": sum(not e <= limit for e, limit in zip(errors[compared], limits[compared], strict=True)),
                "warm-up s": warmup,
                **replays(fast, plan, objects, device),
            }


def is_right(row: Row) -> bool:
    """No mask is wrong, and every step is recorded and waits for nobody."""
    recorded = row["recorded"] > 0 and not row["gave up"] and not row["recorded after warm-up"]
    return recorded and not row["wrong"] and not row["waits for the device"]


@pytest.fixture
def recording_device(triton_device, monkeypatch):
    """Returns the device. On a CPU, recorded functions are called again."""
    if triton_device.type == "cpu":
        recorded_by(monkeypatch, CalledAgain)
    return triton_device


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", PLAN.dtypes, ids=str)
def test_parity(recording_device, record_property, dtype):
    torch.use_deterministic_algorithms(False)  # else what poisons memory is recorded, too
    rows = []
    for row in rows_of(PLAN._replace(dtypes=(dtype,)), recording_device):
        print(row)
        record_property("row", row)
        rows.append(row)
    assert all(map(is_right, rows))


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", PLAN.dtypes, ids=str)
def test_images(recording_device, record_property, dtype):
    """Bit by bit, replay after replay."""
    torch.use_deterministic_algorithms(False)
    row = images_row(PLAN._replace(dtypes=(dtype,)), recording_device)
    print(row)
    record_property("row", row)
    assert not row["wrong"] and not row["gave up"] and row["recorded"] == 1 + len(PLAN.prompts)


def images_row(plan: Plan, device: torch.device) -> Row:
    """How many tensors of recorded images differ from those without recordings, at all and by how much."""
    (dtype,) = plan.dtypes
    model = predictor(plan, dtype, device, fast=False)
    predictors = [SAM2ImagePredictor(model) for _ in range(2)]
    predictors[0].fast, predictors[1].fast = False, True
    plain, recorded = (results_of(each, plan) for each in predictors)
    different = [name for name, a in plain.items() if not torch.equal(a, recorded[name])]
    calls = graph_calls_of(model)
    return {
        "op": "images",
        "dtype": name_of(dtype),
        "inputs": len(plain),
        "largest error": max(relative_error(a, recorded[name]) for name, a in plain.items()),
        "wrong": len(different),
        "which": different[:5],
        "recorded": len(calls._calls),
        "gave up": len(calls.pool.failures),
    }


def results_of(predictor: Any, plan: Plan) -> dict[str, Tensor]:
    """Features and logits of two images, each set twice, by the name of what gave them."""
    side, generator, found = plan.image_size, torch.Generator().manual_seed(0), {}
    for turn, image in enumerate(2 * images(plan, 2)):
        predictor.set_image(image)
        features = [predictor._features["image_embed"], *predictor._features["high_res_feats"]]
        found |= {f"{turn}: level {i}": x.float().cpu() for i, x in enumerate(features)}
        for name in plan.prompts:
            count, points, has_mask = PROMPTS[name]
            coords = torch.rand(count, points, 2, generator=generator).sort(dim=1).values * side
            labels = torch.tensor([[2, 3] if points == 2 else [1]]).expand(count, -1)
            masks = torch.randn(count, 1, side // 4, side // 4, generator=generator) if has_mask else None
            prompts = [x if x is None else x.to(predictor.device) for x in (coords, labels, None, masks)]
            answer = predictor._predict_low_res(*prompts)
            found |= {f"{turn}: {name}, {i}": x.float().cpu() for i, x in enumerate(answer)}
    return found


def predictor(plan: Plan, dtype: torch.dtype, device: torch.device, fast: bool) -> Any:
    """A tiny model with tame weights."""
    given = {"device": "cpu", "hydra_overrides_extra": [f"++model.image_size={plan.image_size}"]}
    built = tame_weights.built(build_sam.build_sam2_video_predictor, "configs/sam2.1/sam2.1_hiera_t.yaml", **given)
    built = build_sam.cast_weights(built, None if dtype == torch.float32 else dtype).to(device)
    built.fast = fast
    return built


def images(plan: Plan, count: int) -> list[np.ndarray]:
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
    state, side = model.init_state(images(plan, frames)), plan.image_size
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
    steps = model._tracker.steps.graph_calls(state.bank, model._tracker.rules(state))
    recorded, allocations, reserved = steps.made, [], []
    with no_waiting(device) as waits:
        for _ in range(plan.frames):
            before = _allocations(device)
            next(answers)
            allocations.append(_allocations(device) - before)
            reserved.append(torch.cuda.memory_reserved(device) if device.type == "cuda" else 0)
    return {
        "recorded": recorded,
        "gave up": any(graph_calls_of(model, ahead).pool.failures for ahead in (False, True)),
        "recorded after warm-up": steps.made - recorded,
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


def make_narrow(monkeypatch):
    """The models, for the CPU."""
    from parity import NARROW  # which takes the official package

    right = build_sam.build_sam2_video_predictor

    def narrow(*args, hydra_overrides_extra, **kwargs):
        return right(*args, hydra_overrides_extra=[*hydra_overrides_extra, *NARROW], **kwargs)

    monkeypatch.setattr(build_sam, "build_sam2_video_predictor", narrow)


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_recorded_steps(device, monkeypatch):
    if device == "cpu":
        make_narrow(monkeypatch)
        recorded_by(monkeypatch, CalledAgain)
    rows = list(rows_of(Plan(image_size=64, objects=(1, 3), frames=3), torch.device(device)))
    assert all(map(is_right, rows)) and [row["objects"] for row in rows] == [1, 3, 1, 3]
    assert all(len(row["allocations a frame"]) == 1 for row in rows), "as many on every frame: those of the answer"
    assert all(row["reserved grew by MiB"] == 0 for row in rows)


def test_steps_that_cannot_be_recorded_are_no_success(monkeypatch):
    """Tracking goes on without them, and gives the right masks."""
    make_narrow(monkeypatch)
    recorded_by(monkeypatch, NoRecorder)
    plan = Plan(image_size=64, dtypes=(torch.float32,), objects=(1,), frames=3)
    (row,) = rows_of(plan, torch.device("cpu"))
    assert not is_right(row) and (row["wrong"], row["recorded"], row["gave up"]) == (0, 0, True)
