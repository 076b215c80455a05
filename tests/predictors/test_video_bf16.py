"""bfloat16: at most twice the official package's own error, both against fp32, from the same fp32 state."""

import contextlib
import copy
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from official_memory import fused_step, memory_of
from parity import NARROW, random_map
from video import Session, build_video_pair, clip, float32_memory, jpeg_folder

from sam2fast.build_sam import cast_weights
from sam2fast.engine import engine_for
from sam2fast.engine.by_modules import FastProducts
from sam2fast.utils.testing import relative_error

SLACK = 2.0
FRAME = 9  # seven memories
SIDE, SIZE = 16, 256
# The encoder has tests of its own; everything behind it is as published.
THIN_ENCODER = [override for override in NARROW if "image_encoder" in override]


class Case(NamedTuple):
    """Both models, the official state after some frames in fp32, and the bfloat16 mode."""

    official: Any
    state: Any
    video: Path
    ours: Any
    context: Any


@pytest.fixture(scope="module")
def official(tmp_path_factory):
    """The official predictor with fp32 memories, and its features of one more frame. Holes are not filled."""
    predictor, ours = build_video_pair(overrides=THIN_ENCODER, image_size=SIZE)
    predictor.fill_hole_area = ours.fill_hole_area = 0
    video = jpeg_folder(tmp_path_factory.mktemp("video"), clip(FRAME + 1))
    with float32_memory():
        session = Session(predictor, video)
        session.points(0, 1, (60, 40, 1))
        session.propagate(max_frame_num_to_track=FRAME - 1)
    return predictor, session.state, video, ours


@pytest.fixture(scope="module", params=["autocast", "cast once"])
def case(request, official) -> Case:
    predictor, state, video, ours = official
    if request.param == "autocast":
        return Case(predictor, state, video, ours, autocast)
    return Case(predictor, state, video, cast_weights(copy.deepcopy(ours), torch.bfloat16), FastProducts)


def autocast() -> Any:
    return torch.autocast("cpu", torch.bfloat16)


def conditioned(model: Any, state: Any) -> torch.Tensor:
    """The frame's features after the official memory attention."""
    _, _, features, positions, sizes = model._get_image_feature(state, FRAME, 1)
    return model._prepare_memory_conditioned_features(
        FRAME, False, features[-1:], positions[-1:], sizes[-1:], state["output_dict_per_obj"][0], FRAME + 1
    )


@torch.inference_mode()
def test_memory_attention(case):
    model, state = case.official, case.state
    exact = conditioned(model, state)
    with autocast():
        theirs = conditioned(model, state)
    _, _, features, _, _ = model._get_image_feature(state, FRAME, 1)
    embedding = features[-1].permute(1, 2, 0).unflatten(2, (SIDE, SIDE))
    with case.context():
        memory = memory_of(case.ours, state["output_dict_per_obj"][0], FRAME, FRAME + 1)
        mine = engine_for(case.ours).attend(embedding, memory)
    assert relative_error(exact, mine) <= SLACK * relative_error(exact, theirs)


@pytest.mark.parametrize("from_prompt", [False, True])
@torch.inference_mode()
def test_memory_encoder(case, from_prompt):
    _, _, features, _, sizes = case.official._get_image_feature(case.state, FRAME, 1)
    masks = torch.nn.functional.interpolate(8 * random_map(1, 1, 24, 24), (SIZE, SIZE), mode="bilinear")
    for score in (3.0, -3.0):
        inputs = (features, sizes, masks, torch.tensor([[score]]), from_prompt)
        exact, _ = case.official._encode_new_memory(*inputs)
        with autocast():
            theirs, _ = case.official._encode_new_memory(*inputs)
        with case.context():
            mine, _ = case.ours._encode_new_memory(*inputs)
        assert mine.dtype == torch.bfloat16
        assert relative_error(exact, mine) <= SLACK * relative_error(exact, theirs)


@pytest.fixture(scope="module")
def whole_step(official):
    """The arguments of a step, and the official results in fp32 and bfloat16."""
    predictor, state, _, _ = official
    step = (state["output_dict_per_obj"][0], FRAME, 1, False, None, None, False, True)
    with torch.inference_mode(), float32_memory():
        exact, _ = predictor._run_single_frame_inference(state, *step)
        with autocast():
            state["cached_features"].clear()
            theirs, _ = predictor._run_single_frame_inference(state, *step)
            state["cached_features"].clear()
    return step, exact, theirs


@torch.inference_mode()
def test_the_whole_step(case, whole_step):
    """From the same state to logits, pointer and memory; the batched tracker keeps its memories in bf16."""
    names = ("pred_masks", "obj_ptr", "maskmem_features")
    step, exact, theirs = whole_step
    with case.context():
        image = case.state["images"][FRAME][None]
        mine = fused_step(case.ours, image, step[0], FRAME, case.state["num_frames"])
    for name in names:
        assert relative_error(exact[name], mine[name]) <= SLACK * relative_error(exact[name], theirs[name]), name


@torch.inference_mode()
def test_free_running(official):
    """Each model uses its own past."""
    predictor, _, video, ours = official
    cast = cast_weights(copy.deepcopy(ours), torch.bfloat16)
    answers = []
    for model, context in ((predictor, float32_memory), (predictor, autocast), (cast, contextlib.nullcontext)):
        with context():
            session = Session(model, video)
            session.points(0, 1, (60, 40, 1))
            session.propagate(max_frame_num_to_track=2)
        answers.append([record.masks.float() for record in session.records])
    for exact, theirs, mine in zip(*answers, strict=True):
        assert relative_error(exact, mine) <= SLACK * relative_error(exact, theirs) < 0.5


@torch.inference_mode()
def test_memories_are_kept_in_the_compute_dtype(case):
    state = case.ours.init_state(clip(3))
    with case.context():
        case.ours.add_new_points_or_box(state, 0, 1, [[60, 40]], [1])
        masks = [m for _, _, m in case.ours.propagate_in_video(state, progress=False)]
    assert state.bank.memories.data.dtype == torch.bfloat16
    assert all(m.dtype == torch.float32 and m.isfinite().all() for m in masks)
